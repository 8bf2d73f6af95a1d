"""Outputs that fill up: a clean error, nothing committed, and a rerun that completes once there is room."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hdfs_native import Client
from pyspark.sql import SparkSession

from marspipe.store import storage
from marspipe.store.volume import open_volume
from tests.cluster.faults import GRID
from tests.cluster.same_volume import assert_same_volume
from tests.cluster.servers import PROJECT, Hdfs, clean_environment
from tests.lacking import lacking

pytest_plugins = ["tests.cluster.fault_fixtures"]


def reconstruct(
    folder: Path, frames: str, out: str, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Reconstruct by the command line, one task after the other, twelve slabs for each bin."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"{GRID}\nrun: {{slab_slices: 4}}\noutput: {{dicom: false, preview: false}}\n")
    command = [sys.executable, "-m", "marspipe", "reconstruct", "--raw", frames, "--out", out]
    return subprocess.run(
        [*command, "--recipe", str(recipe), "--master", "local[1]", *options],
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one sentence of a command that has failed."""
    assert done.returncode == 3, done.stderr
    # Spark's Python daemon tells of every worker that lost its task; neither marspipe nor the JVM shows a trace.
    assert "\tat " not in done.stderr and f'File "{PROJECT / "marspipe"}' not in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("marspipe: ")]
    assert done.stderr.rstrip().endswith(said)
    return said


def kept(done: subprocess.CompletedProcess[str]) -> int:
    """Return how many of 24 slabs a job has kept."""
    assert done.returncode == 0, done.stderr
    found = re.search(r"(?m)^kept +(\d+) of 24 slabs", done.stdout)
    return int(found[1]) if found else 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with room for two volumes."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "marspipe-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        lacking("MOUNT", "there is no mount command")
    if done.returncode:
        lacking("MOUNT", f"this user may not mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, room_bytes: int) -> Path:
    """Leave that much room on a disk; return the file that takes the rest."""
    free = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - room_bytes))
    return ballast


def test_a_full_local_disk(small_disk: Path, undisturbed: tuple[str, str], tmp_path: Path) -> None:
    frames, expected = undisturbed
    out = str(small_disk / "out")
    assert kept(reconstruct(tmp_path, frames, out, "--set=filter.window=hann")) == 0
    old = open_volume(f"{out}/volume").metadata["content_hash"]
    ballast = fill(small_disk, 400_000)
    said = complaint(reconstruct(tmp_path, frames, out, "--overwrite", "--resume"))
    assert "No space left on device" in said and f"{out}/volume" in said
    volume = open_volume(f"{out}/volume")
    assert volume.metadata["content_hash"] == old
    assert all(volume[bin_][z].any() for bin_ in range(2) for z in range(48))
    ballast.unlink()
    assert 0 < kept(reconstruct(tmp_path, frames, out, "--overwrite", "--resume")) < 24
    assert_same_volume(f"{out}/volume", expected)


def set_quota(spark: SparkSession, uri: str, n_bytes: int) -> None:
    """Limit the space of a folder on HDFS, copies counted; -1 lifts the limit."""
    jvm, hadoop = spark.sparkContext._jvm, spark.sparkContext._jsc.hadoopConfiguration()
    assert jvm is not None
    path = jvm.org.apache.hadoop.fs.Path(uri)
    path.getFileSystem(hadoop).setQuota(path, 2**63 - 1, n_bytes)  # the number of files stays as free as it was


def test_a_full_quota_on_hdfs(
    spark: SparkSession, hdfs: Hdfs, hdfs_folder: str, undisturbed: tuple[str, str], tmp_path: Path
) -> None:
    frames, expected = Path(undisturbed[0]).as_uri(), undisturbed[1]
    out, environment = storage.join(hdfs_folder, "out"), {"HADOOP_CONF_DIR": str(hdfs.conf_dir)}
    done = reconstruct(tmp_path, frames, out, "--set=filter.window=hann", **environment)
    assert kept(done) == 0
    volume_uri = storage.join(out, "volume")
    old = open_volume(volume_uri).metadata["content_hash"]
    _, path = storage.split(volume_uri)
    used = Client(hdfs.uri).get_content_summary(path).space_consumed
    # HDFS counts the file that is being written as a whole block, 128 MiB, of each copy.
    set_quota(spark, volume_uri, used + 2 * 128 * 2**20 + 1_000_000)
    said = complaint(reconstruct(tmp_path, frames, out, "--overwrite", "--resume", **environment))
    assert f"The DiskSpace quota of {path} is exceeded" in said
    volume = open_volume(volume_uri)
    assert volume.metadata["content_hash"] == old
    assert all(volume[bin_][z].any() for bin_ in range(2) for z in range(48))
    set_quota(spark, volume_uri, -1)
    done = reconstruct(tmp_path, frames, out, "--overwrite", "--resume", **environment)
    assert 0 < kept(done) < 24
    assert_same_volume(volume_uri, expected)
