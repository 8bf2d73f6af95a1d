"""Which scans are reprocessed, why, and in which order."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from pyspark.sql import SparkSession

import marspipe
from marspipe.errors import ScanError
from marspipe.pipeline.ingest import ingest_into, open_scan
from marspipe.pipeline.reconstruct import prepare
from marspipe.recipe import parse_recipe
from marspipe.store.catalog import PINNED, SHIPPED
from marspipe.store.versions import versions
from tests.pipeline.reprocess_scans import LEAN, Desk, change, write_raw
from tests.pipeline.scans import quiet


@pytest.fixture(scope="module")
def finished(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A scan that was reconstructed from its raw files."""
    desk = Desk(tmp_path_factory.mktemp("finished"))
    raw = write_raw(desk.folder / "raw", "one")
    desk.catalog.put_scan("one", raw_uri=str(raw), out_uri=str(desk.folder / "out"))
    assert desk.results(desk.night()) == [("one", "done")]
    return desk


@pytest.fixture
def desk(finished: Desk, tmp_path: Path) -> Desk:
    """The same with results of its own."""
    shutil.copytree(finished.folder / "out", tmp_path / "out")
    shutil.copy(finished.catalog_file, tmp_path)
    copy = Desk(tmp_path)
    copy.catalog.put_scan("one", out_uri=str(tmp_path / "out"), frames_uri=str(tmp_path / "out" / "frames"))
    return copy


def wanted_hash(desk: Desk) -> str:
    return prepare(str(desk.folder / "out" / "frames"), desk.recipe_of(None), 1).content_hash


def failed(desk: Desk, content_hash: str | None, state: str = "failed", scan_id: str = "one") -> None:
    run_id = uuid4().hex
    out = str(desk.folder / "out")
    recipe_hash = desk.recipe_of(None).content_hash()
    desk.catalog.start_run(
        "reprocess", scan_id, run_id=run_id, out_uri=out, content_hash=content_hash, recipe_hash=recipe_hash
    )
    desk.catalog.end_run(run_id, state, error="the disk is full")


def test_what_was_made_is_up_to_date(desk: Desk) -> None:
    assert desk.queue().current == ["one"]
    assert desk.reasons() == []


@pytest.mark.parametrize(
    "recipe",
    [
        LEAN + "# a comment\n",
        LEAN + "name: other-name\n",
        LEAN + "filter: {window: ram-lak}\n",
        LEAN + "run: {slab_slices: 3, memory_per_task_mib: 512, restart_point: filtered}\n",
        "output: {dicom: true, preview: true, tile_mib: 1.0}\n",
    ],
)
def test_what_does_not_shape_the_voxels_does_not_matter(desk: Desk, recipe: str) -> None:
    desk.recipe = recipe
    assert desk.reasons() == []


def test_another_recipe(desk: Desk, tmp_path: Path) -> None:
    desk.recipe = LEAN + "filter: {window: hann}\n"
    (due,) = desk.queue().due
    assert [reason.kind for reason in due.reasons] == ["recipe"]
    assert not due.never_finished
    own = tmp_path / "own recipe.yaml"
    own.write_text("# the scan's own\n" + LEAN)
    desk.catalog.put_scan("one", recipe_uri=str(own))
    assert desk.reasons() == []
    own.write_text("grid: {shape: [8, 8, 8]}\n")
    assert desk.reasons() == ["recipe"]


def test_a_recipe_that_is_shipped_or_kept_in_the_catalog(desk: Desk) -> None:
    fine = parse_recipe("filter: {cutoff: 0.00001}", "test")
    desk.catalog.put_scan("one", recipe_uri=SHIPPED)
    assert desk.reasons() == []
    desk.catalog.put_scan("one", recipe_uri=PINNED + fine.content_hash())
    (due,) = desk.queue().due
    assert f"has no recipe {fine.content_hash()}" in str(due.problem)
    desk.catalog.put_recipe(fine.content_hash(), fine.name, fine.model_dump(mode="json"))
    (due,) = desk.queue().due
    assert due.recipe == fine
    assert [reason.kind for reason in due.reasons] == ["recipe"]


def test_code_that_gives_other_voxels(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marspipe, "__version__", "99.0")
    assert desk.reasons() == []
    monkeypatch.setattr(marspipe, "RESULTS_VERSION", marspipe.RESULTS_VERSION + 1)
    assert desk.reasons() == ["code"]


