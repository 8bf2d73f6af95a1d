"""Reprocess what is out of date or was never finished: scan by scan, each failure by itself, one instance at a time.

What is to be done follows from the stores (:mod:`marspipe.pipeline.reprocessing.queue`); what was done is recorded in
the catalog, in the log and in the summary. An interrupted night is continued by the next one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyspark.sql import SparkSession

from marspipe.errors import BusyError, EnvironmentMissingError, MarspipeError
from marspipe.log import log_event
from marspipe.pipeline.frames.raw_scan import RawScan, open_scan
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.ingest import ingest
from marspipe.pipeline.recording import record_volume
from marspipe.pipeline.reprocessing.queue import FRAMES_FOLDER, Due, chosen, make_queue
from marspipe.pipeline.reprocessing.session import SessionLostError, Sessions
from marspipe.pipeline.reprocessing.stop import StopRequest
from marspipe.pipeline.reprocessing.summary import Outcome, Summary
from marspipe.pipeline.run import Results, run
from marspipe.recipe import Recipe
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.catalog import Catalog
from marspipe.store.catalog.address import default_url, parse_url
from marspipe.store.commit import require_committed
from marspipe.store.lock import held
from marspipe.store.storage import absolute

_NAME = "marspipe reprocess"
_LOCK_FILE = "_marspipe_reprocess_lock.json"


@dataclass(frozen=True)
class Limits:
    """What a night may do.

    Attributes
    ----------
    max_hours : float or None
        No scan is begun after so many hours.
    max_scans : int or None
        No more scans are begun.
    keep : int
        Versions of a volume that stay.
    """

    max_hours: float | None = None
    max_scans: int | None = None
    keep: int = 2


def reprocess(
    catalog: Catalog,
    recipe_of: Callable[[str | None], Recipe],
    *,
    lock_uri: str,
    progress: Progress,
    scan_ids: Sequence[str] = (),
    limits: Limits = Limits(),
    dry_run: bool = False,
    master: str | None = None,
) -> Summary:
    """Reprocess the scans of a catalog that are out of date or were never finished.

    Parameters
    ----------
    catalog : Catalog
        Where scans and runs are recorded.
    recipe_of : callable
        Returns the recipe at a URI, or the one to take where a scan names none.
    lock_uri : str
        Folder of the lock against a second instance; see :func:`lock_folder`.
    progress : Progress
        Where to report.
    scan_ids : sequence of str
        Only these; none for all.
    limits : Limits
        How much may be done.
    dry_run : bool
        Only find what would be done: no Spark, no lock, nothing is written.
    master : str, optional
        Spark master of a local start.

    Returns
    -------
    Summary
        What became of every scan.

    Raises
    ------
    BusyError
        If another instance works on this catalog.
    ScanError
        If the catalog does not know a scan of ``scan_ids``.
    EnvironmentMissingError
        If no Spark session can be started on this machine.
    """
    summary = Summary(catalog.url, dry_run)
    if dry_run:
        queue = make_queue(catalog, chosen(catalog, scan_ids), recipe_of)
        summary.current = len(queue.current)
        summary.outcomes = [
            Outcome.of(due, "due", volume_uri=due.volume_uri, content_hash=due.content_hash, error=_said(due.problem))
            for due in queue.due
        ] + [Outcome.skipped(scan, why) for scan, why in queue.homeless]
    else:
        with _alone(lock_uri, catalog), StopRequest().on_sigterm() as stop:
            night = _Night(catalog, recipe_of, Sessions(_NAME, master), stop, progress, limits, summary)
            night.work(scan_ids)
    summary.ended_at = datetime.now(UTC)
    return summary


def lock_folder(catalog_url: str | None) -> str:
    """Return the folder of the lock against a second instance for a catalog.

    It lies beside a SQLite file; for other databases in ``$XDG_STATE_HOME/marspipe`` or ``~/.local/state/marspipe``,
    where it keeps apart the instances of this user on this machine.
    """
    url = parse_url(catalog_url or default_url())
    if url.get_backend_name() == "sqlite":
        return f"{url.database}.reprocess"
    # The XDG base directory specification wants relative paths ignored.
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    name = hashlib.sha256(f"{url.host}:{url.port}/{url.database}".encode()).hexdigest()[:16]
    return str(folder / "marspipe" / f"reprocess-{name}")


@contextmanager
def _alone(lock_uri: str, catalog: Catalog) -> Iterator[None]:
    """Hold the lock against a second instance."""
    taken = False
    try:
        with held(lock_uri, _NAME, name=_LOCK_FILE):
            taken = True
            yield
    except BusyError as error:
        if taken:
            raise
        holder = str(error).partition(": wait until")[0]
        raise BusyError(f"another instance reprocesses the scans of {catalog.url}: {holder}") from error


def _said(error: Exception | None) -> str | None:
    """Return an error as a sentence; one of marspipe's own is one already."""
    if error is None or isinstance(error, MarspipeError):
        return None if error is None else str(error)
    return f"{type(error).__name__}: {error}"


