"""The corrections in their order, for one exposure after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.preprocess.bad_pixels import Inpainter, find_bad_pixels
from marspipe.preprocess.counts import bin_counts
from marspipe.preprocess.logarithm import line_integrals, log_open_beam
from marspipe.scan.energy import CounterBin


@dataclass(frozen=True)
class Calibration:
    """Open beams and dark frames, averaged.

    Attributes
    ----------
    open_beam, dark : ndarray, shape (n_counters, v, u), float32
        Mean counts per counter.
    n_open_beam : int
        Open-beam frames per counter.
    """

    open_beam: NDArray[np.float32]
    dark: NDArray[np.float32]
    n_open_beam: int


class Preprocessor:
    """Turns the counter images of one exposure into line integrals per energy bin.

    Order: dark subtraction, counters to bins, -log against the open beam, filling of bad pixels.

    Parameters
    ----------
    calibration : Calibration
        Open beam and dark of the scan.
    bins : sequence of CounterBin
        Energy bins.
    dead_fraction, hot_fraction, noisy_dark_fraction : float
        See :func:`marspipe.preprocess.bad_pixels.find_bad_pixels`.
    inpaint_radius_px : int
        See :class:`marspipe.preprocess.bad_pixels.Inpainter`.

    Attributes
    ----------
    mask : ndarray, shape (n_bins, v, u), bool
        Bad pixels of every bin: those of either counter, and those without open-beam counts in the bin.
    """

    def __init__(
        self,
        calibration: Calibration,
        bins: Sequence[CounterBin],
        *,
        dead_fraction: float = 0.1,
        hot_fraction: float = 5.0,
        noisy_dark_fraction: float = 0.01,
        inpaint_radius_px: int = 8,
    ) -> None:
        self.bins = tuple(bins)
        self._dark = calibration.dark if calibration.dark.any() else None
        bad = np.stack(
            [
                find_bad_pixels(
                    flat,
                    dark,
                    dead_fraction=dead_fraction,
                    hot_fraction=hot_fraction,
                    noisy_dark_fraction=noisy_dark_fraction,
                )
                for flat, dark in zip(calibration.open_beam, calibration.dark, strict=True)
            ]
        )
        open_counts = bin_counts(calibration.open_beam - calibration.dark, self.bins)
        self.mask = open_counts <= 0
        for mask, energy_bin in zip(self.mask, self.bins, strict=True):
            mask |= bad[energy_bin.plus]
            if energy_bin.minus is not None:
                mask |= bad[energy_bin.minus]
            if mask.all():
                raise ScanError(f"bin {energy_bin.energy.label}: every pixel of the open beam is bad or empty")
        self._log_open_beam = log_open_beam(open_counts, calibration.n_open_beam)
        self._inpainters = [Inpainter(mask, inpaint_radius_px) for mask in self.mask]

    def __call__(self, counters: NDArray[Any]) -> NDArray[np.float32]:
        """Return line integrals, shape (n_bins, v, u), of counter images, shape (n_counters, v, u)."""
        if self._dark is not None:
            counters = np.subtract(counters, self._dark, dtype=np.float32)
        integrals = line_integrals(bin_counts(counters, self.bins), self._log_open_beam)
        for inpainter, frame in zip(self._inpainters, integrals, strict=True):
            inpainter.fill(frame)
        return integrals
