"""Nights of reprocessing: what is made, recorded and left, and what a failure does to the others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from pyspark.sql import SparkSession

from marspipe.errors import BusyError
from marspipe.log import configure_json_log, remove_json_log
from marspipe.pipeline.ingest import ingest, open_scan
from marspipe.pipeline.reprocessing import reprocess as module
from marspipe.store.lock import held
from marspipe.store.versions import versions
from marspipe.store.volume import open_volume
from tests.pipeline.reprocess_scans import LEAN, PATIENT, Desk, write_raw
from tests.pipeline.scans import quiet


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw") / "raw", "one", views=16)


@pytest.fixture
def desk(raw: Path, tmp_path: Path) -> Desk:
    """A catalog with a scan that has not been reconstructed yet."""
    desk = Desk(tmp_path)
    desk.catalog.put_scan("one", raw_uri=str(raw), out_uri=str(tmp_path / "out"))
    return desk


def voxels(uri: str | Path) -> np.ndarray:
    volume = open_volume(str(uri))
    return np.stack([np.asarray(volume[bin_]) for bin_ in range(len(volume.bins))])


def another(desk: Desk, raw: Path, scan_id: str, **values: object) -> Path:
    """Put a copy of a raw scan into the catalog under another name; return its folder."""
    folder = desk.folder / f"{PATIENT} {scan_id}"
    shutil.copytree(raw, folder)
    manifest = yaml.safe_load((folder / "scan.yaml").read_text())
    text = yaml.safe_dump({**manifest, "scan_id": scan_id, "description": f"stone of {PATIENT}"})
    (folder / "scan.yaml").write_text(text)
    desk.catalog.put_scan(scan_id, raw_uri=str(folder), out_uri=str(desk.folder / f"out {scan_id}"), **values)  # type: ignore[arg-type]
    return folder


def test_a_failure_is_one_scan_s_own_and_the_log_names_nobody(
    spark: SparkSession, desk: Desk, raw: Path, tmp_path: Path
) -> None:
    broken = another(desk, raw, "broken", priority=3)
    another(desk, raw, "two", priority=-1)
    (broken / "projections.mib").write_bytes((broken / "projections.mib").read_bytes()[:-7])
    handler = configure_json_log(tmp_path / "log.jsonl")
    first = desk.night()
    second = desk.night()
    remove_json_log(handler)
    assert desk.results(first) == [("broken", "failed"), ("one", "done"), ("two", "done")]
    assert desk.results(second) == [("broken", "failed")]
    assert (first.exit_code, second.exit_code, second.current) == (1, 1, 2)
    assert [outcome.failures_in_row for outcome in second.outcomes] == [1]
    assert "projections.mib" in str(first.outcomes[0].error)

    catalog = desk.catalog
    assert [(run.state, run.kind) for run in catalog.runs("broken")] == 2 * [("failed", "reprocess")]
    (run,) = catalog.runs("two")
    (volume,) = catalog.volumes("two")
    metadata = open_volume(str(tmp_path / "out two" / "volume")).metadata
    assert run.state == "done"
    assert run.run_id == volume.run_id == metadata["run_id"] == first.outcomes[2].run_id
    assert run.content_hash == volume.content_hash == metadata["content_hash"]
    assert (run.details["slabs"], run.details["slabs_kept"]) == (first.outcomes[2].slabs, 0)
    assert [frames.content_hash for frames in catalog.frames("two")] == [metadata["frames_hash"]]

    log = (tmp_path / "log.jsonl").read_text()
    events = [json.loads(line) for line in log.splitlines()]
    assert [(e["scan_id"], e["event"]) for e in events] == [
        (None, "reprocess_started"),
        ("broken", "scan_started"), ("broken", "scan_failed"),
        ("one", "scan_started"), ("one", "scan_finished"),
        ("two", "scan_started"), ("two", "scan_finished"),
        (None, "reprocess_finished"), (None, "reprocess_started"),
        ("broken", "scan_started"), ("broken", "scan_failed"),
        (None, "reprocess_finished"),
    ]  # fmt: skip
    assert {e["run_id"] for e in events if e["scan_id"] == "two"} == {run.run_id}
    assert events[6]["content_hash"] == run.content_hash
    # In the catalog and in the files the text is; in the log no part of it.
    assert PATIENT in (catalog.scan("two") or pytest.fail("no scan")).description  # type: ignore[operator]
    assert PATIENT in str(first.outcomes[0].error)
    for word in PATIENT.split():
        assert word not in log


def test_a_stale_volume_gets_a_new_version_and_the_old_one_stays(spark: SparkSession, desk: Desk) -> None:
    out = desk.folder / "out"
    desk.night()
    before = voxels(out / "volume")
    desk.recipe = LEAN + "filter: {window: hann}\n"
    (outcome,) = desk.night(keep=2).outcomes
    newer, older = versions(str(out / "volume"))
    assert (outcome.result, outcome.version_uri) == ("done", newer.uri)
    assert (outcome.previous_content_hash, outcome.content_hash) == tuple(
        version.metadata["content_hash"] for version in (older, newer)
    )
    np.testing.assert_array_equal(voxels(older.uri), before)
    assert not np.array_equal(voxels(out / "volume"), before)
    assert [(v.uri, v.current) for v in desk.catalog.volumes("one")] == [(newer.uri, True), (older.uri, False)]
    desk.recipe = LEAN + "filter: {window: cosine}\n"
    (third,) = desk.night(keep=2).outcomes
    assert [v.uri for v in versions(str(out / "volume"))] == [third.version_uri, newer.uri]
    assert [v.uri for v in desk.catalog.volumes("one")] == [third.version_uri, newer.uri]
    assert desk.night().exit_code == 0


def test_a_recipe_that_fails_leaves_the_old_volume(spark: SparkSession, desk: Desk) -> None:
    desk.night()
    before = voxels(desk.folder / "out" / "volume")
    desk.recipe = LEAN + "run: {memory_per_task_mib: 64}\ngrid: {shape: [4000, 9000, 9000]}\n"
    summary = desk.night()
    assert desk.results(summary) == [("one", "failed")]
    np.testing.assert_array_equal(voxels(desk.folder / "out" / "volume"), before)
    desk.recipe = LEAN
    assert desk.night().current == 1


def test_what_failed_after_the_volume_is_finished_and_kept(spark: SparkSession, desk: Desk) -> None:
    desk.night()
    desk.recipe = "output: {dicom: false, preview: true}\n"
    preview = desk.folder / "out" / "preview.png"
    (preview / "a folder where a file should be").mkdir(parents=True)
    desk.catalog.start_run("reconstruct", "one", run_id="by hand", out_uri=str(desk.folder / "out"))
    desk.catalog.end_run("by hand", "failed", error="is a directory")
    assert desk.results(desk.night()) == [("one", "failed")]
    shutil.rmtree(preview)
    (outcome,) = desk.night().outcomes
    assert (outcome.result, [reason.kind for reason in outcome.reasons]) == ("kept", ["unfinished"])
    assert outcome.slabs == outcome.slabs_kept
    assert preview.read_bytes().startswith(b"\x89PNG")
    assert desk.night().current == 1


def test_raw_files_that_changed_are_ingested_where_their_frames_are(
    spark: SparkSession, desk: Desk, raw: Path, tmp_path: Path
) -> None:
    folder = another(desk, raw, "two")
    frames = str(tmp_path / "archive" / "frames")
    ingest(spark, open_scan(str(folder)), frames, progress=quiet())
    desk.catalog.put_scan("two", frames_uri=frames)
    assert desk.results(desk.night("two")) == [("two", "done")]
    manifest = yaml.safe_load((folder / "scan.yaml").read_text())
    manifest["geometry"]["source_to_isocenter_mm"] += 1.0
    (folder / "scan.yaml").write_text(yaml.safe_dump(manifest))
    (outcome,) = desk.night("two").outcomes
    assert (outcome.result, [reason.kind for reason in outcome.reasons]) == ("done", ["raw_changed"])
    geometry = json.loads(Path(frames, "_marspipe.json").read_text())["geometry"]
    volume = open_volume(str(outcome.volume_uri))
    assert volume.metadata["frames_uri"] == frames
    assert volume.metadata["geometry"] == geometry
    assert not (tmp_path / "out two" / "frames").exists()
    assert desk.night("two").current == 1


def test_an_output_in_use_is_no_failure(spark: SparkSession, desk: Desk) -> None:
    with held(str(desk.folder / "out"), "another job"):
        summary = desk.night()
    assert desk.results(summary) == [("one", "busy")]
    assert "another job" in str(summary.outcomes[0].error)
    assert summary.exit_code == 0
    assert desk.results(desk.night()) == [("one", "done")]
    with held(str(desk.folder / "out"), "another job"):
        desk.recipe = LEAN + "filter: {window: hann}\n"
        desk.night()
    desk.recipe = LEAN
    assert desk.night().current == 1  # the busy one does not count as an attempt


def test_limits(spark: SparkSession, desk: Desk, raw: Path) -> None:
    another(desk, raw, "two", priority=1)
    nothing = desk.night(max_hours=0.0)
    assert desk.results(nothing) == [("two", "left"), ("one", "left")]
    assert (nothing.ended_by, nothing.exit_code) == ("max_hours", 0)
    one = desk.night(max_scans=1)
    assert desk.results(one) == [("two", "done"), ("one", "left")]
    assert (one.ended_by, one.exit_code) == ("max_scans", 0)
    assert "one" in one.to_text() and "no more scans" in one.to_text()
    rest = desk.night(max_scans=1, max_hours=5.0)
    assert desk.results(rest) == [("one", "done")]
    assert rest.ended_by is None


def test_one_instance_at_a_time(desk: Desk) -> None:
    """Another process holds the lock; then it is killed."""
    code = f"""
