"""DataNodes that die while something is written or read: the volume is the same, bit for bit."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hdfs_native import Client, WriteOptions
from pyspark.sql import SparkSession

from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan
from marspipe.store import hdfs as hdfs_files
from marspipe.store import storage
from tests.cluster.faults import Driver, Fault, Gate, WaitAtGate, WaitInUpload, make_frames, make_volume
from tests.cluster.same_volume import assert_same_volume
from tests.cluster.servers import Hdfs, until

pytest_plugins = ["tests.cluster.fault_fixtures"]


@pytest.fixture(scope="module")
def driver(hdfs: Hdfs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver that runs one task after the other."""
    del hdfs  # nothing is started where there is none
    driver = Driver("local[1]", tmp_path_factory.mktemp("driver"))
    yield driver
    driver.stop()


@pytest.fixture
def kill_one(hdfs: Hdfs) -> Iterator[Callable[[Callable[[Hdfs], list[int]]], int]]:
    """Kill the first DataNode of those that a function finds, once it finds any; it lives again after the test."""
    hdfs.wait_healthy()

    def kill(find: Callable[[Hdfs], list[int]]) -> int:
        found: list[int] = []

        def any_found() -> bool:
            found[:] = find(hdfs)
            return bool(found)

        until(any_found, "the work of a DataNode")
        hdfs.kill_datanode(found[0])
        return found[0]

    yield kill
    hdfs.start()
    hdfs.wait_healthy()


def writing(hdfs: Hdfs) -> list[int]:
    """Return the DataNodes that have a part of a block that is being written."""
    return [n for n in hdfs.datanodes if any(hdfs.folder.glob(f"datanode-{n}/current/BP-*/current/rbw/blk_*"))]


def put_in_blocks(path: Path, uri: str, block_bytes: int) -> None:
    """Copy a file to HDFS in blocks of a size."""
    root, name = storage.split(uri)
    file = Client(root).create(name, WriteOptions(create_parent=True, block_size=block_bytes))
    file.write(path.read_bytes())
    file.close()


def let_spark_warn(spark: SparkSession) -> None:
    """Let Spark's log tell of DataNodes that a task could not read from."""
    spark.sparkContext.setLogLevel("WARN")


def any_datanode(hdfs: Hdfs) -> list[int]:
    """Return all DataNodes."""
    return hdfs.datanodes


def copies(root: str, uri: str) -> set[int | None]:
    """Return the numbers of copies that the files below a folder shall have."""
    return {s.replication for s in Client(root).list_status(storage.split(uri)[1], recursive=True) if not s.isdir}


def test_a_datanode_dies_while_a_slab_is_written(
    driver: Driver,
    hdfs: Hdfs,
    hdfs_folder: str,
    undisturbed: tuple[str, str],
    gate: Gate,
    kill_one: Callable[[Callable[[Hdfs], list[int]]], int],
) -> None:
    fault = Fault("backproject", WaitAtGate(gate), partition=1, after_slices=20)
    driver.start(make_volume, undisturbed[0], hdfs_folder, fault, ("run.slab_slices=48",))
    gate.wait()
    kill_one(writing)
    gate.open()
    assert driver.result()["slabs"] == 2
    assert_same_volume(f"{hdfs_folder}/volume", undisturbed[1])
    assert copies(hdfs.uri, hdfs_folder) == {2}


def test_a_datanode_dies_before_the_commit(
    driver: Driver,
    hdfs: Hdfs,
    hdfs_folder: str,
    undisturbed: tuple[str, str],
    gate: Gate,
    kill_one: Callable[[Callable[[Hdfs], list[int]]], int],
) -> None:
    driver.start(make_volume, undisturbed[0], hdfs_folder, Fault("commit", WaitAtGate(gate)))
    gate.wait()
    kill_one(any_datanode)
    gate.open()
    driver.result()
    assert_same_volume(f"{hdfs_folder}/volume", undisturbed[1])
    assert copies(hdfs.uri, hdfs_folder) == {2}


def test_a_datanode_dies_while_frames_are_sent(
    driver: Driver,
    hdfs: Hdfs,
    hdfs_folder: str,
    raw: str,
    undisturbed: tuple[str, str],
    tmp_path: Path,
    gate: Gate,
    kill_one: Callable[[Callable[[Hdfs], list[int]]], int],
) -> None:
    frames = f"{hdfs_folder}/frames"
    driver.start(make_frames, raw, frames, WaitInUpload(gate))
    gate.wait()
    kill_one(writing)
    gate.open()
    driver.result()
    driver.run(make_volume, frames, str(tmp_path))
    assert_same_volume(f"{tmp_path}/volume", undisturbed[1])
    assert copies(hdfs.uri, hdfs_folder) == {2}


def test_a_datanode_dies_while_frames_are_read(
    driver: Driver,
    hdfs: Hdfs,
    hdfs_folder: str,
    tmp_path: Path,
    gate: Gate,
    kill_one: Callable[[Callable[[Hdfs], list[int]]], int],
) -> None:
    """The frames are more than all buffers between a DataNode and a task hold, in blocks that lie on all DataNodes."""
    settings = SimulationSettings(
        scan_id="larger",
        views=40,
        detector_shape=(448, 448),
        phantom=mars_phantom(0.875),
        thresholds_kev=(25.0, 50.0),
        seed=4,
    )
    simulate_scan(tmp_path / "raw", settings=settings)
    local, frames = tmp_path / "frames", f"{hdfs_folder}/frames"
    driver.run(make_frames, str(tmp_path / "raw"), str(local))
    assert max(path.stat().st_size for path in local.glob("*.parquet")) > 96 * 2**20
    for path in local.rglob("*"):
        if path.is_file():
            put_in_blocks(path, f"{frames}/{path.relative_to(local)}", 2**20)
    driver.run(make_volume, str(local), str(tmp_path / "expected"))
    driver.run(let_spark_warn)
    driver.start(make_volume, frames, str(tmp_path / "disturbed"), Fault("filter", WaitAtGate(gate)))
    gate.wait()
    killed = kill_one(any_datanode)
    gate.open()
    driver.result()
    assert_same_volume(str(tmp_path / "disturbed" / "volume"), str(tmp_path / "expected" / "volume"))
    missed = rf"Failed to (connect to|read block .* from datanode) /127.0.0.1:{hdfs.data_port(killed)}\b"
    assert re.search(missed, driver.log.read_text())


def test_a_file_that_is_being_written_when_a_datanode_dies(
    hdfs: Hdfs, hdfs_folder: str, rng: np.random.Generator, kill_one: Callable[[Callable[[Hdfs], list[int]]], int]
) -> None:
    """The client's writer dies with the first DataNode it loses: the file is sent again, and gets its usual copies."""
    content, uri, killed = rng.bytes(1_000_000), f"{hdfs_folder}/file", []

    def chunks() -> Iterator[bytes]:
        yield content[:500_000]
        if not killed:
            killed.append(kill_one(writing))
        yield content[500_000:]

    root, path = storage.split(uri)
    hdfs_files.write(root, path, os.path.dirname(path) + "/.temporary", chunks, False)
    assert len(killed) == 1
    assert storage.read_bytes(uri) == content
    assert storage.list_dir(hdfs_folder) == ["file"]
    assert copies(hdfs.uri, hdfs_folder) == {2}
    hdfs.wait_healthy(live=2)
