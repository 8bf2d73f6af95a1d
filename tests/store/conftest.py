"""Fixtures of the stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from marspipe.store.catalog import Catalog, open_catalog
from marspipe.store.catalog.catalog import unmigrated
from tests.store.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog of ü.sqlite'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.fresh()


@pytest.fixture
def url(empty_url: str) -> str:
    """The URL of an empty catalog, in each kind of database."""
    unmigrated(empty_url).migrate()
    return empty_url


@pytest.fixture
def catalog(url: str) -> Catalog:
    """An empty catalog, in each kind of database."""
    return open_catalog(url)
