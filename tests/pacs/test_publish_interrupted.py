"""Orthanc dies in the middle of a publication, at a known instance; what comes after is complete and has no doubles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marspipe.dicom.pacs.peer import parse_peer
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import publish
from marspipe.show.progress import Progress
from tests.pacs.at_instance import AtInstance
from tests.pacs.conftest import N_INSTANCES
from tests.pacs.servers import Orthanc, orthanc

KILLED_AT = 7


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Orthanc]:
    """An Orthanc that a test may kill."""
    with orthanc(tmp_path / "orthanc") as server:
        yield server


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let STOW-RS send few instances in a request, so that there is a middle."""
    monkeypatch.setattr("marspipe.dicom.pacs.web._BATCH_INSTANCES", 2)


def test_killed_restarted_published_again(
    mortal: Orthanc, url_of: Callable[[Orthanc], str], dicom_folder: Path, never: Patience
) -> None:
    peer = parse_peer(url_of(mortal))
    broken = publish(str(dicom_folder), peer, progress=AtInstance(KILLED_AT, mortal.kill), patience=never)
    assert broken.state == "failed"
    assert KILLED_AT <= broken.sent < N_INSTANCES
    assert broken.error is not None
    assert peer.url in broken.error
    assert f"{broken.sent} of {N_INSTANCES} instances are there, publish again to go on" in broken.error
    mortal.start()
    there = mortal.n_instances
    assert KILLED_AT <= there < N_INSTANCES
    done = publish(str(dicom_folder), peer, progress=Progress(), patience=never)
    assert (done.error, done.kept, done.sent, done.found) == (None, there, N_INSTANCES - there, N_INSTANCES)
    assert mortal.n_instances == len(mortal.held()) == N_INSTANCES
    assert mortal.get("/statistics")["CountSeries"] == 4


def test_comes_back_while_it_is_waited_for(
    mortal: Orthanc, url_of: Callable[[Orthanc], str], dicom_folder: Path
) -> None:
    """Two tries find nobody; before the third the server is there again."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            mortal.start()

    done = publish(
        str(dicom_folder),
        parse_peer(url_of(mortal)),
        progress=AtInstance(KILLED_AT, mortal.kill),
        patience=Patience(retries=3, first_s=1.0, sleep=sleep),
    )
    assert (done.error, done.kept, done.sent, done.found) == (None, 0, N_INSTANCES, N_INSTANCES)
    assert len(waits) == 2
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0
    assert mortal.n_instances == N_INSTANCES


def test_patience_begins_anew_after_progress() -> None:
    slept: list[float] = []
    patience = Patience(retries=2, first_s=1.0, longest_s=1.5, sleep=slept.append)
    assert patience.wait()
    assert patience.wait()
    assert not patience.wait()
    patience.reset()
    assert patience.wait()
    assert 0.75 <= slept[1] <= 1.5  # bounded
    assert 0.5 <= slept[2] <= 1.0
