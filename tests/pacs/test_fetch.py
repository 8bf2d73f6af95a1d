"""Series fetched from an Orthanc into a landing zone: complete, pixel-equal, gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from marspipe.dicom.pacs.client import PeerRefusedError
from marspipe.dicom.pacs.peer import Peer, parse_peer
from marspipe.errors import InputError, RunError
from marspipe.pipeline.pacs.fetch import FetchedSeries, Query, fetch
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import publish
from marspipe.readers.series import read_series
from marspipe.show.progress import Progress
from marspipe.store.landing import FullError
from tests.pacs.at_instance import AtInstance
from tests.pacs.conftest import BINS, N_INSTANCES, SLICES, write_series
from tests.pacs.servers import ORTHANC_AE, Orthanc, free_ports, orthanc, storescp

DESTINATION = "MARSFETCH"


@pytest.fixture
def filled(pacs: Orthanc, dicom_folder: Path, progress: Progress, never: Patience) -> Orthanc:
    """An Orthanc that holds the four series."""
    done = publish(str(dicom_folder), parse_peer(pacs.dicom_url), progress=progress, patience=never)
    assert (done.error, done.sent, pacs.n_instances) == (None, N_INSTANCES, N_INSTANCES)
    return pacs


@pytest.fixture
def one(dicom_folder: Path) -> pydicom.Dataset:
    """The first slice of the second bin."""
    return pydicom.dcmread(dicom_folder / "bin-01" / "slice-0000.dcm")


@pytest.fixture
def move_port(pacs: Orthanc) -> Iterator[int]:
    """A port on which Orthanc knows us as a destination of C-MOVE."""
    (port,) = free_ports(1)
    pacs.put("/modalities/us", {"AET": DESTINATION, "Host": "127.0.0.1", "Port": port})
    yield port
    pacs.delete("/modalities/us")


def require_equal(fetched: list[FetchedSeries], source: Path) -> None:
    """Compare all that was fetched with the files it came from."""
    own = {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, source.rglob("*.dcm"))}
    for series in fetched:
        files = sorted(Path(series.uri).glob("*.dcm"))
        assert len(files) == series.n_instances
        for path in files:
            there = pydicom.dcmread(path)
            assert path.stem == there.SOPInstanceUID
            assert there == own[path.stem]
            assert there.PixelData == own[path.stem].PixelData
            assert there.file_meta.TransferSyntaxUID == own[path.stem].file_meta.TransferSyntaxUID


@pytest.mark.parametrize("way", ["get", "move", "web"])
def test_a_study(
    way: str, filled: Orthanc, move_port: int, one: pydicom.Dataset, dicom_folder: Path, tmp_path: Path, never: Patience
) -> None:
    peer = parse_peer(filled.web_url if way == "web" else filled.dicom_url)
    move_to = (DESTINATION, move_port) if way == "move" else None

    def fetched() -> list[FetchedSeries]:
        query = Query(study_uid=one.StudyInstanceUID)
        return fetch(peer, query, str(tmp_path / "zone"), progress=Progress(), patience=never, move_to=move_to)

    done = fetched()
    assert [(s.n_instances, s.n_fetched) for s in done] == [(SLICES, SLICES)] * len(BINS)
    assert {s.series.modality for s in done} == {"CT"}
    require_equal(done, dicom_folder)
    assert len(list((tmp_path / "zone").rglob("*.dcm"))) == N_INSTANCES
    # Again: nothing is fetched that is there, what was removed comes back.
    next(Path(done[2].uri).glob("*.dcm")).unlink()
    again = fetched()
    assert [s.n_fetched for s in again] == [0, 0, 1, 0]
    require_equal(again, dicom_folder)


@pytest.mark.parametrize(
    "query",
    [
        Query(patient_id="stone-7", modality="CT"),
        Query(patient_id="stone-7"),
    ],
)
def test_a_patient(
    query: Query, filled: Orthanc, url_of: Callable[[Orthanc], str], tmp_path: Path, progress: Progress, never: Patience
) -> None:
    other = write_series(tmp_path / "other", slices=2, scan_id="stone-8")
    sent = publish(str(other), parse_peer(filled.dicom_url), progress=progress, patience=never)
    assert (sent.error, sent.sent, filled.n_instances) == (None, 2 * len(BINS), N_INSTANCES + 2 * len(BINS))
    done = fetch(parse_peer(url_of(filled)), query, str(tmp_path / "zone"), progress=progress, patience=never)
    assert [series.n_instances for series in done] == [SLICES] * len(BINS)
    assert "stone-7" not in repr(query)


def test_a_series_and_its_file(
    filled: Orthanc,
    url_of: Callable[[Orthanc], str],
    one: pydicom.Dataset,
    tmp_path: Path,
    progress: Progress,
    never: Patience,
) -> None:
    query = Query(series_uid=one.SeriesInstanceUID)
    (done,) = fetch(parse_peer(url_of(filled)), query, str(tmp_path), progress=progress, patience=never)
    assert done.series_file_uri is not None
    path = Path(done.series_file_uri)
    with path.open("rb") as file:
        series = read_series(file, str(path))
    assert (series.n_files, series.frames_per_file) == (SLICES, 1)
    numbers = [int(pydicom.dcmread(path.parent / series.name(n)).InstanceNumber) for n in range(SLICES)]
    assert numbers == list(range(1, SLICES + 1))
    assert done.problems == ()


def test_a_gap_between_slices_is_said(
    pacs: Orthanc, dicom_folder: Path, one: pydicom.Dataset, tmp_path: Path, progress: Progress, never: Patience
) -> None:
    for path in (dicom_folder / "bin-01").iterdir():
        if path.stem != "slice-0002":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    peer, query = parse_peer(pacs.dicom_url), Query(series_uid=one.SeriesInstanceUID)
    sent = publish(str(tmp_path), peer, progress=progress, patience=never)
    assert (sent.error, sent.sent) == (None, SLICES - 1)
    (done,) = fetch(peer, query, str(tmp_path / "zone"), progress=progress, patience=never)
    assert done.n_instances == SLICES - 1
    gap = "between slices 1 and 2: 0.5 mm, elsewhere 0.25 mm (1 slice missing)"
    assert done.problems == (f"uneven slice spacing: {gap}",)


def test_compressed_instances_come_as_they_are_held(
    pacs: Orthanc,
    url_of: Callable[[Orthanc], str],
    dicom_folder: Path,
    rle_folder: Path,
    tmp_path: Path,
    progress: Progress,
    never: Patience,
) -> None:
    peer = parse_peer(url_of(pacs))
    sent = publish(str(rle_folder), peer, progress=progress, patience=never)
    assert (sent.error, sent.sent) == (None, SLICES)
    query = Query(series_uid=pydicom.dcmread(next(rle_folder.iterdir())).SeriesInstanceUID)
    done = fetch(peer, query, str(tmp_path / "zone"), progress=progress, patience=never)
    assert [(s.n_instances, s.n_fetched) for s in done] == [(SLICES, SLICES)]
    require_equal(done, rle_folder)
    there = pydicom.dcmread(next(Path(done[0].uri).glob("*.dcm")))
    assert there.file_meta.TransferSyntaxUID == RLELossless
    own = next(
        d for d in map(pydicom.dcmread, (dicom_folder / "bin-03").iterdir()) if d.SOPInstanceUID == there.SOPInstanceUID
    )
    assert np.array_equal(there.pixel_array, own.pixel_array)


def test_broken_off_and_gone_on_with(
    url_of: Callable[[Orthanc], str],
    dicom_folder: Path,
    one: pydicom.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    never: Patience,
) -> None:
    """Orthanc dies when two instances are here; it comes back, and the rest is fetched."""
    monkeypatch.setattr("marspipe.dicom.pacs.retrieving._INSTANCES_PER_REQUEST", 1)
    with orthanc(tmp_path / "orthanc") as server:
        peer = parse_peer(url_of(server))
        sent = publish(str(dicom_folder), peer, progress=Progress(), patience=never)
        assert (sent.error, sent.sent) == (None, N_INSTANCES)
        query, zone = Query(series_uid=one.SeriesInstanceUID), str(tmp_path / "zone")
        dying = AtInstance(2, server.kill, stage="fetch")
        with pytest.raises(RunError, match=f"of {SLICES} instances of series .* fetch again to go on"):
            fetch(peer, query, zone, progress=dying, associations=1, patience=never)
        here = len(list((tmp_path / "zone").rglob("*.dcm")))
        assert 2 <= here < SLICES
        server.start()
        (done,) = fetch(peer, query, zone, progress=Progress(), patience=never)
        assert (done.n_instances, done.n_fetched) == (SLICES, SLICES - here)
        require_equal([done], dicom_folder)


def test_comes_back_while_it_is_waited_for(
    url_of: Callable[[Orthanc], str], dicom_folder: Path, one: pydicom.Dataset, tmp_path: Path, never: Patience
) -> None:
    waits: list[tuple[float, bool]] = []

    def sleep(seconds: float) -> None:
        killed = server.process is None
        waits.append((seconds, killed))
        if killed:
            server.start()

    with orthanc(tmp_path / "orthanc") as server:
        peer = parse_peer(url_of(server))
        sent = publish(str(dicom_folder), peer, progress=Progress(), patience=never)
        assert (sent.error, sent.sent) == (None, N_INSTANCES)
        waiting = Patience(retries=2, sleep=sleep)
        dying = AtInstance(1, server.kill, stage="fetch")
        query = Query(series_uid=one.SeriesInstanceUID)
        (done,) = fetch(peer, query, str(tmp_path / "zone"), progress=dying, associations=1, patience=waiting)
        assert waits and waits[0][1]
        assert (done.n_instances, done.n_fetched) == (SLICES, SLICES)
        require_equal([done], dicom_folder)


def test_full_landing_zone(
    filled: Orthanc, url_of: Callable[[Orthanc], str], tmp_path: Path, progress: Progress, never: Patience
) -> None:
    peer, query, bound = parse_peer(url_of(filled)), Query(patient_id="stone-7"), 5000  # files are about 2 kB
    with pytest.raises(FullError, match="is full"):
        fetch(peer, query, str(tmp_path), progress=progress, patience=never, max_bytes=bound)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.dcm")]
    assert sizes and sum(sizes) <= bound


def refusal(peer: Peer, query: Query, zone: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        fetch(peer, query, str(zone), progress=Progress(), patience=Patience(retries=0), **options)  # type: ignore[arg-type]
    assert "stone-7" not in str(caught.value)
    assert not list(zone.rglob("*.dcm"))
    return str(caught.value)


def test_nothing_asked_and_nothing_found(filled: Orthanc, url_of: Callable[[Orthanc], str], tmp_path: Path) -> None:
    peer = parse_peer(url_of(filled))
    assert "name what to fetch" in refusal(peer, Query(modality="CT"), tmp_path)
    assert f"{peer.url}: no series matches" in refusal(peer, Query(study_uid="1.2.3"), tmp_path)
    assert "no series matches" in refusal(peer, Query(patient_id="stone-7", modality="MR"), tmp_path)
    assert "no series matches" in refusal(peer, Query(accession_number="stone-7"), tmp_path)


def test_a_destination_the_peer_does_not_know(
    filled: Orthanc, one: pydicom.Dataset, tmp_path: Path, progress: Progress, never: Patience
) -> None:
    peer, query = parse_peer(filled.dicom_url), Query(series_uid=one.SeriesInstanceUID)
    (port,) = free_ports(1)
    sentence = f"{peer.url}: 0 of {SLICES} instances .* does it know 'STRANGER' of --move-to"
    with pytest.raises(RunError, match=sentence):
        fetch(peer, query, str(tmp_path), progress=progress, patience=never, move_to=("STRANGER", port))


def test_a_peer_that_only_stores(tmp_path: Path) -> None:
    with storescp(tmp_path / "received") as server:
        with pytest.raises(PeerRefusedError, match="offers no C-FIND"):
            fetch(parse_peer(server.url), Query(study_uid="1.2.3"), str(tmp_path / "zone"), progress=Progress())


def test_what_is_asked_for_is_a_uid(filled: Orthanc, tmp_path: Path) -> None:
    """And no path or pattern, whatever it looks like."""
    for uid in ("../../etc", "1.2/3", "*"):
        said = refusal(
            parse_peer(f"dicom://{ORTHANC_AE}@127.0.0.1:{filled.dicom_port}"), Query(study_uid=uid), tmp_path
        )
        assert "is no UID" in said
