"""Truncated projections: rows go on beyond the detector where the object is larger than the field of view.

A row that ends inside the object is a step to zero for the ramp filter, and the step glows at the rim of the field of
view. Each such end is continued by the chords of an ellipse about the rotation axis: their squares fall linearly with
the squared distance from the axis, so that a straight line through the squares of the outermost pixels gives level
and slope.

This is the water cylinder of Hsieh and others, Med. Phys. 31 (2004) 2385, doi:10.1118/1.1776673, with the axis as its
center in place of a known attenuation, which a spectral scan does not have. Root mean square errors next to the rim, in
units of the object, beside Ohnesorge's mirrored rows, Med. Phys. 27 (2000) 39, doi:10.1118/1.598855:

================================  =====  ========  ===========================  =====
object, in fields of view         as is  mirrored  cylinder, true attenuation   this
================================  =====  ========  ===========================  =====
cylinder of 1.3 on the axis        0.95      0.15                        0.005  0.000
cylinder of 3 on the axis          4.9       0.60                        0.04   0.25
cylinder of 1.1 beside the axis    0.71      0.08                        0.006  0.020
turned ellipse beside the axis     1.31      0.06                        0.037  0.020
ellipse with rods, eight-fold      1.21      0.12                        0.13   0.10
thin shell of 1.4 on the axis      0.56      0.024                       0.14   0.023
================================  =====  ========  ===========================  =====

With half the true attenuation the cylinder does little better than the mirror, or worse.

Line integrals are continued, not weighted ones: the redundancy weights of rays that were not measured are those of
the outermost ray that was. So nothing is added where an offset detector's weights end at zero.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.recon.redundancy import fan_angles_rad
from marspipe.scan.geometry import ScanGeometry

TRUNCATIONS = ("none", "extrapolate")

# Shares of the columns whose pixels give slope and level at an end: many against the noise of the one, few for the
# other, because a row must go on where it ends.
_SLOPE_SHARE, _LEVEL_SHARE = 8, 32
# Widest ellipse, in the distance of the end from the axis: wider ones come from structure and noise.
_WIDEST = 3.0
# Noise that a squared level must exceed, in variances over root pixels: the end of a row that ends in air is noise.
_SIGNIFICANT = 4.0


def check_truncation(truncation: str) -> str:
    """Return the name of a treatment of truncated projections, or raise InputError with the names there are."""
    if truncation not in TRUNCATIONS:
        raise InputError(f"truncation must be one of {', '.join(TRUNCATIONS)}, got {truncation!r}")
    return truncation


def added_columns(axis_column: float, columns: int, pad_columns: tuple[int, int]) -> tuple[int, int]:
    """Return by how many columns rows are continued at the low and at the high end.

    By as many as lie between the end and the rotation axis, to twice the field of view: what lies farther away matters
    little. The transforms of a centered detector become 1.5 times as long.

    Parameters
    ----------
    axis_column : float
        Column of the rotation axis.
    columns : int
        Number of detector columns.
    pad_columns : (int, int)
        Columns of zeros that the redundancy weights add: at such an end the weights are zero, and nothing goes on.
    """
    low, high = (
        math.ceil(distance) if pad == 0 and distance >= 2 else 0
        for distance, pad in zip((axis_column, columns - 1 - axis_column), pad_columns, strict=True)
    )
    return low, high


class RowEnds:
    """Continues the rows of a scan's views beyond the detector.

    Parameters
    ----------
    wide_geometry : ScanGeometry
        The scan with a detector that has the added columns too.
    added : (int, int)
        Columns added at the low and at the high end, as :func:`added_columns` gives them.
    """

    def __init__(self, wide_geometry: ScanGeometry, added: tuple[int, int]) -> None:
        low, high = added
        # Squared distance of each column's ray from the axis, relative to that of the source.
        squares = np.sin(fan_angles_rad(wide_geometry)) ** 2
        columns = squares.shape[1] - low - high
        self.added = added
        self._slope_pixels = [min(max(2, columns // _SLOPE_SHARE), n) for n in added]
        self._level_pixels = [min(max(1, columns // _LEVEL_SHARE), n) for n in added]
        # Outwards from the end of the detector, and inwards from its outermost pixel.
        self._outside = [
            np.ascontiguousarray(part) for part in (squares[:, :low][:, ::-1], squares[:, low + columns :])
        ]
        self._inside = [
            np.ascontiguousarray(part[:, :n])
            for part, n in zip(
                (squares[:, low:], squares[:, : low + columns][:, ::-1]), self._slope_pixels, strict=True
            )
        ]

    def fill(
        self,
        line_integrals: NDArray[np.float32],
        view: int,
        ray_weights: tuple[NDArray[np.float32], NDArray[np.float32]],
        weights: NDArray[np.float32],
        beyond: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> None:
        """Write the weighted values beyond both ends of some rows; rows do not depend on each other.

        Parameters
        ----------
        line_integrals : ndarray, float32, shape (rows, columns)
            Rows of one view.
        view : int
            Which view.
        ray_weights : two ndarrays, float32, shape (rows, added columns)
            Weights of the rays of the columns beyond the low and the high end, by column.
        weights : ndarray, float32, shape (columns,)
            Column weights of the view; those of the outermost columns hold beyond.
        beyond : two ndarrays, float32, shape (rows, added columns)
            Where to write what lies beyond the low and the high end, by column.
        """
        for end, step in ((0, -1), (1, 1)):
            if self.added[end] == 0:
                continue
            inside, outside = self._inside[end], self._outside[end]
            at = view if len(inside) > 1 else 0
            _continue(
                line_integrals[:, ::-step],
                inside[at],
                self._level_pixels[end],
                outside[at],
                ray_weights[end][:, ::step],
                weights[-end],
                beyond[end][:, ::step],
            )


@njit(nogil=True, error_model="numpy", cache=True)
def _continue(rows, inside, n_level, outside, ray_weights, weight, beyond):  # type: ignore[no-untyped-def]
    """Write what follows the first pixels of rows; everything counts from the end of the detector."""
    n, n_beyond, edge = inside.size, outside.size, inside[0]
    mean_place = inside.mean()
    spread = ((inside - mean_place) ** 2).sum()
    place = inside[:n_level].mean()
    for i in range(rows.shape[0]):
        row, line, factors = rows[i], beyond[i], ray_weights[i]
        level, slope, noise, last = 0.0, 0.0, 0.0, float(row[0])
        for j in range(n):
            pixel = float(row[j])
            square = pixel * abs(pixel)  # keeps its sign: noise about zero has the mean zero
            slope += (inside[j] - mean_place) * square
            if j < n_level:
                level += square
            noise += (pixel - last) ** 2
            last = pixel
        slope /= spread
        noise /= 2.0 * (n - 1)
        level = level / n_level + slope * (edge - place) - _SIGNIFICANT * noise / math.sqrt(n_level)
        if level <= 0.0:
            line[:] = 0.0
            continue
        # The ellipse ends at the first column added at the earliest.
        slope = min(max(slope, -level / (outside[0] - edge)), -level / ((_WIDEST**2 - 1.0) * edge))
        for j in range(n_beyond):
            square = level + slope * (outside[j] - edge)
            line[j] = math.sqrt(max(square, 0.0)) * factors[j] * weight
