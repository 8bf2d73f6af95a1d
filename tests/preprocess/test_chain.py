from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from marspipe.errors import ScanError
from marspipe.preprocess.bad_pixels import PixelFlag, edge_flags
from marspipe.preprocess.calibration import Calibration, OpenBeams
from marspipe.preprocess.chain import STEPS, ChainSettings, Preprocessor
from marspipe.preprocess.chain_settings import DeadTime, Zingers
from marspipe.preprocess.counts import bin_counts
from marspipe.preprocess.inpaint import BinFillers, Inpainter
from marspipe.preprocess.logarithm import line_integrals, log_open_beam
from marspipe.preprocess.pixel_statistics import PixelSums
from marspipe.scan.energy import Counter, counter_bins

BINS = counter_bins([Counter(0, "CSM", 20.0), Counter(1, "CSM", 40.0)])
ONE = counter_bins([Counter(0, "SPM", 20.0)])


def flat_calibration(counts: float = 1000.0, shape: tuple[int, int] = (16, 20)) -> Calibration:
    flat = np.full((1, *shape), counts)
    return Calibration.of_means(flat, np.zeros_like(flat), 16)


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
    chain = Preprocessor(Calibration.of_means(flat + dark, dark, 16), BINS)
    assert chain.steps == ("dark", "bins", "log", "inpaint")
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
    chain = Preprocessor(Calibration.of_means(flat, np.zeros_like(flat), 16), BINS)
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
        Preprocessor(Calibration.of_means(flat, np.zeros_like(flat), 1), BINS)


def test_chain_bridges_gaps_between_chips() -> None:
    flat = np.full((1, 20, 30), 1000.0, dtype=np.float32)
    flat[0, :, 12:17] = 0
    chain = Preprocessor(Calibration.of_means(flat, np.zeros_like(flat), 16), ONE)
    truth = np.linspace(0.5, 1.5, 30, dtype=np.float32)[None] * np.ones((20, 1), np.float32)
    seen = np.where(flat > 0, 1000.5 * np.exp(-truth) - 0.5, 0).astype(np.float32)
    np.testing.assert_allclose(chain(seen)[0], truth, atol=2e-3)


def test_flags_come_from_single_counters_groups_edges_and_depth() -> None:
    rng = np.random.default_rng(3)
    shape, n = (12, 14), 40
    beams = []
    for k in range(2):
        frames = rng.poisson(2000.0, size=(n, *shape)).astype(np.float64)
        frames[::2, 1, 1] *= 1.5  # restless
        frames[:, 2, 2] *= 1 + 0.3 * k  # drifts
        frames[:, 3, 3] = 4095  # full
        beams.append(frames)
    darks = PixelSums.of(np.zeros((4, *shape)))
    darks.total[4, 4] = 400.0
    groups = tuple(OpenBeams((PixelSums.of(f),), float(k)) for k, f in enumerate(beams))
    calibration = Calibration(groups, (darks,), (), edge_flags(shape, cols=[7]), 12)
    flags = Preprocessor(calibration, ONE).flags[0]
    assert flags[1, 1] & PixelFlag.UNSTABLE
    assert flags[2, 2] & PixelFlag.DRIFTING
    assert flags[3, 3] & PixelFlag.SATURATED
    assert flags[4, 4] & PixelFlag.NOISY
    assert (flags[:, 7] & PixelFlag.EDGE).all()
    flags[[1, 2, 3, 4], [1, 2, 3, 4]] = 0
    flags[:, 7] = 0
    assert not flags.any()
    without = Preprocessor(calibration, ONE, ChainSettings(chip_edges=False))
    assert not (without.flags & PixelFlag.EDGE).any()


