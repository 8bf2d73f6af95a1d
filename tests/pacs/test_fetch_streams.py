"""Instances that are fetched go to the disk as they come: of any size, over slow lines, and whole or not at all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, EnhancedCTImageStorage, ExplicitVRLittleEndian, RawDataStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelGet,
)

from marspipe.dicom.pacs.client import PeerUnavailableError, Received, RemoteSeries
from marspipe.dicom.pacs.connect import connect
from marspipe.dicom.pacs.only_part import only_part
from marspipe.dicom.pacs.peer import parse_peer
from marspipe.errors import RunError
from marspipe.pipeline.pacs.folder import instances_in
from marspipe.show.progress import Progress
from marspipe.store.landing import FullError, LandingZone
from tests.pacs.receive_senders import SERIES, STUDY, instance, with_meta, write
from tests.pacs.servers import Orthanc, free_ports, orthanc
from tests.pacs.slow_link import slow_link
from tests.pacs.web_peer import Answer, web_peer

DESTINATION = "MARSFETCH"
LARGE_BYTES, MIDDLE_BYTES, SMALL_BYTES = 200 << 20, 6 << 20, 1 << 10
SIZES = {"2.25.31": LARGE_BYTES, "2.25.32": MIDDLE_BYTES, "2.25.33": SMALL_BYTES}
LARGE, MIDDLE, SMALL = (RemoteSeries("2.25.2", uid) for uid in SIZES)

every_way = pytest.mark.parametrize("way", ["get", "move", "web"])

GROWTH = """
import sys
from marspipe.dicom.pacs.peer import parse_peer
from marspipe.pipeline.pacs.fetch import Query, fetch
from marspipe.pipeline.pacs.patience import Patience
from marspipe.show.progress import Progress

