"""Stop when asked to: SIGTERM ends the Spark jobs that run, and no new scan is begun."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

_AGAIN_S = 0.5


class StopRequest:
    """Whether the process was asked to stop."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __bool__(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        """Ask to stop."""
        self._asked.set()

    @contextmanager
    def on_sigterm(self) -> Iterator[StopRequest]:
        """Take SIGTERM for a request to stop; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def asked(number: int, frame: FrameType | None) -> None:
            del number, frame
            self.ask()

        before: Any = signal.signal(signal.SIGTERM, asked)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextmanager
    def ending_jobs_of(self, spark: SparkSession) -> Iterator[None]:
        """End the Spark jobs that run inside once a stop is asked for, so that the work ends with an exception.

        An exception out of the signal itself would leave the connection to the JVM in the middle of an answer.
        """
        done = threading.Event()

        def follow() -> None:
            while not done.is_set():
                if self._asked.wait(_AGAIN_S):
                    # Until the work has ended: it may be between two jobs just now.
                    with suppress(Py4JError, OSError):
                        spark.sparkContext.cancelAllJobs()
                    done.wait(_AGAIN_S)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
