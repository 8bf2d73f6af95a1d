from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import config
from pydicom.uid import RLELossless

from marspipe.dicom.ct import series_files, series_header
from marspipe.pipeline.pacs.patience import Patience
from marspipe.scan.energy import EnergyBin
from marspipe.scan.grid import VolumeGrid
from marspipe.show.progress import Progress
from tests.dicom.conftest import MemoryVolume, _strict_dicom, scan_metadata
from tests.pacs.servers import Orthanc, orthanc

__all__ = ["_strict_dicom"]

BINS = (EnergyBin(20.0, 33.0), EnergyBin(33.0, 50.0), EnergyBin(50.0, 70.0), EnergyBin(70.0))
SLICES = 6
N_INSTANCES = SLICES * len(BINS)


def write_series(folder: Path, slices: int = SLICES, scan_id: str = "stone-7") -> Path:
    """Write a CT series per energy bin, in folders of their own; no pixel is like another."""
    rng = np.random.default_rng(7)
    grid = VolumeGrid(shape=(slices, 10, 12), voxel_mm=(0.25, 0.11, 0.088))
    arrays = [rng.uniform(0.0, 0.1, grid.shape).astype(np.float32) for _ in BINS]
    volume = MemoryVolume(arrays, list(BINS), grid, {**scan_metadata(), "scan_id": scan_id})
    for number in range(len(BINS)):
        for file in series_files(volume, series_header(volume, number)):
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
    return folder


@pytest.fixture(scope="session")
def dicom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four energy bins as DICOM series."""
    return write_series(tmp_path_factory.mktemp("published") / "dicom")


@pytest.fixture
def rle_folder(dicom_folder: Path, tmp_path: Path) -> Path:
    """The last energy bin, compressed as RLE Lossless."""
    folder = tmp_path / "rle"
    folder.mkdir()
    for path in (dicom_folder / "bin-03").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(folder / path.name)
    return folder


@pytest.fixture(scope="session")
def running_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture
def pacs(running_orthanc: Orthanc) -> Orthanc:
    """An Orthanc that holds nothing."""
    running_orthanc.clear()
    return running_orthanc


@pytest.fixture
def anything_may_be_sent(_strict_dicom: None) -> Iterator[None]:
    """Let pydicom write and read values that are not valid, which other tests must not."""
    settings = config.settings
    before = settings.reading_validation_mode, settings.writing_validation_mode
    settings.reading_validation_mode = settings.writing_validation_mode = config.IGNORE
    yield
    settings.reading_validation_mode, settings.writing_validation_mode = before


@pytest.fixture
def progress() -> Progress:
    """Lines that go to the test's standard error."""
    return Progress()


@pytest.fixture
def hasty() -> Patience:
    """Three retries that do not wait."""
    return Patience(retries=3, first_s=0.0)


@pytest.fixture
def never() -> Patience:
    """No retries."""
    return Patience(retries=0)


@pytest.fixture(params=["dimse", "web"])
def url_of(request: pytest.FixtureRequest) -> Callable[[Orthanc], str]:
    """The address of an Orthanc, by both protocols."""
    return lambda server: server.dicom_url if request.param == "dimse" else server.web_url
