"""``marspipe catalog`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from marspipe.cli import cli, run_command
from marspipe.cli.catalog import KINDS, STATES
from marspipe.store import catalog as store
from marspipe.store.catalog import Catalog, open_catalog
from marspipe.store.commit import COMMIT_FILE, commit
from tests.store.catalog_content import frames_metadata, volume_metadata

RUN = "deadbeef" + "0" * 24


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a catalog that does not exist yet, and is the default."""
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    monkeypatch.setenv("MARSPIPE_CATALOG", url)
    return url


@pytest.fixture
def filled(url: str) -> Catalog:
    """A catalog with two scans."""
    catalog = open_catalog(url)
    catalog.put_frames("/out/stone/frames", frames_metadata("stone", missing_views=[3]))
    catalog.put_volume("/out/stone/volume/v1", volume_metadata("stone"))
    long = volume_metadata("artery-of-the-leg-2026-03-04", description="[red]a very long description[/red] " * 5)
    catalog.put_volume("hdfs://namenode:9000/out/artery/volume/v1", long)
    catalog.start_run("reconstruct", "stone", run_id=RUN, out_uri="/out/stone")
    catalog.end_run(RUN, "failed", error="disk full " * 30 + "\nsecond line", details={"slabs": 3})
    catalog.start_run("ingest", "stone", run_id="2" * 32, out_uri="/out/stone")
    catalog.put_publication("/out/stone/volume/v1", "dicom://pacs:104/STORE", "done", 8)
    return catalog


def said(*arguments: str) -> str:
    """Return what the command prints; it must succeed, and fit the page."""
    done = CliRunner().invoke(cli, ["catalog", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def parsed(*arguments: str) -> Any:
    """Return the JSON that the command prints."""
    return json.loads(said(*arguments, "--json"))


def rows(*arguments: str) -> list[list[str]]:
    """Return the table that the command prints, which must fit 100 columns, cell by cell."""
    lines = said(*arguments).splitlines()
    assert max(map(len, lines)) <= 100
    return [line.split() for line in lines]


def test_words_are_those_of_the_catalog() -> None:
    assert KINDS == store.KINDS
    assert STATES == ("running", "died", *store.STATES)


def test_empty_catalog_says_what_to_do(url: str, tmp_path: Path) -> None:
    assert said("scans").startswith(f"no scans yet in {url}: marspipe catalog rebuild")
    assert said("runs").startswith("no runs yet")
    assert "has 'x'" in said("search", "x")
    assert parsed("scans") == parsed("runs") == parsed("search", "x") == []
    assert (tmp_path / "catalog.sqlite").exists()


def test_scans(filled: Catalog) -> None:
    table = rows("scans")
    assert table[0] == ["scan", "acquired", "views", "counters", "volumes", "last", "run", "description"]
    stone = next(row for row in table if row[0] == "stone")
    assert stone[1:11] == ["2026-03-04", "05:06", "11", "of", "12", "2", "1", "ingest", "running", "description"]
    assert "[red]" in said("scans")
    assert [one["scan"]["scan_id"] for one in parsed("scans")] == ["artery-of-the-leg-2026-03-04", "stone"]
    assert said("scans", "--limit", "1").endswith("the newest 1 are shown; --limit 0 lists all\n")
    assert len(parsed("scans", "--limit", "1")) == 1


def test_runs(filled: Catalog) -> None:
    assert {"deadbeef", "22222222"} <= {row[0] for row in rows("runs") if row}
    assert "second line" not in said("runs")
    assert [run["run_id"] for run in parsed("runs", "--state", "failed")] == [RUN]
    assert [run["kind"] for run in parsed("runs", "--scan", "stone", "--kind", "ingest")] == ["ingest"]
    assert said("runs", "--state", "died").startswith("no such runs")


def test_show(filled: Catalog) -> None:
    scan = said("show", "stone")
    for text in (
        "/out/stone/frames",
        "/out/stone/volume/v1 (current)",
        "stones (bbbbbbbbbbbbbbbb)",
        "8 to dicom://pacs",
    ):
        assert text in scan
    assert "11 of 12 views, 2 counters, 1 x 32 x 40 px" in scan
    assert "open_beam  counter 1: 5 frames" in scan
    run = said("show", "deadb")
    assert "second line" in run and "slabs: 3" in run and RUN in run
    for uri in ("/out/stone/volume/v1", "/out/stone/volume", "/out/stone", "file:///out/stone/volume/v1/"):
        assert "(8, 16, 16) voxels (z, y, x) of 0.1 x 0.2 x 0.2 mm" in said("show", uri)
    assert "scan       artery" in said("show", "hdfs://namenode:9000/out/artery/volume")
    assert parsed("show", "stone")["runs"][1]["error"].startswith("disk full")
    assert parsed("show", "deadb")["run_id"] == RUN
    assert parsed("show", "/out/stone")[0]["recipe"]["name"] == "stones"


def test_search(filled: Catalog) -> None:
    assert [(m["kind"], m["field"]) for m in parsed("search", "DISK FULL")] == [("run", "error")]
    assert ["recipe", "b" * 16, "-", "name", "stones"] in rows("search", "stones")


def test_rebuild(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / "store" / name / "frames").mkdir(parents=True)
        commit(str(tmp_path / "store" / name / "frames"), frames_metadata(name))
    assert "2 frames tables and 0 volumes found, 0 gone" in said("rebuild", str(tmp_path / "store"))
    (tmp_path / "store" / "a" / "frames" / COMMIT_FILE).write_text("{")
    (tmp_path / "store" / "b" / "frames" / COMMIT_FILE).unlink()
    assert run_command(cli, ["catalog", "rebuild", str(tmp_path / "store")], "marspipe") == 3
    output = capsys.readouterr()
    assert output.out.splitlines()[1] == f"dropped    {tmp_path / 'store' / 'b' / 'frames'}"
    assert output.err.startswith(f"marspipe: warning: {tmp_path / 'store' / 'a' / 'frames' / COMMIT_FILE} is damaged")
    assert [one["scan"]["scan_id"] for one in parsed("scans")] != []


def test_migrate(url: str) -> None:
    assert said("migrate").startswith(f"{url}: from nothing to revision")
    assert "is up to date" in said("migrate")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show", "nothing"], "has no scan, run or volume nothing"),
        (["show", "s3://bucket/x"], "has no scan, run or volume"),
        (["runs", "--scan", "nothing"], "has no scan nothing"),
        (["rebuild", "/no/such/folder"], "there is no such folder"),
        (["scans", "--catalog", "mysql://me:pass@host/db"], "cannot be kept at mysql:"),
        (["scans", "--catalog", "postgresql://me:pass@127.0.0.1:1/db"], "cannot be reached"),
        (["scans", "--limit", "-1"], "--limit"),
        (["runs", "--state", "odd"], "odd"),
    ],
)
def test_errors_are_sentences(
    filled: Catalog, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert run_command(cli, ["catalog", *arguments], "marspipe") == 2
    errors = capsys.readouterr().err
    assert expected in errors
    assert "pass@" not in errors and "Traceback" not in errors
