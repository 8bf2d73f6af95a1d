"""What does not fit together is refused by name, and what only looks wrong is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from marspipe.errors import InputError, ScanError
from marspipe.preprocess.beam_hardening import BeamHardening
from marspipe.preprocess.calibration import Absorber, Calibration, OpenBeams
from marspipe.preprocess.chain import ChainSettings, Preprocessor
from marspipe.preprocess.chain_settings import DeadTime, Flux, Scatter, Zingers
from marspipe.preprocess.flux import Region
from marspipe.preprocess.pixel_statistics import PixelSums
from tests.preprocess.chain_scene import BINS, ONE, SHAPE, calibration, scene, sums


def test_settings_that_do_not_fit_are_refused_by_name() -> None:
    flat, _, seen = scene()
    known = calibration(flat)
    hardening = BeamHardening(np.array([[1.0]]), np.array([1.0]), np.zeros(1))
    for settings, message in (
        (ChainSettings(dead_time=DeadTime((1e-7,) * 3)), "dead_time.tau_s is given for 3, but there are 2 counters"),
        (ChainSettings(scatter=Scatter((1.0,) * 3)), "scatter.counts is given for 3, but there are 2 energy bins"),
        (ChainSettings(beam_hardening=hardening), "beam_hardening is given for 1, but there are 2 energy bins"),
        (ChainSettings(flux=Flux("air", Region(0, 25, 0, 3))), "flux.air: Region"),
    ):
        with pytest.raises(ScanError, match=message):
            Preprocessor(known, BINS, settings)
    chain = Preprocessor(known, BINS, ChainSettings(dead_time=DeadTime((1e-7,))))
    with pytest.raises(ScanError, match="frame: the dead-time correction needs the exposure time"):
        chain(seen.astype(np.float32))
    with pytest.raises(ScanError, match="group 0 of the open beams: the dead-time correction needs"):
        Preprocessor(calibration(flat, exposures=(None,)), BINS, ChainSettings(dead_time=DeadTime((1e-7,))))
    for wrong, message in (
        (lambda: DeadTime((-1.0,)), "dead_time.tau_s must be one or more numbers from 0 on"),
        (lambda: DeadTime((1.0,), "other"), "dead_time.model must be one of paralyzable, non-paralyzable"),  # type: ignore[arg-type]
        (lambda: Zingers("frames"), "zingers.mode must be one of none, frame"),  # type: ignore[arg-type]
        (lambda: Zingers("frame", size_px=4), "zingers.size_px must be an odd number"),
        (lambda: Flux("air"), "flux.air is the strip for by: air"),
        (lambda: Scatter((1.0,), Region(0, 1, 0, 1)), "got both"),
        (lambda: ChainSettings(thickness_order=4), "thickness_order must be 0"),
        (lambda: ChainSettings(thickness_order=1, beam_hardening=hardening), "choose one of the two"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()


def test_calibrations_that_contradict_themselves_are_refused() -> None:
    flat = np.full((1, *SHAPE), 100.0)
    known = calibration(flat, flat, times=(0.0, 1.0))
    with pytest.raises(ScanError, match=r"must follow each other in time, got 0.0 and then 0.0"):
        calibration(flat, flat, times=(0.0, 0.0))
    with pytest.raises(ScanError, match="at least one group of open beams"):
        replace(known, open_beams=())
    with pytest.raises(ScanError, match="the darks: 2 counters, expected 1"):
        replace(known, darks=known.darks * 2)
    with pytest.raises(ScanError, match=r"the absorber of 2 mm, counter 0: frames of \(2, 2\) px, expected \(24, 30\)"):
        replace(known, absorbers=(Absorber(2.0, (sums(np.ones((2, 2))),)),))
    with pytest.raises(ScanError, match="group 0 of the open beams: no frame of counter 0"):
        Calibration((OpenBeams((PixelSums.empty(SHAPE),)),), known.darks)
    with pytest.raises(ScanError, match="chip borders"):
        replace(known, edges=np.zeros((2, 2), dtype=np.uint8))


def test_a_detector_that_integrates_or_computed_frames_are_not_unstable() -> None:
    rng = np.random.default_rng(12)
    quiet = 5000 + 20 * rng.standard_normal((30, *SHAPE))  # variance over mean 0.08 in every pixel
    quiet[:, 3, 3] = 5000 + 80 * rng.standard_normal(30)
    flags = Preprocessor(Calibration((OpenBeams((PixelSums.of(quiet),)),), (PixelSums.empty(SHAPE),)), ONE).flags
    assert np.argwhere(flags[0]).tolist() == [[3, 3]]
    same = PixelSums.of(np.broadcast_to(rng.uniform(900, 1100, SHAPE), (30, *SHAPE)))
    assert not Preprocessor(Calibration((OpenBeams((same,)),), (PixelSums.empty(SHAPE),)), ONE).flags.any()
