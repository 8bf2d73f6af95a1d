"""Series as volumes: every orientation, tilt undone against a known body, and what marspipe wrote itself."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np
import pytest
from numpy.typing import NDArray

from marspipe.dicom.foreign import ForeignDicomWarning
from marspipe.dicom.foreign.instance import read_instance
from marspipe.dicom.foreign.series import check_series
from marspipe.dicom.foreign.volume import SeriesVolume, read_series
from marspipe.dicom.series import ObjectKind, series_header
from marspipe.errors import InputError
from tests.dicom.conftest import MemoryVolume
from tests.dicom.foreign.slices import as_bytes, ct_dataset, stack
from tests.dicom.written import contents

Array = NDArray[np.float64]


def field(x: Array, y: Array, z: Array) -> Array:
    """Whole numbers on the lattices below; no two voxels are alike."""
    return 3 * x + 50 * y + 700 * z - 900


def coordinates(volume: SeriesVolume) -> tuple[Array, Array, Array]:
    z, y, x = np.meshgrid(*(volume.grid.axis_mm(a) for a in "zyx"), indexing="ij")
    return x, y, z


def flips() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]


@pytest.mark.parametrize(("axes", "signs"), flips(), ids=str)
def test_every_right_angled_orientation(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """Axial, coronal and sagittal slices, rows and columns either way: each voxel is found at its place."""
    steps = np.zeros((3, 3))
    for lattice, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        steps[lattice, axis] = sign * (2.0, 1.0, 3.0)[lattice]
    instances = stack(field, (4, 3, 5), (1.0, 2.0, 3.0), steps)
    assert check_series(instances) == []
    volume = read_series(instances[::-1])
    np.testing.assert_array_equal(volume.values, field(*coordinates(volume)))
    assert sorted(volume.grid.voxel_mm) == [1.0, 2.0, 3.0]
    assert sorted(volume.values.shape) == [3, 4, 5]


def ball(x: Array, y: Array, z: Array) -> Array:
    """A smooth ball of 300 HU in water, 20 mm wide, off center."""
    squared = ((x - 4) ** 2 + (y + 6) ** 2 + (z - 3) ** 2) / 20.0**2
    return 300.0 * np.exp(-squared)


@pytest.mark.parametrize("degrees", [-20.0, 20.0])
@pytest.mark.parametrize("by", ["orientation", "shift"])
def test_tilt_is_undone(degrees: float, by: str) -> None:
    angle = math.radians(degrees)
    if by == "orientation":
        steps = [(0, 0, 2.0), (0, math.cos(angle), math.sin(angle)), (1.0, 0, 0)]
    else:
        steps = [(0, 2.0 * math.tan(angle), 2.0), (0, 1.0, 0), (1.0, 0, 0)]
    origin = (-25.0, -35.0 - (12 * math.tan(angle) if by == "shift" else 0), -40.0 if by == "orientation" else -28.0)
    instances = stack(ball, (40, 60, 50), origin, steps)
    with pytest.raises(InputError, match=r"gantry tilt.*20 degrees.*--resample"):
        read_series(instances)
    with pytest.warns(ForeignDicomWarning, match="a tilt of 20 degrees resampled .* of the box hold no value"):
        volume = read_series(instances, resample=True)
    expected = ball(*coordinates(volume))
    known = np.isfinite(volume.values)
    assert known.mean() > 0.5
    assert expected[~known].mean() < 0.2 * expected[known].mean()  # what is lost is the rim
    # Linear interpolation between points h apart errs by at most h^2 / 8 max |f''|, f'' = 2 * 300 / 20^2 HU/mm^2;
    # rounding to whole HU adds half of one.
    assert np.abs(volume.values - expected)[known].max() < 2.2**2 / 8 * 1.5 + 0.5
    stacked = np.stack([i.pixels() for i in instances])
    axes = (origin[2] + 2.0 * np.arange(40), origin[1] + np.arange(60), origin[0] + np.arange(50))
    z, y, x = np.meshgrid(*axes, indexing="ij")
    assert np.abs(stacked - ball(x, y, z)).max() > 50  # taken as upright, so that the bound above says something


def test_oblique_slices_are_refused_or_resampled() -> None:
    c, s = math.cos(0.2), math.sin(0.2)
    instances = stack(ball, (30, 40, 40), (-20.0, -30.0, -25.0), [(0, 0, 2.0), (-s, c, 0), (c, s, 0)])
    with pytest.raises(InputError, match=r"slices are oblique, nearest to axial, off the patient's axes; --resample"):
        read_series(instances)
    with pytest.warns(ForeignDicomWarning, match="oblique, nearest to axial slices resampled"):
        volume = read_series(instances, resample=True)
    known = np.isfinite(volume.values)
    assert np.abs(volume.values - ball(*coordinates(volume)))[known].max() < 2.0**2 / 8 * 1.5 + 0.5


def test_uneven_and_tilted_at_once() -> None:
    steps = [(0, 0.5, 2.0), (0, 1.0, 0), (1.0, 0, 0)]
    instances = stack(field, (8, 6, 5), (0.0, 0.0, 0.0), steps)
    del instances[3]
    with pytest.warns(ForeignDicomWarning) as told:
        volume = read_series(instances, resample=True)
    first, second = (str(w.message) for w in told)
    assert "7 unevenly spaced slices became 8" in first
    assert "a tilt of" in second
    known = np.isfinite(volume.values)
    assert known.mean() > 0.4
    np.testing.assert_allclose(volume.values[known], field(*coordinates(volume))[known], atol=0.51)


def test_padding_is_nan_in_the_volume() -> None:
    stored = np.full((4, 5), 100, dtype=np.int16)
    stored[0, 0] = -2000
    files = []
    for number in range(3):
        dataset = ct_dataset(stored, (0.0, 0.0, float(number)))
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        files.append(read_instance(as_bytes(dataset), f"{number}.dcm"))
    volume = read_series(files)
    np.testing.assert_array_equal(np.isnan(volume.values), np.broadcast_to(stored == -2000, (3, 4, 5)))


# --- what marspipe wrote itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "water"),
    [("ct-image", None), ("ct-image", 0.021), ("enhanced-ct", 0.021), ("parametric-map", None)],
)
def test_own_series_come_back(volume: MemoryVolume, kind: ObjectKind, water: float | None) -> None:
    header = series_header(volume, 0, kind=kind, water_attenuation_per_mm=water)
    instances = [read_instance(content, path) for path, content in contents(volume, header)]
    assert all(instance.repairs == () for instance in instances)
    back = read_series(instances[::-1])
    assert back.units == ("1/mm" if water is None else "HU")
    truth = volume.arrays[0].astype(np.float64)
    expected = truth if water is None else 1000 * (truth - water) / water
    half_step = 0.0 if kind == "parametric-map" else 0.5 * header.scale.slope
    assert np.abs(back.values - expected).max() <= half_step * (1 + 1e-5) + 1e-7 * np.abs(expected).max()
    assert back.grid.shape == volume.grid.shape
    for axis in "zyx":
        np.testing.assert_allclose(back.grid.axis_mm(axis), volume.grid.axis_mm(axis), atol=1e-6)
    assert "keV" in instances[0].own_description
