"""C-FIND that is refused, or answered with what cannot be decoded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pynetdicom.service_class
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from marspipe.dicom.pacs.client import PeerRefusedError, PeerUnavailableError, Query
from marspipe.dicom.pacs.connect import connect
from marspipe.dicom.pacs.peer import Peer, parse_peer
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import publish
from marspipe.show.progress import Progress
from tests.pacs.conftest import N_INSTANCES
from tests.pacs.servers import free_ports

FIND = StudyRootQueryRetrieveInformationModelFind


@contextmanager
def finding(find: Any) -> Iterator[tuple[str, list[str]]]:
    """Run a storage and query SCP; yield its address and the UIDs of what it has been sent."""
    entity, stored = AE(ae_title="PACS"), list[str]()
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), ["1.2.840.10008.1.2.1"])
    entity.add_supported_context(FIND)

    def store(event: Any) -> int:
        stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    (port,) = free_ports(1)
    handlers = [(evt.EVT_C_FIND, find), (evt.EVT_C_STORE, store)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
    try:
        yield f"dicom://PACS@127.0.0.1:{port}", stored
    finally:
        server.shutdown()


@pytest.mark.parametrize("status", [0x0124, 0xA900, 0xC001])
@pytest.mark.parametrize("verify", [True, False])
def test_a_peer_that_takes_instances_and_no_questions(
    status: int, verify: bool, dicom_folder: Path, progress: Progress, never: Patience
) -> None:
    def refuse(event: Any) -> Iterator[tuple[int, None]]:
        del event
        yield status, None

    with finding(refuse) as (url, stored):
        done = publish(str(dicom_folder), parse_peer(url), progress=progress, patience=never, verify=verify)
        assert (done.error, done.sent, done.found, len(stored)) == (None, N_INSTANCES, None, N_INSTANCES)
        with connect(parse_peer(url)) as client, pytest.raises(PeerRefusedError, match=rf"C-FIND with 0x{status:04X}"):
            client.find_series(Query(study_uid="1.2.3"))


def test_an_answer_that_cannot_be_decoded_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is listed is what `fetch` calls complete."""

    def answer(event: Any) -> Iterator[tuple[int, Dataset]]:
        del event
        for number in range(3):
            one = Dataset()
            one.SOPInstanceUID, one.SOPClassUID = f"1.2.{number}", "1.2.840.10008.5.1.4.1.1.2"
            yield 0xFF00, one

    sound, sent = pynetdicom.service_class.encode, list[bytes]()

    def encode(dataset: Dataset, *arguments: Any) -> bytes | None:
        content = sound(dataset, *arguments)
        sent.append(content or b"")
        # The second answer claims a sequence that never ends.
        return content if len(sent) % 3 != 2 else b"\x08\0\x40\x11\xff\xff\xff\xff\xfe\xff"

    monkeypatch.setattr(pynetdicom.service_class, "encode", encode)
    with finding(answer) as (url, _), connect(parse_peer(url)) as client:
        with pytest.raises(PeerUnavailableError, match="an answer of the PACS to C-FIND is damaged"):
            client.stored_instances("1.2", "1.2.3")
        monkeypatch.setattr(pynetdicom.service_class, "encode", sound)
        assert client.stored_instances("1.2", "1.2.3") == dict.fromkeys(
            ("1.2.0", "1.2.1", "1.2.2"), "1.2.840.10008.5.1.4.1.1.2"
        )


@pytest.fixture
def shut_door() -> Iterator[int]:
    """A port where connections are taken, and ended without a word: TLS before a PACS that is starting anew."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connection.recv(1 << 12)
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()


@pytest.mark.parametrize("scheme", ["dicoms://PACS@", "https://"])
def test_a_tls_connection_that_breaks_off_is_tried_again(scheme: str, shut_door: int) -> None:
    peer: Peer = parse_peer(f"{scheme}127.0.0.1:{shut_door}{'' if 'PACS' in scheme else '/dicom-web'}")
    with pytest.raises(PeerUnavailableError, match="broke off"), connect(peer) as client:
        client.echo()


def test_a_name_that_cannot_be_looked_up_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", away)
    with (
        pytest.raises(PeerUnavailableError, match="cannot be looked up now"),
        connect(parse_peer("dicom://PACS@pacs.invalid:104")) as client,
    ):
        client.echo()
