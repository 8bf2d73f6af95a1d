"""The port that a PACS connects to, for C-MOVE and for storage commitment: who is let in, how, and what for."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RawDataStorage
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from marspipe.cli import cli, run_command
from marspipe.dicom.pacs.client import PeerUnavailableError, Received, RemoteSeries
from marspipe.dicom.pacs.connect import connect
from marspipe.dicom.pacs.listener import listening
from marspipe.dicom.pacs.peer import Peer, Tls, parse_peer
from marspipe.errors import InputError
from marspipe.pipeline.pacs.fetch import Query, fetch
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import publish
from marspipe.show.progress import Progress
from marspipe.store.landing import LandingZone
from tests.pacs.conftest import SLICES
from tests.pacs.receive_senders import STUDY, instance, read_pdu, send, with_meta
from tests.pacs.servers import (
    ORTHANC_AE,
    OUR_AE,
    Certificate,
    Orthanc,
    free_ports,
    make_certificate,
    orthanc,
    tls_settings,
)

DESTINATION = "MARSFETCH"
STRANGE_ADDRESS = "127.0.0.2"
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    folder = tmp_path_factory.mktemp("certificates")
    return {name: make_certificate(folder, name) for name in ("pacs", "ours", "other")}


@pytest.fixture
def port() -> int:
    (free,) = free_ports(1)
    return free


# --- who is let in ---------------------------------------------------------------------------------------------------


@contextmanager
def listening_for(peer: Peer, port: int) -> Iterator[Sequence[str]]:
    contexts = [(str(RawDataStorage), [str(ExplicitVRLittleEndian)])]
    with listening(peer, port, DESTINATION, contexts, [], instead="use C-GET") as refused:
        yield refused


@contextmanager
def calling(
    port: int, *, called: str = DESTINATION, source: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Any]:
    """Give what a peer at an address gets when it asks for an association."""
    entity = AE(ae_title="PACS")
    entity.add_requested_context(RawDataStorage, ExplicitVRLittleEndian)
    entity.acse_timeout = entity.network_timeout = PATIENCE_S
    sockets: list[socket.socket] = []
    association = entity.associate(
        "127.0.0.1",
        port,
        ae_title=called,
        bind_address=(source, 0),
        tls_args=None if tls is None else (tls, "127.0.0.1"),
        evt_handlers=[(evt.EVT_CONN_OPEN, lambda event: sockets.append(event.assoc.dul.socket.socket))],
    )
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        for one in sockets:
            one.close()


def test_only_hosts_of_the_pacs_are_let_in(port: int) -> None:
    peer = parse_peer("dicom://PACS@localhost:104")
    with listening_for(peer, port) as refused:
        with calling(port) as association:
            assert association.is_established
        assert not refused
        with calling(port, source=STRANGE_ADDRESS) as association:
            assert not association.is_established
        assert refused == [f"{STRANGE_ADDRESS} (not an address of the PACS)"]
    with listening_for(replace(peer, other_hosts=(STRANGE_ADDRESS,)), port) as refused:
        for source in ("127.0.0.1", STRANGE_ADDRESS):
            with calling(port, source=source) as association:
                assert association.is_established
        assert not refused


def test_only_who_calls_us_by_our_name_is_let_in(port: int) -> None:
    with listening_for(parse_peer("dicom://PACS@127.0.0.1:104"), port), calling(port, called="ELSEWHERE") as answer:
        assert answer.is_rejected
        assert (answer.acceptor.primitive.result, answer.acceptor.primitive.diagnostic) == (1, 7)


def test_a_host_that_does_not_exist(port: int) -> None:
    peer = replace(parse_peer("dicom://PACS@127.0.0.1:104"), other_hosts=("nowhere.invalid",))
    with pytest.raises(InputError, match=r"there is no host 'nowhere\.invalid' that it could connect from"):
        with listening_for(peer, port):
            pass


def test_a_pdu_of_any_length_is_not_collected(port: int) -> None:
    with listening_for(parse_peer("dicom://PACS@127.0.0.1:104", timeout_s=60.0), port):
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection:
            connection.sendall(struct.pack(">BxL", 1, 0xFFFFFFFF) + bytes(1 << 16))
            while pdu := read_pdu(connection):  # no answer in 10 s is an error
                assert pdu[0] == 7


@pytest.mark.parametrize("shown", ["pacs", "other", None])
def test_tls_is_asked_for(shown: str | None, port: int, certificates: dict[str, Certificate]) -> None:
    ours, pacs = certificates["ours"], certificates["pacs"]
    tls = Tls(pacs.certificate, ours.certificate, ours.key)
    context = ssl.create_default_context(cafile=ours.certificate)
    if shown is not None:
        context.load_cert_chain(certificates[shown].certificate, certificates[shown].key)
    with listening_for(parse_peer("dicoms://PACS@127.0.0.1:104", tls=tls, timeout_s=5.0), port) as refused:
        with calling(port, tls=context) as association:
            assert association.is_established == (shown == "pacs")
        assert bool(refused) == (shown != "pacs")
        with calling(port) as association:  # in the clear
            assert not association.is_established
        assert refused == ["127.0.0.1 (TLS handshake failed)"]


# --- C-MOVE ----------------------------------------------------------------------------------------------------------


@contextmanager
def moving(
    datasets: Sequence[Dataset], port: int, *, first: Callable[[], None] = lambda: None, source: str = "127.0.0.1"
) -> Iterator[str]:
    """Run a C-MOVE SCP that sends to a port from an address; ``first`` is called before."""
    sockets: list[socket.socket] = []  # pynetdicom forgets those that the other side has closed

    def move(event: Any) -> Iterator[Any]:
        del event
        first()
        yield (
            "127.0.0.1",
            port,
            {
                "contexts": [build_context(RawDataStorage, ExplicitVRLittleEndian)],
                "bind_address": (source, 0),
                "evt_handlers": [(evt.EVT_CONN_OPEN, lambda event: sockets.append(event.assoc.dul.socket.socket))],
            },
        )
        yield len(datasets)
        for one in datasets:
            yield 0xFF00, with_meta(one)

    entity = AE(ae_title="PACS")
    for abstract in (StudyRootQueryRetrieveInformationModelMove, Verification):
        entity.add_supported_context(abstract, ExplicitVRLittleEndian)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_MOVE, move)])
    try:
        yield f"dicom://PACS@127.0.0.1:{server.server_address[1]}"
    finally:
        for one in sockets:
            one.close()
        server.shutdown()
        entity.shutdown()


def moved(peer: Peer, datasets: Sequence[Dataset], port: int, zone: LandingZone) -> list[Received]:
    """Return what came of a C-MOVE for the series of some instances."""
    came: list[Received] = []
    series = RemoteSeries(STUDY, str(datasets[0].SeriesInstanceUID))
    wanted = {str(one.SOPInstanceUID): str(one.SOPClassUID) for one in datasets}
    with connect(peer, move_to=DESTINATION, listen=port) as client:
        client.retrieve(series, wanted, zone.arrive, came.append, lanes=1)
    return came


def test_a_stray_instance_does_not_end_the_fetch(port: int, tmp_path: Path) -> None:
    datasets = [instance(number) for number in range(3)]
    statuses: list[int] = []

    def stray() -> None:
        statuses.extend(send(port, [instance(9, sender=1)], called=DESTINATION))

    with LandingZone(str(tmp_path)) as zone, moving(datasets, port, first=stray) as url:
        came = moved(parse_peer(url), datasets, port, zone)
        assert zone.used_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.dcm"))
    assert statuses == [0xA900]
    assert {one.sop_uid for one in came} == {str(one.SOPInstanceUID) for one in datasets}
    assert {path.stem for path in tmp_path.rglob("*.dcm")} == {str(one.SOPInstanceUID) for one in datasets}


def test_a_pacs_that_sends_from_another_host(port: int, tmp_path: Path) -> None:
    datasets = [instance(number) for number in range(3)]
    with LandingZone(str(tmp_path)) as zone, moving(datasets, port, source=STRANGE_ADDRESS) as url:
        said = rf"port {port} has refused {STRANGE_ADDRESS} \(not an address of the PACS\): see --move-from"
        with pytest.raises(PeerUnavailableError, match=said):
            moved(parse_peer(url), datasets, port, zone)
        came = moved(replace(parse_peer(url), other_hosts=(STRANGE_ADDRESS,)), datasets, port, zone)
    assert len(came) == 3


def test_hosts_of_the_command_line(
    pacs: Orthanc, dicom_folder: Path, port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = pydicom.dcmread(next(dicom_folder.rglob("*.dcm")))
    to, nowhere = ["--commit", "no", "--to", pacs.dicom_url], "nowhere.invalid"
    assert run_command(cli, ["publish", str(dicom_folder), *to], "marspipe") == 0
    what = ["--series", one.SeriesInstanceUID, "--out", str(tmp_path), "--retries", "0"]
    arguments = ["fetch", "--from", pacs.dicom_url, *what, "--move-to", f"X:{port}", "--move-from", nowhere]
    assert run_command(cli, arguments, "marspipe") == 2
    assert f"there is no host '{nowhere}'" in capsys.readouterr().err
    arguments = ["publish", str(dicom_folder), "--to", pacs.dicom_url, "--commit-port", str(port)]
    assert run_command(cli, [*arguments, "--commit-from", nowhere], "marspipe") == 2
    assert f"there is no host '{nowhere}'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def secure_pacs(tmp_path_factory: pytest.TempPathFactory, certificates: dict[str, Certificate]) -> Iterator[Orthanc]:
    """An Orthanc that speaks DICOM over TLS, both ways."""
    settings = tls_settings(certificates["pacs"], certificates["ours"])
    with orthanc(tmp_path_factory.mktemp("secure"), **settings) as server:
        yield server


@pytest.fixture
def secure_peer(secure_pacs: Orthanc, certificates: dict[str, Certificate]) -> Peer:
    ours = certificates["ours"]
    tls = Tls(certificates["pacs"].certificate, ours.certificate, ours.key)
    return parse_peer(f"dicoms://{ORTHANC_AE}@127.0.0.1:{secure_pacs.dicom_port}", tls=tls)


def test_what_orthanc_sends_comes_by_tls(
    secure_pacs: Orthanc,
    secure_peer: Peer,
    port: int,
    dicom_folder: Path,
    tmp_path: Path,
    progress: Progress,
    never: Patience,
) -> None:
    known = {"Host": "127.0.0.1", "Port": port, "UseDicomTls": True}
    secure_pacs.put("/modalities/us", {"AET": OUR_AE, "AllowStorageCommitment": True, **known})
    secure_pacs.put("/modalities/destination", {"AET": DESTINATION, **known})
    options = {"progress": progress, "patience": never, "commit": "required", "commit_port": port}
    done = publish(str(dicom_folder / "bin-00"), secure_peer, **options)  # type: ignore[arg-type]
    assert done.error is None
    assert done.commitment is not None and len(done.commitment.sop_uids) == SLICES
    series_uid = pydicom.dcmread(next((dicom_folder / "bin-00").iterdir())).SeriesInstanceUID
    how = {"progress": progress, "patience": never, "move_to": (DESTINATION, port)}
    (series,) = fetch(secure_peer, Query(series_uid=series_uid), str(tmp_path / "zone"), **how)  # type: ignore[arg-type]
    assert series.n_fetched == SLICES
    # What Orthanc sends in the clear is not taken.
    secure_pacs.put("/modalities/destination", {"AET": DESTINATION, "Host": "127.0.0.1", "Port": port})
    with pytest.raises(PeerUnavailableError, match=rf"port {port} has refused 127\.0\.0\.1 \(TLS handshake failed\)"):
        with LandingZone(str(tmp_path / "clear")) as zone, connect(secure_peer, move_to=DESTINATION, listen=port) as c:
            held = c.stored_instances(series.series.study_uid, series_uid)
            c.retrieve(series.series, held or {}, zone.arrive, lambda _: None, lanes=1)
    assert not list((tmp_path / "clear").rglob("*.dcm"))


def test_without_a_certificate_nothing_comes_in_the_clear(
    secure_peer: Peer, port: int, dicom_folder: Path, tmp_path: Path, progress: Progress
) -> None:
    bare = replace(secure_peer, tls=Tls(secure_peer.tls.ca_path))
    said = f"{bare.url}: what it sends to port {port} would come in the clear: give --tls-certificate, or "
    with connect(bare, move_to=DESTINATION, listen=port) as client, LandingZone(str(tmp_path)) as zone:
        with pytest.raises(InputError) as caught:
            client.retrieve(RemoteSeries("1.2", "1.2.3"), {"1.2.3.4": ""}, zone.arrive, lambda _: None, lanes=1)
    assert str(caught.value) == f"{said}use C-GET"
    with pytest.raises(InputError) as caught:
        publish(str(dicom_folder), bare, progress=progress, commit_port=port)
    assert str(caught.value) == f"{said}leave out --commit-port"
