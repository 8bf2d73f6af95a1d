"""Storage commitment where the port, the association or the time is not as it should be."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    StorageCommitmentPushModel,
    Verification,
)

from marspipe.dicom.pacs import commitment
from marspipe.dicom.pacs.listener import listening
from marspipe.dicom.pacs.peer import parse_peer
from marspipe.errors import InputError
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import publish
from marspipe.show.progress import Progress
from tests.pacs.conftest import N_INSTANCES
from tests.pacs.servers import OUR_AE, Orthanc, free_ports

PATIENCE_S = 20.0


@pytest.fixture
def port() -> int:
    (free,) = free_ports(1)
    return free


@contextmanager
def reporting(port: int, handlers: Sequence[Any] = ()) -> Iterator[Any]:
    """Give an association of a PACS that has something to report; whoever is given it ends it."""
    entity = AE(ae_title="PACS")
    entity.add_requested_context(StorageCommitmentPushModel, ExplicitVRLittleEndian)
    sockets: list[socket.socket] = []  # pynetdicom forgets those that the other side has closed
    keep = (evt.EVT_CONN_OPEN, lambda event: sockets.append(event.assoc.dul.socket.socket))
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    association = entity.associate("127.0.0.1", port, ae_title=OUR_AE, ext_neg=[role], evt_handlers=[keep, *handlers])
    assert association.is_established
    try:
        yield association
    finally:
        association.release()
        for one in sockets:
            one.close()


@contextmanager
def committing(
    answer: Callable[[Any, Dataset], object], *, reject: Callable[[Sequence[str]], bool] = lambda _: False
) -> Iterator[str]:
    """Run a PACS that stores, and calls ``answer`` with the association and its report in a thread of its own."""
    responded = threading.Event()
    reports: list[threading.Thread] = []

    def sent(event: Any) -> None:
        if type(event.message).__name__ == "N_ACTION_RSP":
            responded.set()

    def requested(event: Any) -> None:
        wanted = [str(c.abstract_syntax) for c in event.assoc.requestor.primitive.presentation_context_definition_list]
        if reject(wanted):
            event.assoc.acse.send_reject(1, 1, 1)
            event.assoc.kill()

    def take(event: Any) -> tuple[int, None]:
        asked = event.action_information

        def report() -> None:
            responded.wait(PATIENCE_S)
            said = Dataset()
            said.TransactionUID, said.ReferencedSOPSequence = asked.TransactionUID, asked.ReferencedSOPSequence
            answer(event.assoc, said)

        reports.append(threading.Thread(target=report))
        reports[-1].start()
        return 0x0000, None

    entity = AE(ae_title="PACS")
    for abstract in (CTImageStorage, StorageCommitmentPushModel, Verification):
        entity.add_supported_context(abstract, ExplicitVRLittleEndian)
    handlers = [
        (evt.EVT_REQUESTED, requested),
        (evt.EVT_C_STORE, lambda event: 0x0000),
        (evt.EVT_N_ACTION, take),
        (evt.EVT_DIMSE_SENT, sent),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield f"dicom://PACS@127.0.0.1:{server.server_address[1]}"
    finally:
        for one in reports:
            one.join()
        server.shutdown()
        entity.shutdown()


def report(association: Any, said: Dataset) -> int | None:
    status, _ = association.send_n_event_report(said, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
    return status.get("Status")  # type: ignore[no-any-return]


def test_a_port_that_is_taken_is_noticed_before_anything_is_sent(
    pacs: Orthanc, dicom_folder: Path, progress: Progress, never: Patience
) -> None:
    taken = {"progress": progress, "patience": never, "commit_port": pacs.http_port}
    with pytest.raises(InputError, match=f"port {pacs.http_port} cannot be listened on: Address already in use"):
        publish(str(dicom_folder), parse_peer(pacs.dicom_url), **taken)  # type: ignore[arg-type]
    assert pacs.n_instances == 0
    # Where nobody answers on it, it does not matter.
    done = publish(str(dicom_folder), parse_peer(pacs.web_url), **taken)  # type: ignore[arg-type]
    assert (done.error, done.sent) == (None, N_INSTANCES)


def test_a_pacs_that_rejects_the_association_for_commitment(
    dicom_folder: Path, progress: Progress, never: Patience
) -> None:
    def rejected(wanted: Sequence[str]) -> bool:
        return str(StorageCommitmentPushModel) in wanted

    with committing(report, reject=rejected) as url:
        done = publish(str(dicom_folder), parse_peer(url), progress=progress, patience=never)
        assert (done.error, done.sent) == (None, N_INSTANCES)
        assert done.commitment is not None and done.commitment.state == "refused"
        done = publish(str(dicom_folder), parse_peer(url), progress=progress, patience=never, commit="required")
        assert done.error is not None
        assert f"{N_INSTANCES} x no storage commitment (refused)" in done.error


def test_an_answer_that_takes_longer_than_a_pacs_may_be_silent(
    dicom_folder: Path, progress: Progress, never: Patience
) -> None:
    def late(association: Any, said: Dataset) -> None:
        time.sleep(3.0)
        report(association, said)

    with committing(late) as url:
        how = {"progress": progress, "patience": never, "commit": "required", "commit_wait_s": PATIENCE_S}
        done = publish(str(dicom_folder), parse_peer(url, timeout_s=1.0), **how)  # type: ignore[arg-type]
    assert done.error is None
    assert done.commitment is not None and len(done.commitment.sop_uids) == N_INSTANCES


def test_a_report_is_answered_before_its_association_ends(
    dicom_folder: Path, progress: Progress, never: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, statuses = commitment._Answers.take, list[int | None]()

    def slowly(self: commitment._Answers, event: Any) -> tuple[int, None]:
        taken = take(self, event)
        time.sleep(0.3)
        return taken

    monkeypatch.setattr(commitment._Answers, "take", slowly)
    with committing(lambda association, said: statuses.append(report(association, said))) as url:
        done = publish(str(dicom_folder), parse_peer(url), progress=progress, patience=never, commit="required")
    assert (done.error, statuses) == (None, [0x0000])


def test_a_pacs_that_takes_its_time_to_release(
    port: int, dicom_folder: Path, progress: Progress, never: Patience
) -> None:
    ends: list[str] = []

    def slow(_: Any, said: Dataset) -> None:
        handlers = [
            (evt.EVT_ABORTED, lambda _: ends.append("aborted")),
            (evt.EVT_RELEASED, lambda _: ends.append("released")),
        ]
        with reporting(port, handlers) as association:
            report(association, said)
            time.sleep(0.5)

    with committing(slow) as url:
        how = {"progress": progress, "patience": never, "commit": "required", "commit_port": port}
        done = publish(str(dicom_folder), parse_peer(url), **how)  # type: ignore[arg-type]
    assert done.error is None
    assert ends == ["released"]


def test_what_is_no_instance_is_kept_only_while_it_is_small(port: int) -> None:
    """A report on commitment without end; its association ends."""
    ended = threading.Event()
    contexts = [(str(StorageCommitmentPushModel), [str(ExplicitVRLittleEndian)])]
    report = Dataset()
    report.TransactionUID = "1.2.3"
    report.add_new("PixelData", "OB", bytes(4 << 20))
    taken: list[object] = []

    def take(event: Any) -> tuple[int, None]:
        taken.append(event)
        return 0x0000, None

    with listening(
        parse_peer("dicom://PACS@127.0.0.1:104"), port, OUR_AE, contexts, [(evt.EVT_N_EVENT_REPORT, take)], instead=""
    ):
        with reporting(port, [(evt.EVT_ABORTED, lambda _: ended.set())]) as association:
            association.send_n_event_report(report, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
            assert ended.wait(PATIENCE_S)
    assert not taken
