"""Hardening through the chain: plates per pixel, polynomials per bin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from marspipe.errors import ScanError
from marspipe.preprocess.bad_pixels import PixelFlag
from marspipe.preprocess.beam_hardening import fit_beam_hardening
from marspipe.preprocess.calibration import Absorber
from marspipe.preprocess.chain import ChainSettings, Preprocessor
from marspipe.scan.spectra import effective_attenuation, linear_attenuation
from tests.preprocess.chain_scene import BINS, ONE, SHAPE, Array, calibration, sums


def hardened(flat: Array, length_mm: Array, threshold: Array) -> Array:
    """Counts of two energies behind aluminum-like plates; the mix differs from pixel to pixel."""
    return np.asarray(flat * ((1 - threshold) * np.exp(-0.08 * length_mm) + threshold * np.exp(-0.03 * length_mm)))


def plates(flat: Array, threshold: Array, lengths: tuple[float, ...], exposure_s: float = 1.0) -> tuple[Absorber, ...]:
    return tuple(
        Absorber(d, (sums(exposure_s * hardened(flat, np.full(SHAPE, d), threshold), 200),), exposure_s)
        for d in lengths
    )


def test_thickness_takes_out_hardening_and_the_differences_of_pixels() -> None:
    rng = np.random.default_rng(11)
    flat = rng.uniform(0.9e6, 1.1e6, size=SHAPE)
    threshold = rng.uniform(0.35, 0.45, size=SHAPE)
    length = np.linspace(0, 20, SHAPE[1])[None] * np.ones(SHAPE)
    known = calibration(flat[None])
    # Plates at half the exposure, frames at a quarter of it.
    known = replace(known, absorbers=plates(flat, threshold, (3.0, 6.0, 10.0, 15.0, 21.0), 0.5))
    chain = Preprocessor(known, ONE, ChainSettings(thickness_order=3))
    assert "thickness" in chain.steps
    seen = (0.25 * hardened(flat, length, threshold)).astype(np.float32)
    result = chain(seen[None], exposure_s=0.25)[0]
    mu = float(np.median(0.08 * (1 - threshold) + 0.03 * threshold))  # 1/mm, of thin layers
    assert chain.attenuation_per_mm is not None
    assert chain.attenuation_per_mm[0] == pytest.approx(mu, rel=0.01)
    # The cubic follows the curve to 0.1 % of the range; without it 20 mm deviate by 20 %.
    np.testing.assert_allclose(result, chain.attenuation_per_mm[0] * length, atol=0.002 * mu * 20)
    plain = Preprocessor(known, ONE)(seen[None], exposure_s=0.25)[0]
    assert np.abs(plain - mu * length).max() > 0.1 * mu * 20
    given = Preprocessor(known, ONE, ChainSettings(thickness_order=3, attenuation_per_mm=(0.05,)))
    scaled = given(seen[None], exposure_s=0.25)[0]
    np.testing.assert_allclose(scaled, result * (0.05 / chain.attenuation_per_mm[0]), rtol=1e-5, atol=1e-6)


def test_thickness_leaves_line_integrals_that_are_straight() -> None:
    rng = np.random.default_rng(13)
    flat = rng.uniform(0.9e6, 1.1e6, size=SHAPE)
    one_energy = np.zeros(SHAPE)
    length = np.linspace(0, 20, SHAPE[1])[None] * np.ones(SHAPE)
    known = replace(calibration(flat[None]), absorbers=plates(flat, one_energy, (4.0, 11.0, 21.0)))
    seen = hardened(flat, length, one_energy).astype(np.float32)[None]
    plain = Preprocessor(known, ONE)(seen)
    for order in (1, 2, 3):
        chain = Preprocessor(known, ONE, ChainSettings(thickness_order=order))
        # What the half counts of 200 frames behind 21 mm, 2e5 counts, leave: 1e-8; the rest is float32.
        np.testing.assert_allclose(chain(seen), plain, atol=2e-6)
        assert chain.attenuation_per_mm == pytest.approx((0.08,), rel=1e-6)


def test_pixels_without_a_calibration_are_filled_and_missing_plates_named() -> None:
    flat = np.full(SHAPE, 1e6)
    threshold = np.full(SHAPE, 0.4)
    broken = plates(flat, threshold, (3.0, 9.0, 18.0))
    for plate in broken:  # counts the same behind every plate
        plate.sums[0].total[5, 6] = 200 * 1e6
    known = replace(calibration(flat[None]), absorbers=broken)
    settings = ChainSettings(thickness_order=2)
    chain = Preprocessor(known, ONE, settings)
    assert chain.flags[0, 5, 6] == PixelFlag.UNSTABLE
    assert np.count_nonzero(chain.flags) == 1
    seen = hardened(flat, np.full(SHAPE, 10.0), threshold).astype(np.float32)[None]
    result = chain(seen)
    np.testing.assert_allclose(result, result[0, 0, 0], rtol=1e-5)
    with pytest.raises(ScanError, match="thickness of order 2 is asked for, but the scan has no absorber frames"):
        Preprocessor(calibration(flat[None]), ONE, settings)
    with pytest.raises(ScanError, match=r"absorbers, bin 20\+ keV: a polynomial of order 2 needs 2 different"):
        Preprocessor(replace(known, absorbers=broken[:1]), ONE, settings)


def test_beam_hardening_makes_line_integrals_straight() -> None:
    energies = np.array([25.0, 35.0, 45.0, 60.0, 80.0])
    weights = np.array([[3.0, 2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 2.0, 1.0]])
    hardening = fit_beam_hardening(weights, energies, "water", 40.0)
    length = np.linspace(0, 40, SHAPE[1])[None] * np.ones(SHAPE)
    flat = 1e6 * weights.sum(axis=1)[:, None, None] * np.ones((2, *SHAPE))
    mu = linear_attenuation("water", energies)
    bins = 1e6 * np.einsum("be,vue->bvu", weights, np.exp(-length[..., None] * mu))
    counters = np.stack([bins.sum(axis=0), bins[1]])
    beam = np.stack([flat.sum(axis=0), flat[1]])
    chain = Preprocessor(calibration(beam), BINS, ChainSettings(beam_hardening=hardening))
    truth = effective_attenuation(weights, energies, "water")[:, None, None] * length
    np.testing.assert_allclose(chain(counters.astype(np.float32)), truth, atol=2e-3)
    assert np.abs(Preprocessor(calibration(beam), BINS)(counters.astype(np.float32)) - truth).max() > 0.02
    upper = Preprocessor(calibration(beam), BINS[1:], ChainSettings(beam_hardening=hardening).of_bins(slice(1, 2)))
    np.testing.assert_array_equal(upper(counters.astype(np.float32))[0], chain(counters.astype(np.float32))[1])
