"""What is on its way to a landing zone on HDFS: apart from what is there, not counted, and removed in time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from marspipe.store import hdfs, storage
from marspipe.store.landing import INCOMING, LandingZone, OtherInstanceError
from tests.cluster.servers import PROJECT

STUDY, SERIES = "1.2.840.1", "1.2.840.1.1"
HOURS_MS = 3600 * 1000
Between = Callable[[Callable[[], object]], None]


@pytest.fixture(autouse=True)
def _own_folder_for_arrivals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def root(hdfs_folder: str) -> str:
    return storage.join(hdfs_folder, "zone")


@pytest.fixture
def in_the_middle(monkeypatch: pytest.MonkeyPatch) -> Between:
    """Let something be done while the next file is on its way to HDFS, after its last byte."""

    def install(action: Callable[[], object]) -> None:
        write = hdfs.write

        def waiting(
            root: str, path: str, temporary: str, chunks: Callable[[], Iterable[bytes | memoryview]], overwrite: bool
        ) -> None:
            def watched() -> Iterator[bytes | memoryview]:
                yield from chunks()
                action()

            monkeypatch.setattr(hdfs, "write", write)
            write(root, path, temporary, watched, overwrite)

        monkeypatch.setattr(hdfs, "write", waiting)

    return install


def age(uri: str, hours: float) -> None:
    """Let a folder have changed so long ago."""
    place, path = storage.split(uri)
    then_ms = int(time.time() * 1000 - hours * HOURS_MS)
    hdfs.client(place).set_times(path, then_ms, then_ms)


def test_an_upload_lies_apart_until_it_is_whole(root: str, in_the_middle: Between) -> None:
    seen: list[list[str]] = []

    def look() -> None:
        (upload,) = storage.list_dir(storage.join(root, INCOMING))
        seen.append(storage.list_dir(root))
        seen.append(storage.list_dir(storage.join(root, INCOMING, upload)))

    with LandingZone(root, min_free_bytes=0) as zone:
        in_the_middle(look)
        zone.put(STUDY, SERIES, "1.2.3", b"x")
        assert storage.list_dir(storage.join(root, STUDY, SERIES)) == ["1.2.3.dcm"]
    assert seen[0] == [INCOMING] and len(seen[1]) == 1
    assert storage.list_dir(root) == [STUDY]


_KILLED = """
import os, signal, sys
from marspipe.store import hdfs
from marspipe.store.landing import LandingZone
write = hdfs.write
def dying(root, path, temporary, chunks, overwrite):
    def cut():
        yield from chunks()
        os.kill(os.getpid(), signal.SIGKILL)
    write(root, path, temporary, cut, overwrite)
hdfs.write = dying
LandingZone(sys.argv[1], min_free_bytes=0).put("1.2", "1.2.1", "1.2.3", b"half of it")
"""


def test_what_a_killed_process_leaves_is_removed_after_a_day(root: str) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, root], cwd=PROJECT, check=False)
    assert killed.returncode == -9
    (left,) = storage.list_dir(storage.join(root, INCOMING))
    place = storage.join(root, INCOMING, left)
    assert len(storage.list_dir(place)) == 1
    assert storage.list_dir(root) == [INCOMING]
    age(place, 23)
    with LandingZone(root, min_free_bytes=0) as zone:
        assert storage.exists(place)
        zone.put("1.2", "1.2.1", "1.2.3", b"all of it")
    assert storage.exists(place)
    age(place, 25)
    with LandingZone(root, min_free_bytes=0):
        assert not storage.exists(place)
    assert storage.list_dir(root) == ["1.2"]


def test_what_is_hidden_is_not_counted(root: str) -> None:
    storage.write_bytes(storage.join(root, INCOMING, "of a dead process", "half"), bytes(900))
    storage.write_bytes(storage.join(root, ".note"), bytes(70))
    with LandingZone(root, max_bytes=1000, min_free_bytes=0) as zone:
        assert zone.used_bytes == 0
        zone.put(STUDY, SERIES, "1.2.3", bytes(800))
    with LandingZone(root, max_bytes=1000, min_free_bytes=0) as zone:
        assert zone.used_bytes == 800


def test_a_zone_that_is_closed_in_the_middle_leaves_nothing(root: str, in_the_middle: Between) -> None:
    """As when the receiver is stopped while an instance is on its way."""
    with LandingZone(root, min_free_bytes=0) as other:
        zone = LandingZone(root, min_free_bytes=0)
        in_the_middle(zone.close)
        with pytest.raises(OSError):
            zone.put(STUDY, SERIES, "1.2.3", b"x")
        assert not other.holds(STUDY, SERIES, "1.2.3")
        # What another process has there stays, and works.
        assert other.put(STUDY, SERIES, "1.2.4", b"y")
    assert not storage.exists(storage.join(root, INCOMING))
    assert storage.list_dir(storage.join(root, STUDY, SERIES)) == ["1.2.4.dcm"]


def test_a_folder_of_a_living_process_that_was_removed_is_made_again(root: str) -> None:
    with LandingZone(root, min_free_bytes=0) as idle:
        (own,) = storage.list_dir(storage.join(root, INCOMING))
        age(storage.join(root, INCOMING, own), 48)
        LandingZone(root, min_free_bytes=0).close()
        assert not storage.exists(storage.join(root, INCOMING, own))
        idle.put(STUDY, SERIES, "1.2.3", b"x")
    assert storage.list_dir(root) == [STUDY]


def test_of_two_at_once_the_first_stays(root: str, in_the_middle: Between) -> None:
    with LandingZone(root, min_free_bytes=0) as zone, LandingZone(root, min_free_bytes=0) as other:
        in_the_middle(lambda: other.put(STUDY, SERIES, "1.2.3", b"first"))
        with pytest.raises(OtherInstanceError):
            zone.put(STUDY, SERIES, "1.2.3", b"later")
        in_the_middle(lambda: other.put(STUDY, SERIES, "1.2.4", b"same"))
        zone.put(STUDY, SERIES, "1.2.4", b"same")
        folder = storage.join(root, STUDY, SERIES)
        assert storage.list_dir(folder) == ["1.2.3.dcm", "1.2.4.dcm"]
        assert storage.read_bytes(storage.join(folder, "1.2.3.dcm")) == b"first"
        assert [storage.list_dir(storage.join(root, INCOMING, f)) for f in storage.list_dir(f"{root}/{INCOMING}")] == [
            [],
            [],
        ]


def test_a_folder_that_is_cleared_meanwhile(root: str, in_the_middle: Between) -> None:
    with LandingZone(root, min_free_bytes=0) as zone:
        zone.put(STUDY, SERIES, "1.2.3", b"x")
        in_the_middle(lambda: storage.remove_tree(storage.join(root, STUDY)))
        zone.put(STUDY, SERIES, "1.2.4", b"y")
        assert storage.list_dir(storage.join(root, STUDY, SERIES)) == ["1.2.4.dcm"]
