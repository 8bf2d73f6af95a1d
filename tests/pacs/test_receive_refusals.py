"""Who and what ``marspipe receive`` refuses: peers, UIDs, broken data sets, and more than there is room for."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage

from marspipe.cli import cli, run_command
from marspipe.dicom.pacs.allow_list import AllowList
from marspipe.errors import InputError
from tests.pacs.receive_senders import (
    OUR_AE,
    SENDER_AE,
    ReceiverProcess,
    associated,
    connect,
    data_set_of,
    encoded,
    instance,
    read_pdu,
    receiving,
    send,
    with_meta,
)
from tests.pacs.servers import Certificate, make_certificate, wait_until

pytestmark = pytest.mark.usefixtures("anything_may_be_sent")
CALLING_UNKNOWN, CALLED_UNKNOWN = (1, 1, 3), (1, 1, 7)


def rejection(association: Any) -> tuple[int, int, int]:
    assert association.is_rejected
    answer = association.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def test_only_who_is_allowed_may_send(tmp_path: Path) -> None:
    with receiving(tmp_path, "--allow", SENDER_AE, "--allow", "FAR@10.0.0.0/8") as receiver:
        assert "the peers allowed" in receiver.said
        assert rejection(associated(receiver.port, calling="STRANGER")) == CALLING_UNKNOWN
        assert rejection(associated(receiver.port, calling="FAR")) == CALLING_UNKNOWN
        assert rejection(associated(receiver.port, called="ANOTHER")) == CALLED_UNKNOWN
        assert send(receiver.port, [instance(1)]) == [0]
        assert receiver.stop() == 0
        refused = receiver.events("association_refused")
        assert sorted((event["ae_title"], event["address"], event["reason"]) for event in refused) == [
            ("FAR", "127.0.0.1", "AE title is not allowed from this address"),
            (SENDER_AE, "127.0.0.1", "called by another AE title"),
            ("STRANGER", "127.0.0.1", "AE title is not allowed from this address"),
        ]
        assert len(receiver.instances()) == 1
        receiver.is_clean()


def test_of_a_foreign_peer_no_byte_is_read(tmp_path: Path) -> None:
    with receiving(tmp_path, "--allow", "SCANNER@10.0.0.0/8", "--allow", "*@127.0.0.9") as receiver:
        with connect(receiver.port) as connection:
            assert connection.recv(1) == b""
        wait_until(lambda: bool(receiver.events("association_refused")), "it is logged")
        assert {(e["address"], e["ae_title"], e["reason"]) for e in receiver.events("association_refused")} == {
            ("127.0.0.1", None, "address is not allowed")
        }


@pytest.mark.parametrize(
    ("entries", "ae_title", "address", "taken"),
    [
        ((), "ANY", "127.0.0.1", True),
        ((), "ANY", "::1", True),
        ((), "ANY", "10.0.0.1", False),
        (("A",), "A", "10.0.0.1", True),
        (("A",), "A ", "2001:db8::1", True),
        (("A",), "B", "127.0.0.1", False),
        (("A@10.0.0.7",), "A", "10.0.0.7", True),
        (("A@10.0.0.7",), "A", "::ffff:10.0.0.7", True),
        (("A@10.0.0.7",), "A", "10.0.0.8", False),
        (("A@10.0.0.0/24", "B@10.0.1.0/24"), "B", "10.0.0.8", False),
        (("A@10.0.0.0/24", "B@10.0.1.0/24"), "B", "10.0.1.8", True),
        (("*@fe80::/10",), "ANY", "fe80::1%eth0", True),
    ],
)
def test_the_allow_list(entries: tuple[str, ...], ae_title: str, address: str, taken: bool) -> None:
    allowed = AllowList(entries)
    assert allowed.takes(ae_title, address) is taken
    assert allowed.takes_address(address) or not taken


@pytest.mark.parametrize(
    "entry", ["", "*", "A@", "A@host", "A@10.0.0.0/33", "A@10.0.0.1/8", "A" * 17, "A\\B", "@10.0.0.1"]
)
def test_entries_that_are_wrong(entry: str) -> None:
    with pytest.raises(InputError, match="--allow "):
        AllowList([entry])


def test_wrong_options_end_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    for options, said in (
        (["--allow", "A@host"], "--allow A@host: 'host' is no address or network"),
        (["--bind", "192.0.2.999"], "cannot listen on 192.0.2.999, port 0: "),
        (["--ae-title", "A" * 17], "is no AE title: it must have 1 to 16 ASCII characters"),
        (["--tls-key", "key.pem"], "TLS needs our own certificate: give --tls-cert too"),
        (["--tls-cert", str(tmp_path / "no.pem")], "no.pem: no certificate with its unencrypted key"),
    ):
        assert run_command(cli, ["receive", str(tmp_path / "zone"), "--port", "0", *options], "marspipe") == 2
        assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverProcess]:
    """A receiver; nothing else writes into the folder above its own."""
    with receiving(tmp_path_factory.mktemp("refusals") / "receiver") as running:
        yield running
        assert running.stop() == 0
        running.is_clean()


def answer(receiver: ReceiverProcess, dataset: Dataset, change: Callable[[Dataset], None] | None = None) -> Dataset:
    """Send a data set by a request with its UIDs, which the data set itself may be changed to differ from."""
    association = associated(receiver.port, classes=[str(dataset.SOPClassUID), CTImageStorage])
    request = with_meta(dataset)
    if change is not None:
        original = association.dimse.send_msg

        def changed(primitive: Any, context_id: int) -> None:
            change(primitive)
            original(primitive, context_id)

        association.dimse.send_msg = changed
    status = association.send_c_store(request)
    association.release()
    assert isinstance(status, Dataset)
    return status


@pytest.mark.parametrize("uid", ["../../x", "/etc/marspipe", "..", "1..2", "1.2/3", "a.b"])
@pytest.mark.parametrize("where", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_what_is_no_uid_is_refused(receiver: ReceiverProcess, uid: str, where: str) -> None:
    before = sorted(receiver.folder.parent.rglob("*"))
    got = answer(receiver, _with_uid(instance(1), where, uid))
    assert (got.Status, got.ErrorComment) == (0x0117, "a UID is not valid")
    assert sorted(receiver.folder.parent.rglob("*")) == before


def _with_uid(dataset: Dataset, keyword: str, uid: str) -> Dataset:
    """Set a UID that pydicom would not let through."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    dataset[tag] = DataElement(tag, "UI", uid, validation_mode=config.IGNORE)
    return dataset