import time
from marspipe.pipeline.reprocessing import reprocess
from tests.pipeline.reprocess_scans import Desk
from pathlib import Path
desk = Desk(Path({str(desk.folder)!r}))
with reprocess._alone({str(desk.folder / "lock")!r}, desk.catalog):
    print("held", flush=True)
    time.sleep(600)
"""
    project = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=project) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        sentence = rf"another instance reprocesses the scans of sqlite:.* in use by .*process {other.pid} on [^:]*"
        with pytest.raises(BusyError, match=sentence) as busy:
            desk.night(max_scans=0)
        assert busy.value.exit_code == 75
        assert "\n" not in str(busy.value)
        assert desk.night(dry_run=True).counts["due"] == 1  # looking is allowed
        other.kill()
    assert desk.results(desk.night(max_scans=0)) == [("one", "left")]
    assert not os.listdir(desk.folder / "lock")


def test_where_the_lock_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("MARSPIPE_CATALOG", f"sqlite:///{tmp_path}/own ü.sqlite")
    assert module.lock_folder(None) == f"{tmp_path}/own ü.sqlite.reprocess"
    assert module.lock_folder(f"{tmp_path}/a.sqlite") == f"{tmp_path}/a.sqlite.reprocess"
    one, other, same = (
        module.lock_folder(f"postgresql://{name}") for name in ("ann:pw@db/x", "ann:pw@db/y", "bob:word@db/x")
    )
    assert one.startswith(f"{tmp_path}/marspipe/reprocess-")
    assert one == same != other


def test_the_summary_is_json_of_a_fixed_shape(spark: SparkSession, desk: Desk, raw: Path) -> None:
    another(desk, raw, "two", priority=1)
    desk.catalog.put_scan("homeless", raw_uri=str(raw))
    summary = desk.night(max_scans=1)
    content = json.loads(summary.to_json())
    assert list(content) == [
        "marspipe_reprocess", "started_at", "ended_at", "seconds", "catalog", "dry_run", "ended_by", "exit_code",
        "current", "counts", "scans",
    ]  # fmt: skip
    documented = module.Summary.__doc__ or ""
    for key in [*content, *content["counts"], *content["scans"][0]]:
        assert f"``{key}``" in documented
    assert [scan["result"] for scan in content["scans"]] == ["done", "left", "skipped"]
    assert content["counts"] == {
        "done": 1, "kept": 0, "failed": 0, "busy": 0, "stopped": 0, "left": 1, "skipped": 1, "due": 0,
    }  # fmt: skip
    done = content["scans"][0]
    assert done["seconds"] > 0
    assert Path(done["version_uri"]).parent == Path(done["volume_uri"])
    heading, first, *_ = summary.to_text().splitlines()
    assert heading.split() == ["scan", "why", "result", "duration", "volume"]
    assert heading.index("why") == first.index("it has no volume yet")
