from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import InputError
from marspipe.preprocess.logarithm import line_integrals, log_open_beam
from marspipe.preprocess.signal_to_thickness import fit_thickness, thickness_mm

PLATES_MM = np.array([0.0, 2.0, 5.0, 10.0, 20.0, 30.0])


def hardened(d_mm: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """Signals of two energies, with a share of the soft one that differs from pixel to pixel."""
    d = np.asarray(d_mm, dtype=np.float64).reshape(-1, 1, 1)
    return -np.log(soft * np.exp(-0.06 * d) + (1 - soft) * np.exp(-0.02 * d))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_polynomials_are_found_exactly(order: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.uniform(0.5, 2, size=(3, 4, 5))
    a[order:] = 0
    signals = rng.uniform(0.2, 3) * np.linspace(0.2, 1, 6)[:, None, None] * rng.uniform(0.9, 1, size=(1, 4, 5))
    d = sum(a[i] * signals ** (i + 1) for i in range(3))
    # plates of known thickness: choose the pixels' signals so that d is the same in all
    one = fit_thickness(signals[:, :1, :1], d[:, 0, 0], order)
    assert not one.flagged.any()
    assert one.coefficients.dtype == np.float32
    np.testing.assert_allclose(one.coefficients[:, 0, 0], a[:order, 0, 0], rtol=2e-3)
    np.testing.assert_allclose(thickness_mm(signals[:, :1, :1], one)[:, 0, 0], d[:, 0, 0], rtol=1e-5)


def test_pixels_that_differ_agree_after_calibration() -> None:
    soft = np.random.default_rng(1).uniform(0.3, 0.7, size=(6, 7))
    calibration = fit_thickness(hardened(PLATES_MM, soft), PLATES_MM)
    assert not calibration.flagged.any()
    between = np.array([1.0, 7.0, 14.0, 25.0])
    signals = hardened(between, soft)
    found = thickness_mm(signals, calibration)
    assert found.dtype == np.float32
    rings_before = (signals.std(axis=(1, 2)) / signals.mean(axis=(1, 2))).min()
    rings_after = (found.std(axis=(1, 2)) / between).max()
    assert rings_before > 0.05 and rings_after < 2e-3
    np.testing.assert_allclose(found, np.broadcast_to(between[:, None, None], found.shape), rtol=0.01)
    assert (calibration.residual_mm < 0.05).all()


def test_with_poisson_noise_the_residual_tells_it() -> None:
    rng = np.random.default_rng(2)
    soft = np.full((20, 20), 0.5)
    photons = 1e6
    counts = rng.poisson(photons * np.exp(-hardened(PLATES_MM, soft))).astype(np.float32)
    signals = line_integrals(counts, log_open_beam(np.full((1, 20, 20), photons), 10**6)[0])
    calibration = fit_thickness(signals, PLATES_MM)
    assert not calibration.flagged.any()
    found = thickness_mm(hardened(np.array([15.0]), soft), calibration)
    assert abs(float(found.mean()) - 15) < 0.1
    assert 0.001 < float(np.median(calibration.residual_mm)) < 0.2


def test_bad_pixels_are_flagged_not_guessed() -> None:
    signals = np.tile(np.array([0.1, 0.2, 0.4, 0.8])[:, None, None], (1, 2, 3))
    signals[:, 0, 0] = 0  # sees nothing of the plates
    signals[:, 0, 1] = 0.5  # the same behind every plate
    signals[:, 0, 2] = [0.8, 0.4, 0.2, 0.1]  # upside down
    mask = np.zeros((2, 3), dtype=bool)
    mask[1, 0] = True
    signals[:, 1, 0] = np.nan
    calibration = fit_thickness(signals, [1.0, 2.0, 4.0, 8.0], order=2, mask=mask)
    assert calibration.flagged.tolist() == [[True, True, True], [True, False, False]]
    assert not calibration.coefficients[:, calibration.flagged].any()
    assert np.isnan(calibration.residual_mm[calibration.flagged]).all()
    frame = signals[2].copy()
    frame[0, 1] = np.nan
    found = thickness_mm(frame, calibration)
    np.testing.assert_allclose(found, np.where(calibration.flagged, 0, 4), rtol=1e-5)


def test_a_fit_that_the_plates_do_not_determine_is_flagged() -> None:
    signals = np.array([0.5, 0.50005]).reshape(2, 1, 1)  # two plates of almost one thickness, two coefficients
    assert fit_thickness(signals, [1.0, 1.0001], order=2).flagged.all()
    assert not fit_thickness(signals, [1.0, 1.0001], order=1).flagged.any()


def test_a_cubic_that_dips_between_its_ends_is_flagged() -> None:
    signals = np.array([0.0889, 0.3063, 1.0]).reshape(3, 1, 1)
    calibration = fit_thickness(signals, [1.0, 2.0, 3.0], order=3)
    slope = np.polynomial.Polynomial([0, *np.linalg.solve(signals[:, :, 0] ** [1, 2, 3], [1.0, 2.0, 3.0])]).deriv()
    assert slope(0) > 0 and slope(1) > 0 and slope(0.5) < 0
    assert calibration.flagged.all()


def test_all_masked_and_single_pixel() -> None:
    signals = np.array([0.5, 1.0]).reshape(2, 1, 1)
    assert fit_thickness(signals, [1, 2], 1, np.ones((1, 1), dtype=bool)).flagged.all()
    one = fit_thickness(signals, [1, 2], 1)
    np.testing.assert_allclose(thickness_mm(np.array([[-0.1]]), one), [[-0.2]], rtol=1e-6)


def test_outside_of_the_plates_the_tangent_goes_on() -> None:
    calibration = fit_thickness(hardened(PLATES_MM, np.full((1, 1), 0.5)), PLATES_MM)
    largest = float(calibration.largest_signal[0, 0])
    x = largest + np.array([-1e-3, 0, 0.5, 1.0])
    y = thickness_mm(x.reshape(-1, 1, 1), calibration).ravel().astype(np.float64)
    slope = (y[1] - y[0]) / 1e-3
    np.testing.assert_allclose(np.diff(y[1:]) / 0.5, slope, rtol=0.01)


def test_what_does_not_fit_is_refused() -> None:
    signals = np.ones((3, 2, 2))
    with pytest.raises(InputError, match="order"):
        fit_thickness(signals, [1, 2, 3], 4)
    with pytest.raises(InputError, match=r"needs 3 different thicknesses above 0, got \[0.0, 1.0, 2.0\]"):
        fit_thickness(signals, [0, 1, 2], 3)
    with pytest.raises(InputError, match="one thickness per plate"):
        fit_thickness(signals, [1, 2], 1)
    with pytest.raises(InputError, match="must not be negative"):
        fit_thickness(signals, [-1, 2, 3], 1)
    with pytest.raises(InputError, match=r"signals must be finite, but element \(0, 0, 0\) is nan"):
        fit_thickness(signals * np.nan, [1, 2, 3], 1)
    calibration = fit_thickness(signals * np.array([1, 2, 3])[:, None, None], [1, 2, 3], 1)
    with pytest.raises(InputError, match=r"frames of \(2, 3\)"):
        thickness_mm(np.ones((2, 3)), calibration)
    with pytest.raises(InputError, match="signals must be finite"):
        thickness_mm(np.full((2, 2), np.nan), calibration)
