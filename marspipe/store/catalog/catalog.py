"""The catalog as the rest of marspipe uses it: one method, one transaction."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import URL, delete, func, update
from sqlalchemy.engine import Connection

import marspipe
from marspipe.errors import EnvironmentMissingError, InputError
from marspipe.store.catalog.address import default_url, parse_url, shown
from marspipe.store.catalog.engine import make_engine, transact
from marspipe.store.catalog.migrate import Migrated, migrate, newest, require_known, revision
from marspipe.store.catalog.models import (
    CalibrationRow,
    FramesRow,
    PublicationRow,
    RecipeRow,
    RunRow,
    ScanRow,
    VolumeRow,
)
from marspipe.store.catalog.queries import Queries
from marspipe.store.catalog.summaries import (
    calibration_values,
    frames_values,
    moment,
    plain,
    raw_uri_of,
    recipe_values,
    scan_values,
    volume_values,
)
from marspipe.store.catalog.upsert import put
from marspipe.store.lock import this_process
from marspipe.store.storage import absolute

# What a scan's recipe_uri is where it is no file: the recipe shipped with marspipe, whatever it is at that time, or one
# that is kept in the catalog by its hash.
SHIPPED = "shipped"
PINNED = "catalog:"
KINDS = ("ingest", "reconstruct", "reprocess", "export", "publish")
STATES = ("done", "kept", "failed", "stopped")
# An error is a sentence; of one that quotes a whole log, the beginning will do.
_ERROR_CHARACTERS = 4000


class Catalog(Queries):
    """A catalog; :func:`open_catalog` opens one. Its questions are those of :class:`Queries`.

    URIs may be given in any form; they are kept absolute. Whatever fails is an InputError, an EnvironmentMissingError
    (the database cannot be reached) or a RunError, none of which shows the password of the database.
    """

    def __init__(self, url: URL) -> None:
        self.url = shown(url)
        self._engine = make_engine(url)

    def __repr__(self) -> str:
        return f"<Catalog {self.url}>"

    def migrate(self) -> Migrated:
        """Bring the tables to this marspipe's revision.

        Raises
        ------
        InputError
            If the database was made by a newer marspipe, or is something else.
        """
        return migrate(self._engine)

    def put_scan(
        self,
        scan_id: str,
        *,
        raw_uri: str | None = None,
        frames_uri: str | None = None,
        out_uri: str | None = None,
        recipe_uri: str | None = None,
        description: str | None = None,
        acquired_at: str | datetime | None = None,
        priority: int | None = None,
    ) -> None:
        """Add a scan, or change what is given; None leaves a value as it is.

        Parameters
        ----------
        scan_id : str
            Of the manifest.
        raw_uri, frames_uri, out_uri, recipe_uri : str or None
            Manifest; frames table; folder of the results; recipe that it is to be reconstructed by: a file,
            :data:`SHIPPED`, or :data:`PINNED` followed by the hash of a recipe in this catalog.
        description : str or None
            Of the manifest.
        acquired_at : str, datetime or None
            First exposure; without a time zone, UTC.
        priority : int or None
            Of reprocessing, higher = earlier; 0 for a new scan.
        """
        uris = {"raw_uri": raw_uri, "frames_uri": frames_uri, "out_uri": out_uri, "recipe_uri": recipe_uri}
        given = [(key, uri) for key, uri in uris.items() if uri is not None]
        values = {
            **{key: _kept(uri) for key, uri in given},
            "description": description,
            "acquired_at": moment(acquired_at),
            "priority": priority,
        }
        self._write(lambda connection: _put_scan(connection, scan_id, values))

    def put_frames(self, frames_uri: str, metadata: dict[str, Any]) -> None:
        """Add a committed frames table with its calibrations, and what it says of its scan; or bring them up to date.

        Parameters
        ----------
        frames_uri : str
            Folder.
        metadata : dict
            Its ``_marspipe.json``.

        Raises
        ------
        ScanError
            If the metadata are not those of a frames table.
        """
        frames = frames_values(frames_uri, metadata)
        calibrations = calibration_values(frames_uri, metadata)
        scan = {**scan_values(metadata), "raw_uri": raw_uri_of(metadata), "frames_uri": frames["uri"]}

        def work(connection: Connection) -> None:
            _put_scan(connection, frames["scan_id"], scan)
            put(connection, FramesRow, frames)
            # Writers of the same table wait for each other at the row above.
            connection.execute(delete(CalibrationRow).where(CalibrationRow.frames_uri == frames["uri"]))
            for values in calibrations:
                put(connection, CalibrationRow, values)

        self._write(work)

    def drop_frames(self, frames_uri: str) -> None:
        """Forget a frames table and its calibrations; nothing happens if it is not known."""
        uri = absolute(frames_uri)

        def work(connection: Connection) -> None:
            connection.execute(update(ScanRow).where(ScanRow.frames_uri == uri).values(frames_uri=None))
            connection.execute(delete(CalibrationRow).where(CalibrationRow.frames_uri == uri))
            connection.execute(delete(FramesRow).where(FramesRow.uri == uri))

        self._write(work)

    def put_recipe(self, recipe_hash: str, name: str, content: dict[str, Any]) -> None:
        """Add a recipe, or take over the name and content of its latest use."""
        values = {"recipe_hash": recipe_hash, "name": name, "content": plain(content)}
        self._write(lambda connection: put(connection, RecipeRow, values))

    def start_run(
        self,
        kind: str,
        scan_id: str,
        *,
        run_id: str,
        out_uri: str,
        recipe_hash: str | None = None,
        content_hash: str | None = None,
        application_id: str | None = None,
    ) -> None:
        """Note that a run has begun, in this process; its scan is added if it is not known.

        Parameters
        ----------
        kind : {"ingest", "reconstruct", "reprocess", "export", "publish"}
            What it does.
        scan_id : str
            Of which scan.
        run_id : str
            ``uuid4().hex``, made by the caller.
        out_uri : str
            Where the results go.
        recipe_hash, content_hash : str or None
            Of the recipe, and of the volume that is to be made.
        application_id : str or None
            Spark's.

        Raises
        ------
        InputError
            If the kind is unknown, or there is a run of this id.
        """
        if kind not in KINDS:
            raise InputError(f"kind of a run must be one of {', '.join(KINDS)}, got {kind!r}")
        here = this_process()
        values = {
            "run_id": run_id,
            "kind": kind,
            "state": "running",
            "scan_id": scan_id,
            "out_uri": absolute(out_uri),
            "recipe_hash": recipe_hash,
            "content_hash": content_hash,
            "started_at": datetime.now(UTC),
            "details": {},
            "version": marspipe.__version__,
            "results_version": marspipe.RESULTS_VERSION,
            "application_id": application_id,
            "host": here["host"],
            "machine": here["machine"],
            "pid": here["pid"],
            "process_started": here["process_started"],
        }

        def work(connection: Connection) -> None:
            _put_scan(connection, scan_id, {})
            if put(connection, RunRow, values, replace=False) == 0:
                raise InputError(f"{self.url} already has a run {run_id}")

        self._write(work)

    def end_run(
        self,
        run_id: str,
        state: str,
        *,
        error: str | None = None,
        content_hash: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        """Note how a run ended.

        Parameters
        ----------
        run_id : str
            Of :meth:`start_run`.
        state : {"done", "kept", "failed", "stopped"}
            ``kept``: what was to be made was there.
        error : str or None
            Why it failed; the first 4000 characters are kept.
        content_hash : str or None
            Of the volume, if it was not known before.
        details : dict or None
            Counts and metrics, JSON; numbers that are not finite become null.

        Raises
        ------
        InputError
            If the state is unknown, or there is no such run.
        """
        if state not in STATES:
            raise InputError(f"a run ends {', '.join(STATES)}, got {state!r}")
        values: dict[str, Any] = {"state": state, "ended_at": datetime.now(UTC)}
        if error is not None:
            values["error"] = error[:_ERROR_CHARACTERS]
        if content_hash is not None:
            values["content_hash"] = content_hash
        if details is not None:
            values["details"] = plain(details)

        def work(connection: Connection) -> None:
            done = connection.execute(update(RunRow).where(RunRow.run_id == run_id).values(values))
            if done.rowcount != 1:
                raise InputError(f"{self.url} has no run {run_id}")

        self._write(work)

    def put_volume(self, uri: str, metadata: dict[str, Any]) -> None:
        """Add a version of a volume with its recipe, or bring them up to date.

        What is not known of its scan is taken from it, too: the folder of the results, the description.

        Parameters
        ----------
        uri : str
            Folder of the version.
        metadata : dict
            Its ``_marspipe.json``.

        Raises
        ------
        ScanError
            If the metadata are not those of a volume.
        """
        volume, recipe = volume_values(uri, metadata), recipe_values(uri, metadata)
        scan = {**scan_values(metadata), "out_uri": volume["out_uri"]}

        def work(connection: Connection) -> None:
            _put_scan(connection, volume["scan_id"], {})
            # Frames, which may have been ingested anew since, know their scan better.
            lacking = {n: func.coalesce(getattr(ScanRow, n), v) for n, v in scan.items() if v is not None}
            connection.execute(update(ScanRow).where(ScanRow.scan_id == volume["scan_id"]).values(lacking))
            put(connection, RecipeRow, recipe)
            put(connection, VolumeRow, volume)

        self._write(work)

    def drop_volume(self, uri: str) -> None:
        """Forget a version of a volume; nothing happens if it is not known."""
        self._write(lambda connection: connection.execute(delete(VolumeRow).where(VolumeRow.uri == absolute(uri))))

    def put_publication(
        self,
        volume_uri: str,
        destination: str,
        state: str,
        n_instances: int,
        details: dict[str, Any] | None = None,
    ) -> None:
        """Note that a volume was sent somewhere.

        Parameters
        ----------
        volume_uri : str
            The version that was sent.
        destination : str
            Where to, without passwords.
        state : {"done", "kept", "failed", "stopped"}
            How it ended.
        n_instances : int
            DICOM instances sent.
        details : dict or None
            JSON.

        Raises
        ------
        InputError
            If the state is unknown.
        """
        if state not in STATES:
            raise InputError(f"a publication ends {', '.join(STATES)}, got {state!r}")
        values = {
            "volume_uri": absolute(volume_uri),
            "destination": destination,
            "state": state,
            "n_instances": n_instances,
            "details": plain(details or {}),
            "published_at": datetime.now(UTC),
        }
        self._write(lambda connection: put(connection, PublicationRow, values, replace=False))

    def _write(self, work: Any) -> None:
        transact(self._engine, work, writes=True)


def _kept(uri: str) -> str:
    """Return a URI as it is kept: absolute, unless it is a name for a recipe."""
    return uri if uri == SHIPPED or uri.startswith(PINNED) else absolute(uri)


def _put_scan(connection: Connection, scan_id: str, values: dict[str, Any]) -> None:
    given = {key: value for key, value in values.items() if value is not None}
    new = {"scan_id": scan_id, "priority": 0, "added_at": datetime.now(UTC), **given}
    put(connection, ScanRow, new, update=given)


def open_catalog(url: str | None = None) -> Catalog:
    """Open a catalog.

    Parameters
    ----------
    url : str or None
        ``sqlite:///FILE``, ``postgresql://USER@HOST/DATABASE``, or the path of a SQLite file. None takes
        ``$MARSPIPE_CATALOG``, else ``marspipe/catalog.sqlite`` in ``$XDG_DATA_HOME`` or ``~/.local/share``.

    Returns
    -------
    Catalog
        A SQLite file is made, and brought to this marspipe's revision, if need be.

    Raises
    ------
    InputError
        If the URL cannot be understood, the database was made by a newer marspipe, or the file is no catalog.
    EnvironmentMissingError
        If the database cannot be reached, or a PostgreSQL database lacks the tables or has older ones.
    """
    address = parse_url(default_url() if url is None else url)
    if address.get_backend_name() == "sqlite":
        _make_folder(address)
    catalog = Catalog(address)
    engine = catalog._engine
    current = revision(engine)
    if current != newest():
        if engine.dialect.name == "sqlite":
            catalog.migrate()
        else:
            require_known(engine, current)
            what = "has no catalog tables yet" if current is None else f"has the tables of an older one ({current})"
            raise EnvironmentMissingError(f"{catalog.url} {what}: run marspipe catalog migrate --catalog URL once")
    return catalog


def unmigrated(url: str | None = None) -> Catalog:
    """Return a catalog without a look at its tables, for :meth:`Catalog.migrate`."""
    address = parse_url(default_url() if url is None else url)
    if address.get_backend_name() == "sqlite":
        _make_folder(address)
    return Catalog(address)


def _make_folder(address: URL) -> None:
    folder = os.path.dirname(address.database or "")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise EnvironmentMissingError(f"the folder of the catalog cannot be made: {error}") from error
