"""Stripes of every kind in the exact sinogram of a phantom, reconstructed: rings fall, the object stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from marspipe.errors import InputError, ScanError
from marspipe.preprocess.sinogram_stripes import METHODS, Sorting, sinogram_method
from marspipe.recon.fdk import fdk
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import Ellipsoid, line_integrals

COLS, VIEWS, NOISE = 512, 360, 0.003
BODY = [
    Ellipsoid((16, -13, 0), (210, 160, 4000), 0.004, 0.4),
    Ellipsoid((65, 32, 0), (36, 24, 4000), 0.004),
    Ellipsoid((-80, -53, 0), (13, 13, 4000), 0.006),
    Ellipsoid((-26, 80, 0), (53, 16, 4000), -0.002, 1.0),
]
ROD = [Ellipsoid((0, 0, 0), (8, 8, 4000), 0.006)]
GEOMETRY = ScanGeometry.parallel(
    detector_shape=(1, COLS), pixel_pitch_mm=(1.0, 1.0), angles_rad=np.arange(VIEWS) * np.pi / VIEWS
)
STRIP = VolumeGrid((1, 48, COLS), (1.0, 1.0, 1.0))  # through the axis: rings cross it, and it is quickly made


@dataclass(frozen=True)
class Case:
    clean: NDArray[np.float32]
    with_rod: NDArray[np.float32]
    noise: NDArray[np.float32]
    stripes: dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def case() -> Case:
    rng = np.random.default_rng(7)
    clean, with_rod = (line_integrals(shapes, GEOMETRY)[:, 0] for shapes in (BODY, BODY + ROD))
    noise = rng.normal(0, NOISE, clean.shape).astype(np.float32)
    stripes = {name: np.zeros_like(clean) for name in ("gain", "wide", "dead", "partial")}
    stripes["gain"][:] = np.where(rng.random(COLS) < 0.05, rng.normal(0, 0.05, COLS), 0)
    stripes["wide"][:, 160:170] = 0.3
    stripes["dead"][:, 140] = rng.normal(0, 0.3, VIEWS)
    stripes["dead"][:, 330] = 0.7 - (clean + noise)[:, 330]
    stripes["partial"][:, 200] = 0.05
    stripes["partial"][VIEWS // 4 : 3 * VIEWS // 4, 200] = 0  # those views tangent to the ring beside the strip
    return Case(clean, with_rod, noise, stripes)


def slice_of(sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
    image: NDArray[np.float32] = fdk(np.ascontiguousarray(sinogram[:, None]), GEOMETRY, STRIP)[0]
    return image


def radius() -> NDArray[np.float64]:
    y, x = STRIP.axis_mm("y"), STRIP.axis_mm("x")
    return np.hypot(y[:, None], x[None, :])


def rings(difference: NDArray[np.float32]) -> float:
    """Return the RMS over the radii of the mean over the angles."""
    inside = (radius() > 3) & (radius() < 180)
    at = radius()[inside].astype(int)
    profile = np.bincount(at, difference[inside])[3:] / np.bincount(at)[3:]
    return float(np.sqrt(np.mean(profile**2)))


@pytest.mark.parametrize(
    ("stripe", "method", "settings", "factor"),
    [
        ("gain", "sorting", {"window_px": 11}, 10),
        ("gain", "filtering", {"window_px": 11}, 10),
        ("gain", "normalization", {"sigma_px": 5}, 6),
        ("gain", "wavelet-fft", {"level": 3, "damping": 2}, 3),
        ("wide", "large-stripe", {"window_px": 31}, 3),
        ("dead", "dead-stripe", {}, 10),
        ("dead", "all", {"large_window_px": 31, "small_window_px": 9}, 10),
        ("partial", "sorting", {"window_px": 7}, 3),
    ],
)
def test_rings_fall(case: Case, stripe: str, method: str, settings: dict[str, float], factor: float) -> None:
    sinogram = case.clean + case.noise
    correct = sinogram_method(method, settings)
    striped = sinogram + case.stripes[stripe]
    # Against each one's own reference: what the correction does without stripes is another test.
    before = rings(slice_of(striped) - slice_of(sinogram))
    after = rings(slice_of(correct(striped)) - slice_of(correct(sinogram)))
    print(stripe, method, before / after)
    assert before > factor * after


# What a method changes in a sinogram without stripes, RMS over its largest value, and in a rod of 8 px on the axis.
@pytest.mark.parametrize(
    ("method", "settings", "changed", "rod_lost"),
    [
        ("sorting", {"window_px": 7}, 1e-3, 0.03),
        ("sorting", {"window_px": 11}, 2e-3, 0.08),
        ("filtering", {"window_px": 11}, 1e-3, 0.06),
        ("wavelet-fft", {"level": 3, "damping": 2}, 3e-3, 0.2),
        ("dead-stripe", {}, 3e-2, 0.01),
    ],
)
def test_without_stripes_little_changes_and_the_axis_survives(
    case: Case, method: str, settings: dict[str, float], changed: float, rod_lost: float
) -> None:
    correct = sinogram_method(method, settings)
    sinogram = case.clean + case.noise
    off = float(np.sqrt(np.mean((correct(sinogram) - sinogram) ** 2)) / sinogram.max())
    on_axis = radius() < 5
    seen = slice_of(correct(case.with_rod + case.noise))[on_axis].mean()
    base = slice_of(case.clean)[on_axis].mean()
    kept = (seen - base) / (slice_of(case.with_rod)[on_axis].mean() - base)
    print(method, settings, off, kept)
    assert off < changed
    assert abs(1 - kept) < rod_lost


@pytest.mark.parametrize(
    ("method", "setting", "narrow", "wide"),
    [
        ("sorting", "window_px", 5, 21),
        ("filtering", "window_px", 5, 21),
        ("large-stripe", "window_px", 9, 51),
        ("dead-stripe", "window_px", 9, 51),
        ("normalization", "sigma_px", 2, 15),
        ("all", "large_window_px", 9, 51),
        ("all", "small_window_px", 5, 21),
    ],
)
def test_windows_follow_the_width_and_fit_it(method: str, setting: str, narrow: int, wide: int) -> None:
    rng = np.random.default_rng(8)
    for columns, window, other in ((100, narrow, 41), (1600, wide, 5)):
        wave = np.sin(np.arange(columns) / (columns / 5))
        sinogram = (wave + rng.normal(0, 0.02, (20, columns))).astype(np.float32)
        sinogram[:, 60:70] += 1
        sinogram[:, 30:36] += rng.normal(0, 0.3, (20, 6)).astype(np.float32)
        given = sinogram_method(method, {setting: window})(sinogram)
        np.testing.assert_array_equal(sinogram_method(method)(sinogram), given)
        assert not np.array_equal(given, sinogram_method(method, {setting: other})(sinogram))
    with pytest.raises(InputError, match=rf"\.{setting} is 51 px, but a row has 50 px only"):
        sinogram_method(method, {setting: 51})(sinogram[:, :50])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_shape_and_input(method: str) -> None:
    rng = np.random.default_rng(3)
    sinogram = (np.sin(np.arange(67) / 21) + rng.normal(0, 0.02, (53, 67))).astype(np.float32)
    before = sinogram.copy()
    correct = sinogram_method(method)
    result = correct(sinogram)
    np.testing.assert_array_equal(sinogram, before)
    assert (result.shape, result.dtype) == (sinogram.shape, np.float32)
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, correct(sinogram.copy()))


@pytest.mark.parametrize("method", METHODS)
def test_what_does_not_turn_stays(method: str) -> None:
    still = np.tile(np.linspace(-1, 1, 40, dtype=np.float32), (30, 1))
    np.testing.assert_array_equal(sinogram_method(method)(still), still)


@pytest.mark.parametrize("method", METHODS)
def test_sinograms_that_cannot_be_corrected_are_refused(method: str) -> None:
    correct = sinogram_method(method)
    with pytest.raises(InputError, match=r"at least 16 views and columns, got shape \(15, 40\)"):
        correct(np.ones((15, 40), np.float32))
    holed = np.random.default_rng(1).random((20, 30), dtype=np.float32)
    holed[4, 7] = np.nan
    with pytest.raises(ScanError, match="view 4, column 7 of the sinogram is nan"):
        correct(holed)


@pytest.mark.parametrize("method", ["large-stripe", "all"])
def test_without_noise_columns_cannot_be_judged_and_stay(method: str) -> None:
    # the same rise in all columns: no spread at all between them
    sinogram = np.repeat(np.linspace(0, 1, 40, dtype=np.float32)[:, None], 50, axis=1)
    np.testing.assert_allclose(sinogram_method(method)(sinogram), sinogram, atol=1e-6)


def test_settings_are_checked_by_name() -> None:
    assert sinogram_method("sorting", {"window_px": 9}) == Sorting(9)
    with pytest.raises(InputError, match=r"no stripe method is called 'sortin'; did you mean 'sorting'\?"):
        sinogram_method("sortin")
    with pytest.raises(InputError, match=r"sorting has no setting 'window'; did you mean 'window_px'\?"):
        sinogram_method("sorting", {"window": 9})
    for name, key, value, expected in [
        ("sorting", "window_px", 2, "Sorting.window_px must be an integer from 3 on, got 2"),
        ("sorting", "window_px", 9.5, "must be an integer"),
        ("sorting", "window_px", True, "must be an integer"),
        ("large-stripe", "drop_fraction", 0.9, "a number from 0 on to 0.8, got 0.9"),
        ("large-stripe", "snr", float("nan"), "a number from 1 on, got nan"),
        ("wavelet-fft", "wavelet", "haar", "one of db5, db9, db15, db25, got 'haar'"),
    ]:
        with pytest.raises(InputError, match=expected):
            sinogram_method(name, {key: value})
