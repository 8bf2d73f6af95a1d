"""The Spark session of a long row of jobs: one for all, and a fresh one after it has died."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from typing import Any

from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.sql import SparkSession

from marspipe.errors import RunError
from marspipe.pipeline.spark.session import local_session, submitted_session


class SessionLostError(RunError):
    """The Spark session has ended, and it is not marspipe's to start another one."""


class Sessions:
    """Gives the session that is to be used now.

    A session that the caller runs (a notebook, a test), or that ``spark-submit`` has configured, is used as long as it
    lives. One that marspipe has started is replaced when it has died.

    Parameters
    ----------
    name : str
        Application name.
    master : str, optional
        Spark master of a local start.
    """

    def __init__(self, name: str, master: str | None = None) -> None:
        self._name = name
        self._master = master
        self._session: SparkSession | None = None
        self._mine = False
        self._may_start = True

    def current(self) -> SparkSession:
        """Return a session that lives, starting one if need be.

        Raises
        ------
        SessionLostError
            If it has ended and was not marspipe's.
        EnvironmentMissingError
            If none can be started on this machine.
        """
        if self._session is not None and not is_alive(self._session):
            self._drop()
        if self._session is None:
            self._session = self._start()
        return self._session

    def lost(self) -> bool:
        """Return whether there was a session and it has ended."""
        return self._session is not None and not is_alive(self._session)

    def close(self) -> None:
        """Stop the session if marspipe has started it."""
        if self._session is not None and self._mine:
            self._drop()

    def _start(self) -> SparkSession:
        if not self._may_start:
            raise SessionLostError("the Spark session has ended: run the job again, it goes on where it stopped")
        active = SparkSession.getActiveSession()
        if active is not None:
            self._may_start = False
            return active
        self._mine = True
        if "PYSPARK_GATEWAY_PORT" in os.environ:  # started by spark-submit, which has set everything
            self._may_start = False
            return submitted_session(self._name)
        return local_session(self._master, spark__app__name=self._name)

    def _drop(self) -> None:
        session, self._session = self._session, None
        # What is left of a dead session complains about everything.
        with warnings.catch_warnings(), suppress(Exception):
            warnings.simplefilter("ignore")
            if session is not None:
                session.stop()
        if self._mine and self._may_start and not _gateway_is_alive():
            _forget_gateway()


def is_alive(session: SparkSession) -> bool:
    """Return whether a session can run jobs."""
    try:
        context: Any = session.sparkContext._jsc
        return context is not None and not context.sc().isStopped()
    except (Py4JError, OSError):
        return False


def _gateway_is_alive() -> bool:
    jvm: Any = SparkContext._jvm
    if jvm is None:
        return False
    try:
        jvm.System.currentTimeMillis()
    except (Py4JError, OSError):
        return False
    return True


def _forget_gateway() -> None:
    """Let PySpark start another JVM: it would ask the dead one for ever."""
    gateway: Any = SparkContext._gateway
    if gateway is not None:
        with suppress(Exception):
            gateway.shutdown()
        with suppress(Exception):
            gateway.proc.stdin.close()
            gateway.proc.kill()
            gateway.proc.wait()
    context: Any = SparkContext
    context._gateway = context._jvm = context._active_spark_context = None
    session: Any = SparkSession
    session._instantiatedSession = session._activeSession = None
