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
_ANY_RAISED = re.compile(r"^((?:\w+\.)*\w*(?:Error|Exception|Interrupt)): (.*)$", re.MULTILINE)


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
        causes = _ANY_RAISED.findall(text)
        cause = f"{causes[-1][0]}: {causes[-1][1]}" if causes else text.strip().splitlines()[0]
        raise RunError(f"{doing} failed: {cause}") from error
