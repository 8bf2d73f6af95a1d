from __future__ import annotations

import numpy as np
import pytest

from marspipe.errors import InputError
from marspipe.preprocess.beam_hardening import correct_beam_hardening, fit_beam_hardening
from marspipe.scan.energy import Counter
from marspipe.scan.spectra import (
    CounterResponse,
    bin_weights,
    effective_attenuation,
    linear_attenuation,
    tube_spectrum,
)

COUNTERS = [Counter(0, "CSM", 20.0), Counter(1, "CSM", 45.0)]
SPECTRUM = tube_spectrum(100.0, {"Al": 2.0})
WEIGHTS = bin_weights(SPECTRUM, COUNTERS, CounterResponse())
ENERGIES = SPECTRUM.energies_kev


def measured(lengths_mm: np.ndarray, material: str) -> np.ndarray:
    """Line integrals (bins, 1, lengths) of the polychromatic beam."""
    decay = np.exp(-np.outer(lengths_mm, linear_attenuation(material, ENERGIES)))
    share = WEIGHTS / WEIGHTS.sum(axis=1, keepdims=True)
    return -np.log(share @ decay.T)[:, None, :]


@pytest.mark.parametrize(("material", "longest"), [("water", 60.0), ("aluminum", 15.0)])
def test_line_integrals_become_proportional_to_length(material: str, longest: float) -> None:
    hardening = fit_beam_hardening(WEIGHTS, ENERGIES, material, longest)
    lengths = np.linspace(0.002, 1, 200) * longest
    p = measured(lengths, material)
    mu_0 = effective_attenuation(WEIGHTS, ENERGIES, material)
    truth = mu_0[:, None, None] * lengths
    bent = np.abs(p / truth - 1).max(axis=(1, 2))
    found = correct_beam_hardening(p, hardening)
    assert found.dtype == np.float32
    left = np.abs(found / truth - 1).max(axis=(1, 2))
    assert bent.max() > 0.08 and bent.min() > 0.004
    assert (left < 0.004 * bent).all()
    np.testing.assert_allclose(hardening.coefficients[:, 0], 1, atol=2e-3)  # thin parts keep their scale
    assert (hardening.residual < 0.01 * truth.max(axis=(1, 2))).all()


def test_one_energy_needs_no_correction() -> None:
    hardening = fit_beam_hardening([[0.0, 5.0, 0.0]], [30.0, 50.0, 70.0], "water", 40.0)
    p = np.linspace(-0.1, 1.5 * hardening.largest[0], 50).reshape(1, 5, 10)
    np.testing.assert_allclose(correct_beam_hardening(p, hardening), p, atol=2e-6)


def test_air_keeps_its_noise_and_the_far_end_goes_straight_on() -> None:
    hardening = fit_beam_hardening(WEIGHTS, ENERGIES, "water", 50.0)
    noise = np.random.default_rng(1).normal(0, 0.01, size=(2, 100, 100))
    noise -= noise.mean(axis=(1, 2), keepdims=True)
    found = correct_beam_hardening(noise, hardening)
    assert np.abs(found.mean(axis=(1, 2), dtype=np.float64)).max() < 2e-5
    x = hardening.largest[0] + np.array([0.0, 1.0, 2.0, 3.0])
    y = correct_beam_hardening(np.broadcast_to(x, (2, 1, 4)), hardening)[0, 0]
    np.testing.assert_allclose(np.diff(y), np.diff(y)[0], rtol=1e-5)
    assert np.diff(y)[0] > 1


def test_very_long_ways_stay_finite() -> None:
    hardening = fit_beam_hardening(WEIGHTS, ENERGIES, "water", 1e5)
    assert np.isfinite(hardening.coefficients).all() and np.isfinite(hardening.largest).all()


def test_leading_axes_and_inputs_are_kept() -> None:
    hardening = fit_beam_hardening(WEIGHTS, ENERGIES, "water", 50.0)
    p = np.random.default_rng(1).uniform(0, 1, size=(3, 2, 4, 5)).astype(np.float32)
    before = p.copy()
    found = correct_beam_hardening(p, hardening)
    for one, expected in zip(p, found, strict=True):
        np.testing.assert_array_equal(correct_beam_hardening(one, hardening), expected)
    np.testing.assert_array_equal(p, before)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="order"):
        fit_beam_hardening(WEIGHTS, ENERGIES, "water", 50.0, order=0)
    with pytest.raises(InputError, match="max_length_mm must be positive"):
        fit_beam_hardening(WEIGHTS, ENERGIES, "water", 0.0)
    with pytest.raises(InputError, match="unknown material 'tofu'"):
        fit_beam_hardening(WEIGHTS, ENERGIES, "tofu", 10.0)
    with pytest.raises(InputError, match="weights must have shape"):
        fit_beam_hardening(WEIGHTS[:, :-1], ENERGIES, "water", 10.0)
    with pytest.raises(InputError, match="not all 0 in a bin"):
        fit_beam_hardening(np.zeros_like(WEIGHTS), ENERGIES, "water", 10.0)
    hardening = fit_beam_hardening(WEIGHTS, ENERGIES, "water", 10.0)
    with pytest.raises(InputError, match="3 energy bins, the beam-hardening correction has 2"):
        correct_beam_hardening(np.ones((3, 2, 2)), hardening)
    with pytest.raises(InputError, match="integrals must be finite"):
        correct_beam_hardening(np.full((2, 2, 2), np.nan), hardening)
