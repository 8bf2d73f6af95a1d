from __future__ import annotations

import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from marspipe.errors import InputError
from marspipe.recon.filtering import WINDOWS, ViewFilter, ramp_response, window_values
from marspipe.scan.geometry import ScanGeometry
from tests.recon.scans import circle, cone, random_stack, without_orbit


def direct(line: np.ndarray, spacing: float) -> np.ndarray:
    """Convolve a line with Kak and Slaney's kernel, term by term."""
    n = np.arange(-len(line) + 1, len(line))
    with np.errstate(divide="ignore"):
        kernel = np.where(n % 2 == 0, 0.0, -1.0 / (math.pi * n * spacing) ** 2)
    kernel[len(line) - 1] = 1 / (4 * spacing**2)
    return np.convolve(line, kernel)[len(line) - 1 : 2 * len(line) - 1] * spacing


def parallel(cols: int = 41, **changes: object) -> ScanGeometry:
    settings = {"detector_shape": (5, cols), "pixel_pitch_mm": (0.5, 0.25), "angles_rad": circle(20, math.pi)}
    return ScanGeometry.parallel(**(settings | changes))  # type: ignore[arg-type]


# --- ramp and windows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "quarter", "nyquist"),
    [
        ("ram-lak", 1.0, 1.0),
        ("shepp-logan", 2 * math.sqrt(2) / math.pi, 2 / math.pi),
        ("cosine", math.sqrt(0.5), 0.0),
        ("hamming", 0.54, 0.08),
        ("hann", 0.5, 0.0),
    ],
)
def test_windows_have_their_textbook_values(name: str, quarter: float, nyquist: float) -> None:
    assert window_values(name, np.array([0.0, 0.25, 0.5])) == pytest.approx([1.0, quarter, nyquist], abs=1e-12)


