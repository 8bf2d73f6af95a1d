"""Counter images to counts per energy bin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.scan.energy import CounterBin


def bin_counts(counters: NDArray[Any], bins: Sequence[CounterBin]) -> NDArray[np.float32]:
    """Return the counts of every energy bin from the counter images of one exposure.

    Parameters
    ----------
    counters : ndarray, shape (n_counters, v, u), any real dtype
        Counter images, or their means or dark-subtracted values, indexed by counter number.
    bins : sequence of CounterBin
        Each bin is ``counters[plus] - counters[minus]``.

    Returns
    -------
    ndarray, shape (n_bins, v, u), float32
        Counts; differences of noisy counters can be negative and are left so.

    Notes
    -----
    The difference is taken in float32, whose 24-bit integers are those of the deepest Medipix3 counter, so that it
    is exact and cannot wrap around as an unsigned one would.
    """
    counts = np.empty((len(bins), *counters.shape[1:]), dtype=np.float32)
    for out, energy_bin in zip(counts, bins, strict=True):
        if energy_bin.minus is None:
            out[...] = counters[energy_bin.plus]
        else:
            np.subtract(counters[energy_bin.plus], counters[energy_bin.minus], out=out, dtype=np.float32)
    return counts


def fraction_without_counts(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return which part of the pixels of every image has zero or negative counts, which the logarithm takes as zero.

    Parameters
    ----------
    counts : ndarray, shape (..., v, u)
        Counts per counter or energy bin. Many of them in a bin say that its thresholds are too close or the exposure
        too short.

    Returns
    -------
    ndarray, the leading shape of ``counts``, float64, 0 to 1
    """
    return np.asarray((np.asarray(counts) <= 0).mean(axis=(-2, -1)))