def test_uids_that_are_missing_or_too_long(receiver: ReceiverProcess) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        dataset = instance(1)
        delattr(dataset, keyword)
        assert answer(receiver, dataset).Status == 0xC000
        assert answer(receiver, _with_uid(instance(1), keyword, "")).Status == 0xC000
        assert answer(receiver, _with_uid(instance(1), keyword, "1" * 65)).Status == 0x0117
    assert not receiver.instances() and not receiver.parts()


def test_request_and_data_set_must_agree(receiver: ReceiverProcess) -> None:
    def other_instance(primitive: Any) -> None:
        primitive.AffectedSOPInstanceUID = UID("1.2.3.4")

    def other_class(primitive: Any) -> None:
        primitive.AffectedSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.4")

    got = answer(receiver, instance(1), other_instance)
    assert (got.Status, got.ErrorComment) == (0xA900, "SOP UIDs of request and data set differ")
    assert answer(receiver, instance(1), other_class).Status == 0x0122
    assert not receiver.instances() and not receiver.parts()


@pytest.mark.parametrize("kept", [1, 7, 100, -1, -4096])
def test_a_truncated_data_set_is_refused(receiver: ReceiverProcess, kept: int) -> None:
    def cut(primitive: Any) -> None:
        content = primitive.DataSet.getvalue()[:kept]
        primitive.DataSet.seek(0)
        primitive.DataSet.truncate()
        primitive.DataSet.write(content)

    assert answer(receiver, instance(1), cut).Status == 0xC000
    assert not receiver.instances() and not receiver.parts()


