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
