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
    """Return the line of Spark's message that says most: a Python error of a task, an error class of Spark, a cause."""
    for pattern in (_PYTHON_RAISED, _SPARK_CLASS, _CAUSED_BY):
        found = pattern.findall(text)
        if found:
            return str(found[-1]).strip()
    return text.strip().splitlines()[0]
