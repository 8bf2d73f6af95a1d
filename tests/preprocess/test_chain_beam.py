"""The open beam through the chain: drift between groups, half counts, flux of groups and frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from marspipe.errors import ScanError
from marspipe.preprocess.beam_over_time import BeamOverTime
from marspipe.preprocess.calibration import Calibration, OpenBeams
from marspipe.preprocess.chain import ChainSettings, Preprocessor
from marspipe.preprocess.chain_settings import Flux
from marspipe.preprocess.flux import Region
from marspipe.preprocess.open_beam import OpenBeamGroup, OpenBeamSeries
from marspipe.preprocess.pixel_statistics import PixelSums
from tests.preprocess.chain_scene import BINS, HALF, ONE, SHAPE, calibration, scene, sums


def test_a_drifting_beam_is_interpolated() -> None:
    flat, truth, seen = scene()
    drift = np.random.default_rng(1).uniform(0.99, 1.01, size=flat.shape)  # below the limit of drifting pixels
    late = flat * 1.2 * drift
    known = calibration(flat, late, times=(10.0, 20.0))
    chain = Preprocessor(known, BINS)
    now = 0.75 * flat + 0.25 * late
    bins_now = np.stack([now[0] - now[1], now[1]]) * np.exp(-truth)
    seen = np.stack([bins_now.sum(axis=0), bins_now[1]]).astype(np.float32)
    np.testing.assert_allclose(chain(seen, time=12.5), truth, atol=HALF)
    for time, beam in ((10.0, flat), (3.0, flat), (20.0, late), (99.0, late)):
        alone = Preprocessor(calibration(beam), BINS)
        # One group is the difference of two logarithms around 11, of 1e-6 resolution in float32, two are one logarithm.
        np.testing.assert_allclose(chain(seen, time=time), alone(seen), atol=1.5e-6)
    pooled = Preprocessor(known, BINS, ChainSettings(open_beam_time="mean"))
    once = Preprocessor(calibration(0.5 * (flat + late)), BINS)
    np.testing.assert_allclose(pooled(seen, time=12.5), once(seen), atol=5e-6)  # half a count of 200 frames, not 100
    assert np.abs(pooled(seen, time=12.5) - truth).max() > 0.04


def test_half_counts_of_flats_follow_the_frames_they_stand_for() -> None:
    early, late = np.full((1, *SHAPE), 40.0), np.full((1, *SHAPE), 60.0)
    beams = (OpenBeams((sums(early[0], 2),), 0.0, 1.0), OpenBeams((sums(late[0], 5),), 1.0, 1.0))
    known = Calibration(beams, (PixelSums.empty(SHAPE),))
    seen = np.full((1, *SHAPE), 7, dtype=np.uint16)
    for time, beam, n in ((0.0, 40.0, 2.0), (0.3, 46.0, 1 / (0.7**2 / 2 + 0.3**2 / 5)), (1.0, 60.0, 5.0)):
        result = Preprocessor(known, ONE)(seen, time=time)
        np.testing.assert_allclose(result, np.log(beam + 0.5 / n) - np.log(7.5), atol=1e-6)
    pooled = Preprocessor(known, ONE, ChainSettings(open_beam_time="mean"))(seen)
    np.testing.assert_allclose(pooled, np.log((80 + 300 + 0.5) / 7) - np.log(7.5), atol=1e-6)


def test_groups_that_do_not_drift_change_nothing() -> None:
    flat, _, seen = scene()
    counts = np.random.default_rng(6).poisson(seen).astype(np.uint32)
    plain = Preprocessor(calibration(flat), BINS)(counts)
    chain = Preprocessor(calibration(flat, flat, flat, times=(0.0, 1.0, 5.0)), BINS)
    for time in (0.0, 0.4, 3.0, 5.0):
        np.testing.assert_allclose(chain(counts, time=time), plain, atol=1.5e-6)


@pytest.mark.parametrize("by", ["exposure", "monitor"])
def test_flux_of_frame_and_groups_is_taken_out(by: str) -> None:
    flat, truth, seen = scene()
    # The second group was exposed twice, the frame 0.7 times as long as the first group.
    known = calibration(flat, 2 * 1.1 * flat, times=(0.0, 10.0), exposures=(0.2, 0.4))
    if by == "monitor":
        beams = tuple(replace(g, exposure_s=None, monitor=m) for g, m in zip(known.open_beams, (0.2, 0.4), strict=True))
        known = replace(known, open_beams=beams)
    frame = (0.7 * 1.05 * seen).astype(np.float32)
    given = {"exposure_s": 0.14} if by == "exposure" else {"monitor": 0.14}
    flux = Flux(by)  # type: ignore[arg-type]
    interpolated = Preprocessor(known, BINS, ChainSettings(flux=flux))
    assert "flux" in interpolated.steps
    np.testing.assert_allclose(interpolated(frame, time=5.0, **given), truth, atol=2 * HALF)
    # The mean weighs groups by their exposure: (1 + 2 * 1.1) / 3 times the beam, and not 1.05 times.
    pooled = Preprocessor(known, BINS, ChainSettings(flux=flux, open_beam_time="mean"))
    np.testing.assert_allclose(pooled(frame, time=5.0, **given), truth + np.log(3.2 / 3 / 1.05), atol=2 * HALF)


def test_flux_by_a_strip_of_air() -> None:
    flat, truth, seen = scene()
    truth[:, :, :6] = 0
    bins_flat = np.stack([flat[0] - flat[1], flat[1]])
    bins_seen = bins_flat * np.exp(-truth) * np.array([0.8, 0.9])[:, None, None]  # not the same in both bins
    flat[:, 2, 2] = 0
    seen = np.stack([bins_seen.sum(axis=0), bins_seen[1]])
    seen[:, 2, 2] = 5e5  # a bad pixel in the air
    settings = ChainSettings(flux=Flux("air", Region(0, 24, 0, 6)))
    for groups, times in (((flat,), (0.0,)), ((flat, 1.3 * flat), (0.0, 4.0))):
        chain = Preprocessor(calibration(*groups, times=times), BINS, settings)
        result = chain(seen.astype(np.float32), time=2.0)
        np.testing.assert_allclose(result[:, :, 8:], truth[:, :, 8:], atol=HALF / 0.8)
    with pytest.raises(ScanError, match="log: counts in the strip of air must be positive"):
        chain(np.zeros_like(seen, dtype=np.float32))


def test_exposure_times_that_differ_by_rounding_are_the_same() -> None:
    flat, _, seen = scene()
    chain = Preprocessor(calibration(flat, exposures=(sum([0.1] * 3) / 3,)), BINS)
    counts = seen.astype(np.float32)
    np.testing.assert_array_equal(chain(counts, exposure_s=0.1), chain(counts))


def test_frames_without_what_flux_needs() -> None:
    flat, _, seen = scene()
    counts = seen.astype(np.float32)
    plain = Preprocessor(calibration(flat), BINS, ChainSettings(flux=Flux("none")))(counts)
    known = calibration(flat, exposures=(0.5,))
    for unknown in (None, 0.0, float("nan")):
        np.testing.assert_array_equal(Preprocessor(known, BINS)(counts, exposure_s=unknown), plain)
        without = Preprocessor(calibration(flat, exposures=(unknown,)), BINS)
        assert "flux" not in without.steps
        np.testing.assert_array_equal(without(counts, exposure_s=0.1), plain)
    monitor = ChainSettings(flux=Flux("monitor"))
    with pytest.raises(ScanError, match="flux by: monitor, but group 0 of the open beams has no monitor reading"):
        Preprocessor(known, BINS, monitor)
    seen_by_monitor = replace(known, open_beams=(replace(known.open_beams[0], monitor=7.0),))
    with pytest.raises(ScanError, match="the frame has no monitor reading"):
        Preprocessor(seen_by_monitor, BINS, monitor)(counts)
    with pytest.raises(ScanError, match=r"the monitor reads 0.0; it must be positive"):
        Preprocessor(seen_by_monitor, BINS, monitor)(counts, monitor=0.0)


def test_interpolation_is_that_of_the_series_of_open_beams() -> None:
    rng = np.random.default_rng(14)
    times, n = (1.0, 4.0, 9.0), (3, 5, 9)
    counts = [rng.uniform(90, 110, size=(2, 6, 7)) for _ in times]
    beam = BeamOverTime(times, counts, [np.full(2, float(k)) for k in n])
    series = OpenBeamSeries(
        [OpenBeamGroup(t, c.astype(np.float32), k) for t, c, k in zip(times, counts, n, strict=True)], "nearest"
    )
    for time in (0.0, 1.0, 2.2, 4.0, 7.9, 9.0, 30.0):
        np.testing.assert_allclose(beam.counts(time), series.at(time).counts, rtol=3e-7)
