"""The questions a catalog answers, newest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast

from sqlalchemy import ColumnElement, Engine, Select, Table, func, or_, select

from marspipe.errors import InputError
from marspipe.store.catalog.engine import transact
from marspipe.store.catalog.models import (
    Base,
    CalibrationRow,
    FramesRow,
    PublicationRow,
    RecipeRow,
    RunRow,
    ScanRow,
    VolumeRow,
)
from marspipe.store.catalog.records import (
    Calibration,
    Frames,
    Match,
    Overview,
    Publication,
    RecipeRecord,
    Run,
    Scan,
    VolumeRecord,
)
from marspipe.store.lock import started, this_process
from marspipe.store.storage import absolute

Record = TypeVar("Record")

# Keys asked for at once: databases limit how many a statement may have.
_KEYS_AT_ONCE = 500


class Queries:
    """Questions to the database of ``_engine``; every one is a transaction that sees one state of it."""

    _engine: Engine

    def scans(self, limit: int | None = None) -> list[Scan]:
        """Return the scans, the one acquired last (if unknown: added last) first."""
        when = func.coalesce(ScanRow.acquired_at, ScanRow.added_at)
        return self._all(Scan, _select(ScanRow).order_by(when.desc(), ScanRow.scan_id).limit(limit))

    def scan(self, scan_id: str) -> Scan | None:
        """Return a scan, None if it is not known."""
        return self._one(Scan, _select(ScanRow).where(ScanRow.scan_id == scan_id))

    def frames(self, scan_id: str | None = None) -> list[Frames]:
        """Return the frames tables of all scans or of one, by URI."""
        wanted = _select(FramesRow).order_by(FramesRow.uri)
        return self._all(Frames, wanted if scan_id is None else wanted.where(FramesRow.scan_id == scan_id))

    def calibrations(self, frames_uri: str | None = None) -> list[Calibration]:
        """Return the calibrations of all frames tables or of one, by URI, frame type and counter."""
        row = CalibrationRow
        wanted = _select(row).order_by(row.frames_uri, row.frame_type, row.counter)
        if frames_uri is not None:
            wanted = wanted.where(row.frames_uri == absolute(frames_uri))
        return self._all(Calibration, wanted)

    def recipes(self) -> list[RecipeRecord]:
        """Return the recipes, by hash."""
        return self._all(RecipeRecord, _select(RecipeRow).order_by(RecipeRow.recipe_hash))

    def recipe(self, recipe_hash: str) -> RecipeRecord | None:
        """Return a recipe, None if it is not known."""
        return self._one(RecipeRecord, _select(RecipeRow).where(RecipeRow.recipe_hash == recipe_hash))

    def runs(
        self,
        scan_id: str | None = None,
        state: str | None = None,
        kind: str | None = None,
        limit: int | None = None,
    ) -> list[Run]:
        """Return runs, the one started last first.

        Parameters
        ----------
        scan_id, state, kind : str or None
            Only those; ``state`` may be died.
        limit : int or None
            At most so many.
        """
        wanted = _select(RunRow).order_by(RunRow.started_at.desc(), RunRow.run_id)
        if scan_id is not None:
            wanted = wanted.where(RunRow.scan_id == scan_id)
        if kind is not None:
            wanted = wanted.where(RunRow.kind == kind)
        if state in ("running", "died"):  # the database does not know who died
            living = self._all(Run, wanted.where(RunRow.state == "running"))
            return [run for run in living if run.state == state][:limit]
        if state is not None:
            wanted = wanted.where(RunRow.state == state)
        return self._all(Run, wanted.limit(limit))

    def run(self, run_id: str) -> Run | None:
        """Return the run whose id begins like this, None if there is none.

        Raises
        ------
        InputError
            If there are several.
        """
        same = func.substr(RunRow.run_id, 1, len(run_id)) == run_id
        found = self._all(Run, _select(RunRow).where(same).order_by(RunRow.run_id).limit(2))
        if len(found) > 1 and found[0].run_id != run_id:
            raise InputError(f"several runs begin with {run_id}: give more of the id")
        return found[0] if found else None

    def volumes(self, scan_id: str | None = None, out_uri: str | None = None) -> list[VolumeRecord]:
        """Return versions of volumes, the newest first: all, those of a scan, or those in a folder of results."""
        wanted = _volumes()
        if scan_id is not None:
            wanted = wanted.where(wanted.selected_columns.scan_id == scan_id)
        if out_uri is not None:
            wanted = wanted.where(wanted.selected_columns.out_uri == absolute(out_uri))
        return self._all(VolumeRecord, wanted)

    def volume(self, uri: str) -> VolumeRecord | None:
        """Return a version of a volume, None if it is not known."""
        wanted = _volumes()
        return self._one(VolumeRecord, wanted.where(wanted.selected_columns.uri == absolute(uri)))

    def publications(self, volume_uri: str | None = None, scan_id: str | None = None) -> list[Publication]:
        """Return publications, the latest first: all, those of a volume, or those of the volumes of a scan."""
        row = PublicationRow
        wanted = _select(row).order_by(row.published_at.desc(), row.publication_id.desc())
        if volume_uri is not None:
            wanted = wanted.where(row.volume_uri == absolute(volume_uri))
        if scan_id is not None:
            wanted = wanted.where(row.volume_uri.in_(select(VolumeRow.uri).where(VolumeRow.scan_id == scan_id)))
        return self._all(Publication, wanted)

    def overview(self, limit: int | None = None) -> list[Overview]:
        """Return the scans with their frames, the number of their volumes and their last run."""
        scans = self.scans(limit)
        ids = [scan.scan_id for scan in scans]
        frames = {row.uri: row for row in self._in(Frames, _select(FramesRow), FramesRow.scan_id, ids)}
        counted: Any = select(VolumeRow.scan_id, func.count().label("n")).group_by(VolumeRow.scan_id)
        volumes = {row["scan_id"]: row["n"] for row in self._rows_in(counted, VolumeRow.scan_id, ids)}
        order = func.row_number().over(partition_by=RunRow.scan_id, order_by=(RunRow.started_at.desc(), RunRow.run_id))
        ranked = _select(RunRow).add_columns(order.label("rank")).subquery()
        last = select(ranked).where(ranked.c.rank == 1)
        runs = {run.scan_id: run for run in self._in(Run, last, ranked.c.scan_id, ids)}
        return [
            Overview(s, frames.get(s.frames_uri or ""), volumes.get(s.scan_id, 0), runs.get(s.scan_id)) for s in scans
        ]

    def search(self, text: str, limit: int | None = None) -> list[Match]:
        """Return where a text is found: in ids, descriptions, recipe names, states and errors; capitals count not.

        Each thing is listed once, with the first field that has the text: scans first, then recipes, volumes and runs.
        """
        found = self._matches(Scan, _select(ScanRow), text, "scan", "scan_id", ["scan_id", "description"])
        names = ["recipe_hash", "name"]
        found += self._matches(RecipeRecord, _select(RecipeRow), text, "recipe", "recipe_hash", names)
        names = ["uri", "content_hash"]
        found += self._matches(VolumeRecord, _volumes(), text, "volume", "uri", names)
        names = ["run_id", "state", "error", "kind", "application_id"]
        runs = _select(RunRow).order_by(RunRow.started_at.desc(), RunRow.run_id)
        found += self._matches(Run, runs, text, "run", "run_id", names, or_running=True)
        return found[:limit]

    def _matches(
        self,
        record: type[Any],
        wanted: Select[Any],
        text: str,
        kind: str,
        key: str,
        names: list[str],
        *,
        or_running: bool = False,
    ) -> list[Match]:
        columns = wanted.selected_columns
        there = [columns[name].icontains(text, autoescape=True) for name in names]
        if or_running:  # which may turn out to have died
            there.append(columns.state == "running")
        found = []
        for row in self._all(record, wanted.where(or_(*there))):
            # In Python once more, for the name of the field; the database folds capitals of fewer alphabets.
            for name in names:
                value = str(getattr(row, name) or "")
                if text.lower() in value.lower():
                    found.append(Match(kind, getattr(row, key), getattr(row, "scan_id", None), name, value))
                    break
        return found

    def _all(self, record: type[Record], wanted: Select[Any]) -> list[Record]:
        return _records(record, self._rows(wanted))

    def _one(self, record: type[Record], wanted: Select[Any]) -> Record | None:
        found = self._all(record, wanted)
        return found[0] if found else None

    def _in(
        self, record: type[Record], wanted: Select[Any], column: ColumnElement[Any] | Any, keys: Sequence[str]
    ) -> list[Record]:
        return _records(record, self._rows_in(wanted, column, keys))

    def _rows_in(self, wanted: Select[Any], column: Any, keys: Sequence[str]) -> list[Mapping[str, Any]]:
        parts = [keys[first : first + _KEYS_AT_ONCE] for first in range(0, len(keys), _KEYS_AT_ONCE)]
        return [row for part in parts for row in self._rows(wanted.where(column.in_(part)))]

    def _rows(self, wanted: Select[Any]) -> Sequence[Mapping[str, Any]]:
        return cast(
            Sequence[Mapping[str, Any]],
            transact(self._engine, lambda connection: connection.execute(wanted).mappings().all(), writes=False),
        )


def _select(model: type[Base]) -> Select[Any]:
    return select(cast(Table, model.__table__))


def _volumes() -> Select[Any]:
    """Return the query for all volumes; the newest of a folder is current, which nobody has to keep up to date."""
    newest_first = (VolumeRow.created_at.desc().nulls_last(), VolumeRow.uri.desc())
    rank = func.row_number().over(partition_by=VolumeRow.out_uri, order_by=newest_first)
    ranked = _select(VolumeRow).add_columns((rank == 1).label("current")).subquery()
    return select(ranked).order_by(ranked.c.created_at.desc().nulls_last(), ranked.c.uri.desc())


def _records(record: type[Record], rows: Iterable[Mapping[str, Any]]) -> list[Record]:
    names = [field.name for field in fields(cast(Any, record))]
    made = [{name: row[name] for name in names} for row in rows]
    if record is Run:
        machine = this_process()["machine"]
        for run in made:
            if run["state"] == "running" and run["machine"] == machine:
                run["state"] = "running" if started(run["pid"]) == run["process_started"] else "died"
    for row in made:
        if "current" in row:
            row["current"] = bool(row["current"])
    return [record(**row) for row in made]