def test_another_open_beam(spark: SparkSession, finished: Desk, desk: Desk, tmp_path: Path) -> None:
    raw = shutil.copytree(finished.folder / "raw", tmp_path / "raw")
    path = raw / "open_beam_before.mib"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    frames = str(tmp_path / "out" / "frames")
    scan = open_scan(str(raw), spark, tolerant=True)
    assert ingest_into(spark, scan, frames, progress=quiet(), replace=True).added == 2  # the exposure
    desk.catalog.put_scan("one", raw_uri=str(raw))
    assert desk.reasons() == ["frames"]


def test_another_geometry(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "out" / "frames" / "_marspipe.json"
    (source, changed) = ('"source_to_isocenter_mm": 200.0', '"source_to_isocenter_mm": 201.0')
    text = path.read_text()
    if source not in text:
        pytest.fail("the test does not know the geometry's keys any more")
    path.write_text(text.replace(source, changed))
    assert desk.reasons() == ["geometry"]


def test_raw_files_that_are_newer(finished: Desk, desk: Desk, tmp_path: Path) -> None:
    raw = shutil.copytree(finished.folder / "raw", tmp_path / "raw")
    manifest = yaml.safe_load((raw / "scan.yaml").read_text())
    manifest["geometry"]["source_to_isocenter_mm"] += 1.0
    (raw / "scan.yaml").write_text(yaml.safe_dump(manifest))
    desk.catalog.put_scan("one", raw_uri=str(raw))
    (due,) = desk.queue().due
    assert [reason.kind for reason in due.reasons] == ["raw_changed"]
    assert (due.raw_uri, due.never_finished, due.content_hash) == (str(raw), True, None)


def test_raw_files_that_are_gone_or_decayed(desk: Desk, finished: Desk, tmp_path: Path) -> None:
    desk.catalog.put_scan("one", raw_uri=str(tmp_path / "archived"))
    assert desk.reasons() == []
    raw = shutil.copytree(finished.folder / "raw", tmp_path / "raw")
    (raw / "projections.mib").write_bytes(b"rot")
    desk.catalog.put_scan("one", raw_uri=str(raw))
    assert desk.reasons() == []


def test_no_volume_yet(desk: Desk, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "out" / "volume")
    assert desk.reasons() == ["no_volume"]
    (tmp_path / "out" / "volume" / f"_work-{wanted_hash(desk)}").mkdir(parents=True)
    assert desk.reasons() == ["no_volume", "interrupted"]
    shutil.rmtree(tmp_path / "out" / "frames")
    (due,) = desk.queue().due
    assert [reason.kind for reason in due.reasons] == ["no_volume"]
    assert due.raw_uri is not None


def test_the_work_of_another_recipe_does_not_matter(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "out" / "volume" / "_work-0123456789abcdef").mkdir()
    assert desk.reasons() == []


def test_files_of_the_current_version_that_are_gone(desk: Desk, tmp_path: Path) -> None:
    (version,) = versions(str(tmp_path / "out" / "volume"))
    shutil.rmtree(version.uri)
    (due,) = desk.queue().due
    assert due.damaged and due.never_finished
    assert [reason.kind for reason in due.reasons] == ["no_volume"]


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_last_run_that_did_not_end_well(desk: Desk, state: str) -> None:
    """It may have failed after the volume was there, in the DICOM export."""
    failed(desk, "of-another-recipe", state)
    assert desk.reasons() == []
    out = str(desk.folder / "out")
    desk.catalog.start_run("reconstruct", "one", run_id="by hand", out_uri=out, recipe_hash="another")
    desk.catalog.end_run("by hand", state)
    assert desk.reasons() == []
    failed(desk, wanted_hash(desk), state)
    assert desk.reasons() == ["unfinished"]


def test_a_last_run_that_died(desk: Desk) -> None:
    run = {"run_id": "dead", "out_uri": str(desk.folder / "out"), "content_hash": wanted_hash(desk)}
    run["recipe_hash"] = desk.recipe_of(None).content_hash()
    code = f"""
from marspipe.store.catalog import open_catalog
open_catalog({str(desk.catalog_file)!r}).start_run("reconstruct", "one", **{run!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    (due,) = desk.queue().due
    assert [(reason.kind, reason.text) for reason in due.reasons] == [("unfinished", "its last run died")]
    assert (due.never_finished, due.failures) == (True, 1)


def test_a_recipe_that_does_not_fit_is_the_scan_s_own_problem(desk: Desk, tmp_path: Path) -> None:
    own = tmp_path / "wrong.yaml"
    own.write_text("fliter: {}\n")
    desk.catalog.put_scan("one", recipe_uri=str(own))
    desk.catalog.put_scan("two", frames_uri=str(tmp_path / "out" / "frames"), out_uri=str(tmp_path / "two"))
    first, second = sorted(desk.queue().due, key=lambda due: due.scan.scan_id)
    assert "fliter" in str(first.problem)
    assert second.problem is None
    assert first.reasons[-1].kind == "problem"


def test_three_failures_in_a_row_and_it_waits_for_the_others(desk: Desk, tmp_path: Path) -> None:
    desk.recipe = LEAN + "filter: {window: hann}\n"
    desk.catalog.put_scan("one", priority=9)
    desk.catalog.put_scan("two", frames_uri=str(tmp_path / "out" / "frames"), out_uri=str(tmp_path / "two"))

    def order() -> list[tuple[str, int]]:
        return [(due.scan.scan_id, due.failures) for due in desk.queue().due]

    content_hash = wanted_hash(desk)
    failed(desk, content_hash)
    failed(desk, content_hash, "stopped")
    failed(desk, content_hash)
    assert order() == [("one", 2), ("two", 0)]
    failed(desk, content_hash)
    assert order() == [("two", 0), ("one", 3)]
    desk.recipe = LEAN + "filter: {window: cosine}\n"  # may well succeed
    assert order() == [("one", 0), ("two", 0)]


def test_order(desk: Desk, tmp_path: Path) -> None:
    """Priority, then never finished before stale, then the oldest result, then the id."""
    frames, catalog = str(tmp_path / "out" / "frames"), desk.catalog

    def add(scan_id: str, made_at: str | None, priority: int = 0) -> None:
        out = tmp_path / scan_id
        catalog.put_scan(scan_id, frames_uri=frames, out_uri=str(out), priority=priority)
        if made_at is not None:
            shutil.copytree(tmp_path / "out" / "volume", out / "volume")
            for path in (out / "volume" / "_marspipe.json", *out.glob("volume/2*/_marspipe.json")):
                change(path, created_at=made_at)

    add("young", "2026-01-02T00:00:00+00:00")
    add("old b", "2025-01-02T00:00:00+00:00")
    add("old a", "2025-01-02T00:00:00+00:00")
    add("new", None)
    add("urgent", "2026-01-02T00:00:00+00:00", priority=5)
    add("not urgent", None, priority=-1)
    catalog.put_scan("one", priority=-2)
    desk.recipe = LEAN + "filter: {window: hann}\n"
    found = [due.scan.scan_id for due in desk.queue().due]
    assert found == ["urgent", "new", "old a", "old b", "young", "not urgent", "one"]


def test_scans_that_nothing_can_be_done_about_are_listed(desk: Desk, tmp_path: Path) -> None:
    desk.catalog.put_scan("no place", raw_uri="/raw/scan")
    desk.catalog.put_scan("no frames", out_uri=str(tmp_path / "no frames"))
    summary = desk.night(dry_run=True)
    assert sorted(desk.results(summary)) == [("no frames", "skipped"), ("no place", "skipped")]
    assert "no place: the catalog knows no folder for its results" in summary.to_text()
    assert summary.exit_code == 0


def test_an_unknown_scan_is_bad_input(desk: Desk) -> None:
    with pytest.raises(ScanError, match="knows no scan seven, three"):
        desk.queue("one", "seven", "three")


def test_it_takes_no_spark_and_no_pixels(desk: Desk) -> None:
    for path in desk.folder.rglob("*.parquet"):
        path.unlink()
    code = f"""
from pathlib import Path
from tests.pipeline.reprocess_scans import Desk
from pyspark import SparkContext
desk = Desk(Path({str(desk.folder)!r}))
assert desk.night(dry_run=True).current == 1
desk.recipe += "filter: {{window: hann}}"
assert desk.night(dry_run=True).counts["due"] == 1
assert SparkContext._gateway is None
"""
    project = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=project)
    assert not (desk.folder / "lock").exists()


def test_reasons_add_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marspipe, "RESULTS_VERSION", marspipe.RESULTS_VERSION + 1)
    desk.recipe = LEAN + "filter: {window: hann}\n"
    failed(desk, wanted_hash(desk))
    (due,) = desk.queue().due
    assert [reason.kind for reason in due.reasons] == ["recipe", "code", "unfinished"]
    assert replace(due, failures=0).order() < replace(due, failures=3).order()