def test_a_zone_that_is_full_says_so_and_stays_clean(tmp_path: Path) -> None:
    with receiving(tmp_path, "--max-gib", str(20_000 / 2**30)) as receiver:
        datasets = [instance(number) for number in range(6)]  # of 4.4 kB
        association = associated(receiver.port)
        answers = [association.send_c_store(with_meta(one)) for one in datasets]
        assert [one.Status for one in answers] == [0, 0, 0, 0, 0xA700, 0xA700]
        assert answers[-1].ErrorComment == "the landing zone is full"
        association.release()
        # What is larger than all the room is dropped as it comes.
        assert send(receiver.port, [instance("7", rows=500, columns=1000)]) == [0xA700]
        assert sorted(map(data_set_of, receiver.instances().values())) == sorted(map(encoded, datasets[:4]))
        assert not receiver.parts()
        assert receiver.stop() == 0
        for counted in ("4 stored, 2 refused", "0 stored, 1 refused"):
            assert f"{SENDER_AE} at 127.0.0.1: {counted} with 0xA700 (the landing zone is full); " in receiver.said
        assert "stopped: 2 associations, 4 instances stored, 0 there already, 3 refused\n" in receiver.said
        receiver.is_clean()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Certificate]:
    """A CA, and a certificate of it for both sides."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = make_certificate(folder, "ca")
    return ca, make_certificate(folder, "one", ca)


def test_tls_with_certificates_of_both_sides(tmp_path: Path, certificates: tuple[Certificate, Certificate]) -> None:
    (ca, one), host = certificates, "127.0.0.1"
    options = ["--tls-cert", one.certificate, "--tls-key", one.key]
    options += ["--tls-ca", ca.certificate, "--timeout-s", "3"]
    with receiving(tmp_path, *options) as receiver:
        assert " with TLS" in receiver.said
        known = ssl.create_default_context(cafile=ca.certificate)
        known.load_cert_chain(one.certificate, one.key)
        # A peer that connects and says nothing does not hold up the others.
        with connect(receiver.port):
            assert send(receiver.port, [instance(1)], tls_args=(known, host)) == [0]
            large = instance("2", rows=500, columns=1000)
            assert send(receiver.port, [large], tls_args=(known, host)) == [0]
        stranger = ssl.create_default_context(cafile=ca.certificate)
        with pytest.raises((ssl.SSLError, ConnectionError)), connect(receiver.port) as plain:
            with stranger.wrap_socket(plain, server_hostname=host) as secured:
                secured.recv(1)
        with connect(receiver.port) as plain:
            plain.sendall(bytes(6))
            assert not read_pdu(plain)[:1] == b"\x02"
        assert send(receiver.port, [instance(3)], tls_args=(known, host)) == [0]
        wait_until(lambda: len(receiver.events("association_refused")) == 3, "the handshakes that failed are logged")
        assert {event["reason"] for event in receiver.events("association_refused")} == {"TLS handshake failed"}
        assert receiver.stop() == 0
        assert sorted(map(data_set_of, receiver.instances().values())) == sorted(
            map(encoded, (instance(1), large, instance(3)))
        )
        receiver.is_clean()


def test_our_name_may_be_another(tmp_path: Path) -> None:
    with receiving(tmp_path, "--ae-title", "LANDING") as receiver:
        assert "LANDING listens on 127.0.0.1" in receiver.said
        assert rejection(associated(receiver.port, called=OUR_AE)) == CALLED_UNKNOWN
        assert send(receiver.port, [instance(1)], called="LANDING") == [0]
