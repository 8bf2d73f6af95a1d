"""The corrections in their order, for one exposure after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.preprocess.bad_pixels import PixelFlag, PixelLimits, bin_flags, count_flags
from marspipe.preprocess.counts import bin_counts
from marspipe.preprocess.inpaint import FrameFiller
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
    limits : PixelLimits, optional
        Where a good pixel ends.
    inpaint_radius_px, gap_px : int
        See :class:`marspipe.preprocess.inpaint.FrameFiller`.

    Attributes
    ----------
    flags : ndarray, shape (n_bins, v, u), uint8
        Bits of :class:`~marspipe.preprocess.bad_pixels.PixelFlag` of every bin: those of either counter; dead where the
        bin has no open-beam counts.
    """

    def __init__(
        self,
        calibration: Calibration,
        bins: Sequence[CounterBin],
        *,
        limits: PixelLimits | None = None,
        inpaint_radius_px: int = 8,
        gap_px: int = 3,
    ) -> None:
        self.bins = tuple(bins)
        self._dark = calibration.dark if calibration.dark.any() else None
        of_counters = [
            count_flags(flat, dark, limits) for flat, dark in zip(calibration.open_beam, calibration.dark, strict=True)
        ]
        open_counts = bin_counts(calibration.open_beam - calibration.dark, self.bins)
        self.flags = bin_flags(np.stack(of_counters), self.bins)
        self.flags[open_counts <= 0] |= np.uint8(PixelFlag.DEAD)
        for flags, energy_bin in zip(self.flags, self.bins, strict=True):
            if flags.all():
                raise ScanError(f"bin {energy_bin.energy.label}: every pixel of the open beam is bad or empty")
        self._log_open_beam = log_open_beam(open_counts, calibration.n_open_beam)
        self._fillers = [FrameFiller(flags != 0, inpaint_radius_px, gap_px) for flags in self.flags]

    def __call__(self, counters: NDArray[Any]) -> NDArray[np.float32]:
        """Return line integrals, shape (n_bins, v, u), of counter images, shape (n_counters, v, u)."""
        if self._dark is not None:
            counters = np.subtract(counters, self._dark, dtype=np.float32)
        integrals = line_integrals(bin_counts(counters, self.bins), self._log_open_beam)
        for filler, frame in zip(self._fillers, integrals, strict=True):
            filler.fill(frame)
        return integrals
