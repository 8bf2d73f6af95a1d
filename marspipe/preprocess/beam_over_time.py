"""The open beam of energy bins at the time of a frame, and the line integrals against it.

Interpolated are the counts of bins, which is the same as interpolating those of counters; the groups are corrected and
binned once. Between groups, ``p = ln F(t) - ln(N + 1/2)`` is taken as one logarithm of the ratio, so that a beam that
changes costs no second one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from marspipe.preprocess.logarithm import HALF_COUNT, line_integrals

FloatArray = NDArray[np.float64]


class BeamOverTime:
    """Open beams of one camera position, in the order of time.

    Before the first group and after the last one the nearest holds: open beams taken in the middle of a scan are
    better than none, and an extrapolated drift is not known better than none.

    Parameters
    ----------
    times : sequence of float
        Of the groups, ascending.
    counts : sequence of ndarray, shape (n_bins, v, u), float64
        Mean counts of every group, corrected and at the same flux.
    frames : sequence of ndarray, shape (n_bins,), float64
        Frames averaged in every group, in units of frames at that flux.
    """

    def __init__(self, times: Sequence[float], counts: Sequence[FloatArray], frames: Sequence[FloatArray]) -> None:
        self._times = [float(time) for time in times]
        # Pixels that are not lit in every group are flagged; what stands for them must have a logarithm.
        lit = np.logical_and.reduce([group > 0 for group in counts])
        self._counts = [np.where(lit, group, 1.0).astype(np.float32) for group in counts]
        self._halves = [0.5 / np.asarray(n) for n in frames]
        self._log: NDArray[np.float32] | None = None
        if len(counts) == 1:
            self._log = np.log(np.where(lit, counts[0], 1.0) + self._halves[0][:, None, None]).astype(np.float32)
        else:
            self._changes = [late - early for early, late in zip(self._counts, self._counts[1:], strict=False)]

    def counts(self, time: float) -> NDArray[np.float32]:
        """Return the mean counts at a time, shape (n_bins, v, u)."""
        place, w = self._between(time)
        if w == 0:
            return self._counts[place]
        return self._counts[place] + np.float32(w) * self._changes[place]

    def line_integrals(self, counts: NDArray[np.float32], time: float) -> NDArray[np.float32]:
        """Return ``p = ln(F(t) + 1/(2n)) - ln(N + 1/2)`` in place of the counts N, shape (n_bins, v, u).

        With the weights ``1 - w`` and ``w`` of two groups the variance of F, and with it the half count of the flats'
        sum, goes as ``1/n = (1 - w)**2 / n0 + w**2 / n1``.
        """
        if self._log is not None:
            return line_integrals(counts, self._log)
        place, w = self._between(time)
        half = self._halves[place] * (1 - w) ** 2
        if w > 0:
            half = half + self._halves[place + 1] * w**2
        beam = np.empty(counts.shape[1:], dtype=np.float32)
        for b, image in enumerate(counts):  # bin by bin: what one needs stays in the cache
            if w == 0:
                np.add(self._counts[place][b], np.float32(half[b]), out=beam)
            else:
                np.multiply(self._changes[place][b], np.float32(w), out=beam)
                np.add(beam, self._counts[place][b], out=beam)
                np.add(beam, np.float32(half[b]), out=beam)
            np.maximum(image, np.float32(0), out=image)
            np.add(image, HALF_COUNT, out=image)
            np.divide(beam, image, out=image)
            np.log(image, out=image)
        return counts

    def _between(self, time: float) -> tuple[int, float]:
        """Return the group before a time and the weight of the next one."""
        times = self._times
        if not time > times[0]:
            return 0, 0.0
        if time >= times[-1]:
            return len(times) - 1, 0.0
        place = int(np.searchsorted(times, time, side="right")) - 1
        return place, (time - times[place]) / (times[place + 1] - times[place])
