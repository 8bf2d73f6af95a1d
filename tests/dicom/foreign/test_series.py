"""Which slices may be stacked: order, spacing, tilt, and all that makes a series no volume."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.dicom.foreign.instance import Instance
from marspipe.dicom.foreign.series import check_series, series_geometry, sort_series
from marspipe.errors import InputError
from tests.dicom.foreign.slices import ct

STORED = np.arange(48, dtype=np.int16).reshape(6, 8)


def slices(heights: list[float], **changes: Any) -> list[Instance]:
    return [ct(STORED, (0.0, 0.0, z), origin=f"{n}.dcm", **changes) for n, z in enumerate(heights)]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.sampled_from([0.055, 0.6, 5.0]), st.floats(-500, 500), st.randoms(use_true_random=False))
def test_any_order_of_files_gives_the_same_stack(count: int, spacing: float, first: float, shuffle: Any) -> None:
    heights = [round(first + k * spacing, 6) for k in range(count)]
    shuffled = heights.copy()
    shuffle.shuffle(shuffled)
    geometry = series_geometry(slices(shuffled))
    assert geometry.shape == (count, 6, 8)
    assert geometry.origin_mm == pytest.approx((0.0, 0.0, heights[0]))
    assert geometry.spacing_mm == pytest.approx((spacing, 1.0, 1.0))
    assert np.all(np.diff(geometry.distances_mm) > 0)
    assert (geometry.tilt_deg, geometry.plane) == (0.0, "axial")


def test_positions_rounded_to_two_decimals_are_even() -> None:
    assert check_series(slices([round(k * 0.625, 2) for k in range(40)])) == []


@pytest.mark.parametrize(
    ("heights", "problem"),
    [
        ([0, 5, 15, 20, 25], "uneven slice spacing: between slices 1 and 2: 10 mm, elsewhere 5 mm (1 slice missing)"),
        ([0, 1, 4, 5, 6, 8, 9, 10], "uneven slice spacing: between slices 1 and 2: 3 mm, between slices 4 and 5: 2 mm, "
                                    "elsewhere 1 mm (3 slices missing)"),
        ([0, 5, 10, 15, 22], "uneven slice spacing: between slices 3 and 4: 7 mm, elsewhere 5 mm"),
        ([0, 1, 3, 6, 10], "uneven slice spacing: 1 to 4 mm, the median 2.5 mm"),
        ([0.0, 0.055, 0.115, 0.165, 0.22], "uneven slice spacing: between slices 1 and 2: 0.06 mm, between slices "
                                           "2 and 3: 0.05 mm, elsewhere 0.055 mm"),
    ],
)  # fmt: skip
def test_uneven_spacing_is_named(heights: list[float], problem: str) -> None:
    instances = slices(heights)
    assert check_series(instances) == [problem]
    with pytest.raises(InputError, match=r"cannot be stacked: uneven.*; --resample makes it a regular volume$"):
        series_geometry(instances)
    assert series_geometry(instances, resample=True).shape[0] == len(heights)


def test_slow_drift_of_the_spacing_is_uneven() -> None:
    gaps = np.linspace(0.985, 1.015, 60)
    heights = np.concatenate([[0.0], np.cumsum(gaps)])
    assert "beside even steps" in check_series(slices([float(z) for z in heights]))[0]


def test_slices_at_one_place() -> None:
    once = slices([0, 5, 10])
    assert check_series([*once, once[1]]) == [
        "a slice is at the place of another, first slices 1 and 2 (1.dcm and 1.dcm are the same object)"
    ]
    later = slices([0, 5, 10], AcquisitionNumber=2)
    problem = check_series([*slices([0, 5, 10], AcquisitionNumber=1), *later])
    assert problem == [
        "3 slices are at the place of another, first slices 0 and 1 (they differ in acquisition 1, acquisition 2: "
        "several volumes in one series)"
    ]
    with pytest.raises(InputError, match=r"several volumes in one series\)$"):
        series_geometry([*slices([0, 5, 10], AcquisitionNumber=1), *later], resample=True)


@pytest.mark.parametrize("degrees", [-22.0, 3.0, 22.0])
def test_gantry_tilt_by_orientation_and_by_shift(degrees: float) -> None:
    angle = math.radians(degrees)
    leaning = (1.0, 0.0, 0.0, 0.0, math.cos(angle), math.sin(angle))
    tilted = [ct(STORED, (0.0, 0.0, 5.0 * k), leaning, origin=f"{k}.dcm") for k in range(4)]
    sheared = [ct(STORED, (0.0, 5.0 * k * math.tan(angle), 5.0 * k), origin=f"{k}.dcm") for k in range(4)]
    for instances in (tilted, sheared):
        (problem,) = check_series(instances)
        assert problem.startswith(f"gantry tilt: the slices follow each other at {abs(degrees):.4g} degrees")
        assert series_geometry(instances, resample=True).tilt_deg == pytest.approx(abs(degrees), abs=1e-6)
        with pytest.raises(InputError, match=r"gantry tilt.*--resample"):
            series_geometry(instances)


def test_a_stated_tilt_is_not_believed() -> None:
    assert check_series(slices([0, 5, 10], GantryDetectorTilt="22")) == []


def test_tilted_and_uneven() -> None:
    instances = [ct(STORED, (0.0, 0.3 * z, z), origin=f"{z}.dcm") for z in (0.0, 5.0, 15.0, 20.0)]
    assert [text.split(":")[0] for text in check_series(instances)] == ["uneven slice spacing", "gantry tilt"]


def test_slices_that_jump_sideways_are_refused_for_good() -> None:
    instances = [ct(STORED, (0.0, 2.0 * (k == 2), 5.0 * k), origin=f"{k}.dcm") for k in range(5)]
    # The drift that fits the places best takes 2/15 of the jump.
    problem = r"slices are shifted sideways against each other, by up to 1\.733 mm"
    assert re.fullmatch(problem, "; ".join(check_series(instances)))
    with pytest.raises(InputError, match=rf"^the series of 0\.dcm and 4 others cannot be stacked: {problem}$"):
        series_geometry(instances, resample=True)


CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (lambda: ct(STORED, (0, 0, 15), CORONAL), "slices differ in orientation: 2 different ones in one series"),
        (lambda: ct(STORED[:5], (0, 0, 15)), "slices differ in size: 6 x 8 pixels, 5 x 8 pixels"),
        (lambda: ct(STORED, (0, 0, 15), spacing=(1, 0.5)), "slices differ in pixel spacing: 1 x 1 mm, 1 x 0.5 mm"),
        (lambda: ct(STORED, (0, 0, 15), FrameOfReferenceUID="2.25.9"),
         "slices differ in FrameOfReferenceUID (0020,0052)"),
        (lambda: ct(STORED, (0, 0, 15), RescaleType="MGML"), "slices differ in unit: HU, mg/mL"),
        (lambda: ct(STORED, (0, 0, 15), SeriesInstanceUID="2.25.9"), "the objects belong to 2 series"),
        (lambda: ct(STORED, (0, 0, 15), ImagePositionPatient=None, origin="lost.dcm"),
         "ImagePositionPatient, ImageOrientationPatient or PixelSpacing is missing in lost.dcm"),
        (lambda: ct(STORED, (0, 0, 15), (1, 0, 0, 0.5, 0.5, 0), origin="odd.dcm"),
         "ImageOrientationPatient (0020,0037) of odd.dcm is not two perpendicular unit vectors"),
    ],
)  # fmt: skip
def test_slices_that_do_not_belong_together(other: Callable[[], Instance], problem: str) -> None:
    instances = [*slices([0, 5, 10]), other()]
    assert problem in check_series(instances)
    with pytest.raises(InputError, match="cannot be stacked"):
        series_geometry(instances, resample=True)


def test_series_of_a_folder_by_number() -> None:
    instances = [
        *slices([0, 5], SeriesInstanceUID="2.25.3", SeriesNumber=10),
        *slices([0, 5, 10], SeriesInstanceUID="2.25.2", SeriesNumber=9),
        *slices([0], SeriesInstanceUID="2.25.1"),
    ]
    found = sort_series(instances[::-1])
    assert [(s.instances[0].series_number, len(s.planes)) for s in found] == [(9, 3), (10, 2), (None, 1)]
    assert check_series([]) == ["it holds no image"]


def test_one_slice() -> None:
    assert check_series(slices([3.0])) == []
    assert series_geometry(slices([3.0], SliceThickness="2.5")).spacing_mm == (2.5, 1.0, 1.0)
    assert check_series(slices([3.0], SliceThickness=None)) == ["it has one slice, and nothing says how thick it is"]
