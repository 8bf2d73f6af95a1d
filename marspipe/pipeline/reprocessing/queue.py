"""Which scans are to be reprocessed, why, and in which order: without Spark and without reading pixels.

What counts is what lies in the stores. The catalog says where to look, what was tried, and what comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import marspipe
from marspipe.errors import MarspipeError, RecipeError, RunError, ScanError
from marspipe.pipeline.frames.raw_scan import fingerprint, open_scan
from marspipe.pipeline.reconstruct import prepare
from marspipe.pipeline.work_folder import WorkFolder
from marspipe.recipe import Recipe
from marspipe.store import storage
from marspipe.store.catalog import PINNED, SHIPPED, Catalog, Run, Scan
from marspipe.store.catalog.summaries import moment
from marspipe.store.commit import committed
from marspipe.store.storage import absolute
from marspipe.store.versions import data_folder, versions
from marspipe.strict import validate

FRAMES_FOLDER, VOLUME_FOLDER = "frames", "volume"
# A scan that has failed so often in a row, with the same content hash, waits until the others are done.
PATIENCE = 3
# What one looks back at: more attempts than this make no difference.
_RUNS_LOOKED_AT = 50

ReasonKind = Literal[
    "no_volume", "interrupted", "unfinished", "raw_changed", "recipe", "frames", "code", "geometry", "problem"
]


@dataclass(frozen=True)
class Reason:
    """Why a scan is to be reprocessed: a word for machines, a few words for people."""

    kind: ReasonKind
    text: str


@dataclass(frozen=True)
class Due:
    """A scan that is to be reprocessed.

    Attributes
    ----------
    scan : Scan
        From the catalog.
    out_uri : str
        Folder of the results.
    recipe : Recipe or None
        The recipe that it is to be made by; None if that cannot be read.
    raw_uri : str or None
        The raw scan that has to be ingested; None if the frames table is there.
    frames_uri : str
        The frames table.
    reasons : tuple of Reason
        Why.
    never_finished : bool
        Whether there is no good result of what there is now; else the result is merely out of date.
    content_hash : str or None
        What the volume will have; None where it is not known before the raw files are ingested.
    volume_hash : str or None
        What the newest good volume has.
    made_at : datetime or None
        When the newest good volume was made.
    damaged : bool
        Whether the files of the current version are gone.
    failures : int
        Failures in a row with this content hash.
    problem : Exception or None
        What makes it fail before anything is run.
    """

    scan: Scan
    out_uri: str
    recipe: Recipe | None = None
    raw_uri: str | None = None
    frames_uri: str = ""
    reasons: tuple[Reason, ...] = ()
    never_finished: bool = True
    content_hash: str | None = None
    volume_hash: str | None = None
    made_at: datetime | None = None
    damaged: bool = False
    failures: int = 0
    problem: Exception | None = None

    @property
    def volume_uri(self) -> str:
        """The volume."""
        return storage.join(self.out_uri, VOLUME_FOLDER)

    def order(self) -> tuple[Any, ...]:
        """Return what the queue is sorted by."""
        made_at = self.made_at or datetime.min.replace(tzinfo=UTC)
        waits = self.failures >= PATIENCE
        return waits, -self.scan.priority, not self.never_finished, made_at, self.scan.scan_id


@dataclass(frozen=True)
class Queue:
    """What is to be done.

    Attributes
    ----------
    due : list of Due
        In order.
    current : list of str
        Scans whose volume is up to date.
    homeless : list of (Scan, str)
        Scans that nothing can be done about, and why.
    """

    due: list[Due] = field(default_factory=list)
    current: list[str] = field(default_factory=list)
    homeless: list[tuple[Scan, str]] = field(default_factory=list)


def make_queue(catalog: Catalog, scans: Iterable[Scan], recipe_of: Callable[[str | None], Recipe]) -> Queue:
    """Return which of some scans are to be reprocessed.

    Parameters
    ----------
    catalog : Catalog
        Of the runs.
    scans : iterable of Scan
        The scans to look at.
    recipe_of : callable
        Returns the recipe at a URI, or the one to take where a scan names none.
    """
    queue = Queue()
    for scan in scans:
        lacking = _lacking(scan)
        if lacking is not None:
            queue.homeless.append((scan, lacking))
            continue
        due = _look_at(catalog, scan, recipe_of)
        if due.reasons:
            queue.due.append(due)
        else:
            queue.current.append(scan.scan_id)
    queue.due.sort(key=Due.order)
    return queue


def _lacking(scan: Scan) -> str | None:
    if scan.out_uri is None:
        return "the catalog knows no folder for its results"
    if scan.raw_uri is None and scan.frames_uri is None:
        return "the catalog knows neither its raw files nor its frames"
    return None


def _look_at(catalog: Catalog, scan: Scan, recipe_of: Callable[[str | None], Recipe]) -> Due:
    """Return a scan with all reasons to reprocess it; none if it is up to date."""
    out_uri = scan.out_uri or ""
    frames_uri = scan.frames_uri or storage.join(out_uri, FRAMES_FOLDER)
    due = Due(scan, out_uri, frames_uri=frames_uri)
    try:
        due = _with_volume(due)
        due = replace(due, recipe=recipe_of(scan.recipe_uri))
        due = _with_source(due)
        if due.raw_uri is None and due.recipe is not None:
            due = replace(due, content_hash=prepare(frames_uri, due.recipe, slots=1).content_hash)
            due = _compared(due)
    except (MarspipeError, OSError) as error:
        problem = error if isinstance(error, MarspipeError) else RunError(f"{scan.scan_id}: {error}")
        due = replace(due, problem=problem, reasons=(*due.reasons, Reason("problem", "it cannot be planned")))
    return _with_history(catalog, due)


def _with_volume(due: Due) -> Due:
    """Find the newest good volume."""
    metadata = committed(due.volume_uri)
    if metadata is not None and committed(data_folder(due.volume_uri, metadata)) is None:
        others = versions(due.volume_uri)
        metadata = others[0].metadata if others else None
        due = replace(due, damaged=True)
    if metadata is None:
        text = "the files of its volume are gone" if due.damaged else "it has no volume yet"
        return replace(due, reasons=(Reason("no_volume", text),))
    made_at = moment(metadata.get("created_at"))
    due = replace(due, volume_hash=metadata.get("content_hash"), made_at=made_at, never_finished=due.damaged)
    gone = Reason("no_volume", "the files of its newest volume are gone")
    return replace(due, reasons=(gone,) if due.damaged else ())


def _with_source(due: Due) -> Due:
    """Find what to begin with: the frames table, or the raw files if it is missing or older than they are."""
    scan, table = due.scan, committed(due.frames_uri)
    if scan.raw_uri is None:
        return due
    if table is None:
        return replace(due, raw_uri=scan.raw_uri, never_finished=True)
    try:
        unchanged = fingerprint(open_scan(scan.raw_uri)) == table.get("fingerprint")
    except (MarspipeError, OSError):
        # Raw files that have gone to an archive, or decayed since, are no reason to give up good frames.
        return due
    if unchanged:
        return due
    reason = Reason("raw_changed", "its raw files have changed since they were ingested")
    return replace(due, raw_uri=scan.raw_uri, never_finished=True, reasons=(*due.reasons, reason))


def _compared(due: Due) -> Due:
    """Compare the newest good volume with what would be made now."""
    if due.volume_hash == due.content_hash:
        return due
    if storage.is_dir(WorkFolder.of(due.volume_uri, due.content_hash or "").uri):
        reason = Reason("interrupted", "a run of it was interrupted")
        due = replace(due, reasons=(*due.reasons, reason), never_finished=True)
    if due.volume_hash is None or due.recipe is None:
        return due
    return replace(due, reasons=(*due.reasons, *_differences(due, due.recipe)))


def _differences(due: Due, recipe: Recipe) -> list[Reason]:
    """Return what the newest good volume was made with that is another one now."""
    made = next((v.metadata for v in versions(due.volume_uri) if v.metadata.get("content_hash") == due.volume_hash), {})
    made = made or committed(due.volume_uri) or {}
    frames = committed(due.frames_uri) or {}
    found = []
    if made.get("recipe_hash") != recipe.content_hash():
        text = f"made by recipe {made.get('recipe_hash')}, now it is {recipe.content_hash()} ({recipe.name})"
        found.append(Reason("recipe", text))
    if made.get("frames_hash") != frames.get("content_hash"):
        found.append(Reason("frames", "its frames or their calibration have changed"))
    if made.get("results_version") != marspipe.RESULTS_VERSION:
        was, now = made.get("results_version"), marspipe.RESULTS_VERSION
        found.append(Reason("code", f"made by results version {was}, now it is {now}"))
    return found or [Reason("geometry", "its geometry or volume grid has changed")]


def _with_history(catalog: Catalog, due: Due) -> Due:
    """Look at what was tried: how the last run ended, and how many failed in a row."""
    runs = [run for run in catalog.runs(due.scan.scan_id, limit=_RUNS_LOOKED_AT) if _is_attempt(run, due.out_uri)]
    recipe_hash = None if due.recipe is None else due.recipe.content_hash()
    last = runs[0] if runs else None
    if (
        last is not None
        and last.state not in ("done", "kept")
        and last.content_hash in (None, due.content_hash)
        and last.recipe_hash in (None, recipe_hash)
    ):
        text = {"failed": "its last run failed", "stopped": "its last run was stopped", "died": "its last run died"}
        reason = Reason("unfinished", text.get(last.state, "its last run has not ended"))
        due = replace(due, reasons=(*due.reasons, reason), never_finished=True)
    failures = 0
    for run in runs:
        if run.state in ("done", "kept") or (run.content_hash, run.recipe_hash) != (due.content_hash, recipe_hash):
            break
        failures += run.state in ("failed", "died")
    return replace(due, failures=failures)


def _is_attempt(run: Run, out_uri: str) -> bool:
    """Return whether a run tried to make this volume; one that found the folder in use did not."""
    made_volume = run.kind in ("reconstruct", "reprocess") and run.out_uri == absolute(out_uri)
    return made_volume and not run.details.get("busy", False)


def recipe_named(catalog: Catalog, name: str | None, load: Callable[[str | None], Recipe]) -> Recipe:
    """Return the recipe that the catalog names for a scan.

    Parameters
    ----------
    catalog : Catalog
        Which keeps some recipes itself.
    name : str or None
        :attr:`Scan.recipe_uri`.
    load : callable
        Returns the recipe in a file, or for None the one shipped.

    Raises
    ------
    RecipeError
        If there is none of this name, or this marspipe does not understand it.
    """
    if name is None or name == SHIPPED:
        return load(None)
    if not name.startswith(PINNED):
        return load(name)
    kept = catalog.recipe(name.removeprefix(PINNED))
    if kept is None:
        raise RecipeError(f"{catalog.url} has no recipe {name.removeprefix(PINNED)}")
    return validate(kept.content, f"recipe {kept.recipe_hash} of {catalog.url}", Recipe, RecipeError)


def chosen(catalog: Catalog, scan_ids: Iterable[str]) -> list[Scan]:
    """Return scans of the catalog: those named, or all.

    Raises
    ------
    ScanError
        If the catalog does not know one of them.
    """
    wanted = list(dict.fromkeys(scan_ids))
    if not wanted:
        return catalog.scans()
    found = [(scan_id, catalog.scan(scan_id)) for scan_id in wanted]
    unknown = [scan_id for scan_id, scan in found if scan is None]
    if unknown:
        raise ScanError(f"{catalog.url} knows no scan {', '.join(unknown)}: marspipe catalog scans lists them")
    return [scan for _, scan in found if scan is not None]
