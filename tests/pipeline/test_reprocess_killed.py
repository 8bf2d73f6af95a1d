"""The nightly process is killed, asked to stop, or loses its JVM, half way through a scan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from marspipe.errors import BusyError
from marspipe.store.lock import LOCK_FILE
from marspipe.store.versions import versions
from marspipe.store.volume import open_volume
from tests.pipeline.reprocess_scans import LEAN, Desk, write_raw
from tests.pipeline.test_reprocess import voxels

# Every slice is a task, so that half way lasts long enough to be met.
MANY_TASKS = LEAN + "run: {slab_slices: 1}\n"
SLICES, BINS = 16, 2
PATIENCE_S = 240


@pytest.fixture
def desk(spark: SparkSession, tmp_path: Path) -> Desk:
    """A catalog with a scan whose volume has become stale."""
    desk = Desk(tmp_path)
    raw = write_raw(tmp_path / "raw", "one")
    desk.catalog.put_scan("one", raw_uri=str(raw), out_uri=str(tmp_path / "out"), priority=1)
    assert desk.results(desk.night()) == [("one", "done")]
    desk.recipe = MANY_TASKS + "filter: {window: hann}\n"
    (tmp_path / "recipe.yaml").write_text(desk.recipe)
    desk.catalog.put_scan("one", recipe_uri=str(tmp_path / "recipe.yaml"))
    return desk


def add_another(desk: Desk) -> None:
    """Add a scan that is made in a few tasks, after the other."""
    (desk.folder / "lean.yaml").write_text(LEAN)
    desk.catalog.put_scan(
        "two",
        frames_uri=str(desk.folder / "out" / "frames"),
        out_uri=str(desk.folder / "two"),
        recipe_uri=str(desk.folder / "lean.yaml"),
    )


@contextmanager
def process(desk: Desk) -> Iterator[subprocess.Popen[str]]:
    """Run ``marspipe reprocess`` with one task at a time."""
    arguments = ["--master", "local[1]", "--lock-dir", desk.folder / "lock"]
    arguments += ["--catalog", f"sqlite:///{desk.catalog_file}", "--json", desk.folder / "summary.json"]
    command = [sys.executable, "-m", "marspipe", "reprocess", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **pipes) as running:  # type: ignore[call-overload]
        try:
            yield running
        finally:
            running.kill()


def half_way(desk: Desk, running: subprocess.Popen[str]) -> int:
    """Wait until some slabs of the new version are there; return how many."""
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        if running.poll() is not None:
            pytest.fail(f"it has ended: {running.communicate()[0]}")
        n_slabs = len(list(desk.folder.glob("out/volume/_work-*/part-*.parquet")))
        if n_slabs:
            assert n_slabs < SLICES * BINS
            return n_slabs
        time.sleep(0.005)
    pytest.fail("no slab was made")


def jvm_of(running: subprocess.Popen[str]) -> int:
    for path in Path(f"/proc/{running.pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            if b"java" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]:
                return child
    pytest.fail("the process has no JVM")


def wait_for_end(pid: int) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} does not end")


def test_killed_half_way(desk: Desk) -> None:
    volume = desk.folder / "out" / "volume"
    before = voxels(volume)
    (old,) = versions(str(volume))
    with process(desk) as running:
        half_way(desk, running)
        jvm = jvm_of(running)
        with pytest.raises(BusyError, match=f"process {running.pid} on"):
            desk.night()
        running.kill()
        wait_for_end(jvm)
    assert (desk.folder / "out" / LOCK_FILE).exists()
    assert [version.uri for version in versions(str(volume))] == [old.uri]
    np.testing.assert_array_equal(voxels(volume), before)
    assert desk.catalog.runs("one")[0].state == "died"

    n_slabs = len(list(volume.glob("_work-*/part-*.parquet")))
    (outcome,) = desk.night(keep=2).outcomes
    assert [reason.kind for reason in outcome.reasons] == ["interrupted", "recipe", "unfinished"]
    assert (outcome.result, outcome.slabs) == ("done", SLICES * BINS)
    assert outcome.slabs_kept in (n_slabs - 1, n_slabs)  # the last file may have been cut short
    assert [version.uri for version in versions(str(volume))] == [outcome.version_uri, old.uri]
    np.testing.assert_array_equal(voxels(old.uri), before)
    assert not list(volume.glob("_work-*"))
    assert not (desk.folder / "out" / LOCK_FILE).exists()
    assert desk.night().current == 1


def test_asked_to_stop(desk: Desk) -> None:
    volume = desk.folder / "out" / "volume"
    before = voxels(volume)
    add_another(desk)
    with process(desk) as running:
        half_way(desk, running)
        running.send_signal(signal.SIGTERM)
        said = running.communicate(timeout=PATIENCE_S)[0]
    assert running.returncode == 0, said
    summary = json.loads((desk.folder / "summary.json").read_text())
    assert [(scan["scan_id"], scan["result"]) for scan in summary["scans"]] == [("one", "stopped"), ("two", "left")]
    assert summary["ended_by"] == "stop"
    assert "stopped on request" in said
    (last, _) = desk.catalog.runs("one")
    assert (last.state, last.run_id) == ("stopped", summary["scans"][0]["run_id"])
    np.testing.assert_array_equal(voxels(volume), before)
    assert not os.listdir(desk.folder / "lock")

    kept = len(list(volume.glob("_work-*/part-*.parquet")))
    assert kept
    (outcome,) = desk.night("one").outcomes
    assert (outcome.result, outcome.slabs_kept) == ("done", kept)
    assert open_volume(str(volume)).metadata["recipe"]["filter"]["window"] == "hann"


def test_a_dead_jvm_is_replaced_for_the_next_scan(desk: Desk) -> None:
    add_another(desk)
    with process(desk) as running:
        half_way(desk, running)
        os.kill(jvm_of(running), signal.SIGKILL)
        said = running.communicate(timeout=PATIENCE_S)[0]
    assert running.returncode == 1, said
    summary = json.loads((desk.folder / "summary.json").read_text())
    assert [(scan["scan_id"], scan["result"]) for scan in summary["scans"]] == [("one", "failed"), ("two", "done")]
    (first, _), (second,) = desk.catalog.runs("one"), desk.catalog.runs("two")
    assert (first.state, second.state) == ("failed", "done")
    assert first.application_id != second.application_id
    assert open_volume(str(desk.folder / "two" / "volume")).shape == (SLICES, SLICES, SLICES)
    assert desk.results(desk.night()) == [("one", "done")]


def test_a_session_that_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    """A context that is stopped, first one of marspipe's own, then one that somebody else has started."""
    code = """
from marspipe.errors import RunError
from marspipe.pipeline.reprocessing.session import Sessions
from marspipe.pipeline.spark.session import local_session

mine = Sessions("test", "local[1]")
first = mine.current()
assert mine.current() is first and not mine.lost()
first.sparkContext._jsc.sc().stop()
assert mine.lost()
second = mine.current()
assert second.range(3).count() == 3
assert second.sparkContext.applicationId != first.sparkContext.applicationId if first.sparkContext._jsc else True
mine.close()
theirs = local_session("local[1]")
used = Sessions("test")
assert used.current() is theirs
used.close()
assert theirs.range(3).count() == 3
used = Sessions("test")
used.current()
theirs.stop()
assert used.lost()
try:
    used.current()
except RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the Spark session has ended: run the job again, it goes on where it stopped\n"
