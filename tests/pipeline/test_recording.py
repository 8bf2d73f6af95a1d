"""What the catalog is told of a job, and when a scan id means two scans."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from marspipe.pipeline.recording import CatalogWarning, recorded
from marspipe.store.catalog import Catalog, open_catalog


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return open_catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}")


def run(catalog: Catalog, **scan: str) -> list[str]:
    """Record a run; return what was warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with recorded(catalog, "ingest", "demo", "/out", **scan):
            pass
    assert all(one.category is CatalogWarning for one in told)
    return [str(one.message) for one in told]


def test_another_scan_of_the_same_id_is_warned_of(catalog: Catalog) -> None:
    assert run(catalog, raw_uri="/raw/one", frames_uri="/one/frames") == []
    (said,) = run(catalog, raw_uri="/raw/two", frames_uri="/two/frames")
    assert said.startswith("the catalog knows scan 'demo' from /raw/one, and takes /raw/two for it from now on")
    (said,) = run(catalog, raw_uri="/raw/one", frames_uri="/one/frames")
    assert "from /raw/two, and takes /raw/one" in said


@pytest.mark.parametrize(
    "scan",
    [
        {"raw_uri": "/raw/one", "frames_uri": "/one/frames"},  # again
        {"raw_uri": "file:///raw/one/", "frames_uri": "/elsewhere/frames"},  # into another folder
        {"raw_uri": "/raw/one/scan.yaml", "frames_uri": "/elsewhere/frames"},
        {"raw_uri": "/moved/one", "frames_uri": "/one/frames"},  # the raw files have moved
        {"raw_uri": "/raw/one", "out_uri": "/results"},  # reconstructed for the first time
    ],
)
def test_what_the_same_scan_may_do_is_not_warned_of(catalog: Catalog, scan: dict[str, str]) -> None:
    run(catalog, raw_uri="/raw/one", frames_uri="/one/frames")
    assert run(catalog, **scan) == []
