from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from marspipe.scan.energy import EnergyBin
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from tests.lacking import lacking


@pytest.fixture(autouse=True)
def _strict_dicom() -> Iterator[None]:
    settings = pydicom.config.settings
    before = settings.reading_validation_mode, settings.writing_validation_mode
    settings.reading_validation_mode = settings.writing_validation_mode = pydicom.config.RAISE
    yield
    settings.reading_validation_mode, settings.writing_validation_mode = before


@dataclass
class MemoryVolume:
    """A volume of plain arrays, one [z, y, x] per bin, with the names that an export reads."""

    arrays: list[NDArray[np.float32]]
    bins: list[EnergyBin]
    grid: VolumeGrid
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def statistics(self) -> list[dict[str, float]]:
        return [{"min": float(a.min()), "max": float(a.max()), "mean": float(a.mean())} for a in self.arrays]

    def __getitem__(self, bin: int) -> NDArray[np.float32]:
        return self.arrays[bin]


def scan_metadata() -> dict[str, Any]:
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=200.0,
        source_to_detector_mm=250.0,
        detector_shape=(32, 48),
        pixel_pitch_mm=(0.11, 0.11),
        angles_rad=np.linspace(0, 2 * np.pi, 12, endpoint=False),
    )
    return {
        "scan_id": "stone-7",
        "recipe_hash": "3f2a" * 16,
        "version": "0.1.0",
        "description": "a kidney stone",
        "acquired_at": "2024-05-06T09:08:07.125+02:00",
        "tube": {"voltage_kvp": 120.0, "current_ua": 12.0, "filters": {"Al": 3.8}},
        "geometry": geometry.to_dict(),
        "filter": {"window": "hann", "cutoff": 0.8},
    }


@pytest.fixture
def volume() -> MemoryVolume:
    """Two bins on 7 x 10 x 12 voxels of unequal size, off center; no value or position is like another."""
    grid = VolumeGrid(shape=(7, 10, 12), voxel_mm=(0.25, 0.11, 0.088), center_mm=(3.0, -1.5, 0.7))
    z, y, x = np.meshgrid(*(grid.axis_mm(a) for a in "zyx"), indexing="ij")
    ramp = 0.02 + 1e-3 * x + 2e-3 * y + 5e-4 * z
    ramp[1, 2, 3] = 0.09
    ramp[5, 8, 1] = -0.004
    arrays = [ramp.astype(np.float32), (0.6 * ramp + 1e-3 * z).astype(np.float32)]
    return MemoryVolume(arrays, [EnergyBin(20.0, 33.0), EnergyBin(33.0)], grid, scan_metadata())


@pytest.fixture
def maps(volume: MemoryVolume) -> MemoryVolume:
    """A monoenergetic image and two materials, of the scan and on the grid of ``volume``."""
    described = [
        {"kind": "monoenergetic", "energy_kev": 70.0},
        {"kind": "material", "material": "iodine", "unit": "mg/mL"},
        {"kind": "material", "material": "ytterbium", "unit": "mg/mL"},
    ]
    metadata = {
        **volume.metadata,
        "recipe_hash": "77ab" * 16,
        "bins": [{"low_kev": 20.0, "high_kev": None, "map": item} for item in described],
        "source_bins": [
            {"low_kev": 20.0, "high_kev": 33.0, "label": "20-33 keV", "mode": "CSM"},
            {"low_kev": 33.0, "high_kev": None, "label": "33+ keV", "mode": "CSM"},
        ],
        "decomposition": {"method": "image_based", "description": "Least squares"},
    }
    first = volume.arrays[0]
    arrays = [first, (500 * first - 4).astype(np.float32), (200 * first).astype(np.float32)]
    return MemoryVolume(arrays, [EnergyBin(20.0)] * 3, volume.grid, metadata)


@pytest.fixture
def make_volume() -> Callable[..., MemoryVolume]:
    return MemoryVolume


@pytest.fixture
def dicom_tool() -> Callable[[str], Path]:
    """Find a tool of dicom3tools or DCMTK; without it the test is skipped, or fails with MARSPIPE_REQUIRE_PACS=1."""

    def find(name: str) -> Path:
        path = shutil.which(name)
        if path is None:
            lacking("PACS", f"{name} (of dicom3tools or DCMTK) is not installed")
        return Path(path)

    return find


@pytest.fixture(scope="session")
def simpleitk() -> Any:
    """Import SimpleITK; its wrapper classes warn about themselves on import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import SimpleITK
    return SimpleITK
