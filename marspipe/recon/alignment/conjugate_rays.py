"""The disagreement of rays that measure the same line from its two ends, as a function of the axis' column."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline

FloatArray = NDArray[np.float64]
Pairs = tuple[FloatArray, FloatArray, FloatArray, NDArray[np.int64], FloatArray]

# Smoothing along the detector, px: noise then is smooth itself, and interpolation between columns does not favor
# columns where it happens to smooth most.
_SMOOTHING_PX = 1.0
_MARGIN_PX = 2
# Between views farther apart than this many typical steps nothing is interpolated.
_HOLE = 2.5
# A line counts as measured twice if its second view is missing by this part of a step.
_TOLERANCE = 0.05
_TURN = 2 * math.pi
_BLOCKS = 8


class ConjugateRays:
    """Compares every ray with the one that meets the same line from its other end.

    Parameters
    ----------
    sinogram : ndarray, float64, shape (views, columns)
        Line integrals.
    angles_rad : ndarray, float64, shape (views,)
        View angles, in any order; views at the same angle are averaged.
    tangent_per_px : float
        Tangent of the fan angle of one column: pitch over source-detector distance.
    binning : int
        Columns that are averaged to one.
    most_views : int, optional
        Compare the rays of at most about this many views.
    """

    def __init__(
        self,
        sinogram: FloatArray,
        angles_rad: FloatArray,
        tangent_per_px: float,
        *,
        binning: int = 1,
        most_views: int | None = None,
    ) -> None:
        width = sinogram.shape[1] // binning
        binned = sinogram[:, : width * binning].reshape(len(sinogram), width, binning).mean(axis=2)
        smooth = ndimage.gaussian_filter1d(binned, _SMOOTHING_PX, axis=1, mode="nearest")
        self.binning = binning
        self.tangent = tangent_per_px * binning
        self._sort(smooth, angles_rad)
        wrap: Literal["grid-wrap", "mirror"] = "grid-wrap" if self.closed else "mirror"
        self._mode: Literal["grid-wrap", "mirror"] = wrap
        coefficients = ndimage.spline_filter1d(self.data, 3, axis=1, mode="mirror")
        self._coefficients = ndimage.spline_filter1d(coefficients, 3, axis=0, mode=wrap)
        self._views = np.arange(0, len(self.data), math.ceil(len(self.data) / (most_views or len(self.data))))

    def _sort(self, sinogram: FloatArray, angles_rad: FloatArray) -> None:
        """Bring the views onto equal steps: of the circle, or of the arc that they cover."""
        turned = np.mod(angles_rad, _TURN)
        distinct, place = np.unique(np.round(turned, 9), return_inverse=True)
        if distinct.size > 1 and distinct[0] + _TURN - distinct[-1] < 1e-8:  # rounded up to a whole turn
            place[place == distinct.size - 1], distinct = 0, distinct[:-1]
        count = np.bincount(place)
        rows = np.zeros((distinct.size, sinogram.shape[1]))
        np.add.at(rows, place, sinogram)
        rows /= count[:, None]
        gaps = np.diff(distinct, append=distinct[0] + _TURN)
        step = float(np.median(gaps))
        last = int(np.argmax(gaps))
        self.closed = bool(gaps[last] <= _HOLE * step)
        shift = 0 if self.closed else (last + 1) % distinct.size
        order = np.roll(np.arange(distinct.size), -shift)
        self._start = float(distinct[order[0]])
        measured = np.mod(distinct[order] - self._start, _TURN)
        rows = rows[order]
        self.range_rad = _TURN if self.closed else float(measured[-1])
        steps = max(1, round(self.range_rad / step))
        self._step = self.range_rad / steps
        even = np.arange(steps if self.closed else steps + 1) * self._step
        if even.size != measured.size or np.abs(even - measured).max() > 1e-6 * self._step:
            if self.closed:
                knots, values = np.append(measured, _TURN), np.vstack([rows, rows[:1]])
                rows = CubicSpline(knots, values, axis=0, bc_type="periodic")(even)
            elif measured.size > 2:
                rows = CubicSpline(measured, rows, axis=0)(even)
            else:
                rows = rows[[0, -1]]
                even, self._step = measured, self.range_rad
        self.data = rows
        self._angles = even
        wide = np.flatnonzero(np.diff(measured) > _HOLE * step)
        self._holes = [(float(measured[i]), float(measured[i + 1])) for i in wide]

    def exist(self, column_px: float) -> bool:
        """Return whether any line is measured twice if the axis is at a column."""
        pairs = self._pairs(column_px, 1)
        return pairs is not None and bool(pairs[2].any())

    def _pairs(self, column_px: float, direction: int) -> Pairs | None:
        """Return row and column of the conjugate rays, their weights, and columns and offsets of the rays."""
        axis = (column_px - 0.5 * (self.binning - 1)) / self.binning
        width = self.data.shape[1]
        reach = min(axis, width - 1 - axis) - _MARGIN_PX
        if reach < 1:
            return None
        columns = np.arange(math.ceil(axis - reach), math.floor(axis + reach) + 1, dtype=np.int64)
        offset: FloatArray = columns.astype(np.float64) - axis
        fan = np.arctan(offset * self.tangent)
        # The outermost columns come and go as the axis moves: they fade out.
        weight = np.asarray(np.clip((reach - np.abs(offset)) / max(0.1 * reach, 1.0), 0.0, 1.0), np.float64)
        angle = np.asarray(np.mod(self._angles[self._views, None] + math.pi - 2 * direction * fan, _TURN), np.float64)
        slack = _TOLERANCE * self._step
        angle[angle > _TURN - slack] -= _TURN
        row = angle / self._step
        if not self.closed:
            weight = weight * (angle <= self.range_rad + slack)
            row = np.clip(row, 0.0, len(self.data) - 1.0)
        for first, stop in self._holes:
            weight = weight * ((angle <= first + slack) | (angle >= stop - slack))
        return row, axis - offset, np.broadcast_to(weight, row.shape), columns, offset

    def _compared(
        self, column_px: float, direction: int = 1
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray] | None:
        """Return rays, conjugate rays, weights, offsets from the axis, and line directions (rad, modulo pi)."""
        pairs = self._pairs(column_px, direction)
        if pairs is None:
            return None
        row, mirrored, weight, columns, offset = pairs
        used = weight.any(axis=1)
        if not used.any():
            return None
        row, weight = row[used], weight[used]
        at = np.stack([row, np.broadcast_to(mirrored, row.shape)])
        other = ndimage.map_coordinates(self._coefficients, at, order=3, mode=self._mode, prefilter=False)
        views = self._views[used]
        fan = np.arctan(offset * self.tangent)
        line = np.mod(self._angles[views, None] - fan, math.pi)
        return self.data[np.ix_(views, columns)], other, weight, np.broadcast_to(np.abs(offset), row.shape), line

    def __call__(self, column_px: float, direction: int = 1) -> float:
        """Return the disagreement if the axis is at a column; not a number if nothing is measured twice.

        The squared difference over the sum of the variances of both, over all pairs: 0 for equal rays, 1 for unrelated
        ones, also where there is nothing to see. ``direction`` -1 supposes that the scan turns the other way.
        """
        compared = self._compared(column_px, direction)
        if compared is None:
            return math.nan
        count, total, squares, difference = _sums(*compared[:3])
        variance = squares - total**2 / (2 * count)
        return float(difference / variance) if variance > 1e-12 * squares else 1.0

    def mean_square(self, column_px: float) -> float:
        """Return the mean squared difference of conjugate rays; not a number if nothing is measured twice.

        Near the minimum this is what to look at: the noise adds the same to all columns, whereas its share of the
        variance changes with the columns that are compared.
        """
        compared = self._compared(column_px)
        if compared is None:
            return math.nan
        count, _, _, difference = _sums(*compared[:3])
        return float(difference / count)

    def standard_error_px(self, column_px: float) -> float:
        """Return the standard error of a minimum, px, by leaving out an eighth of the lines at a time (jackknife).

        Both rays of a line lie in the same eighth: of the line's directions, or of its distances from the axis if the
        directions measured twice are too few.
        """
        step = float(self.binning)
        curves = []
        by_direction: bool | None = None
        for column in (column_px - step, column_px, column_px + step):
            compared = self._compared(column)
            if compared is None:
                return math.inf
            ray, other, weight, offset, line = compared
            block = np.minimum((line * _BLOCKS / math.pi).astype(np.int64), _BLOCKS - 1)
            if by_direction is None:
                share = np.bincount(block.ravel(), weight.ravel(), minlength=_BLOCKS)
                by_direction = bool(np.count_nonzero(share > 0.02 * share.sum()) >= _BLOCKS // 2)
            if not by_direction:
                block = np.minimum((offset * _BLOCKS / (offset.max() + 1e-9)).astype(np.int64), _BLOCKS - 1)
            parts = np.stack([_sums(ray, other, np.where(block == k, weight, 0.0)) for k in range(_BLOCKS)], axis=1)
            count, _, _, difference = parts.sum(axis=1, keepdims=True) - parts
            with np.errstate(divide="ignore", invalid="ignore"):
                curves.append(difference / count)
        before, at, after = curves
        bend = before - 2 * at + after
        if not (np.isfinite(bend).all() and (bend > 0).all()):
            return math.inf
        minima = step * 0.5 * (before - after) / bend
        return float(np.sqrt((_BLOCKS - 1) / _BLOCKS * np.sum((minima - minima.mean()) ** 2)))


def _sums(ray: FloatArray, other: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the sums of which a disagreement is made; they add up over parts of the data."""
    return np.array(
        [
            weight.sum(),
            (weight * (ray + other)).sum(),
            (weight * (ray**2 + other**2)).sum(),
            (weight * (ray - other) ** 2).sum(),
        ]
    )
