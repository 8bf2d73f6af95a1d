"""How instances leave: in pieces, in lanes, over connections that break or are few."""

from __future__ import annotations

import queue
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
import requests
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, EnhancedCTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from marspipe.dicom.pacs.association import Associations
from marspipe.dicom.pacs.client import Outgoing, PeerUnavailableError, Result
from marspipe.dicom.pacs.connect import connect
from marspipe.dicom.pacs.header import read_facts, read_order
from marspipe.dicom.pacs.lanes import work_in_lanes
from marspipe.dicom.pacs.multipart import InstancesBody
from marspipe.dicom.pacs.peer import parse_peer
from marspipe.dicom.pacs.statuses import result_of
from marspipe.errors import InputError, RunError
from marspipe.pipeline.pacs.folder import instances_in
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import publish
from marspipe.show.progress import Progress
from tests.pacs.conftest import N_INSTANCES
from tests.pacs.servers import Orthanc, storescp

LARGE_BYTES = 64 << 20


@pytest.fixture
def large(tmp_path: Path) -> Outgoing:
    """An instance of 64 MiB that does not compress."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = EnhancedCTImageStorage, UID("2.25.1")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.2", "2.25.3"
    dataset.add_new("PixelData", "OW", bytes(range(256)) * (LARGE_BYTES // 256))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
        dataset.SOPClassUID,
        dataset.SOPInstanceUID,
    )
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = tmp_path / "large.dcm"
    dataset.save_as(path, enforce_file_format=True)
    with path.open("rb") as file:
        facts = read_facts(file, str(path))
    return Outgoing(facts, str(path), path.stat().st_size, lambda: path.open("rb"), path)


@pytest.mark.parametrize("way", ["path", "copied", "web"])
def test_a_large_instance_is_never_in_memory(way: str, large: Outgoing, pacs: Orthanc, tmp_path: Path) -> None:
    """It leaves in pieces; what lies elsewhere than on the local disk is copied there first, in pieces too."""
    instance = replace(large, path=None) if way == "copied" else large
    results: list[Result] = []
    with storescp(tmp_path / "received") as server:
        peer = parse_peer(pacs.web_url if way == "web" else server.url)
        with connect(peer) as client:
            client.echo()
            tracemalloc.start()
            try:
                client.send([instance], lambda one, result: results.append(result), lanes=1)
                peak_bytes = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        (there,) = pacs.held().values() if way == "web" else map(pydicom.dcmread, server.files)
        assert there.PixelData == bytes(range(256)) * (LARGE_BYTES // 256)
    assert results == [Result("stored")]
    assert peak_bytes < LARGE_BYTES // 4


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_peer_of_one_association_at_a_time(
    lanes: int, dicom_folder: Path, tmp_path: Path, progress: Progress, never: Patience
) -> None:
    with storescp(tmp_path / "received", fork=False) as server:
        peer = parse_peer(server.url)
        done = publish(str(dicom_folder), peer, progress=progress, patience=never, associations=lanes)
        assert (done.error, done.sent) == (None, N_INSTANCES)
        assert len(server.files) == N_INSTANCES


def test_a_peer_that_turns_associations_away(dicom_folder: Path, progress: Progress) -> None:
    """The association that it takes does the work of those that it rejects; with none it is asked again."""
    patience = Patience(retries=50, first_s=0.02, longest_s=0.2)
    entity = AE(ae_title="NARROW")
    entity.maximum_associations = 1
    for abstract in (CTImageStorage, Verification):
        entity.add_supported_context(abstract, [ExplicitVRLittleEndian])
    taken: list[str] = []
    rejected = threading.Event()

    def take(event: evt.Event) -> int:
        if not taken:
            rejected.wait(20.0)
        taken.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    handlers = [(evt.EVT_C_STORE, take), (evt.EVT_REJECTED, lambda event: rejected.set())]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        peer = parse_peer(f"dicom://NARROW@127.0.0.1:{server.server_address[1]}")
        done = publish(str(dicom_folder), peer, progress=progress, patience=patience, commit="no")
    finally:
        server.shutdown()
        entity.shutdown()
    assert rejected.is_set()
    assert (done.error, done.sent) == (None, N_INSTANCES)
    assert len(taken) == len(set(taken)) == N_INSTANCES


def test_body_has_a_length_and_all_parts(dicom_folder: Path, progress: Progress) -> None:
    instances = instances_in(str(dicom_folder / "bin-00"), progress)
    with InstancesBody(instances) as body:
        request = requests.Request("POST", "http://pacs.example", data=body).prepare()
        assert request.headers["Content-Length"] == str(body.len)
        assert "Transfer-Encoding" not in request.headers
        content = body.read()
    assert len(content) == body.len
    boundary = body.content_type.partition("boundary=")[2].encode()
    parts = content.split(b"--" + boundary)
    assert len(parts) == len(instances) + 2
    for part, instance in zip(parts[1:-1], instances, strict=True):
        head, _, file = part.partition(b"\r\n\r\n")
        assert head == b"\r\nContent-Type: application/dicom"
        assert file.removesuffix(b"\r\n") == Path(instance.name).read_bytes()
    assert parts[-1] == b"--\r\n"


@pytest.mark.parametrize("fault", ["gone", "shorter"])
def test_a_file_that_changes_meanwhile_is_named(
    fault: str, pacs: Orthanc, dicom_folder: Path, tmp_path: Path, progress: Progress
) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(next(dicom_folder.rglob("*.dcm")).read_bytes())
    (instance,) = instances_in(str(tmp_path), progress)
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10])
    urls = [pacs.web_url] if fault == "shorter" else [pacs.web_url, pacs.dicom_url]
    for url in urls:
        with connect(parse_peer(url)) as client, pytest.raises(RunError, match=r"one\.dcm: .*(cannot be read|shorter)"):
            client.send([instance], lambda one, result: None, lanes=1)
    assert pacs.n_instances == 0


def test_lanes_share_the_work() -> None:
    together = threading.Barrier(3)
    done: list[int] = []

    def work(mine: Iterator[int]) -> None:
        for number in mine:
            if number < 3:
                together.wait(10.0)
            done.append(number)

    work_in_lanes(range(20), 3, work)
    assert sorted(done) == list(range(20))


def test_a_lane_that_is_turned_away_does_not_stop_the_others() -> None:
    first = threading.Lock()
    done: list[int] = []

    def work(mine: Iterator[int]) -> None:
        if first.acquire(blocking=False):
            raise PeerUnavailableError("full")
        done.extend(mine)

    work_in_lanes(range(10), 2, work)
    assert sorted(done) == list(range(10))


def test_what_is_left_over_is_an_error() -> None:
    def work(mine: Iterator[int]) -> None:
        for number in mine:
            if number == 3:
                raise PeerUnavailableError("broken")

    with pytest.raises(PeerUnavailableError, match="broken"):
        work_in_lanes(range(10), 1, work)


def test_any_other_error_ends_all_lanes() -> None:
    done: list[int] = []

    def work(mine: Iterator[int]) -> None:
        for number in mine:
            if number == 3:
                raise ValueError("wrong")
            if number > 3:
                time.sleep(0.01)  # so that the other lane is not through before it can be told
            done.append(number)

    with pytest.raises(ValueError, match="wrong"):
        work_in_lanes(range(200), 2, work)
    assert len(done) < 199


@pytest.mark.parametrize(
    ("status", "fate", "words"),
    [
        (0x0000, "stored", ""),
        (0xB000, "stored", ""),
        (0xB007, "stored", ""),
        (0x0111, "stored", ""),
        (0xA700, "busy", "out of resources"),
        (0xA7FF, "busy", "out of resources"),
        (0x0110, "busy", "processing failure"),
        (0xA900, "refused", "does not match its SOP class"),
        (0xC123, "refused", "cannot be processed"),
        (0x0124, "refused", "not authorized"),
        (0x0122, "refused", "SOP class not supported"),
        (0x9999, "refused", "0x9999"),
    ],
)
def test_statuses(status: int, fate: str, words: str) -> None:
    result = result_of(status)
    assert result.fate == fate
    assert words in result.reason


def test_headers_are_read_without_pixels(large: Outgoing) -> None:
    class Counting:
        def __init__(self) -> None:
            self.file = large.open()
            self.n_bytes = 0

        def read(self, size: int = -1) -> bytes:
            data = self.file.read(size)
            self.n_bytes += len(data)
            return data

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    counting = Counting()
    assert read_facts(counting, large.name) == large.facts  # type: ignore[arg-type]
    assert counting.n_bytes < 4096
    counting.file.close()
    with large.open() as file:
        assert read_order(file, large.name) == (0, 1)


def test_two_uids_of_a_file_must_agree(dicom_folder: Path, tmp_path: Path, progress: Progress) -> None:
    dataset = pydicom.dcmread(next(dicom_folder.rglob("*.dcm")))
    dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.9"
    dataset.save_as(tmp_path / "two.dcm")
    with pytest.raises(InputError, match=r"two\.dcm: MediaStorageSOPInstanceUID .* SOPInstanceUID .* differ"):
        instances_in(str(tmp_path), progress)


class HastyCheckpoint(threading.Event):
    """The reactor passes it just before a request is sent, and comes to the answers as soon as one is there."""

    def __init__(self, answers: queue.Queue[object]) -> None:
        super().__init__()
        self.set()
        self._answers = answers

    def wait(self, timeout: float | None = None) -> bool:
        passed = super().wait(timeout)
        deadline = time.monotonic() + 0.05
        while not self._answers.queue and time.monotonic() < deadline:
            pass
        return passed


def test_no_answer_is_lost_to_the_reactor(tmp_path: Path) -> None:
    with storescp(tmp_path / "received") as server:
        associations = Associations(parse_peer(server.url, timeout_s=3.0))
        with associations.open([(str(Verification), [str(ExplicitVRLittleEndian)])]) as association:
            association._reactor_checkpoint = HastyCheckpoint(association.dimse.msg_queue)
            for _ in range(100):
                assert association.send_c_echo().get("Status") == 0x0000
