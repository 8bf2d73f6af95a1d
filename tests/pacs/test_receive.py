"""``marspipe receive`` with real senders: what they send lies in the zone, bit for bit, and nothing else."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RawDataStorage,
    RLELossless,
)
from pynetdicom import evt

from tests.pacs.receive_senders import (
    SERIES,
    STUDY,
    ReceiverProcess,
    associated,
    connect,
    conversation,
    data_set_of,
    encoded,
    instance,
    pynetdicom_sender,
    read,
    read_pdu,
    receiving,
    send,
    storescu,
    with_meta,
    write,
)
from tests.pacs.servers import listens, wait_until

EACH = 40
PRIVATE_CLASS = "1.3.6.1.4.1.99999.1.1"


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverProcess]:
    with receiving(tmp_path_factory.mktemp("receiver")) as running:
        yield running
        assert running.stop() == 0
        running.is_clean()


def name(sender: int, number: int | str) -> str:
    return f"{STUDY}/{SERIES}.{sender}/{SERIES}.{sender}.{number}.dcm"


def test_eight_senders_at_once_lose_nothing(tmp_path: Path) -> None:
    with receiving(tmp_path / "receiver") as receiver, ExitStack() as senders:
        sent = {sender: [instance(number, sender=sender) for number in range(EACH)] for sender in range(8)}
        processes = []
        for sender, datasets in sent.items():
            folder = tmp_path / f"sender-{sender}"
            for number, dataset in enumerate(datasets):
                write(folder / f"{number}.dcm", dataset)
            process = (storescu if sender % 2 else pynetdicom_sender)(receiver.port, folder)
            processes.append(senders.enter_context(process))
            senders.callback(process.kill)
        for process in processes:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, output
        assert receiver.stop() == 0
        stored = receiver.instances()
        assert {key: data_set_of(content) for key, content in stored.items()} == {
            name(sender, number): encoded(dataset)
            for sender, datasets in sent.items()
            for number, dataset in enumerate(datasets)
        }
        assert not receiver.parts()
        assert len(receiver.events("association_finished")) == 8
        assert receiver.events("receiver_stopped")[0]["stored"] == 8 * EACH
        assert f"stopped: 8 associations, {8 * EACH} instances stored, 0 there already, 0 refused" in receiver.said
        receiver.is_clean()


def test_a_stored_file_is_a_dicom_file(receiver: ReceiverProcess) -> None:
    assert send(receiver.port, [instance(1, sender=10)]) == [0]
    dataset = read(receiver.instances()[name(10, 1)])
    assert dataset == instance(1, sender=10)
    meta = dataset.file_meta
    assert meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert meta.MediaStorageSOPClassUID == dataset.SOPClassUID
    assert meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert meta.ImplementationVersionName.startswith("MARSPIPE ")


def test_one_line_for_each_association(receiver: ReceiverProcess) -> None:
    def finished() -> list[dict[str, Any]]:
        return [event for event in receiver.events("association_finished") if event["ae_title"] == "LINE"]

    assert send(receiver.port, [instance(n, sender=11) for n in range(3)], calling="LINE") == [0, 0, 0]
    wait_until(lambda: len(finished()) == 1, "the first association is told of")
    assert send(receiver.port, [instance(0, sender=11)], calling="LINE") == [0]
    wait_until(lambda: len(finished()) == 2, "the second association is told of")
    assert receiver.said.count("LINE at") == 2
    assert "LINE at 127.0.0.1: 3 stored; 0.0 MB in " in receiver.said
    assert "LINE at 127.0.0.1: 0 stored, 1 there already; 0.0 MB in " in receiver.said
    first, again = finished()
    assert (first["stored"], first["kept"], first["refused"], first["end"]) == (3, 0, [], "released")
    assert (again["stored"], again["kept"]) == (0, 1)


def test_the_first_instance_stays_and_another_is_refused(receiver: ReceiverProcess) -> None:
    first, other = instance(1, sender=12), instance(1, sender=12)
    other.Rows = 2
    association = associated(receiver.port)
    assert [association.send_c_store(with_meta(one)).Status for one in (first, first)] == [0, 0]
    answer = association.send_c_store(with_meta(other))
    assert (answer.Status, answer.ErrorComment) == (0xA900, "another data set has this SOP instance UID")
    association.release()
    assert data_set_of(receiver.instances()[name(12, 1)]) == encoded(first)


def test_echo(receiver: ReceiverProcess) -> None:
    association = associated(receiver.port, classes=["1.2.840.10008.1.1"])
    assert association.send_c_echo().Status == 0
    association.release()


def test_private_classes_are_stored(receiver: ReceiverProcess) -> None:
    dataset = instance(1, sender=13, sop_class=PRIVATE_CLASS)
    assert send(receiver.port, [dataset]) == [0]
    assert data_set_of(receiver.instances()[name(13, 1)]) == encoded(dataset)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEG2000Lossless])
def test_transfer_syntaxes(receiver: ReceiverProcess, tmp_path: Path, syntax: str) -> None:
    number = int(syntax.replace(".", "")[-6:])
    dataset = instance(number, sender=14, columns=16)
    if pydicom.uid.UID(syntax).is_compressed:
        # Not decoded here; two fragments and an offset table, the first of a length that is no multiple of 4.
        dataset["PixelData"].VR = "OB"
        dataset.PixelData = pydicom.encaps.encapsulate([b"frame." * 7, b"another frame."])
    path = write(tmp_path / "one.dcm", dataset, syntax)
    association = associated(receiver.port, syntaxes=[syntax])
    assert association.send_c_store(path).Status == 0
    association.release()
    stored = receiver.instances()[name(14, number)]
    assert read(stored).file_meta.TransferSyntaxUID == syntax
    assert read(stored).PixelData == dataset.PixelData


def test_what_is_not_taken_is_not_negotiated(receiver: ReceiverProcess) -> None:
    find, deflated, jpip = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.94"
    association = associated(receiver.port, classes=[find, CTImageStorage])
    assert [str(context.abstract_syntax) for context in association.accepted_contexts] == [CTImageStorage]
    association.release()
    association = associated(receiver.port, syntaxes=[deflated, jpip])
    assert not association.accepted_contexts
    assert [str(context.abstract_syntax) for context in association.rejected_contexts] == [RawDataStorage]


def test_a_large_instance_takes_no_memory(receiver: ReceiverProcess) -> None:
    """64 MiB in frames: the receiver holds a few PDUs of it."""
    send(receiver.port, [instance(0, sender=15)])
    dataset = instance(1, sender=15, columns=2)
    dataset.NumberOfFrames, dataset.PixelData = 512, bytes(range(256)) * (1 << 18)
    before = receiver.peak_begins()
    assert send(receiver.port, [dataset]) == [0]
    assert receiver.memory_bytes("VmHWM") - before < 24 << 20
    path = receiver.zone / name(15, 1)
    assert path.stat().st_size > 1 << 26 and data_set_of(path.read_bytes()) == encoded(dataset)
    path.unlink()


def test_more_associations_than_allowed_are_told_to_come_back(tmp_path: Path) -> None:
    with receiving(tmp_path, "--max-associations", "2") as receiver:
        first, second = associated(receiver.port), associated(receiver.port)
        assert first.is_established and second.is_established
        third = associated(receiver.port)
        assert third.is_rejected
        answer = third.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        first.release()
        wait_until(lambda: len(receiver.events("association_finished")) == 1, "the first one is over")
        again = associated(receiver.port)
        assert again.is_established and again.send_c_store(with_meta(instance(1))).Status == 0
        for association in (second, again):
            association.release()
        wait_until(lambda: bool(receiver.events("association_refused")), "the refusal is logged")
        assert [event["reason"] for event in receiver.events("association_refused")] == ["too many associations"]


def test_a_signal_in_the_middle_leaves_no_part(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        pdus = conversation(receiver.port, instance(1, rows=200, columns=1000))
        assert len(receiver.instances()) == 1
        next(iter(receiver.zone.rglob("*.dcm"))).unlink()
        with connect(receiver.port) as half:
            half.sendall(pdus[0])
            assert read_pdu(half)[0] == 2  # accepted
            half.sendall(b"".join(pdus[1:-2]) + pdus[-2][: len(pdus[-2]) // 2])
            wait_until(lambda: bool(receiver.parts()), "a part is there")
            assert receiver.stop(signal.SIGTERM) == 0
        assert not receiver.parts() and not receiver.instances()
        assert [event["end"] for event in receiver.events("association_finished")] == ["released", "stopped"]
        receiver.is_clean()


def test_an_association_that_is_at_work_may_end_after_the_signal(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        aborted: list[Any] = []
        association = associated(receiver.port, handlers=[(evt.EVT_ABORTED, aborted.append)])
        assert association.send_c_store(with_meta(instance(1))).Status == 0
        receiver.process.send_signal(signal.SIGINT)
        wait_until(lambda: not listens(receiver.port), "the receiver takes nobody new")
        assert association.send_c_store(with_meta(instance(2))).Status == 0
        association.release()
        assert receiver.process.wait(30.0) == 0 and not aborted
        assert len(receiver.instances()) == 2
