"""The log for machines: one JSON object a line, on the standard library's logging.

Every line has ``time`` (UTC, ISO 8601), ``level``, ``event``, ``scan_id`` and ``run_id`` (null where they do not
apply), and further plain fields. A line says which scan, which run, how long and how many. It never holds what could
name a patient: descriptions, file names, the text of errors. What went wrong in words is in the catalog, by run id.

>>> import sys
>>> handler = configure_json_log(sys.stdout)
>>> log_event("scan_finished", scan_id="42", run_id="5f0c", seconds=12.5)  # doctest: +ELLIPSIS
{"time": "...", "level": "info", "event": "scan_finished", "scan_id": "42", "run_id": "5f0c", "seconds": 12.5}
>>> remove_json_log(handler)
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, TextIO, TypeAlias

Plain: TypeAlias = str | int | float | bool | Sequence["Plain"] | Mapping[str, "Plain"] | None

_FIELDS = "marspipe_fields"
_HEAD = ("time", "level", "event", "scan_id", "run_id")
_logger = logging.getLogger("marspipe")
# Without it Python would print warnings of a log that nobody has configured.
_logger.addHandler(logging.NullHandler())


def log_event(
    event: str, *, level: int = logging.INFO, scan_id: str | None = None, run_id: str | None = None, **fields: Plain
) -> None:
    """Log an event.

    Parameters
    ----------
    event : str
        What happened, such as ``"scan_finished"``.
    level : int
        Of :mod:`logging`.
    scan_id, run_id : str, optional
        Which scan and which run it belongs to.
    **fields
        Plain values: ids, hashes, counts, durations. Numbers that are not finite become null.

    Raises
    ------
    ValueError
        If a field has the name of one that every line has.
    """
    clash = set(fields) & set(_HEAD)
    if clash:
        raise ValueError(f"every line of the log has its own {', '.join(sorted(clash))}")
    values = {"event": event, "scan_id": scan_id, "run_id": run_id, **{k: _plain(v) for k, v in fields.items()}}
    _logger.log(level, event, extra={_FIELDS: values})


def configure_json_log(target: TextIO | str | os.PathLike[str]) -> logging.Handler:
    """Send events to a stream or a file from now on.

    Parameters
    ----------
    target : text stream or path
        A file is added to, its folder is made, and it may be renamed by log rotation at any time.

    Returns
    -------
    logging.Handler
        For :func:`remove_json_log`.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    handler: logging.Handler
    if isinstance(target, str | os.PathLike):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        handler = WatchedFileHandler(target, encoding="utf-8")
    else:
        handler = logging.StreamHandler(target)
    handler.setFormatter(_JsonLine())
    # Free text, of marspipe or of a library, has no place here: nobody has looked through it for names.
    handler.addFilter(lambda record: hasattr(record, _FIELDS))
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO)
    return handler


def remove_json_log(handler: logging.Handler) -> None:
    """End what :func:`configure_json_log` has begun."""
    _logger.removeHandler(handler)
    handler.close()


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {"time": time, "level": record.levelname.lower()}
        return json.dumps({**head, **getattr(record, _FIELDS)}, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    raise TypeError(f"a field of the log must be plain, got {type(value).__name__}")
