"""The catalog's tables: migrations make what the models say, keep the rows, and refuse what they do not know."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from marspipe.errors import EnvironmentMissingError, InputError
from marspipe.store.catalog import Catalog, open_catalog
from marspipe.store.catalog.address import parse_url
from marspipe.store.catalog.catalog import unmigrated
from marspipe.store.catalog.engine import make_engine, transact
from marspipe.store.catalog.migrate import MIGRATIONS, VERSION_TABLE, migrate, newest, revision
from marspipe.store.catalog.models import Base
from tests.store.catalog_content import frames_metadata, stored, volume_metadata
from tests.store.postgres import PASSWORD, Postgres

NEXT = '''"""A revision of a later marspipe."""
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{before}"


def upgrade() -> None:
    with op.batch_alter_table("scans") as scans:
        scans.add_column(sa.Column("mood", sa.Text, nullable=False, server_default="good"))


def downgrade() -> None:
    with op.batch_alter_table("scans") as scans:
        scans.drop_column("mood")
'''


@pytest.fixture
def engine(url: str) -> Engine:
    """The database of an empty catalog."""
    return make_engine(parse_url(url))


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """The migrations of a later marspipe."""
    folder = tmp_path / "100% later"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "r9999.py").write_text(NEXT.format(before=newest()))
    return folder


def fill(catalog: Catalog) -> None:
    catalog.put_frames("/out/frames", frames_metadata("stone"))
    catalog.put_volume("/out/volume/v1", volume_metadata("stone"))
    catalog.start_run("ingest", "stone", run_id="1", out_uri="/out")
    catalog.put_publication("/out/volume/v1", "dicom://pacs", "done", 3)


def test_migrated_tables_are_those_of_the_models(engine: Engine) -> None:
    def differences(connection: object) -> list[object]:
        options = {
            "version_table": VERSION_TABLE,
            "compare_type": True,
            "compare_server_default": True,
            "target_metadata": Base.metadata,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))

    assert transact(engine, differences, writes=False) == []
    # The comparison sees a difference if there is one.
    transact(engine, lambda c: c.execute(text("ALTER TABLE scans ADD COLUMN mood TEXT")), writes=True)
    assert len(transact(engine, differences, writes=False)) == 1


def test_upgrade_keeps_the_rows(catalog: Catalog, engine: Engine, later: Path) -> None:
    fill(catalog)
    before, runs, sent = stored(catalog), catalog.runs(), catalog.publications()
    assert migrate(engine, later).after == "9999"
    moods = transact(engine, lambda c: c.execute(text("SELECT mood FROM scans")).scalars().all(), writes=False)
    assert list(moods) == ["good"]
    assert (stored(catalog), catalog.runs(), catalog.publications()) == (before, runs, sent)
    assert migrate(engine, later, newest()).before == "9999"
    assert revision(engine) == newest()
    assert "mood" not in {c["name"] for c in inspect(engine).get_columns("scans")}
    assert (stored(catalog), catalog.runs(), catalog.publications()) == (before, runs, sent)


def test_up_down_up(catalog: Catalog, engine: Engine, url: str) -> None:
    fill(catalog)
    assert catalog.migrate().before == newest()  # again: nothing happens
    assert len(catalog.scans()) == 1
    migrate(engine, target="base")
    assert set(inspect(engine).get_table_names()) <= {VERSION_TABLE}
    done = unmigrated(url).migrate()
    assert (done.before, done.after) == (None, newest())
    fill(open_catalog(url))


def test_failed_migration_changes_nothing(catalog: Catalog, engine: Engine, later: Path) -> None:
    fill(catalog)
    script = later / "versions" / "r9999.py"
    script.write_text(
        script.read_text().replace("\n\ndef downgrade", '\n    raise OSError("stopped")\n\ndef downgrade')
    )
    with pytest.raises(OSError, match="stopped"):
        migrate(engine, later)
    assert revision(engine) == newest()
    assert "mood" not in {c["name"] for c in inspect(engine).get_columns("scans")}
    assert len(catalog.scans()) == 1


def test_catalog_of_a_newer_marspipe_is_refused(url: str, engine: Engine, later: Path) -> None:
    migrate(engine, later)
    for attempt in (open_catalog, lambda url: unmigrated(url).migrate()):
        with pytest.raises(InputError) as caught:
            attempt(url)
        said = str(caught.value)
        assert "was made by a newer marspipe (its tables have revision 9999, this one knows up to" in said
        assert PASSWORD not in said
    assert revision(engine) == "9999"


def test_postgresql_says_how_to_make_its_tables(postgres: Postgres) -> None:
    url = postgres.fresh()
    with pytest.raises(EnvironmentMissingError, match=r"no catalog tables yet: run marspipe catalog migrate"):
        open_catalog(url)
    assert unmigrated(url).migrate().before is None
    assert open_catalog(url).scans() == []


def test_tables_of_another_program_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE runs (distance_km REAL)")
    connection.close()
    with pytest.raises(InputError, match=r"holds tables of another program \(runs\)"):
        open_catalog(str(file))
