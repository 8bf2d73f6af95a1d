"""DataNodes that die while something is written or read: the volume is the same, bit for bit."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hdfs_native import Client

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

        until(any_found, "the work of a DataNode", 200)
        hdfs.kill_datanode(found[0])
        return found[0]

    yield kill
    hdfs.start()
    hdfs.wait_healthy()


def writing(hdfs: Hdfs) -> list[int]:
    """Return the DataNodes that have a part of a block that is being written."""
    return [n for n in hdfs.datanodes if any(hdfs.folder.glob(f"datanode-{n}/current/BP-*/current/rbw/blk_*"))]


def sending(hdfs: Hdfs) -> list[int]:
    """Return the DataNodes that have more to send than a reader takes: the same bytes wait for half a second."""
    ports = re.findall(r"(?m)^DATA_(\d+)=(\d+)$", (hdfs.folder / "ports").read_text())
    before = _waiting_bytes()
    time.sleep(0.5)
    still = before & _waiting_bytes()
    return [int(number) for number, port in ports if any(local == int(port) for local, _, _ in still)]


def _waiting_bytes() -> set[tuple[int, str, int]]:
    """Return local port, remote address and the bytes that wait to be sent, of connections that have such."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = {(int(line[1].split(":")[1], 16), line[2], int(line[4].split(":")[0], 16)) for line in lines}
    return {connection for connection in found if connection[2] > 0}


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
    hdfs_folder: str,
    tmp_path: Path,
    gate: Gate,
    kill_one: Callable[[Callable[[Hdfs], list[int]]], int],
) -> None:
    """The frames are more than all buffers between a DataNode and a task hold, so that it is in the middle of them."""
    shape, frames = (448, 448), f"{hdfs_folder}/frames"
    settings = SimulationSettings(
        scan_id="larger",
        views=40,
        detector_shape=shape,
        phantom=mars_phantom(0.875),
        thresholds_kev=(25.0, 50.0),
        seed=4,
    )
    simulate_scan(tmp_path / "raw", settings=settings)
    driver.run(make_frames, str(tmp_path / "raw"), frames)
    sizes = [storage.size(f"{frames}/{name}") for name in storage.list_dir(frames) if name.endswith(".parquet")]
    assert max(sizes) > 48 * 2**20
    driver.run(make_volume, frames, str(tmp_path / "expected"))
    driver.start(make_volume, frames, str(tmp_path / "disturbed"), Fault("filter", WaitAtGate(gate)))
    gate.wait()
    kill_one(sending)
    gate.open()
    driver.result()
    assert_same_volume(str(tmp_path / "disturbed" / "volume"), str(tmp_path / "expected" / "volume"))


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
