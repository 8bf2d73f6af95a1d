"""What a reader makes of a series: an asymmetric phantom in place, left is left and front is front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marspipe.dicom.series import SeriesHeader, series_header
from marspipe.scan.energy import EnergyBin
from marspipe.scan.grid import VolumeGrid
from tests.dicom.written import write_all

WATER_PER_MM = 0.02
# Patient (x, y, z) is the world: +x left, +y posterior, +z head. Each ball has its own attenuation, 1/mm.
BALLS_MM = {
    "left": ((3.0, 0.0, 0.0), 0.05),
    "right": ((-3.0, 0.0, 0.0), 0.06),
    "posterior": ((0.0, 2.5, 0.0), 0.07),
    "anterior": ((0.0, -2.5, 0.0), 0.08),
    "head": ((0.0, 0.0, 2.0), 0.09),
    "feet": ((0.0, 0.0, -2.0), 0.10),
}


@pytest.fixture
def phantom(volume: Any, make_volume: Any) -> Any:
    """Six balls in water on 25 x 35 x 40 voxels of unequal size, off center, with noise."""
    grid = VolumeGrid((25, 35, 40), (0.2, 0.18, 0.2), (0.1, 0.05, -0.1))
    z, y, x = np.meshgrid(*(grid.axis_mm(a) for a in "zyx"), indexing="ij")
    pixels = np.full(grid.shape, WATER_PER_MM) + np.random.default_rng(2).normal(0, 5e-4, grid.shape)
    for (bx, by, bz), attenuation in BALLS_MM.values():
        pixels[(x - bx) ** 2 + (y - by) ** 2 + (z - bz) ** 2 < 0.6**2] = attenuation
    return make_volume([pixels.astype(np.float32)], [EnergyBin(20.0)], grid, volume.metadata)


def written(volume: Any, header: SeriesHeader, folder: Path, simpleitk: Any) -> Any:
    """Write a series, and read it."""
    write_all(volume, header, folder)
    names = simpleitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder / header.folder), header.series_uid)
    return simpleitk.ReadImage(names[0] if len(names) == 1 else names)


def check(image: Any, phantom: Any, scale: Any, simpleitk: Any) -> None:
    """Check spacing, origin, orientation and values, and each ball at its place in the patient."""
    grid = phantom.grid
    np.testing.assert_allclose(image.GetSpacing(), grid.voxel_mm[::-1], rtol=1e-9)
    np.testing.assert_allclose(image.GetOrigin(), [grid.axis_mm(a)[0] for a in "xyz"], rtol=1e-9)
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    water = scale.water_attenuation_per_mm
    truth = phantom[0].astype(float)
    expected = truth if water is None else 1000 * (truth - water) / water
    values = simpleitk.GetArrayFromImage(image)
    # GDCM may keep the rescaled values in float32.
    assert np.abs(values - expected).max() <= 0.5 * scale.slope * (1 + 1e-3) + 2e-7 * np.abs(expected).max()
    for center, attenuation in BALLS_MM.values():
        found = image[image.TransformPhysicalPointToIndex(center)]
        assert found == pytest.approx(scale.output(attenuation), abs=0.51 * scale.slope + 1e-6)


@pytest.mark.parametrize("water", [None, WATER_PER_MM])
@pytest.mark.parametrize("syntax", ["uncompressed", "jpeg-ls", "jpeg-2000", "rle"])
def test_slices(phantom: Any, tmp_path: Path, simpleitk: Any, syntax: Any, water: float | None) -> None:
    header = series_header(phantom, 0, transfer_syntax=syntax, water_attenuation_per_mm=water)
    check(written(phantom, header, tmp_path, simpleitk), phantom, header.scale, simpleitk)


@pytest.mark.parametrize("syntax", ["uncompressed", "jpeg-ls", "jpeg-2000", "rle"])
def test_frames(phantom: Any, tmp_path: Path, simpleitk: Any, syntax: Any) -> None:
    header = series_header(
        phantom, 0, transfer_syntax=syntax, kind="enhanced-ct", water_attenuation_per_mm=WATER_PER_MM
    )
    check(written(phantom, header, tmp_path, simpleitk), phantom, header.scale, simpleitk)


def test_padding_is_outside_of_what_readers_take_as_data(phantom: Any, tmp_path: Path, simpleitk: Any) -> None:
    header = series_header(phantom, 0, field_of_view_mm=3.5)
    values = simpleitk.GetArrayFromImage(written(phantom, header, tmp_path, simpleitk))
    outside = header.outside()
    assert outside is not None and 0 < outside.sum() < outside.size
    assert np.abs(values - phantom[0])[:, ~outside].max() <= 0.5 * header.scale.slope * (1 + 1e-3) + 1e-8
    assert (values[:, outside] < phantom[0].min()).all()
