"""What a night of reprocessing did: a table for people, JSON for machines."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from marspipe.pipeline.reprocessing.queue import PATIENCE, Due, Reason
from marspipe.store.catalog import Scan

Result = Literal["done", "kept", "failed", "busy", "stopped", "left", "skipped", "due"]
RESULTS: tuple[Result, ...] = ("done", "kept", "failed", "busy", "stopped", "left", "skipped", "due")


@dataclass(frozen=True)
class Outcome:
    """What became of a scan; see :class:`Summary` for the fields."""

    scan_id: str
    priority: int
    result: Result
    reasons: tuple[Reason, ...] = ()
    failures_in_row: int = 0
    run_id: str | None = None
    seconds: float | None = None
    volume_uri: str | None = None
    version_uri: str | None = None
    content_hash: str | None = None
    previous_content_hash: str | None = None
    slabs: int | None = None
    slabs_kept: int | None = None
    error: str | None = None

    @classmethod
    def of(cls, due: Due, result: Result, **values: Any) -> Outcome:
        """Return the outcome of a scan of the queue."""
        return cls(
            due.scan.scan_id,
            due.scan.priority,
            result,
            due.reasons,
            **{"failures_in_row": due.failures, "previous_content_hash": due.volume_hash, **values},
        )

    @classmethod
    def skipped(cls, scan: Scan, why: str) -> Outcome:
        """Return the outcome of a scan that nothing can be done about."""
        return cls(scan.scan_id, scan.priority, "skipped", error=why)


@dataclass
class Summary:
    """What was done.

    :meth:`to_dict`, as JSON:

    - ``marspipe_reprocess``: 1, the version of this format; fields may be added, none is renamed.
    - ``started_at``, ``ended_at``: UTC, ISO 8601; ``seconds`` between them.
    - ``catalog``: its URL, without a password; ``dry_run``: whether nothing was to be run.
    - ``ended_by``: what ended the night before the queue was empty: ``"max_hours"``, ``"max_scans"``, ``"stop"`` (a
      signal), ``"session"`` (Spark has ended); null if nothing did.
    - ``exit_code``: 0, or 1 if scans failed or Spark has ended.
    - ``current``: the number of scans that were up to date.
    - ``counts``: the number of scans by ``result``.
    - ``scans``, in the order in which they were worked on: ``scan_id``, ``priority``, ``result``; ``reasons``, each
      with ``kind`` (no_volume, interrupted, unfinished, raw_changed, recipe, frames, code, geometry, problem) and
      ``text``; ``failures_in_row`` before this night; ``run_id``; ``seconds``; ``volume_uri``, ``version_uri``,
      ``content_hash`` of the result; ``previous_content_hash``; ``slabs`` and ``slabs_kept``, those that an earlier run
      had made; ``error``. What does not apply is null.

    A ``result`` is ``done``; ``kept`` (it turned out to be right as it was); ``failed``; ``busy`` (another job works on
    it); ``stopped``; ``left`` (not begun); ``skipped`` (``error`` says what the catalog does not know); ``due`` (of a
    dry run).
    """

    catalog: str
    dry_run: bool = False
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None
    ended_by: str | None = None
    current: int = 0
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Scans by result."""
        counted = Counter(outcome.result for outcome in self.outcomes)
        return {result: counted[result] for result in RESULTS}

    @property
    def seconds(self) -> float:
        """From start to end, s."""
        return ((self.ended_at or datetime.now(UTC)) - self.started_at).total_seconds()

    @property
    def exit_code(self) -> int:
        """0 if all went well, 1 if not."""
        return int(self.counts["failed"] > 0 or self.ended_by == "session")

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON-ready values; see the class."""
        return {
            "marspipe_reprocess": 1,
            "started_at": self.started_at.isoformat(timespec="milliseconds"),
            "ended_at": None if self.ended_at is None else self.ended_at.isoformat(timespec="milliseconds"),
            "seconds": round(self.seconds, 3),
            "catalog": self.catalog,
            "dry_run": self.dry_run,
            "ended_by": self.ended_by,
            "exit_code": self.exit_code,
            "current": self.current,
            "counts": self.counts,
            "scans": [asdict(outcome) for outcome in self.outcomes],
        }

    def to_json(self) -> str:
        """Return the summary as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """Return the summary as a table and a sentence."""
        lines = _table([("scan", "why", "result", "duration", "volume"), *map(_row, self.outcomes)])
        for outcome in self.outcomes:
            if outcome.error is not None:
                lines.append(f"{outcome.scan_id}: {outcome.error}")
            if (times := outcome.failures_in_row) >= PATIENCE:
                lines.append(f"{outcome.scan_id}: it had failed {times} times in a row, so it comes last")
        said = ", ".join(f"{n} {result}" for result, n in self.counts.items() if n)
        return "\n".join([*lines, f"{said or 'nothing to do'}; {self.current} up to date{_ENDED[self.ended_by]}"])


_ENDED = {
    None: "",
    "max_hours": "; no time for the rest",
    "max_scans": "; no more scans were to be done",
    "stop": "; stopped on request",
    "session": "; the Spark session has ended",
}


def _row(outcome: Outcome) -> tuple[str, ...]:
    duration = "" if outcome.seconds is None else str(timedelta(seconds=round(outcome.seconds)))
    why = "; ".join(reason.text for reason in outcome.reasons)
    return outcome.scan_id, why, outcome.result, duration, outcome.version_uri or outcome.volume_uri or ""


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows as lines with columns of equal width; none for a heading without rows."""
    if len(rows) == 1:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