@dataclass
class _Night:
    """One call of :func:`reprocess`."""

    catalog: Catalog
    recipe_of: Callable[[str | None], Recipe]
    sessions: Sessions
    stop: StopRequest
    progress: Progress
    limits: Limits
    summary: Summary
    begun: float = field(default_factory=time.monotonic)

    def work(self, scan_ids: Sequence[str]) -> None:
        queue = make_queue(self.catalog, chosen(self.catalog, scan_ids), self.recipe_of)
        self.summary.current = len(queue.current)
        log_event("reprocess_started", due=len(queue.due), current=len(queue.current), skipped=len(queue.homeless))
        try:
            for due in queue.due:
                self.summary.ended_by = self.summary.ended_by or self._end()
                if self.summary.ended_by is None:
                    self._do(due)
                else:
                    self._leave(due)
        finally:
            self.sessions.close()
        for scan, why in queue.homeless:
            self.summary.outcomes.append(Outcome.skipped(scan, why))
            log_event("scan_skipped", scan_id=scan.scan_id, level=logging.WARNING)
        log_event(
            "reprocess_finished",
            seconds=round(time.monotonic() - self.begun, 3),
            ended_by=self.summary.ended_by,
            exit_code=self.summary.exit_code,
            counts=self.summary.counts,
        )

    def _end(self) -> str | None:
        """Return why no further scan is begun, if so."""
        limits, tried = self.limits, sum(o.result in ("done", "kept", "failed") for o in self.summary.outcomes)
        if self.stop:
            return "stop"
        if limits.max_scans is not None and tried >= limits.max_scans:
            return "max_scans"
        if limits.max_hours is not None and time.monotonic() - self.begun >= 3600 * limits.max_hours:
            return "max_hours"
        return None

    def _leave(self, due: Due) -> None:
        self.summary.outcomes.append(Outcome.of(due, "left", volume_uri=due.volume_uri))
        log_event("scan_left", scan_id=due.scan.scan_id, ended_by=self.summary.ended_by)

    def _do(self, due: Due) -> None:
        """Reprocess a scan and note how it ended, whatever happens."""
        spark = None
        if due.problem is None:
            try:
                spark = self.sessions.current()
            except SessionLostError:
                self.summary.ended_by = "session"
                return self._leave(due)
            except EnvironmentMissingError:
                if not self.summary.outcomes:
                    raise  # nothing was done: this is for whoever has set up the machine
                self.summary.ended_by = "session"
                return self._leave(due)
        attempt = _Attempt(self.catalog, due, self.progress, self.limits.keep)
        self.summary.outcomes.append(attempt.run(spark, self.stop))
        return None


