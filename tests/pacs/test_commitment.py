"""Storage commitment: Orthanc answers by an association of its own, other PACS on ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, StorageCommitmentPushModel, Verification

from marspipe.dicom.pacs.connect import connect
from marspipe.dicom.pacs.peer import parse_peer
from marspipe.errors import InputError
from marspipe.pipeline.pacs.folder import instances_in
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import publish
from marspipe.show.progress import Progress
from tests.pacs.conftest import N_INSTANCES
from tests.pacs.servers import OUR_AE, Orthanc, free_ports


@pytest.fixture
def answering_port(pacs: Orthanc) -> Iterator[int]:
    """A port on which Orthanc knows us."""
    (port,) = free_ports(1)
    known = {"AET": OUR_AE, "Host": "127.0.0.1", "Port": port, "AllowStorageCommitment": True}
    pacs.put("/modalities/us", known)
    yield port
    pacs.delete("/modalities/us")


def test_orthanc_commits_itself(
    pacs: Orthanc, answering_port: int, dicom_folder: Path, progress: Progress, never: Patience
) -> None:
    peer = parse_peer(pacs.dicom_url)
    options = {"progress": progress, "patience": never, "commit_port": answering_port}
    done = publish(str(dicom_folder), peer, commit="required", **options)  # type: ignore[arg-type]
    assert (done.error, done.sent) == (None, N_INSTANCES)
    assert done.commitment is not None
    assert done.commitment.state == "answered"
    assert len(done.commitment.sop_uids) == N_INSTANCES
    assert done.details()["committed"] == N_INSTANCES


def test_orthanc_does_not_commit_itself_to_what_it_lacks(
    pacs: Orthanc, answering_port: int, dicom_folder: Path, progress: Progress, never: Patience
) -> None:
    peer = parse_peer(pacs.dicom_url)
    publish(str(dicom_folder), peer, progress=progress, patience=never, commit="no")
    pacs.delete(f"/instances/{pacs.get('/instances')[0]}")
    with connect(peer, listen=answering_port) as client:
        commitment = client.commit(instances_in(str(dicom_folder), progress), wait_s=30.0)
    assert commitment.state == "answered"
    assert len(commitment.sop_uids) == N_INSTANCES - 1
    assert list(commitment.failures.values()) == ["0x0112, no such SOP instance"]


def test_a_peer_that_does_not_know_us(pacs: Orthanc, dicom_folder: Path, progress: Progress, never: Patience) -> None:
    peer = parse_peer(pacs.dicom_url)
    done = publish(str(dicom_folder), peer, progress=progress, patience=never)
    assert done.error is None
    assert done.commitment is not None
    assert done.commitment.state == "refused"
    done = publish(str(dicom_folder), peer, progress=progress, patience=never, commit="required")
    assert done.state == "failed"
    assert done.error is not None
    assert f"{N_INSTANCES} x no storage commitment (refused)" in done.error


def test_dicomweb_has_none(pacs: Orthanc, dicom_folder: Path, progress: Progress, never: Patience) -> None:
    done = publish(str(dicom_folder), parse_peer(pacs.web_url), progress=progress, patience=never)
    assert done.error is None
    assert done.commitment is not None
    assert done.commitment.state == "not offered"


def test_a_port_that_is_taken(pacs: Orthanc, dicom_folder: Path, progress: Progress, never: Patience) -> None:
    with pytest.raises(InputError, match=f"port {pacs.http_port} cannot be listened on"):
        publish(
            str(dicom_folder),
            parse_peer(pacs.dicom_url),
            progress=progress,
            patience=never,
            commit_port=pacs.http_port,
        )


@contextmanager
def answering_on_the_same_association(*, lost: int, silent: bool = False) -> Iterator[str]:
    """Run a storage provider that reports on commitment where it was asked; ``lost`` instances are not committed."""
    responded = threading.Event()
    reports: list[threading.Thread] = []

    def sent(event: Any) -> None:
        if type(event.message).__name__ == "N_ACTION_RSP":
            responded.set()

    def take(event: Any) -> tuple[int, None]:
        request = event.action_information

        def report() -> None:
            responded.wait(30.0)
            answer = Dataset()
            answer.TransactionUID = request.TransactionUID
            references = list(request.ReferencedSOPSequence)
            answer.ReferencedSOPSequence = references[lost:]
            if lost:
                answer.FailedSOPSequence = references[:lost]
                for one in answer.FailedSOPSequence:
                    one.FailureReason = 0x0213
            event.assoc.send_n_event_report(
                answer, 2 if lost else 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"
            )

        if not silent:
            reports.append(threading.Thread(target=report))
            reports[-1].start()
        return 0x0000, None

    entity = AE(ae_title="SAMELINE")
    for abstract in (CTImageStorage, StorageCommitmentPushModel, Verification):
        entity.add_supported_context(abstract, [ExplicitVRLittleEndian])
    handlers = [(evt.EVT_C_STORE, lambda event: 0x0000), (evt.EVT_N_ACTION, take), (evt.EVT_DIMSE_SENT, sent)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield f"dicom://SAMELINE@127.0.0.1:{server.server_address[1]}"
    finally:
        for one in reports:
            one.join()
        server.shutdown()
        entity.shutdown()


@pytest.mark.parametrize("lost", [0, 3])
def test_an_answer_on_the_same_association(lost: int, dicom_folder: Path, progress: Progress, never: Patience) -> None:
    with answering_on_the_same_association(lost=lost) as url:
        done = publish(str(dicom_folder), parse_peer(url), progress=progress, patience=never, commit="required")
    assert done.sent == N_INSTANCES
    assert done.found is None  # this peer cannot be asked
    assert done.commitment is not None
    assert len(done.commitment.sop_uids) == N_INSTANCES - lost
    if lost:
        assert done.error is not None
        assert "3 x no storage commitment (0x0213, resource limitation)" in done.error
    else:
        assert done.error is None


def test_no_answer(dicom_folder: Path, progress: Progress, never: Patience) -> None:
    with answering_on_the_same_association(lost=0, silent=True) as url:
        options = {"progress": progress, "patience": never, "commit_wait_s": 0.1}
        done = publish(str(dicom_folder), parse_peer(url), **options)  # type: ignore[arg-type]
        assert done.error is None
        assert done.commitment is not None
        assert done.commitment.state == "no answer"
        done = publish(str(dicom_folder), parse_peer(url), commit="required", **options)  # type: ignore[arg-type]
        assert done.error is not None
        assert "no storage commitment (no answer)" in done.error
