"""Revisions of the catalog's tables: which one a database has, and how it gets to this marspipe's.

The steps are Alembic scripts in ``migrations/versions``, numbered; Alembic is driven from here, so that a user needs
no configuration of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text
from sqlalchemy.engine import Connection

from marspipe.errors import InputError, RunError
from marspipe.store.catalog.address import shown
from marspipe.store.catalog.engine import transact, write_ahead
from marspipe.store.catalog.models import Base

MIGRATIONS = Path(__file__).parent / "migrations"
# Other programs that share the database may use Alembic, too.
VERSION_TABLE = "marspipe_catalog_version"
# Of PostgreSQL's advisory locks, the one that migrations take: "mars".
_LOCK = 0x6D617273


@dataclass(frozen=True)
class Migrated:
    """What a migration did: the revision before (None: there were no tables) and the one after it."""

    before: str | None
    after: str | None


def newest(migrations: Path = MIGRATIONS) -> str:
    """Return the newest revision that this marspipe knows."""
    head = ScriptDirectory.from_config(_config(migrations)).get_current_head()
    assert head is not None
    return head


def revision(engine: Engine) -> str | None:
    """Return the revision of a database; None if it has no catalog yet."""
    return transact(engine, _revision, writes=False)


def require_known(engine: Engine, current: str | None, migrations: Path = MIGRATIONS) -> None:
    """Raise InputError if a database has a revision that this marspipe does not know."""
    known = [script.revision for script in ScriptDirectory.from_config(_config(migrations)).walk_revisions()]
    if current is not None and current not in known:
        raise InputError(
            f"the catalog {shown(engine.url)} was made by a newer marspipe (its tables have revision {current}, this "
            f"one knows up to {known[0]}): install that version of marspipe, or give another catalog"
        )


def migrate(engine: Engine, migrations: Path = MIGRATIONS, target: str = "head") -> Migrated:
    """Bring a database to a revision, in one transaction; of several processes that try, one does it.

    Raises
    ------
    InputError
        If the database was made by a newer marspipe, or is something else.
    """
    sqlite = engine.dialect.name == "sqlite"
    if sqlite:
        require_known(engine, revision(engine), migrations)  # before anything is changed
        write_ahead(engine)

    def work(connection: Connection) -> Migrated:
        if not sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = _revision(connection)
        require_known(engine, before, migrations)
        if before is None:
            _refuse_foreign(connection)
        config = _config(migrations)
        config.attributes["connection"] = connection
        wanted = ScriptDirectory.from_config(config).get_current_head() if target == "head" else target
        if before != wanted:
            revisions = [s.revision for s in ScriptDirectory.from_config(config).walk_revisions()]
            back = wanted == "base" or (before is not None and revisions.index(before) < revisions.index(str(wanted)))
            (command.downgrade if back else command.upgrade)(config, str(wanted))
        if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
            raise RunError(f"{shown(engine.url)}: the migration from {before} would leave rows that refer to nothing")
        return Migrated(before, _revision(connection))

    return transact(engine, work, writes=True, alters=True)


def _config(migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def _refuse_foreign(connection: Connection) -> None:
    taken = sorted({*inspect(connection).get_table_names()} & {*Base.metadata.tables})
    if taken:
        raise InputError(
            f"{shown(connection.engine.url)} holds tables of another program ({', '.join(taken)}): give the catalog a "
            "database of its own"
        )
