"""Corrections of counts through the chain: defects are undone, clean data stay, the order is the right one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from marspipe.errors import ScanError
from marspipe.preprocess.bad_pixels import PixelFlag
from marspipe.preprocess.beam_hardening import BeamHardening
from marspipe.preprocess.chain import ChainSettings, Preprocessor
from marspipe.preprocess.chain_settings import DeadTime, Flux, Scatter, Zingers
from marspipe.preprocess.flux import Region
from marspipe.scan.energy import Counter, counter_bins
from tests.preprocess.chain_scene import BINS, HALF, SHAPE, Array, calibration, scene, sums


def as_seen_with_dead_time(counts: Array, tau_per_exposure: float) -> Array:
    return counts * np.exp(-counts * tau_per_exposure)


def test_dead_time_is_undone_per_counter() -> None:
    flat, truth, seen = scene()
    taus = (2e-7, 8e-7)  # s, of an exposure of 0.5 s: loads of 4 % and 6 %
    lost_flat, lost = (
        np.stack([as_seen_with_dead_time(c, tau / 0.5) for c, tau in zip(images, taus, strict=True)])
        for images in (flat, seen)
    )
    known = calibration(lost_flat, exposures=(0.5,))
    corrected = Preprocessor(known, BINS, ChainSettings(dead_time=DeadTime(taus)))
    np.testing.assert_allclose(corrected(lost.astype(np.float32), exposure_s=0.5), truth, atol=HALF)
    for wrong in ((0.0,), (2e-7,), (8e-7, 2e-7)):
        other = Preprocessor(known, BINS, ChainSettings(dead_time=DeadTime(wrong)))
        assert np.abs(other(lost.astype(np.float32), exposure_s=0.5) - truth).max() > 100 * HALF


def test_dead_time_comes_before_counters_are_subtracted() -> None:
    # Bins corrected after the subtraction would be wrong: a pixel is dead for all photons, not for those of a bin.
    flat, truth, seen = scene()
    tau = 1e-6
    lost_flat, lost = (np.stack([as_seen_with_dead_time(c, tau) for c in images]) for images in (flat, seen))
    settings = ChainSettings(dead_time=DeadTime((tau,)))
    right = Preprocessor(calibration(lost_flat), BINS, settings)(lost.astype(np.float32), exposure_s=1.0)
    np.testing.assert_allclose(right, truth, atol=HALF)
    binned_flat, binned = (np.stack([images[0] - images[1], images[1]]) for images in (lost_flat, lost))
    bins = counter_bins([Counter(0, "CSM", 20.0), Counter(1, "CSM", 40.0)], "cumulative")
    late = Preprocessor(calibration(binned_flat), bins, settings)(binned.astype(np.float32), exposure_s=1.0)
    assert np.abs(late[0] - truth[0]).max() > 0.01


def test_clean_data_keep_their_bits_where_nothing_is_to_be_undone() -> None:
    flat, _, seen = scene()
    counts = np.random.default_rng(6).poisson(seen).astype(np.uint32)
    plain = Preprocessor(calibration(flat), BINS)(counts, exposure_s=1.0)
    one = BeamHardening(np.array([[1.0, 0.0], [1.0, 0.0]]), np.full(2, np.inf), np.zeros(2))
    for settings in (
        ChainSettings(dead_time=DeadTime((0.0, 0.0))),
        ChainSettings(zingers=Zingers("frame")),
        ChainSettings(scatter=Scatter((0.0, 0.0))),
        ChainSettings(beam_hardening=one),
        ChainSettings(open_beam_time="mean"),
        ChainSettings(flux=Flux("none")),
    ):
        np.testing.assert_array_equal(Preprocessor(calibration(flat), BINS, settings)(counts, exposure_s=1.0), plain)


def test_counts_beyond_the_dead_time_model_are_filled() -> None:
    flat, truth, seen = scene()
    settings = ChainSettings(dead_time=DeadTime((2e-6,), "paralyzable"))
    tau = 2e-6
    lost_flat, lost = (np.stack([as_seen_with_dead_time(c, tau) for c in images]) for images in (flat, seen))
    chain = Preprocessor(calibration(lost_flat), BINS, settings)
    lost[0, 5, 5] = 3e5  # m tau = 0.6 > 1/e
    unfilled, bad = chain.unfilled(lost.astype(np.float32), exposure_s=1.0)
    assert bad is not None
    assert np.argwhere(bad).tolist() == [[0, 5, 5]]
    assert np.isfinite(unfilled).all()
    result = chain(lost.astype(np.float32), exposure_s=1.0)
    np.testing.assert_allclose(result, truth, atol=1e-3)  # the scene is a ramp, and neighbors fill ramps
    lost_flat[0, 7, 7] = 3e5
    assert Preprocessor(calibration(lost_flat), BINS, settings).flags[0, 7, 7] & PixelFlag.SATURATED


def test_every_reason_not_to_believe_a_count_counts() -> None:
    flat, _, seen = scene()
    settings = ChainSettings(dead_time=DeadTime((1e-6,)), zingers=Zingers("frame"))
    frame = (0.5 * seen).astype(np.float32)
    frame[1, 3, 3], frame[1, 6, 6], frame[1, 9, 9] = np.nan, 2**18 - 1, 400000.0
    frame[1, 12, 12] = 250000  # not full, but at a load of 0.25; a zinger
    short = replace(settings, dead_time=DeadTime((2e-6,)))
    for s, expected in ((settings, [[3, 3], [6, 6], [9, 9]]), (short, [[3, 3], [6, 6], [9, 9], [12, 12]])):
        chain = Preprocessor(replace(calibration(flat), counter_bits=18), BINS, s)
        bad = chain.unfilled(frame, exposure_s=1.0)[1]
        assert bad is not None
        assert np.argwhere(bad[1]).tolist() == expected
        zingers = chain.trace(frame, exposure_s=1.0)["zingers"]
        changed = np.argwhere(zingers.before != zingers.after).tolist()
        # What is not believed is neither changed nor asked.
        assert ([1, 12, 12] in changed) == (s is settings)
        assert [1, 6, 6] not in changed
        assert [1, 9, 9] not in changed


def test_zingers_are_taken_out_before_counters_are_subtracted() -> None:
    flat, _, seen = scene()
    counts = np.random.default_rng(7).poisson(seen).astype(np.uint32)
    clean = Preprocessor(calibration(flat), BINS)(counts)
    hit = counts.copy()
    hit[0, 4, 4] += 60000
    hit[1, 9, 20] += 60000  # negative in the lower bin
    chain = Preprocessor(calibration(flat), BINS, ChainSettings(zingers=Zingers("frame")))
    difference = np.abs(chain(hit) - clean)
    assert difference[:, 4, 4].max() < 0.25  # pixels differ by 10 %, twice that in the difference
    assert difference[:, 9, 20].max() < 0.25
    assert np.count_nonzero(difference) == 3
    assert np.abs(Preprocessor(calibration(flat), BINS)(hit) - clean)[0, 9, 20] > 5


def test_scatter_is_taken_from_projections_only() -> None:
    flat, truth, seen = scene()
    scattered = seen + np.array([900.0, 500.0])[:, None, None]  # in bins: 400 and 500
    chain = Preprocessor(calibration(flat), BINS, ChainSettings(scatter=Scatter((400.0, 500.0))))
    np.testing.assert_allclose(chain(scattered.astype(np.float32)), truth, atol=HALF)
    assert np.abs(Preprocessor(calibration(flat), BINS)(scattered.astype(np.float32)) - truth).max() > 0.02


def test_scatter_is_measured_in_a_shadow() -> None:
    flat, truth, seen = scene()
    seen[:, :4, :] = 0
    scattered = seen + np.array([900.0, 500.0])[:, None, None]
    flat[:, 1, 1] = 0
    scattered[:, 1, 1] = 1e5  # a bad pixel in the shadow
    chain = Preprocessor(calibration(flat), BINS, ChainSettings(scatter=Scatter(shadow=Region(0, 4, 0, 30))))
    np.testing.assert_allclose(chain(scattered.astype(np.float32))[:, 4:], truth[:, 4:], atol=HALF)
    # Less than nothing in the shadow is noise.
    dark = replace(calibration(flat), darks=(sums(np.full(SHAPE, 950.0)), sums(np.full(SHAPE, 550.0))))
    plain = Preprocessor(dark, BINS)(scattered.astype(np.float32))
    shadow = Preprocessor(dark, BINS, chain.settings)(scattered.astype(np.float32))
    np.testing.assert_array_equal(shadow, plain)
    with pytest.raises(ScanError, match=r"scatter.shadow: Region.* not on a detector of 24 x 30"):
        Preprocessor(calibration(flat), BINS, ChainSettings(scatter=Scatter(shadow=Region(0, 4, 0, 31))))
