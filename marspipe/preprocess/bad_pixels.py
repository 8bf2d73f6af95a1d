"""Which pixels are not believed, and what stands in for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def find_bad_pixels(
    open_beam: NDArray[Any],
    dark: NDArray[Any],
    *,
    dead_fraction: float = 0.1,
    hot_fraction: float = 5.0,
    noisy_dark_fraction: float = 0.01,
) -> NDArray[np.bool_]:
    """Return the mask of pixels whose counts mean nothing.

    Parameters
    ----------
    open_beam, dark : ndarray, shape (v, u)
        Mean open-beam and dark counts of one counter.
    dead_fraction : float
        Dead: open beam minus dark at most this fraction of the frame's median, or not positive.
    hot_fraction : float
        Hot: open beam above this multiple of the median.
    noisy_dark_fraction : float
        Noisy: dark counts above this fraction of the median open beam. A photon-counting pixel counts nothing in the
        dark unless its threshold sits in its own noise.

    Returns
    -------
    ndarray, shape (v, u), bool
        True where the pixel is bad.
    """
    signal = np.asarray(open_beam, dtype=np.float64) - dark
    lit = signal[signal > 0]
    if lit.size == 0:
        return np.ones(signal.shape, dtype=np.bool_)
    median = float(np.median(lit))
    bad: NDArray[np.bool_] = ~np.isfinite(signal)
    bad |= (signal <= 0) | (signal <= dead_fraction * median) | (signal > hot_fraction * median)
    # An integrating detector has a dark level everywhere: only what stands out of it is noise.
    bad |= dark - np.median(dark) > noisy_dark_fraction * median
    return bad


class Inpainter:
    """Fills masked pixels from their good neighbors; the neighbors are found once, for all frames of a mask.

    A bad pixel becomes the mean of the good pixels in the smallest square around it that has at least three,
    weighted by the inverse square of the distance; with fewer inside ``radius_px`` those, with none the nearest one.

    Parameters
    ----------
    mask : ndarray, shape (v, u), bool
        True where a pixel is to be filled.
    radius_px : int
        Half width of the widest square.

    Raises
    ------
    ValueError
        If no pixel is good.
    """

    def __init__(self, mask: NDArray[np.bool_], radius_px: int = 8) -> None:
        if mask.all():
            raise ValueError(f"all {mask.size} pixels of the frame are bad; there is nothing to fill them from")
        self.n_bad = int(mask.sum())
        cols = mask.shape[1]
        targets: list[int] = []
        sources: list[NDArray[np.intp]] = []
        weights: list[NDArray[np.float64]] = []
        nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
        for v, u in np.argwhere(mask):
            good: NDArray[np.intp] = np.empty((0, 2), dtype=np.intp)
            for radius in range(1, radius_px + 1):
                corner = np.array([max(v - radius, 0), max(u - radius, 0)])
                good = np.argwhere(~mask[corner[0] : v + radius + 1, corner[1] : u + radius + 1]) + corner
                if len(good) >= 3:
                    break
            if len(good) == 0:
                good = np.array([nearest[:, v, u]], dtype=np.intp)
            weight = 1.0 / ((good - (v, u)) ** 2).sum(axis=1)
            targets.append(int(v * cols + u))
            sources.append(good[:, 0] * cols + good[:, 1])
            weights.append(weight / weight.sum())
        self._targets = np.array(targets, dtype=np.intp)
        self._starts = np.cumsum([0, *map(len, sources[:-1])], dtype=np.intp)
        self._sources = np.concatenate(sources) if sources else np.empty(0, dtype=np.intp)
        self._weights = np.concatenate(weights).astype(np.float32) if weights else np.empty(0, dtype=np.float32)

    def fill(self, frame: NDArray[np.float32]) -> None:
        """Fill the masked pixels of a frame, shape (v, u), C-contiguous float32, in place."""
        if self.n_bad:
            flat = frame.reshape(-1)
            flat[self._targets] = np.add.reduceat(flat[self._sources] * self._weights, self._starts)
