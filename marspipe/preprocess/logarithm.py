"""Counts to line integrals of the attenuation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# ln(N + 1/2) estimates ln(lambda) of a Poisson variable with a bias of order lambda**-2 (ln N: -1 / (2 lambda)),
# and is finite at N = 0 (Anscombe, Biometrika 35, 246-254, 1948, doi:10.1093/biomet/35.3-4.246).
HALF_COUNT = np.float32(0.5)


def line_integrals(counts: NDArray[np.float32], log_open_beam: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``p = ln F - ln(N + 1/2)`` in place of the counts.

    Parameters
    ----------
    counts : ndarray, shape (n_bins, v, u), float32
        Counts N per bin, dark-subtracted; overwritten. Negative counts, which only differences of noisy counters
        give, are taken as zero. Small negative results are kept: cutting them would raise the air.
    log_open_beam : ndarray, shape (n_bins, v, u), float32
        Logarithm of the open-beam counts F, see :func:`log_open_beam`.

    Returns
    -------
    ndarray, shape (n_bins, v, u), float32, dimensionless
    """
    np.maximum(counts, np.float32(0), out=counts)
    np.add(counts, HALF_COUNT, out=counts)
    np.log(counts, out=counts)
    return np.subtract(log_open_beam, counts, out=counts)


def log_open_beam(mean_counts: NDArray[Any], n_frames: int) -> NDArray[np.float32]:
    """Return ``ln F`` of open-beam counts averaged over ``n_frames`` frames, with the same half count of their sum.

    Pixels without any open-beam count have no line integral; they must be masked by the caller.
    """
    total = np.maximum(np.asarray(mean_counts, dtype=np.float64), 0.0) + 0.5 / max(n_frames, 1)
    return np.log(total).astype(np.float32)
