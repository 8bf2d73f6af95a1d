"""How sharp a slice is, as one number to compare reconstructions of the same data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Noise is uncorrelated between voxels, edges are not.
_SMOOTHING_VOXELS = 1.0


def edge_slope(
    image: NDArray[np.floating], voxel_mm: tuple[float, float], inside: NDArray[np.bool_] | None = None
) -> float:
    """Return the slope of the steepest edges of a slice: the root of the mean fourth power of its gradient.

    An edge that is blurred or doubled keeps its height and loses slope; the fourth power makes the steep few count.

    Parameters
    ----------
    image : ndarray, shape (y, x), 1/mm
        A slice.
    voxel_mm : (float, float)
        Voxel size (dy, dx), mm.
    inside : ndarray, bool, shape (y, x), optional
        Which voxels count; all by default.

    Returns
    -------
    float
        1/mm per mm, after smoothing by one voxel.
    """
    smooth = ndimage.gaussian_filter(np.asarray(image, np.float64), _SMOOTHING_VOXELS, mode="nearest")
    squared = np.zeros_like(smooth)
    for axis, size in enumerate(voxel_mm):
        if smooth.shape[axis] > 1:
            squared += np.gradient(smooth, size, axis=axis) ** 2
    counted = squared if inside is None or not inside.any() else squared[inside]
    return float(np.mean(counted**2) ** 0.25)
