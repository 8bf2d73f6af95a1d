"""A noise-free scene of two counters, and calibrations of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marspipe.preprocess.calibration import Calibration, OpenBeams
from marspipe.preprocess.pixel_statistics import PixelSums
from marspipe.scan.energy import Counter, counter_bins

BINS = counter_bins([Counter(0, "CSM", 20.0), Counter(1, "CSM", 40.0)])
ONE = counter_bins([Counter(0, "SPM", 20.0)])
SHAPE = (24, 30)
Array = NDArray[np.float64]
# What the half count leaves of noise-free counts: 1/(2N), at most 1/(2 * 15 000); the rest is float32.
HALF = 4e-5


def sums(mean: Array, n: int = 100) -> PixelSums:
    return PixelSums(n, n * mean, n * mean**2 + (n - 1) * mean)


def calibration(
    *groups: Array, times: tuple[float, ...] = (0.0,), exposures: tuple[float | None, ...] | None = None
) -> Calibration:
    """Calibration without darks of groups of shape (n_counters, v, u)."""
    exposures = exposures or (1.0,) * len(groups)
    beams = tuple(OpenBeams(tuple(sums(c) for c in g), t, e) for g, t, e in zip(groups, times, exposures, strict=True))
    return Calibration(beams, tuple(PixelSums.empty(SHAPE) for _ in groups[0]))


def scene() -> tuple[Array, Array, Array]:
    """Open beam (2 counters), truth (2 bins) and what the counters see of it, noise-free."""
    rng = np.random.default_rng(4)
    flat = rng.uniform(0.9e5, 1.1e5, size=(2, *SHAPE))
    flat[1] *= 0.4
    rows, cols = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    truth = np.stack([0.5 + 0.02 * rows + 0.01 * cols, 0.3 + 0.015 * rows])
    seen_bins = np.stack([flat[0] - flat[1], flat[1]]) * np.exp(-truth)
    return flat, truth, np.stack([seen_bins.sum(axis=0), seen_bins[1]])