def test_full_counters_of_one_frame_are_filled_in_that_frame_only() -> None:
    calibration = replace(flat_calibration(), counter_bits=12)
    chain = Preprocessor(calibration, ONE)
    seen = np.full((1, 16, 20), 500, dtype=np.uint16)
    clean = chain(seen)
    full = seen.copy()
    full[0, 5, 5:7] = 4095
    unfilled, bad = chain.unfilled(full)
    assert bad is not None
    assert np.argwhere(bad[0]).tolist() == [[5, 5], [5, 6]]
    assert abs(float(unfilled[0, 5, 5] - clean[0, 5, 5])) > 1
    # The surroundings are constant: the mean of neighbors is exact to rounding, all else is untouched.
    np.testing.assert_allclose(chain(full), clean, atol=1e-6)
    np.testing.assert_array_equal(chain(full)[~bad], clean[~bad])
    np.testing.assert_array_equal(chain(seen), clean)
    assert chain.unfilled(seen)[1] is None
    # Without a known depth a count is a count.
    assert Preprocessor(flat_calibration(), ONE).unfilled(full)[1] is None
    with pytest.raises(ScanError, match=r"bin 20\+ keV: every pixel of the frame is bad or saturated"):
        chain(np.full_like(seen, 4095))


def test_a_full_counter_spoils_the_bins_it_is_in() -> None:
    flat = np.stack([np.full((8, 8), 1000.0), np.full((8, 8), 400.0)])
    chain = Preprocessor(replace(Calibration.of_means(flat, 0 * flat, 4), counter_bits=10), BINS)
    seen = np.round(flat / 2).astype(np.uint16)
    seen[0, 2, 2] = 1023
    bad = chain.unfilled(seen)[1]
    assert bad is not None
    assert bad[:, 2, 2].tolist() == [True, False]


def test_a_pixel_that_is_always_full_costs_no_filler_of_its_own() -> None:
    flat = np.full((1, 8, 8), 1000.0)
    flat[0, 4, 4] = 4095
    calibration = replace(Calibration.of_means(flat, 0 * flat, 4), counter_bits=12)
    chain = Preprocessor(calibration, ONE)
    seen = np.full((1, 8, 8), 500, dtype=np.uint16)
    seen[0, 4, 4] = 4095
    assert chain.unfilled(seen)[1] is None


def test_counts_that_are_not_finite_are_filled() -> None:
    chain = Preprocessor(flat_calibration(), ONE)
    seen = np.full((1, 16, 20), 500.0, dtype=np.float32)
    clean = chain(seen)
    seen[0, 3, 3], seen[0, 9, 9] = np.nan, np.inf
    np.testing.assert_allclose(chain(seen), clean, atol=1e-6)
    unfilled, bad = chain.unfilled(seen)
    assert np.isfinite(unfilled).all()
    assert bad is not None
    assert bad.sum() == 2


def test_fillers_do_not_hold_on_to_a_mask_that_is_written_over() -> None:
    bad = np.zeros((1, 8, 8), dtype=bool)
    fillers = BinFillers(bad.copy(), ["all"])
    mask = bad.copy()
    for place in ((2, 2), (5, 5)):
        frame = np.ones((1, 8, 8), dtype=np.float32)
        mask[:] = False
        mask[0][place] = True
        frame[0][place] = 9
        fillers.fill(frame, mask)
        np.testing.assert_allclose(frame, 1, rtol=1e-6)


def test_trace_shows_every_active_step_and_ends_with_the_result() -> None:
    flat = np.stack([np.full((12, 12), 1000.0), np.full((12, 12), 400.0)])
    flat[:, 6, 6] = 0
    settings = ChainSettings(dead_time=DeadTime((1e-6, 2e-6)), zingers=Zingers("frame"))
    calibration = Calibration.of_means(flat, np.full_like(flat, 1.0), 16)
    calibration = replace(calibration, open_beams=(replace(calibration.open_beams[0], exposure_s=1.0),))
    chain = Preprocessor(calibration, BINS, settings)
    assert chain.steps == ("dead-time", "zingers", "dark", "bins", "log", "flux", "inpaint")
    assert [name for name in STEPS if name in chain.steps] == list(chain.steps)
    seen = np.round(flat / 2).astype(np.uint16)
    seen[0, 2, 2] = 20000
    steps = chain.trace(seen, exposure_s=0.5)
    assert tuple(steps) == chain.steps
    for step in steps.values():
        assert step.before.dtype == step.after.dtype == np.float32
    np.testing.assert_array_equal(steps["dead-time"].before, seen)
    assert steps["zingers"].before[0, 2, 2] > 19000
    assert steps["zingers"].after[0, 2, 2] < 600
    assert steps["bins"].before.shape == (2, 12, 12)
    np.testing.assert_array_equal(steps["log"].before, steps["bins"].after)
    np.testing.assert_array_equal(steps["inpaint"].after, chain(seen, exposure_s=0.5))
    np.testing.assert_array_equal(steps["inpaint"].before, chain.unfilled(seen, exposure_s=0.5)[0])
    changed = steps["inpaint"].before != steps["inpaint"].after
    assert changed[:, 6, 6].all()
    assert changed.sum() == 2