@dataclass
class _Attempt:
    """One run of one scan."""

    catalog: Catalog
    due: Due
    progress: Progress
    keep: int
    run_id: str = field(default_factory=lambda: uuid4().hex)
    begun: float = field(default_factory=time.monotonic)

    def run(self, spark: SparkSession | None, stop: StopRequest) -> Outcome:
        due, scan_id = self.due, self.due.scan.scan_id
        reasons = [reason.kind for reason in due.reasons]
        self.progress.note(f"{scan_id}: {'; '.join(reason.text for reason in due.reasons)}")
        self.catalog.start_run(
            "reprocess",
            scan_id,
            run_id=self.run_id,
            out_uri=due.out_uri,
            recipe_hash=due.recipe.content_hash() if due.recipe else None,
            content_hash=due.content_hash,
            application_id=spark.sparkContext.applicationId if spark else None,
        )
        log_event("scan_started", scan_id=scan_id, run_id=self.run_id, reasons=reasons, content_hash=due.content_hash)
        try:
            if due.problem is not None or spark is None:
                raise due.problem or SessionLostError("there is no Spark session")
            with stop.ending_jobs_of(spark):
                return self._finished(self._made(spark))
        except BusyError as error:
            return self._ended("busy", error)
        except KeyboardInterrupt as error:
            stop.ask()
            return self._ended("stopped", error)
        except Exception as error:  # of one scan, whatever it is; the others go on
            return self._ended("stopped" if stop else "failed", error)

    def _made(self, spark: SparkSession) -> Results:
        """Ingest if need be, and reconstruct."""
        due = self.due
        if due.recipe is None:
            raise due.problem or ValueError("no recipe")
        return run(
            spark,
            self._source(spark),
            due.out_uri,
            due.recipe,
            progress=self.progress,
            # The old version stays until the new one is committed; interrupted work is continued.
            overwrite=True,
            resume=not due.damaged,
            keep_versions=self.keep,
            run_id=self.run_id,
        )

    def _source(self, spark: SparkSession) -> RawScan | FramesTable:
        """Return what the run begins with; frames that lie elsewhere than the run's own are brought up to date."""
        due = self.due
        if due.raw_uri is None:
            return FramesTable.open(due.frames_uri)
        raw = open_scan(due.raw_uri, spark)
        if absolute(due.frames_uri) == absolute(storage.join(due.out_uri, FRAMES_FOLDER)):
            return raw
        with held(due.frames_uri, _NAME):
            ingest(spark, raw, due.frames_uri, progress=self.progress, overwrite=True)
        return FramesTable.open(due.frames_uri)

    def _finished(self, results: Results) -> Outcome:
        """Record frames and volumes, and the end of the run."""
        due, made = self.due, results.reconstructed
        metadata = require_committed(made.version_uri, "volume")
        n_versions = record_volume(self.catalog, due.out_uri, results.volume_uri)
        state = "done" if metadata.get("run_id") == self.run_id else "kept"
        seconds = round(time.monotonic() - self.begun, 3)
        counts: dict[str, Any] = {"slabs": made.slabs, "slabs_kept": made.slabs_kept, "versions": n_versions}
        details = {**counts, "reasons": [reason.kind for reason in due.reasons], "stages_kept": list(made.stages_kept)}
        content_hash = metadata["content_hash"]
        self.catalog.end_run(self.run_id, state, content_hash=content_hash, details=details)
        log_event(
            "scan_finished",
            scan_id=due.scan.scan_id,
            run_id=self.run_id,
            state=state,
            seconds=seconds,
            content_hash=content_hash,
            previous_content_hash=due.volume_hash,
            **counts,
        )
        return Outcome.of(
            due,
            "done" if state == "done" else "kept",
            run_id=self.run_id,
            seconds=seconds,
            volume_uri=results.volume_uri,
            version_uri=made.version_uri,
            content_hash=content_hash,
            slabs=made.slabs,
            slabs_kept=made.slabs_kept,
        )

    def _ended(self, result: Any, error: BaseException) -> Outcome:
        """Record an end without a volume."""
        said = _said(error) if isinstance(error, Exception) else "interrupted from the keyboard"
        seconds = round(time.monotonic() - self.begun, 3)
        details = {"reasons": [reason.kind for reason in self.due.reasons], "busy": result == "busy"}
        self.catalog.end_run(self.run_id, "failed" if result == "failed" else "stopped", error=said, details=details)
        # The sentence may name files, and files may be named after patients.
        log_event(
            f"scan_{result}",
            level=logging.ERROR if result == "failed" else logging.WARNING,
            scan_id=self.due.scan.scan_id,
            run_id=self.run_id,
            seconds=seconds,
            error=type(error).__name__,
            failures_in_row=self.due.failures + (result == "failed"),
        )
        self.progress.note(f"{self.due.scan.scan_id}: {result}: {said}")
        return Outcome.of(
            self.due, result, run_id=self.run_id, seconds=seconds, volume_uri=self.due.volume_uri, error=said
        )
