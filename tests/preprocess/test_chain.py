from __future__ import annotations

import numpy as np
import pytest

from marspipe.errors import ScanError
from marspipe.preprocess.bad_pixels import PixelFlag
from marspipe.preprocess.chain import Calibration, Preprocessor
from marspipe.preprocess.counts import bin_counts
from marspipe.preprocess.inpaint import Inpainter
from marspipe.preprocess.logarithm import line_integrals, log_open_beam
from marspipe.scan.energy import Counter, counter_bins

BINS = counter_bins([Counter(0, "CSM", 20.0), Counter(1, "CSM", 40.0)])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
def test_counter_differences_do_not_wrap_around(dtype: type) -> None:
    counters = np.array([[[5, 200]], [[7, 100]]], dtype=dtype)
    assert bin_counts(counters, BINS).tolist() == [[[-2.0, 100.0]], [[7.0, 100.0]]]


def test_deepest_counter_is_exact() -> None:
    top = 2**24 - 1
    counters = np.array([[[top]], [[top - 1]]], dtype=np.uint32)
    assert bin_counts(counters, BINS).tolist() == [[[1.0]], [[float(top - 1)]]]


def test_half_count_is_unbiased_at_low_counts() -> None:
    # E[ln(N + 1/2)] = ln(lambda) + O(lambda**-2): at 20 counts ln N alone would be 2.6 % off.
    rng = np.random.default_rng(5)
    counts = rng.poisson(20.0, size=(1, 400, 500)).astype(np.float32)
    p = line_integrals(counts, log_open_beam(np.full((1, 400, 500), 20.0), 10**6))
    assert abs(float(p.mean())) < 4 * np.sqrt(1 / 20 / p.size)


def test_zero_and_negative_counts_stay_finite() -> None:
    p = line_integrals(np.array([[[0.0, -3.0]]], dtype=np.float32), log_open_beam(np.full((1, 1, 2), 100.0), 1))
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p, np.log(100.5 / 0.5), rtol=1e-6)


def test_inpainting_restores_a_plane_and_leaves_good_pixels() -> None:
    rows, cols = np.mgrid[0:40, 0:50].astype(np.float32)
    plane = (0.01 * rows - 0.02 * cols + 3).astype(np.float32)
    mask = np.random.default_rng(1).random(plane.shape) < 0.02
    mask[10:13, 20:23] = True
    mask[0, 0] = True
    damaged = np.where(mask, np.float32(99), plane)
    Inpainter(mask).fill(damaged)
    np.testing.assert_array_equal(damaged[~mask], plane[~mask])
    assert np.abs(damaged - plane)[1:-1, 1:-1].max() < 0.03
    untouched = plane.copy()
    Inpainter(np.zeros_like(mask)).fill(untouched)
    np.testing.assert_array_equal(untouched, plane)


def test_inpainting_across_a_wide_gap_and_nothing_left() -> None:
    mask = np.ones((30, 3), dtype=bool)
    mask[0, 0] = False
    frame = np.zeros((30, 3), dtype=np.float32)
    frame[0, 0] = 7
    Inpainter(mask, radius_px=2).fill(frame)
    assert (frame == 7).all()
    with pytest.raises(ValueError, match="all 90 pixels"):
        Inpainter(np.ones((30, 3), dtype=bool))


def test_chain_recovers_known_line_integrals() -> None:
    rng = np.random.default_rng(2)
    flat = rng.uniform(4e6, 6e6, size=(2, 24, 32))
    flat[1] *= 0.4
    truth = rng.uniform(0, 2, size=(2, 24, 32))
    bins_flat = np.stack([flat[0] - flat[1], flat[1]])
    bins_seen = bins_flat * np.exp(-truth)
    counters = np.stack([bins_seen.sum(axis=0), bins_seen[1]])
    dark = np.full((2, 24, 32), 1000.0)
    calibration = Calibration((flat + dark).astype(np.float32), dark.astype(np.float32), 16)
    chain = Preprocessor(calibration, BINS)
    assert not chain.flags.any()
    seen = np.round(counters + dark).astype(np.uint32)
    before = seen.copy()
    result = chain(seen)
    np.testing.assert_array_equal(seen, before)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, truth, atol=5e-6 + 2 / 4e5)


def test_chain_fills_pixels_that_are_bad_in_either_counter() -> None:
    flat = np.full((2, 16, 16), 1000.0, dtype=np.float32)
    flat[1] = 400
    flat[1, 3, 4] = 0
    chain = Preprocessor(Calibration(flat, np.zeros_like(flat), 16), BINS)
    assert (chain.flags[:, 3, 4] == PixelFlag.DEAD).all()
    assert np.count_nonzero(chain.flags) == 2
    counters = np.full((2, 16, 16), 500, dtype=np.uint16)
    counters[1] = 200
    counters[:, 3, 4] = 4000
    result = chain(counters)
    np.testing.assert_allclose(result[0], np.log(600 / 300.5), atol=1e-3)
    np.testing.assert_allclose(result[1], np.log(400 / 200.5), atol=1e-3)


def test_a_bin_without_light_is_refused() -> None:
    flat = np.full((2, 4, 4), 1000.0, dtype=np.float32)
    with pytest.raises(ScanError, match="bin 20-40 keV: every pixel"):
        Preprocessor(Calibration(flat, np.zeros_like(flat), 1), BINS)


def test_chain_bridges_gaps_between_chips() -> None:
    flat = np.full((1, 20, 30), 1000.0, dtype=np.float32)
    flat[0, :, 12:17] = 0
    chain = Preprocessor(Calibration(flat, np.zeros_like(flat), 16), counter_bins([Counter(0, "SPM", 20.0)]))
    truth = np.linspace(0.5, 1.5, 30, dtype=np.float32)[None] * np.ones((20, 1), np.float32)
    seen = np.where(flat > 0, 1000.5 * np.exp(-truth) - 0.5, 0).astype(np.float32)
    np.testing.assert_allclose(chain(seen)[0], truth, atol=2e-3)
