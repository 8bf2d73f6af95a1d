"""What a landing zone acknowledges lasts: folders and links are synced first, whichever thread has made them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from marspipe.store.landing import LandingZone
from tests.store.landing_content import content, parts

STUDY, SERIES = "1.2.840.1", "1.2.840.1.1"
BeforeSync = Callable[[Callable[[Path], None]], None]


@pytest.fixture
def zone(tmp_path: Path) -> LandingZone:
    return LandingZone(str(tmp_path / "zone"), min_free_bytes=0)


@pytest.fixture
def before_sync(monkeypatch: pytest.MonkeyPatch) -> BeforeSync:
    """Let something be called with the path of whatever is about to be synced."""
    fsync = os.fsync

    def install(action: Callable[[Path], None]) -> None:
        def observed(descriptor: int) -> None:
            action(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", observed)

    return install


@pytest.mark.parametrize("unsynced", ["series", "study"])
def test_a_folder_that_is_not_synced_yet_is_waited_for(
    zone: LandingZone, before_sync: BeforeSync, unsynced: str
) -> None:
    """One thread has made a folder and not synced what it lies in; another one has an instance for it."""
    parent = Path(zone.root_uri, STUDY) if unsynced == "series" else Path(zone.root_uri)
    made, go_on = threading.Event(), threading.Event()

    def wait(path: Path) -> None:
        if path == parent and not made.is_set():
            made.set()
            assert go_on.wait(20.0)

    before_sync(wait)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(zone.put, STUDY, SERIES, "1.1", b"first")
        assert made.wait(20.0)
        second = pool.submit(zone.put, STUDY, SERIES, "1.2", b"second")
        try:
            with pytest.raises(TimeoutError):
                second.result(0.5)
        finally:
            go_on.set()
        first.result(20.0), second.result(20.0)
    assert content(Path(zone.root_uri)) == {
        f"{STUDY}/{SERIES}/1.{n}.dcm": c for n, c in ((1, b"first"), (2, b"second"))
    }


def test_a_folder_that_cannot_be_synced_is_none(zone: LandingZone, before_sync: BeforeSync) -> None:
    """Else the next instance would find it, and not sync it again."""
    synced: list[Path] = []

    def fail_once(path: Path) -> None:
        if path.name == STUDY and path not in synced:
            synced.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        synced.append(path)

    before_sync(fail_once)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        zone.put(STUDY, SERIES, "1.1", b"first")
    assert not Path(zone.root_uri, STUDY, SERIES).exists() and not parts(Path(zone.root_uri))
    zone.put(STUDY, SERIES, "1.1", b"first")
    assert synced.count(Path(zone.root_uri, STUDY)) == 2


def test_the_same_data_set_is_acknowledged_when_the_first_one_lasts(zone: LandingZone, before_sync: BeforeSync) -> None:
    """The first one has its name, and has not been synced; the same one comes again, from another sender."""
    zone.put(STUDY, SERIES, "1.1", b"x")
    synced: list[Path] = []
    before_sync(synced.append)
    with zone.arrive() as arrival:
        arrival.write(b"x")
        assert not arrival.place(STUDY, SERIES, "1.1")
    assert Path(zone.root_uri, STUDY, SERIES) in synced
