"""What a failed Spark job says: one sentence instead of two stack traces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from marspipe import errors
from marspipe.errors import MarspipeError, RunError

# The last line of a Python traceback inside Spark's message.
_RAISED = re.compile(r"^(?:marspipe\.errors\.)(\w+): (.*)$", re.MULTILINE)
_PYTHON_RAISED = re.compile(r"^((?!py4j)(?:\w+\.)*[A-Z]\w*(?:Error|Interrupt): .*)$", re.MULTILINE)
_SPARK_CLASS = re.compile(r"\[[A-Z_.]+\] .*")
_CAUSED_BY = re.compile(r"Caused by: (.*)")
# What Spark says of the place that was written to names no reason, and what says the reason names no place.
_WRITING_TO = re.compile(r"Task failed while writing rows to (?:file:(?=/))?(.*?)\.? SQLSTATE")
_FULL = re.compile(r"(No space left on device|Disk quota exceeded|(?<=QuotaExceededException: )The .* is exceeded.*)")
_LOST = re.compile(r"failed (\d+) times.*ExecutorLostFailure \(executor .*?\) Reason: (.*)")
_CRASHED = "Python worker exited unexpectedly"


@contextmanager
def spark_failures(doing: str) -> Iterator[None]:
    """Turn an exception of Spark into the marspipe error that a task raised, or into a RunError with its cause.

    Parameters
    ----------
    doing : str
        What was being done, for the message.
    """
    try:
        yield
    except (PySparkException, Py4JError) as error:
        text = str(error)
        for name, message in reversed(_RAISED.findall(text)):
            kind = getattr(errors, name, None)
            if isinstance(kind, type) and issubclass(kind, MarspipeError):
                raise kind(message) from error
        raise RunError(f"{doing} failed: {_cause(text)}") from error


def _cause(text: str) -> str:
    """Return what says most in Spark's message: what is full or has died, a task's Python error, Spark's class."""
    full, place, lost = _FULL.findall(text), _WRITING_TO.findall(text), _LOST.search(text)
    if full:
        return (
            f"{full[-1].strip()}, while {place[-1].split('/_temporary')[0]} was written"
            if place
            else str(full[-1]).strip()
        )
    if lost:
        return f"executors died under the same task {lost[1]} times: {lost[2].strip()}"
    if _CRASHED in text and not _PYTHON_RAISED.search(text):
        return (
            "a Python worker of Spark died, killed or for want of memory (run.memory_per_task_mib bounds what it takes)"
        )
    for pattern in (_PYTHON_RAISED, _SPARK_CLASS, _CAUSED_BY):
        found = pattern.findall(text)
        if found:
            return str(found[-1]).strip()
    return text.strip().splitlines()[0]