def kib(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

url, zone, small, large, title, port = sys.argv[1:]
to = (title, int(port)) if title else None

def fetched(uid):
    query = Query(series_uid=uid)
    (done,) = fetch(parse_peer(url), query, zone, progress=Progress(), patience=Patience(retries=0), move_to=to)
    assert done.n_fetched == 1

fetched(small)  # imports, and whatever is made once
before = kib("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
fetched(large)
print(1024 * (kib("VmHWM") - before))
"""


def write_instance(folder: Path, series_uid: str, n_bytes: int) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = EnhancedCTImageStorage, UID(f"{series_uid}.1")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.2", series_uid
    dataset.add_new("PixelData", "OW", bytes(range(256)) * (n_bytes // 256))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    folder.mkdir(exist_ok=True)
    dataset.save_as(folder / f"{series_uid}.dcm", enforce_file_format=True)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("sources")
    for uid, n_bytes in SIZES.items():
        write_instance(folder, uid, n_bytes)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def move_port() -> int:
    (port,) = free_ports(1)
    return port


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory, sources: Path, move_port: int) -> Iterator[Orthanc]:
    """An Orthanc that holds an instance of each size."""
    folder = tmp_path_factory.mktemp("holder")
    with orthanc(folder) as server:
        with connect(parse_peer(server.dicom_url)) as client:
            client.send(instances_in(str(sources), Progress()), lambda *_: None, lanes=1)
        assert server.n_instances == len(SIZES)
        server.put("/modalities/us", {"AET": DESTINATION, "Host": "127.0.0.1", "Port": move_port})
        yield server
    shutil.rmtree(folder)


def url_of(server: Orthanc, way: str) -> str:
    return server.web_url if way == "web" else server.dicom_url


@contextmanager
def zone_of(folder: Path, **bounds: Any) -> Iterator[LandingZone]:
    """A landing zone in which nothing is left at the end that is not in place."""
    with LandingZone(str(folder), min_free_bytes=0, **bounds) as zone:
        yield zone
        assert not list(folder.rglob("*.part"))
        assert zone.used_bytes == sum(path.stat().st_size for path in folder.rglob("*.dcm"))
    shutil.rmtree(folder)


def retrieved(url: str, series: RemoteSeries, zone: LandingZone, *, timeout_s: float = 20.0, port: int | None = None,
              wanted: Sequence[str] = (), lanes: int = 2) -> list[Received]:  # fmt: skip
    """Return what came of a series."""
    came: list[Received] = []
    classes = dict.fromkeys(wanted or [f"{series.series_uid}.1"], str(EnhancedCTImageStorage))
    move = {} if port is None else {"move_to": DESTINATION, "listen": port}
    with connect(parse_peer(url, timeout_s=timeout_s), **move) as client:  # type: ignore[arg-type]
        client.retrieve(series, classes, zone.arrive, came.append, lanes=lanes)
    return came


def data_set_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


@every_way
def test_memory_does_not_grow_with_the_instance(
    way: str, holder: Orthanc, move_port: int, sources: Path, tmp_path: Path
) -> None:
    to = [DESTINATION, str(move_port)] if way == "move" else ["", "0"]
    zone, uids = tmp_path / "zone", [SMALL.series_uid, LARGE.series_uid]
    command = [sys.executable, "-c", GROWTH, url_of(holder, way), str(zone), *uids, *to]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = zone.rglob(f"{LARGE.series_uid}.1.dcm")
    assert data_set_of(path) == data_set_of(sources / f"{LARGE.series_uid}.dcm")
    shutil.rmtree(zone)
    assert int(done.stdout) < 64 << 20


def test_wado_rs_gives_the_bytes_that_the_pacs_holds(holder: Orthanc, tmp_path: Path) -> None:
    small = [one for one in holder.get("/instances") if int(holder.get(f"/instances/{one}")["FileSize"]) < 9000]
    held = {holder.file(one) for one in small}
    with zone_of(tmp_path / "zone") as zone:
        retrieved(holder.web_url, SMALL, zone)
        assert {path.read_bytes() for path in (tmp_path / "zone").rglob("*.dcm")} == held


@pytest.mark.parametrize("way", ["get", "web"])
def test_a_slow_line_is_no_silence(way: str, holder: Orthanc, tmp_path: Path) -> None:
    """An instance takes twice as long as the PACS may be silent."""
    port = holder.http_port if way == "web" else holder.dicom_port
    with slow_link(port, bytes_per_s=MIDDLE_BYTES / 4) as through, zone_of(tmp_path / "zone") as zone:
        url = url_of(holder, way).replace(f":{port}", f":{through}")
        assert len(retrieved(url, MIDDLE, zone, timeout_s=2.0)) == 1


@pytest.mark.parametrize("way", ["get", "web"])
def test_a_line_that_is_cut_in_the_middle_leaves_nothing(way: str, holder: Orthanc, tmp_path: Path) -> None:
    port = holder.http_port if way == "web" else holder.dicom_port
    with slow_link(port, cut_after=MIDDLE_BYTES // 2) as through, zone_of(tmp_path / "zone") as zone:
        with pytest.raises(PeerUnavailableError, match="broke off"):
            retrieved(url_of(holder, way).replace(f":{port}", f":{through}"), MIDDLE, zone)
        assert zone.used_bytes == 0


@every_way
def test_what_is_beyond_the_bound_is_dropped_as_it_comes(
    way: str, holder: Orthanc, move_port: int, tmp_path: Path
) -> None:
    with zone_of(tmp_path / "zone", max_bytes=MIDDLE_BYTES // 2) as zone:
        with pytest.raises(FullError, match="is full"):
            retrieved(url_of(holder, way), MIDDLE, zone, port=move_port if way == "move" else None)
        assert zone.used_bytes == 0


# --- what is no instance of the series -------------------------------------------------------------------------------


@contextmanager
def giving(datasets: Sequence[Dataset]) -> Iterator[str]:
    """Run a C-GET SCP that sends what it is given, whatever it is asked for."""

    def get(event: Any) -> Iterator[Any]:
        del event
        yield len(datasets)
        for one in datasets:
            yield 0xFF00, with_meta(one)

    entity = AE(ae_title="PACS")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelGet, ExplicitVRLittleEndian)
    for abstract in (RawDataStorage, SecondaryCaptureImageStorage, EnhancedCTImageStorage):
        entity.add_supported_context(abstract, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_GET, get)])
    try:
        yield f"dicom://PACS@127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        entity.shutdown()


def without_series() -> Dataset:
    dataset = instance(1, sop_class=EnhancedCTImageStorage)
    del dataset.SeriesInstanceUID
    return dataset


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (without_series(), "an instance of series .* SeriesInstanceUID is missing"),
        (instance(1, sender=1, sop_class=EnhancedCTImageStorage), "the PACS sent an instance of another one"),
    ],
)
def test_by_c_get_it_is_a_failure_of_the_run(broken: Dataset, said: str, tmp_path: Path) -> None:
    series = RemoteSeries(STUDY, str(instance(1).SeriesInstanceUID))
    with giving([broken]) as url, zone_of(tmp_path / "zone") as zone:
        with pytest.raises(RunError, match=said) as caught:
            retrieved(url, series, zone)
        assert caught.value.exit_code == 3


def test_a_list_of_what_could_not_be_sent_does_not_break_the_association(tmp_path: Path) -> None:
    """The last answer to C-GET has a data set then, which is no instance."""
    sound = instance(1, sop_class=EnhancedCTImageStorage)
    of_a_class_not_asked_for = instance(2, sop_class=SecondaryCaptureImageStorage)
    series = RemoteSeries(STUDY, str(sound.SeriesInstanceUID))
    with giving([sound, of_a_class_not_asked_for]) as url, zone_of(tmp_path / "zone") as zone:
        came = retrieved(url, series, zone)
        assert [one.sop_uid for one in came] == [sound.SOPInstanceUID]


PART = b"Content-Type: application/dicom\r\n\r\n"
RELATED = 'multipart/related; type="application/dicom"; boundary='


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("text/html", b"<html>Please log in</html>", "is not multipart/related"),
        ("application/dicom", b"no instance", "not a DICOM file, or a damaged one"),
        ("multipart/related", b"--b\r\n" + PART + b"x\r\n--b--", "is not multipart/related"),
        (f"{RELATED}b", b"--b\r\nContent-Type: text/html\r\n\r\nx\r\n--b--", "is no part of type application/dicom"),
        (f"{RELATED}b", b"--b\r\n" + PART + b"x\r\n--b\r\n" + PART + b"x\r\n--b--", "has more than one part"),
        (f"{RELATED}b", b"x" * (1 << 20), "does not begin with a part"),
        (f"{RELATED}b", b"--b\r\n" + b"x" * (1 << 20), "does not begin with a part"),
        (f"{RELATED}b", b"--b\r\n" + PART + b"x\r\n--b--" + b"x" * (1 << 20), "goes on after its end"),
        (f"{RELATED}b", b"--b\r\n" + PART + b"no instance\r\n--b--", "not a DICOM file, or a damaged one"),
    ],
)
def test_by_wado_rs_it_is_a_failure_of_the_run(kind: str, content: bytes, said: str, tmp_path: Path) -> None:
    answer = Answer(200, content, {"Content-Type": kind})
    with web_peer(lambda *_: answer) as peer, zone_of(tmp_path / "zone") as zone:
        with pytest.raises(RunError, match=said) as caught:
            retrieved(peer.url, SMALL, zone)
        assert caught.value.exit_code == 3
        assert not isinstance(caught.value, PeerUnavailableError)


def test_an_answer_that_ends_too_early_is_tried_again(tmp_path: Path) -> None:
    for content in (b"", b"--b\r\nContent-", b"--b\r\n" + PART + b"x", b"--b\r\n" + PART + b"x\r\n--b", PART):
        answer = Answer(200, content, {"Content-Type": f"{RELATED}b"})
        with web_peer(lambda *_, given=answer: given) as peer, zone_of(tmp_path / "zone") as zone:
            with pytest.raises(PeerUnavailableError, match="the answer broke off"):
                retrieved(peer.url, SMALL, zone)


def test_connections_are_used_again(tmp_path: Path) -> None:
    """What follows the part is read too, though it says nothing."""
    datasets = [instance(number) for number in range(3)]
    held = {str(one.SOPInstanceUID): write(tmp_path / "held.dcm", one).read_bytes() for one in datasets}
    connections: set[int] = set()

    def answer(method: str, path: str, body: bytes) -> Answer:
        del method, body
        connections.update(peer.open)
        content = b"--b\r\n" + PART + held[path.rpartition("/")[2]] + b"\r\n--b--\r\n"
        return Answer(200, content, {"Content-Type": f"{RELATED}b"})

    with web_peer(answer) as peer, zone_of(tmp_path / "zone") as zone:
        came = retrieved(peer.url, RemoteSeries(STUDY, f"{SERIES}.0"), zone, wanted=list(held), lanes=1)
        assert [one.sop_uid for one in came] == list(held)
        assert {path.read_bytes() for path in (tmp_path / "zone").rglob("*.dcm")} == set(held.values())
    assert len(connections) == 1


@pytest.mark.parametrize("kind", ["application/dicom", "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"])
def test_an_instance_without_parts_about_it_is_taken(kind: str, tmp_path: Path) -> None:
    held = write(tmp_path / "held.dcm", instance(0)).read_bytes()
    answer = Answer(200, held, {"Content-Type": kind})
    with web_peer(lambda *_: answer) as peer, zone_of(tmp_path / "zone") as zone:
        (came,) = retrieved(peer.url, RemoteSeries(STUDY, f"{SERIES}.0"), zone)
        (path,) = (tmp_path / "zone").rglob("*.dcm")
        assert (path.stem, path.read_bytes()) == (came.sop_uid, held)


def pieces(content: bytes, size: int) -> list[bytes]:
    return [content[i : i + size] for i in range(0, len(content), size)]


@pytest.mark.parametrize(
    "content",
    [b"", b"\r\n", b"--", b"\r\n--limi\r\n--limi\r\n--x", b"\r\n\r\n--\r\n-limit", bytes(range(256)), b"\r\n--limi"],
)
@pytest.mark.parametrize("before", [b"", b"\r\n", b"to be passed over\r\n"])
@pytest.mark.parametrize("line", [b"\r\n", b" \t\r\n"])
def test_a_part_however_it_comes(content: bytes, before: bytes, line: bytes) -> None:
    header = b"Content-Location: x\r\nContent-type: Application/DICOM; transfer-syntax=1.2\r\n\r\n"
    message = before + b"--limit" + line + header + content + b"\r\n--limit--\r\nto be passed over"
    kind = 'Multipart/Related; boundary="limit"; type="application/dicom"'
    for size in range(1, len(message) + 1):
        assert b"".join(only_part(kind, pieces(message, size), "PACS")) == content
