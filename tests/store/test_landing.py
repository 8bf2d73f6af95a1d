from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from marspipe.errors import InputError, OutputExistsError
from marspipe.store import landing
from marspipe.store.landing import INCOMING, FullError, LandingZone, OtherInstanceError, check_uid
from tests.store.landing_content import content, parts

STUDY, SERIES = "1.2.840.1", "1.2.840.1.1"


def dicom_file(data_set: bytes, version: bytes = b"A 1.0 ") -> bytes:
    """A DICOM file whose file meta information names a version: PS3.10 7.1."""
    meta = b"\x02\0\x13\0SH" + len(version).to_bytes(2, "little") + version
    return bytes(128) + b"DICM\x02\0\0\0UL\x04\0" + len(meta).to_bytes(4, "little") + meta + data_set


@pytest.fixture
def zone(tmp_path: Path) -> LandingZone:
    return LandingZone(str(tmp_path / "zone ü"), min_free_bytes=0)


def test_instances_lie_by_study_series_and_uid(zone: LandingZone) -> None:
    assert not zone.holds(STUDY, SERIES, "1.2.3")
    uri = zone.put(STUDY, SERIES, "1.2.3", b"first")
    zone.put(STUDY, SERIES, "1.2.4", b"second")
    root = Path(zone.root_uri)
    assert uri == zone.uri(STUDY, SERIES, "1.2.3") == str(root / STUDY / SERIES / "1.2.3.dcm")
    assert zone.holds(STUDY, SERIES, "1.2.3")
    assert content(root) == {f"{STUDY}/{SERIES}/1.2.3.dcm": b"first", f"{STUDY}/{SERIES}/1.2.4.dcm": b"second"}
    assert not parts(root)


@pytest.mark.parametrize(
    "uid",
    ["", ".", "..", "../../x", "/etc/x", "1..2", ".1", "1.", "1.2/3", "1.2\\3", "1.2\n", "1.2\0", "1.a", "1 ", "١.٢",
     "1" * 65],
)  # fmt: skip
def test_what_is_no_uid_never_becomes_a_name(zone: LandingZone, uid: str) -> None:
    for uids in ((uid, SERIES, "1.2"), (STUDY, uid, "1.2"), (STUDY, SERIES, uid)):
        for use in (zone.uri, zone.holds, lambda *names: zone.put(*names, b"x")):
            with pytest.raises(InputError, match="a UID is 1 to 64 digits") as error:
                use(*uids)
            assert len(uid) < 3 or uid not in str(error.value)
    assert not content(Path(zone.root_uri)) and not parts(Path(zone.root_uri))
    assert {path.name for path in Path(zone.root_uri).parent.iterdir()} == {Path(zone.root_uri).name}


@pytest.mark.parametrize("uid", ["1", "1.2", "2.25." + "9" * 39, "1." * 31 + "12", "1.02.3"])
def test_what_is_a_uid(uid: str) -> None:
    assert check_uid(uid) == uid


def test_the_first_instance_stays(zone: LandingZone) -> None:
    zone.put(STUDY, SERIES, "1.2", dicom_file(b"data set"))
    used = zone.used_bytes
    # The same data set, as another program packs it.
    zone.put(STUDY, SERIES, "1.2", dicom_file(b"data set", b"another version "))
    with pytest.raises(OtherInstanceError, match=r"another data set with the UID of .*1\.2\.dcm is stored already"):
        zone.put(STUDY, SERIES, "1.2", dicom_file(b"data sex"))
    with pytest.raises(OtherInstanceError):
        zone.put(STUDY, SERIES, "1.2", dicom_file(b"data set and more"))
    root = Path(zone.root_uri)
    assert content(root) == {f"{STUDY}/{SERIES}/1.2.dcm": dicom_file(b"data set")}
    assert not parts(root) and zone.used_bytes == used == len(dicom_file(b"data set"))


def test_files_without_meta_information_are_compared_whole(zone: LandingZone) -> None:
    zone.put(STUDY, SERIES, "1.2", b"x" * 300)
    zone.put(STUDY, SERIES, "1.2", b"x" * 300)
    with pytest.raises(OtherInstanceError):
        zone.put(STUDY, SERIES, "1.2", b"y" + b"x" * 299)


def test_an_instance_in_pieces_is_there_whole_or_not_at_all(zone: LandingZone) -> None:
    root = Path(zone.root_uri)
    with zone.arrive() as arrival:
        arrival.write(b"one ")
        arrival.write(memoryview(b"two"))
        arrival.flush()
        assert arrival.path.read_bytes() == b"one two" and arrival.size_bytes == 7
        assert not content(root) and zone.used_bytes == 7
        assert arrival.place(STUDY, SERIES, "1.2")
    assert content(root) == {f"{STUDY}/{SERIES}/1.2.dcm": b"one two"}
    with pytest.raises(RuntimeError, match="in between"), zone.arrive() as arrival:
        arrival.write(b"half")
        raise RuntimeError("in between")
    assert not parts(root) and zone.used_bytes == 7