def test_the_ramp_is_the_frequency_but_for_a_small_positive_constant() -> None:
    size = 512
    response = ramp_response(size)
    frequency = np.arange(size // 2 + 1) / size
    assert 0 < response[0] < 1 / size
    np.testing.assert_allclose(response, frequency, atol=2e-3)


@pytest.mark.parametrize("name", WINDOWS)
def test_the_cutoff_ends_and_stretches_the_window(name: str) -> None:
    size, cutoff = 480, 0.5
    frequency = np.arange(size // 2 + 1) / size
    response = ramp_response(size, name, cutoff)
    assert not response[frequency > 0.25].any()
    inside = frequency <= 0.25
    expected = ramp_response(size)[inside] * window_values(name, frequency[inside] / cutoff)
    np.testing.assert_allclose(response[inside], expected, rtol=1e-12)


@pytest.mark.parametrize("cutoff", [0, -0.5, 1.01, math.nan, "1"])
def test_a_wrong_cutoff_is_refused(cutoff: object) -> None:
    with pytest.raises(InputError, match=r"cutoff must be a fraction .* in \(0, 1\]"):
        ViewFilter(parallel(), cutoff=cutoff)  # type: ignore[arg-type]


def test_an_unknown_window_is_refused() -> None:
    with pytest.raises(InputError, match="window must be one of ram-lak, shepp-logan, cosine, hamming, hann"):
        ViewFilter(parallel(), window="gauss")


# --- the filter of a view ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cols", [1, 2, 40, 41, 97])
def test_parallel_rows_are_convolved_with_the_kernel(cols: int) -> None:
    geometry = parallel(cols)
    frame = random_stack(geometry)[3]
    filtered = ViewFilter(geometry).filter(frame, 3)
    weight = math.pi / 20
    expected = [weight * direct(row, 0.25) for row in frame.astype(np.float64)]
    np.testing.assert_allclose(filtered, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_cone_weights_stand_before_the_ramp() -> None:
    geometry = cone(principal_point_px=(14.2, 20.4))
    frame = random_stack(geometry)[5]
    v = (np.arange(37) - 14.2) * 0.6
    u = (np.arange(43) - 20.4) * 0.6
    weighted = frame * 60 / np.sqrt(60**2 + u**2 + v[:, None] ** 2) * (2 * math.pi / 24 / 2)
    expected = np.array([direct(row, 0.6 * 40 / 60) for row in weighted])
    found = ViewFilter(geometry).filter(frame, 5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_short_scan_weights_stand_before_the_ramp() -> None:
    geometry = cone(angles_rad=np.linspace(0, math.pi + 0.6, 60))
    ramp = ViewFilter(geometry)
    frame = random_stack(geometry)[4]
    u, v = (np.arange(43) - 21) * 0.6, (np.arange(37) - 18) * 0.6
    columns = ramp.redundancy.columns(4)
    assert columns.min() < 0.2 and columns.max() == 1.0  # view 4 lies in the rise
    weighted = frame * 60 / np.sqrt(60**2 + u**2 + v[:, None] ** 2) * ramp.redundancy.view_weights_rad[4] * columns
    expected = np.array([direct(row, 0.4) for row in weighted])
    np.testing.assert_allclose(ramp.filter(frame, 4), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("column", [8, 34])
def test_an_offset_detector_is_filtered_beyond_its_end(column: int) -> None:
    geometry = cone(principal_point_px=(18, column))
    ramp = ViewFilter(geometry)
    wide = ramp.filtered_geometry
    assert wide.detector_shape == (37, 69)
    frame = random_stack(geometry)[2]
    added = 26 if column == 8 else 0
    padded = np.zeros((37, 69))
    u, v = (np.arange(43) - column) * 0.6, (np.arange(37) - 18) * 0.6
    weights = ramp.redundancy.columns(2) * 60 / np.sqrt(60**2 + u**2 + v[:, None] ** 2) * (2 * math.pi / 24)
    padded[:, added : added + 43] = frame * weights
    expected = np.array([direct(row, 0.4) for row in padded])
    np.testing.assert_allclose(ramp.filter(frame, 2), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    # The measured columns look at the same points as before.
    assert wide.orbit is not None
    assert wide.orbit.principal_point_px == (18, column + added)


def test_the_ramp_of_a_constant() -> None:
    geometry = parallel(256)
    filtered = ViewFilter(geometry).filter(np.ones((5, 256), np.float32), 0)
    middle = filtered[:, 64:192]
    # All of the ramp of a constant is what the box lacks: in its middle 1 / (pi^2 a), a its half width.
    assert middle[:, 63:65] == pytest.approx(math.pi / 20 / (math.pi**2 * 128 * 0.25), rel=0.02)
    assert np.ptp(middle) < 0.1 * np.abs(filtered).max()


def test_the_filter_is_linear() -> None:
    geometry = cone()
    ramp = ViewFilter(geometry, window="hann")
    a, b = random_stack(geometry)[:2]
    both = ramp.filter(2 * a - b, 3)
    np.testing.assert_allclose(both, 2 * ramp.filter(a, 3) - ramp.filter(b, 3), atol=1e-6 * np.abs(both).max())


def test_general_geometry_is_filtered_as_the_circle_it_is() -> None:
    geometry = cone(principal_point_px=(14.2, 19.4))
    frame = random_stack(geometry)[5]
    expected = ViewFilter(geometry).filter(frame, 5)
    found = ViewFilter(without_orbit(geometry)).filter(frame, 5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    offset = cone(principal_point_px=(18, 8))
    wide = ViewFilter(without_orbit(offset))
    expected = ViewFilter(offset).filter(frame, 5)
    np.testing.assert_allclose(wide.filter(frame, 5), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    straight = ViewFilter(offset).filtered_geometry
    np.testing.assert_allclose(wide.filtered_geometry.detector_center_mm, straight.detector_center_mm, atol=1e-9)


# --- independence ------------------------------------------------------------------------------------------------


def test_bits_of_a_row_depend_on_nothing_but_the_row() -> None:
    geometry = cone(detector_shape=(150, 301), pixel_pitch_mm=(0.1, 0.1), angles_rad=circle(6))
    stack = random_stack(geometry)
    stack[:, :, :] = stack[:, 70:71, :]  # one row, at every place
    stack[3, 40] += 1.0  # a neighbor that differs
    ramp = ViewFilter(parallel_like(geometry))
    for view in (2, 3):
        filtered = ramp.filter(stack[view], view)
        for row in (0, 1, 15, 17, 64, 95, 96, 149):
            assert np.array_equal(filtered[row], filtered[70])


def parallel_like(geometry: ScanGeometry) -> ScanGeometry:
    """Return a parallel scan of the same size: its weights do not depend on the row."""
    return ScanGeometry.parallel(
        detector_shape=geometry.detector_shape, pixel_pitch_mm=(0.1, 0.1), angles_rad=geometry.angles_rad
    )


def test_bits_do_not_depend_on_history_threads_bands_and_copies() -> None:
    geometry = cone(detector_shape=(150, 301), pixel_pitch_mm=(0.1, 0.1), angles_rad=circle(12))
    stack = random_stack(geometry)
    expected = [ViewFilter(geometry).filter(frame, view) for view, frame in enumerate(stack)]
    shared = ViewFilter(geometry)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda view: shared.filter(stack[view], view), [*range(12), *range(12)]))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected * 2, strict=True))
    assert np.array_equal(shared.filter_to_columns(stack[4], 4), expected[4].T)
    for band in ((0, 1), (3, 150), (31, 33), (96, 149)):
        out = np.full((301, band[1] - band[0]), np.nan, np.float32)
        assert shared.filter_to_columns(stack[4], 4, band, out) is out
        assert np.array_equal(out, expected[4][slice(*band)].T)
    copy = pickle.loads(pickle.dumps(shared))
    assert np.array_equal(copy.filter(stack[4], 4), expected[4])
    not_contiguous = np.asfortranarray(stack[4])
    assert np.array_equal(shared.filter(not_contiguous, 4), expected[4])
    read_only = stack[4].copy()
    read_only.setflags(write=False)
    assert np.array_equal(shared.filter(read_only, 4), expected[4])


def test_the_input_is_left_alone() -> None:
    geometry = cone()
    frame = random_stack(geometry)[0]
    before = frame.copy()
    ViewFilter(geometry).filter(frame, 0)
    assert np.array_equal(frame, before)


def test_wrong_views_are_refused() -> None:
    ramp = ViewFilter(cone())
    good = random_stack(cone())[0]
    with pytest.raises(InputError, match=r"float32 array, got float64 \(view 3\)"):
        ramp.filter(good.astype(np.float64), 3)
    with pytest.raises(InputError, match=r"view 3 must have the detector's shape \(37, 43\) .*got \(43, 37\)"):
        ramp.filter(np.ascontiguousarray(good.T), 3)
    with pytest.raises(InputError, match=r"view must be 0\.\.23, got 24"):
        ramp.filter(good, 24)
    for bad in (np.nan, -np.inf):
        broken = good.copy()
        broken[12, 7] = bad
        with pytest.raises(InputError, match="view 3 has 1 pixels that are not, the first at row 12, column 7"):
            ramp.filter(broken, 3)
    with pytest.raises(InputError, match=r"rows must be a band of the 37 detector rows, got \(30, 38\)"):
        ramp.filter_to_columns(good, 3, (30, 38))
    with pytest.raises(InputError, match=r"out must be a C-contiguous float32 array of shape \(43, 7\)"):
        ramp.filter_to_columns(good, 3, (30, 37), np.empty((7, 43), np.float32))
