"""Files, locks, commits and the whole pipeline on a real HDFS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from marspipe.errors import BusyError
from marspipe.store import storage
from marspipe.store.commit import commit, committed
from marspipe.store.lock import held
from tests.cluster.same_volume import assert_same_volume
from tests.cluster.servers import Hdfs, marspipe, put

NAMES = ["plain", "with space", "größe-Ångström", "100%25 #1;a?b+c=d"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_comes_back_byte_for_byte_under_any_name(hdfs_folder: str, name: str, rng: np.random.Generator) -> None:
    content = rng.bytes(3_000_001)
    uri = storage.join(hdfs_folder, "folder of " + name, name)
    storage.write_bytes(uri, content)
    assert storage.read_bytes(uri) == content
    assert storage.size(uri) == len(content)
    assert storage.list_dir(storage.join(hdfs_folder, "folder of " + name)) == [name]
    with pytest.raises(FileExistsError):
        storage.write_bytes(uri, b"other")
    storage.write_bytes(uri, b"other", overwrite=True)
    assert storage.read_bytes(uri) == b"other"


def test_ranges_of_a_file(hdfs_folder: str, rng: np.random.Generator) -> None:
    content = rng.bytes(1_000_000)
    uri = storage.join(hdfs_folder, "ranges")
    storage.write_bytes(uri, content)
    for offset, length in [(0, 1), (511, 2), (999_999, 1), (123_456, 700_000), (999_990, 50)]:
        assert storage.read_bytes(uri, offset, length) == content[offset : offset + length]
    with storage.open_input(uri) as file:
        file.seek(-10, os.SEEK_END)
        assert file.read() == content[-10:]
        file.seek(4000)
        assert file.read(100) == content[4000:4100]


def test_an_empty_file(hdfs_folder: str) -> None:
    uri = storage.join(hdfs_folder, "empty")
    storage.write_bytes(uri, b"")
    assert storage.exists(uri) and storage.read_bytes(uri) == b""


@pytest.mark.parametrize("name", NAMES)
def test_rename_and_remove(hdfs_folder: str, name: str) -> None:
    old, new = storage.join(hdfs_folder, "old " + name), storage.join(hdfs_folder, "new " + name)
    storage.write_bytes(storage.join(old, "a"), b"1")
    storage.rename(old, new)
    assert not storage.exists(old) and storage.read_bytes(storage.join(new, "a")) == b"1"
    storage.make_dirs(old)
    with pytest.raises(FileExistsError):
        storage.rename(new, old)
    with pytest.raises(IsADirectoryError):
        storage.remove(new)
    storage.remove(storage.join(new, "a"))
    storage.remove_tree(new)
    storage.remove_tree(new)
    assert storage.list_dir(hdfs_folder) == ["old " + name]


def test_what_is_missing_or_of_another_kind(hdfs_folder: str) -> None:
    file = storage.join(hdfs_folder, "file")
    storage.write_bytes(file, b"1")
    assert storage.is_dir(hdfs_folder) and not storage.is_dir(file)
    for action in (storage.read_bytes, storage.size, storage.list_dir, storage.remove):
        with pytest.raises(FileNotFoundError) as error:
            action(storage.join(hdfs_folder, "none"))
        assert error.value.filename == storage.join(hdfs_folder, "none")
    with pytest.raises(NotADirectoryError):
        storage.list_dir(file)
    with pytest.raises(IsADirectoryError):
        storage.read_bytes(hdfs_folder)


def test_only_one_process_holds_a_lock(hdfs_folder: str) -> None:
    other = (
        "import sys; from marspipe.errors import BusyError; from marspipe.store.lock import held\n"
        "try:\n"
        "    with held(sys.argv[1], 'the other'): print('got it')\n"
        "except BusyError as error: print('busy:', error)\n"
    )

    def try_it() -> str:
        command = [sys.executable, "-c", other, hdfs_folder]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with held(hdfs_folder, "the first") as lock:
        lock.check()
        assert try_it().startswith("busy:") and "the first" in try_it()
        with pytest.raises(BusyError), held(hdfs_folder, "itself again"):
            pass
    assert try_it() == "got it\n"
    assert storage.list_dir(hdfs_folder) == []


@pytest.fixture
def dead_holder(hdfs_folder: str) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys, time; from marspipe.store.lock import held\n"
        "with held(sys.argv[1], 'the dead'): print('held', flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, hdfs_folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
        yield process


def test_the_lock_of_a_killed_process_is_taken_over(hdfs_folder: str, dead_holder: subprocess.Popen[str]) -> None:
    assert len(storage.list_dir(hdfs_folder)) == 1
    with held(hdfs_folder, "the heir") as lock:
        lock.check()
    assert storage.list_dir(hdfs_folder) == []


def test_commit(hdfs_folder: str) -> None:
    assert committed(hdfs_folder) is None
    commit(hdfs_folder, {"kind": "volume", "description": "Probe 1: Größe 5 µm"})
    assert committed(hdfs_folder) == {"kind": "volume", "description": "Probe 1: Größe 5 µm"}


def test_from_hdfs_to_hdfs_by_the_command_line(
    hdfs: Hdfs, hdfs_folder: str, small_scans: Callable[[str], Path], local_volume: Callable[[str], str]
) -> None:
    raw, frames, out = (storage.join(hdfs_folder, name) for name in ("raw data", "frames", "out of tööth"))
    put(small_scans("merlin"), raw)
    marspipe(hdfs, "ingest", "--raw", raw, "--out", frames, "--master", "local[2]")
    marspipe(hdfs, "reconstruct", "--raw", frames, "--out", out, "--master", "local[2]")
    assert_same_volume(storage.join(out, "volume"), local_volume("merlin"))
    assert storage.exists(storage.join(out, "preview.png"))
    hdfs.wait_healthy()  # two copies of everything


def test_hdf5_on_hdfs_and_results_on_the_local_disk(
    hdfs: Hdfs,
    hdfs_folder: str,
    small_scans: Callable[[str], Path],
    local_volume: Callable[[str], str],
    tmp_path: Path,
) -> None:
    raw = storage.join(hdfs_folder, "raw")
    put(small_scans("nxtomo"), raw)
    marspipe(hdfs, "reconstruct", "--raw", raw, "--out", str(tmp_path / "out"), "--master", "local[2]")
    assert_same_volume(str(tmp_path / "out" / "volume"), local_volume("nxtomo"))


def test_a_dead_datanode_is_noticed_its_blocks_are_copied_and_it_comes_back(
    hdfs: Hdfs, hdfs_folder: str, rng: np.random.Generator
) -> None:
    contents = {storage.join(hdfs_folder, str(i)): rng.bytes(100_000) for i in range(6)}
    for uri, content in contents.items():
        storage.write_bytes(uri, content)
    hdfs.kill_datanode(1)
    try:
        assert {uri: storage.read_bytes(uri) for uri in contents} == contents
        hdfs.wait_healthy(live=2)
        assert {uri: storage.read_bytes(uri) for uri in contents} == contents
    finally:
        hdfs.start_datanode(1)
    hdfs.wait_healthy()


def test_starting_again_keeps_the_data(tmp_path: Path, hdfs: Hdfs) -> None:
    del hdfs  # the machine can run one
    servers = Hdfs(tmp_path / "again", datanodes=1)
    try:
        servers.start()
        uri = servers.uri
        storage.write_bytes(f"{uri}/kept", b"content")
        servers.stop()
        assert servers.state() == {}
        servers.start()
        assert servers.uri == uri
        assert storage.read_bytes(f"{uri}/kept") == b"content"
    finally:
        servers.stop()


def test_start_says_what_is_missing(project: Path, tmp_path: Path) -> None:
    script = ["/bin/bash", str(project / "conf/hdfs/start.sh"), str(tmp_path / "servers")]
    jars = tmp_path / "jars"

    def says(**environment: str) -> str:
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        return done.stderr.strip().splitlines()[-1]

    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "mkdir", "readlink", "sed", "cmp", "sha256sum", "python3", "id", "tr"):
        found = next(p / name for p in map(Path, os.environ["PATH"].split(":")) if (p / name).exists())
        (tools / name).symlink_to(found)
    assert "no Java found" in says(PATH=str(tools), HOME=str(tmp_path))
    java = next(p / "java" for p in map(Path, os.environ["PATH"].split(":")) if (p / "java").exists())
    (tools / "java").symlink_to(java.resolve())
    assert "no Maven found" in says(PATH=str(tools), HOME=str(tmp_path), MARSPIPE_HADOOP_JARS=str(jars))
    jars.mkdir()
    assert "was not made by start.sh" in says(PATH=str(tools), HOME=str(tmp_path), MARSPIPE_HADOOP_JARS=str(jars))
