"""Rings by angle: sums without rounding, errors found, and objects on the axis left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from marspipe.errors import InputError, ScanError
from marspipe.preprocess.stripes import (
    AngularStripes,
    AngularSums,
    remove_stripes_by_angle,
    stripe_offsets,
)
from marspipe.recon.fdk import fdk
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import Cylinder, Ellipsoid, line_integrals

ROWS, COLS, VIEWS = 64, 128, 90
# Worst of all for rings: most edges run around the axis.
BODY = [
    Cylinder((0, 0, 0), 50, 100, 0.02),
    Cylinder((0, 0, 0), 4, 100, 0.03),
    Cylinder((20, 10, 0), 8, 100, 0.02),
    Cylinder((-15, -20, 0), 3, 100, 0.03),
    Ellipsoid((5, -30, 0), (6, 3, 6), -0.01),
]
GEOMETRY = ScanGeometry.parallel(
    detector_shape=(ROWS, COLS), pixel_pitch_mm=(1.0, 1.0), angles_rad=np.arange(VIEWS) * np.pi / VIEWS
)
GRID = VolumeGrid((16, COLS, COLS), (1.0, 1.0, 1.0))
DEFAULT = AngularStripes()


def corrected(stack: NDArray[np.float32], settings: AngularStripes = DEFAULT) -> NDArray[np.float32]:
    sums = AngularSums(stack.shape[1:])
    for view, integrals in enumerate(stack):
        sums.add(view, integrals)
    offsets = stripe_offsets(sums.mean(len(stack)), settings)
    return np.stack([remove_stripes_by_angle(integrals.copy(), offsets) for integrals in stack])


def rings(difference: NDArray[np.float32]) -> float:
    """Return the RMS over slices and radii of the mean over the angles."""
    y, x = GRID.axis_mm("y"), GRID.axis_mm("x")
    radius = np.hypot(y[:, None], x[None, :])
    inside = (radius > 3) & (radius < 48)
    at = radius[inside].astype(int)
    profiles = [np.bincount(at, image[inside])[3:] / np.bincount(at)[3:] for image in difference]
    return float(np.sqrt(np.mean(np.square(profiles))))


@pytest.fixture(scope="module")
def clean() -> NDArray[np.float32]:
    return line_integrals(BODY, GEOMETRY)


@pytest.fixture(scope="module")
def noisy(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    noise = np.random.default_rng(7).normal(0, 1e-3, clean.shape)
    return (clean + noise).astype(np.float32)


@pytest.mark.parametrize(("share", "factor"), [(0.05, 10.0), (1.0, 2.5)])
def test_gain_errors_of_pixels(noisy: NDArray[np.float32], share: float, factor: float) -> None:
    rng = np.random.default_rng(11)
    gain = np.exp(rng.normal(0, 0.03, (ROWS, COLS)))
    errors = np.where(rng.random((ROWS, COLS)) < share, -np.log(gain), 0).astype(np.float32)
    # Against each one's own reference: what the correction does without errors is another test.
    before = rings(fdk(noisy + errors, GEOMETRY, GRID) - fdk(noisy, GEOMETRY, GRID))
    after = rings(fdk(corrected(noisy + errors), GEOMETRY, GRID) - fdk(corrected(noisy), GEOMETRY, GRID))
    print(share, before / after)
    assert before > factor * after


def test_without_errors_little_changes_and_the_axis_survives(clean: NDArray[np.float32]) -> None:
    # The bead of 12 rows, lower than half of rows_px, is what changes; rods and edges around the axis do not.
    result = corrected(clean)
    assert np.sqrt(np.mean((result - clean) ** 2)) < 6e-4 * clean.max()
    assert np.abs(result - clean).max() < 0.02
    y, x = GRID.axis_mm("y"), GRID.axis_mm("x")
    on_axis = np.hypot(y[:, None], x[None, :]) < 3
    seen, truth = (fdk(p, GEOMETRY, GRID)[:, on_axis].mean() for p in (result, clean))
    assert seen == pytest.approx(truth, rel=2e-3)


def test_nothing_sticks_out_of_a_parabola() -> None:
    v, u = np.mgrid[0:40, 0:60].astype(np.float64)
    smooth = 1 + 0.02 * u - 3e-4 * u**2
    np.testing.assert_allclose(stripe_offsets(smooth, DEFAULT), 0, atol=1e-9)
    np.testing.assert_allclose(stripe_offsets(smooth, AngularStripes(rows_px=1)), 0, atol=1e-9)
    np.testing.assert_allclose(stripe_offsets(smooth + 0.01 * v, DEFAULT), 0, atol=1e-6)
    assert not stripe_offsets(np.zeros((40, 60)), DEFAULT).any()


def test_whole_columns_need_the_step_along_v_left_out() -> None:
    rng = np.random.default_rng(2)
    u = np.arange(200.0)
    mean = np.sin(u / 40) + rng.normal(0, 1e-4, (60, 200))
    mean[:, 77] += 0.05
    kept, taken = (stripe_offsets(mean, AngularStripes(11, rows))[:, 77] for rows in (51, 1))
    assert np.abs(kept).max() < 0.005
    np.testing.assert_allclose(taken, 0.05, atol=0.005)


def test_one_row_only() -> None:
    mean = np.random.default_rng(4).normal(0, 1e-4, (1, 50))
    mean[0, 20] += 0.1
    offsets = stripe_offsets(mean, DEFAULT)
    assert offsets[0, 20] == pytest.approx(0.1, rel=0.03)  # of an error of a thousand sigmas
    assert np.abs(np.delete(offsets[0], 20)).max() < 0.03 * 0.1


def test_sums_are_the_same_in_any_order_and_grouping(rng: np.random.Generator) -> None:
    stack = (rng.normal(0, 3, (40, 5, 6)) * 10.0 ** rng.integers(-6, 3, (40, 5, 6))).astype(np.float32).clip(-1e3, 1e3)

    def total(groups: list[NDArray[np.intp]]) -> AngularSums:
        whole = AngularSums((5, 6))
        for group in groups:
            part = AngularSums((5, 6))
            for view in group:
                part.add(int(view), stack[view])
            whole.claim(part.views)
            whole.total += part.total
        return whole

    reference = total([np.arange(40)]).mean(40)
    for pieces in (2, 7, 40):
        np.testing.assert_array_equal(total(np.array_split(rng.permutation(40), pieces)).mean(40), reference)
    exact = [[math.fsum(map(float, stack[:, v, u])) / 40 for u in range(6)] for v in range(5)]
    np.testing.assert_allclose(reference, exact, rtol=1e-15, atol=2.0**-33)


def test_the_largest_sum_fits() -> None:
    sums = AngularSums((1,))
    sums.add(0, np.array([1024], np.float32))
    assert int(sums.total[0]) * 2**20 == 2**62


def test_views_and_values_are_checked() -> None:
    sums = AngularSums((2, 3))
    one = np.ones((2, 3), np.float32)
    sums.add(0, one)
    sums.add(2, one)
    with pytest.raises(ScanError, match="view 2 is doubled"):
        sums.add(2, one)
    with pytest.raises(ScanError, match="view 0 is doubled"):
        sums.claim({5, 0})
    with pytest.raises(ScanError, match=r"view 1 is missing: only 2 of 3 views came"):
        sums.mean(3)
    with pytest.raises(ScanError, match=r"view 2 is not one of the 2 views"):
        sums.mean(2)
    with pytest.raises(ScanError, match=r"line integrals of \(3, 2\), expected \(2, 3\)"):
        sums.add(7, one.T)
    for bad in (np.nan, np.inf, -1025.0):
        with pytest.raises(ScanError, match=r"view 8 has line integrals from .*, expected finite ones within \+-1024"):
            sums.add(8, one * np.float32(bad))


@pytest.mark.parametrize(("columns", "rows"), [(6, 51), (3, 51), (7, 0), (7, 50), (7.0, 51), (True, 51)])
def test_windows_are_checked(columns: int, rows: int) -> None:
    with pytest.raises(InputError, match="must be an odd number of pixels"):
        AngularStripes(columns, rows)


def test_a_window_wider_than_the_row_is_refused() -> None:
    with pytest.raises(InputError, match="columns_px is 7 px, but a detector row has 6 px only"):
        stripe_offsets(np.zeros((4, 6)), DEFAULT)