def test_rows_by_themselves_give_the_same_bits_where_nothing_is_bad() -> None:
    rng = np.random.default_rng(8)
    flat = rng.uniform(900, 1100, size=(2, 20, 24))
    flat[1] *= 0.4
    groups = tuple(
        OpenBeams(tuple(PixelSums(4, 4 * f, 4 * f**2 + 3 * f) for f in s * flat), t)
        for t, s in ((0.0, 1.0), (9.0, 1.1))
    )
    calibration = Calibration(groups, tuple(PixelSums.empty((20, 24)) for _ in range(2)))
    seen = np.round(flat / 2).astype(np.uint16)
    whole = Preprocessor(calibration, BINS)(seen, time=3.0)
    edges = edge_flags((20, 24), cols=[5])
    assert (Preprocessor(replace(calibration, edges=edges).rows([3]), BINS).flags[:, :, 5] == PixelFlag.EDGE).all()
    for index in (slice(4, 9), [3, 5, 11]):
        part = Preprocessor(calibration.rows(index), BINS)(seen[:, index], time=3.0)
        np.testing.assert_array_equal(part, whole[:, index])


def test_noise_and_mean_are_what_poisson_predicts_between_groups() -> None:
    rng = np.random.default_rng(10)
    shape, n, truth, w = (150, 200), 4, 1.5, 0.25
    beams = (400.0, 500.0)
    groups = tuple(
        OpenBeams((PixelSums.of(rng.poisson(beam, size=(n, *shape))),), 8.0 * k, exposure_s=1.0)
        for k, beam in enumerate(beams)
    )
    chain = Preprocessor(Calibration(groups, (PixelSums.empty(shape),)), ONE)
    flux = 0.5  # of a frame that was exposed half as long
    seen = flux * ((1 - w) * beams[0] + w * beams[1]) * np.exp(-truth)
    p = chain(rng.poisson(seen, size=(1, *shape)).astype(np.uint16), time=8.0 * w, exposure_s=flux)[0]
    f = (1 - w) * beams[0] + w * beams[1]
    variance = 1 / seen + ((1 - w) ** 2 * beams[0] + w**2 * beams[1]) / n / f**2
    # ln(N + 1/2) of 47 counts has 1 + 1/(2N) times the variance of ln N to first order, to which this is compared.
    assert p.var() == pytest.approx(variance, rel=0.04)
    # 0.001 is its own standard error; without the half counts it would be 0.011.
    assert abs(float(p.mean(dtype=np.float64)) - truth) < 4 * np.sqrt(variance / p.size)


def test_the_chain_travels_and_repeats_itself_bit_for_bit() -> None:
    rng = np.random.default_rng(9)
    flat = rng.uniform(900, 1100, size=(1, 16, 20))
    flat[0, 3, 3] = 0
    chain = Preprocessor(Calibration.of_means(flat, 0 * flat, 3), ONE)
    seen = rng.poisson(flat / 2).astype(np.uint16)
    travelled = pickle.loads(pickle.dumps(chain))
    np.testing.assert_array_equal(travelled(seen), chain(seen))


def test_frames_of_another_shape_or_time_are_refused() -> None:
    chain = Preprocessor(flat_calibration(), ONE)
    with pytest.raises(ScanError, match=r"\(n_counters, v, u\) = \(1, 16, 20\), got \(2, 16, 20\)"):
        chain(np.zeros((2, 16, 20), dtype=np.uint16))
    with pytest.raises(ScanError, match="time of a frame must be finite, got nan"):
        chain(np.zeros((1, 16, 20), dtype=np.uint16), time=float("nan"))
