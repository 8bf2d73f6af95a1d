"""The amplitude outside of the double wedge in a mirrored sinogram's transform, as a function of the axis' column."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from marspipe.errors import GeometryError

FloatArray = NDArray[np.float64]

# The half circle counts as covered if its widest gap is at most this many typical steps.
_WIDEST_GAP = 2.5
# The object that a mask supposes, as a share of the detector.
_OBJECT_SHARE = 0.5
_FEWEST_VIEWS = 12
# Views closer than this are at the same angle.
_SAME_RAD = 1e-6


class DoubleWedge:
    """Vo's metric of a parallel-beam sinogram over 180 degrees.

    Parameters
    ----------
    sinogram : ndarray, float64, shape (views, columns)
        Line integrals.
    angles_rad : ndarray, float64, shape (views,)
        View angles, in any order.
    binning : int
        Columns that are averaged to one.
    most_views : int, optional
        Take every second, third .. view, so that about this many are left.

    Raises
    ------
    GeometryError
        If the views are few or leave out a part of the half circle.

    Notes
    -----
    Vo et al., Opt. Express 22 (2014) 19078, doi:10.1364/OE.22.019078. Mask and metric are algotom's. Its own search
    smooths along the views too, which treats the seam between a sinogram and its mirror image as an edge and moves
    the minimum (by 0.8 px on the tooth in ``tests/data``); here only the columns are smoothed.
    """

    def __init__(
        self, sinogram: FloatArray, angles_rad: FloatArray, *, binning: int = 1, most_views: int | None = None
    ) -> None:
        from algotom.prep.calculation import calculate_center_metric, make_inverse_double_wedge_mask

        # Half a turn from the end of the widest gap on, each direction once.
        turned = np.unique(np.mod(angles_rad, 2 * math.pi))
        start = turned[(int(np.argmax(np.diff(turned, append=turned[0] + 2 * math.pi))) + 1) % turned.size]
        after = np.mod(angles_rad - start + _SAME_RAD, 2 * math.pi)
        order = np.argsort(after, kind="stable")
        order = order[after[order] < math.pi - _SAME_RAD]
        order = order[np.diff(after[order], prepend=-1.0) > 2 * _SAME_RAD]
        if order.size < _FEWEST_VIEWS:
            raise GeometryError(f"method vo needs {_FEWEST_VIEWS} views or more over 180 degrees, got {order.size}")
        gaps = np.diff(after[order], append=after[order[0]] + math.pi)
        if gaps.max() > _WIDEST_GAP * np.median(gaps):
            raise GeometryError(
                f"method vo needs views over 180 degrees; {math.degrees(gaps.max()):.4g} degrees have none"
            )
        order = order[:: math.ceil(order.size / (most_views or order.size))]
        width = sinogram.shape[1] // binning
        rows = sinogram[order][:, : width * binning].reshape(order.size, width, binning).mean(axis=2)
        self._data = ndimage.gaussian_filter1d(rows, 1.0, axis=1, mode="reflect")
        self._mirrored, self._filling = np.fliplr(self._data), np.flipud(self._data)
        self._mask = make_inverse_double_wedge_mask(2 * order.size, width, 0.5 * _OBJECT_SHARE * width)
        self._metric = calculate_center_metric
        self._binning = binning

    def __call__(self, column_px: float) -> float:
        """Return the metric if the axis is at a column."""
        axis = (column_px - 0.5 * (self._binning - 1)) / self._binning
        return float(self._metric(axis, self._data, self._mirrored, self._filling, self._mask))
