"""Transactions of the catalog: whole or not at all, from many processes at once, on SQLite and PostgreSQL.

Every transaction opens a connection of its own and closes it: connections must not survive a fork, and a catalog sees
a few transactions per run. A writer on SQLite takes the write lock when it begins: one that reads first and locks
later could find that another has written in between, which no waiting mends.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from marspipe.errors import EnvironmentMissingError, InputError, MarspipeError, RunError
from marspipe.store.catalog.address import shown

Result = TypeVar("Result")

# A process that waits this long for the lock of a SQLite file is told that it is locked, and asks again.
BUSY_S = 60.0
_ATTEMPTS = 6
_CONNECT_S = 15
# Serialization failure, deadlock: PostgreSQL's way to say that the transaction is to be repeated.
_REPEAT = {"40001", "40P01"}
_WRITES, _ALTERS = "marspipe_writes", "marspipe_alters"


def make_engine(url: URL) -> Engine:
    """Return the engine of a catalog; nothing is connected yet."""
    if url.get_backend_name() == "sqlite":
        # A reader may come while the file is made: only its folder must exist.
        engine = create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": BUSY_S})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    patience = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_S}
    return create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=patience)


def _prepare_sqlite(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None  # transactions begin below, not where the sqlite3 module guesses
    connection.execute("PRAGMA foreign_keys = ON")
    # With write-ahead logging this is safe against a killed process, and loses nothing but on a power failure.
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get(_ALTERS, False):
        # To alter a table is to copy and drop it, which rows of other tables that refer to it would forbid. It cannot
        # be switched off within a transaction.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(_WRITES, False) else "BEGIN")


def transact(engine: Engine, work: Callable[[Connection], Result], *, writes: bool, alters: bool = False) -> Result:
    """Do some work in a transaction, again from the start where others got in its way.

    Parameters
    ----------
    engine : Engine
        From :func:`make_engine`.
    work : callable
        Gets the connection; it may be called several times, each time as if it had never been called before.
    writes : bool
        Whether it may change anything.
    alters : bool
        Whether it alters tables; then SQLite does not watch over references between them until it ends.

    Raises
    ------
    EnvironmentMissingError
        If the database cannot be reached.
    InputError
        If the file is no catalog.
    RunError
        If the database fails otherwise.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with (
                engine.connect().execution_options(**{_WRITES: writes, _ALTERS: alters}) as connection,
                connection.begin(),
            ):
                return work(connection)
        except MarspipeError:
            raise
        except SQLAlchemyError as error:
            if attempt == _ATTEMPTS or not _passes(error):
                raise _sentence(error, engine.url) from error
            time.sleep(random.uniform(0, 0.05 * 2**attempt))
    raise AssertionError


def write_ahead(engine: Engine) -> None:
    """Let a SQLite file log ahead, so that readers and the writer do not wait for each other; it stays that way."""

    def switch() -> None:
        # Not in a transaction, and not subject to the busy timeout: two that switch at once refuse each other.
        with engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            if raw.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                raw.execute("PRAGMA journal_mode = WAL")

    give_up = time.monotonic() + BUSY_S
    while True:
        try:
            return switch()
        except (sqlite3.OperationalError, SQLAlchemyError) as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise _sentence(error, engine.url) from error
            time.sleep(random.uniform(0, 0.1))
        except sqlite3.DatabaseError as error:
            raise _sentence(error, engine.url) from error


def _passes(error: SQLAlchemyError) -> bool:
    """Return whether a failure will not be there when the same is tried again."""
    cause = getattr(error, "orig", None)
    if isinstance(cause, sqlite3.OperationalError):
        return "locked" in str(cause) or "busy" in str(cause)
    return getattr(cause, "sqlstate", None) in _REPEAT


def _sentence(error: Exception, url: URL) -> MarspipeError:
    """Return a failure of the database as one of marspipe's errors, without the password."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    text = " ".join(str(cause).split())
    if url.password:
        text = text.replace(str(url.password), "***")
    place = f"the catalog {shown(url)}"
    if isinstance(cause, sqlite3.DatabaseError):
        if "not a database" in text:
            return InputError(f"{url.database} is not a catalog: {text}")
        if "unable to open" in text or "readonly" in text:
            reason = "there is a folder" if os.path.isdir(url.database or "") else text
            return EnvironmentMissingError(f"{place} cannot be opened: {reason}; is its folder there, and writable?")
    elif getattr(cause, "sqlstate", None) is None and "Operational" in type(cause).__name__:
        return EnvironmentMissingError(f"{place} cannot be reached: {text}")
    elif type(cause).__name__ == "ProgrammingError" and getattr(cause, "sqlstate", None) is None:
        return InputError(f"{place}: {text}")
    return RunError(f"{place} failed: {text}")