def test_a_zone_is_bounded_while_instances_arrive(tmp_path: Path) -> None:
    zone = LandingZone(str(tmp_path), max_bytes=100, min_free_bytes=0)
    zone.put(STUDY, SERIES, "1.1", bytes(60))
    with zone.arrive() as one, zone.arrive() as two:
        one.write(bytes(30))
        with pytest.raises(FullError, match=r"landing zone .* is full"):
            two.write(bytes(11))
        two.write(bytes(10))
        two.discard()
        one.write(bytes(10))
        assert one.place(STUDY, SERIES, "1.2")
    with pytest.raises(FullError):
        zone.put(STUDY, SERIES, "1.3", b"x")
    assert sum(map(len, content(tmp_path).values())) == zone.used_bytes == 100
    assert not parts(tmp_path)


def test_what_lies_there_counts_and_room_that_is_made_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LandingZone(str(tmp_path), min_free_bytes=0) as before:
        before.put(STUDY, SERIES, "1.1", bytes(80))
    with LandingZone(str(tmp_path), max_bytes=100, min_free_bytes=0) as zone:
        assert zone.used_bytes == 80
        with pytest.raises(FullError):
            zone.put(STUDY, SERIES, "1.2", bytes(30))
        Path(zone.uri(STUDY, SERIES, "1.1")).unlink()
        monkeypatch.setattr(landing, "_RECOUNT_AFTER_S", 0.0)
        zone.put(STUDY, SERIES, "1.2", bytes(30))
        assert zone.used_bytes == 30


def test_the_disk_keeps_room(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    zone = LandingZone(str(tmp_path), min_free_bytes=status.f_bavail * status.f_frsize + (1 << 40))
    with pytest.raises(FullError, match=r"the disk of .* has less than .* GiB left: make room there"):
        zone.put(STUDY, SERIES, "1.2", b"x")
    assert not content(tmp_path) and not parts(tmp_path)


def test_a_disk_that_is_full_says_so(zone: LandingZone, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FullError, match=r"the disk of .* is full"):
        zone.put(STUDY, SERIES, "1.2", b"x")
    assert not content(Path(zone.root_uri)) and not parts(Path(zone.root_uri)) and zone.used_bytes == 0


def test_file_systems_without_hard_links(zone: LandingZone, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    zone.put(STUDY, SERIES, "1.2", b"x")
    zone.put(STUDY, SERIES, "1.2", b"x")
    with pytest.raises(OtherInstanceError):
        zone.put(STUDY, SERIES, "1.2", b"y")
    assert content(Path(zone.root_uri)) == {f"{STUDY}/{SERIES}/1.2.dcm": b"x"} and not parts(Path(zone.root_uri))


def test_many_threads(tmp_path: Path) -> None:
    zone = LandingZone(str(tmp_path), max_bytes=1 << 20, min_free_bytes=0)
    start, outcomes = threading.Barrier(8), []

    def send(thread: int) -> None:
        start.wait()
        for number in range(20):
            zone.put(STUDY, f"{SERIES}.{number % 3}", f"1.2.{thread}.{number}", bytes([thread]) * 100)
        # All of them want this one; one content wins.
        try:
            zone.put(STUDY, SERIES, "1.9", bytes([thread % 2]) * 100)
            outcomes.append(thread % 2)
        except OtherInstanceError:
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))
    found = content(tmp_path)
    assert len(found) == 8 * 20 + 1 and zone.used_bytes == 100 * len(found)
    assert len(outcomes) == 4 and len(set(outcomes)) == 1
    assert found[f"{STUDY}/{SERIES}/1.9.dcm"] == bytes([outcomes[0]]) * 100
    assert all(
        found[f"{STUDY}/{SERIES}.{n % 3}/1.2.{t}.{n}.dcm"] == bytes([t]) * 100 for t in range(8) for n in range(20)
    )
    assert not parts(tmp_path)


_KILLED = """
import os, signal, sys
from marspipe.store.landing import LandingZone
zone = LandingZone(sys.argv[1], min_free_bytes=0)
arrival = zone.arrive()
arrival.write(b"half of it")
arrival.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    living = LandingZone(str(tmp_path), min_free_bytes=0)
    arrival = living.arrive()
    arrival.write(b"still coming")
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL and len(parts(tmp_path)) == 2
    with LandingZone(str(tmp_path), min_free_bytes=0) as zone:
        assert parts(tmp_path) == [arrival.path] and zone.used_bytes == 0
    assert arrival.place(STUDY, SERIES, "1.2")
    living.close()
    assert content(tmp_path) == {f"{STUDY}/{SERIES}/1.2.dcm": b"still coming"}
    assert [path.name for path in (tmp_path / INCOMING).iterdir()] == ["lock"]


def test_a_folder_that_cannot_be_a_zone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputExistsError, match="file/zone: no landing zone can be made there"):
        LandingZone(str(tmp_path / "file" / "zone"))
