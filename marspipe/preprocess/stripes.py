"""Rings by angle: what a pixel always measures too much, found from its mean over all views, taken from every view.

An error g of a pixel's gain adds the same ``-ln g`` to its line integral in every view: a stripe of the sinogram, a
ring of the slice. The object moves across the pixel, so that the mean over the views varies smoothly from pixel to
pixel, and what sticks out of its smooth part is the error::

    m(v, u) = mean over the views of p(view, v, u)
    c       = median along v of m              what neighboring rows share
    d       = m - c                            what a row has for itself
    e       = d - smooth(d) + (c - smooth(c) where that may be chance)
    p'      = p - e                            in every view

``smooth`` is a robust running parabola along u. This is the normalization of Boin and Haibel, Opt. Express 14,
12071-12075, 2006 (doi:10.1364/OE.14.012071), in its additive form, since logarithms have been taken. The median along
v is our own step: an object on the axis sticks out of m as well, but in all the rows that it spans, while the errors
of neighboring rows are independent. Rods on the axis and edges around it survive by it; a bead on the axis that is
lower than half of ``rows_px`` is taken for an error.

The sums over the views are fixed-point integers: exact, so that neither order nor grouping changes a bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import savgol_filter

from marspipe.errors import InputError, ScanError

# Sums count in steps of 2**-32: with |p| <= 2**10 and at most 2**20 views they stay below 2**62.
FRACTION_BITS = 32
LARGEST_LINE_INTEGRAL = 2.0**10
MOST_VIEWS = 2**20

# Standard deviation per median absolute deviation, and of a median per that of a mean, both of normal noise.
_SIGMA_PER_MAD = 1.4826
_MEDIAN_SPREAD = math.sqrt(math.pi / 2)
# What rows share counts as the object's from this many standard deviations on.
_CHANCE_SIGMAS = 4.0
# Further from the smooth part than this, a pixel pulls no harder on it (Huber, Ann. Math. Stat. 35, 73-101, 1964,
# doi:10.1214/aoms/1177703732).
_NEAR_SIGMAS = 2.0
_ROBUST_STEPS = 12


@dataclass(frozen=True)
class AngularStripes:
    """Settings of the correction by angle.

    Attributes
    ----------
    columns_px : int
        Window of the running parabola along u, odd, px. Along rows of ``d`` it is three times as wide, since little
        of the object is left there.
    rows_px : int
        Window of the median along v, odd, px; at most the detector's rows are used. The wider, the less of the errors
        stays behind. 1 leaves that step out, for errors that whole columns of pixels share; objects on the axis are
        damaged then.

    Raises
    ------
    InputError
        If a window is not odd, or that along u is below 5.
    """

    columns_px: int = 7
    rows_px: int = 51

    def __post_init__(self) -> None:
        for name, least in (("columns_px", 5), ("rows_px", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least or value % 2 == 0:
                raise InputError(f"{name} must be an odd number of pixels from {least} on, got {value!r}")


class AngularSums:
    """Sums of line integrals over views, per pixel, that merge in any order and grouping without rounding.

    Parameters
    ----------
    shape : tuple of int
        Shape of the line integrals of one view, (n_bins, v, u) or any other.

    Attributes
    ----------
    total : ndarray of that shape, int64
        Sum in steps of ``2**-32``.
    views : set of int
        Which views it holds.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.total = np.zeros(shape, dtype=np.int64)
        self.views: set[int] = set()

    def add(self, view: int, integrals: NDArray[np.float32]) -> None:
        """Add the line integrals of one view.

        Raises
        ------
        ScanError
            If the view is there already, or a value is not finite or beyond +-1024.
        """
        if integrals.shape != self.total.shape:
            raise ScanError(f"view {view} has line integrals of {integrals.shape}, expected {self.total.shape}")
        extremes = float(integrals.min()), float(integrals.max())
        if not max(abs(extremes[0]), abs(extremes[1])) <= LARGEST_LINE_INTEGRAL:
            raise ScanError(
                f"view {view} has line integrals from {extremes[0]:g} to {extremes[1]:g}, "
                f"expected finite ones within +-{LARGEST_LINE_INTEGRAL:g}"
            )
        self.claim({view})
        # Exact up to the rounding: a float32 times a power of two fits into a float64.
        steps = np.multiply(integrals, 2.0**FRACTION_BITS, dtype=np.float64)
        self.total += np.rint(steps, out=steps).astype(np.int64)

    def mean(self, n_views: int) -> NDArray[np.float64]:
        """Return the mean over the views 0 ... ``n_views - 1``.

        Raises
        ------
        ScanError
            If a view is missing, or one is there that the scan does not have.
        """
        require_views(self.views, n_views)
        return self.total / (n_views * 2.0**FRACTION_BITS)

    def claim(self, views: set[int]) -> None:
        """Count views whose sums the caller adds to ``total``.

        Raises
        ------
        ScanError
            If one of them is there already.
        """
        if doubled := self.views & views:
            raise ScanError(f"view {min(doubled)} is doubled: the scan must have each view once")
        if len(self.views) + len(views) > MOST_VIEWS:
            raise ScanError(f"more than {MOST_VIEWS} views cannot be summed")
        self.views |= views


def require_views(found: set[int], n_views: int) -> None:
    """Raise ScanError unless the views are 0 ... ``n_views - 1``."""
    expected = set(range(n_views))
    if unknown := found - expected:
        raise ScanError(f"view {min(unknown)} is not one of the {n_views} views of the scan")
    if missing := expected - found:
        raise ScanError(f"view {min(missing)} is missing: only {len(found)} of {n_views} views came")


def stripe_offsets(mean: NDArray[np.float64], settings: AngularStripes) -> NDArray[np.float32]:
    """Return what to subtract from every view: the part of the mean that sticks out of its neighbors'.

    Parameters
    ----------
    mean : ndarray, shape (v, u), float64
        Mean line integral of every pixel over all views.
    settings : AngularStripes
        Windows.

    Returns
    -------
    ndarray, shape (v, u), float32, dimensionless

    Raises
    ------
    InputError
        If the window does not fit the row.
    """
    rows, cols = mean.shape
    if settings.columns_px > cols:
        raise InputError(f"columns_px is {settings.columns_px} px, but a detector row has {cols} px only")
    window = min(settings.rows_px, rows - 1 + rows % 2)
    if window == 1:
        return (mean - _smooth_along_u(mean, settings.columns_px)).astype(np.float32)
    shared = ndimage.median_filter(mean, size=(window, 1))
    own = mean - shared
    spread = _SIGMA_PER_MAD * ndimage.median_filter(np.abs(own), size=(window, 1))
    chance = _CHANCE_SIGMAS * _MEDIAN_SPREAD / math.sqrt(window) * spread
    rough = shared - _smooth_along_u(shared, settings.columns_px)
    rest = np.where(np.abs(rough) <= chance, rough, 0.0)
    wide = min(3 * settings.columns_px, cols - 1 + cols % 2)
    return (own - _smooth_along_u(own, wide) + rest).astype(np.float32)


def _smooth_along_u(mean: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the smooth part of every row: a running parabola by least squares, outliers drawn in to a few sigma.

    A running median would not do: on a slope it is the pixel itself, whatever its error is below the step to the next.
    """
    smooth = savgol_filter(mean, window, 2, axis=1, mode="interp")
    largest = float(np.abs(mean - smooth).max())
    for step in range(1, _ROBUST_STEPS + 1):
        rest = mean - smooth
        near = _NEAR_SIGMAS * _SIGMA_PER_MAD * float(np.median(np.abs(rest)))
        near = max(near, largest / 2**step)  # drawn in step by step, or the curve could not leave a large outlier
        smooth = savgol_filter(smooth + np.clip(rest, -near, near), window, 2, axis=1, mode="interp")
    return smooth


def remove_stripes_by_angle(integrals: NDArray[np.float32], offsets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract the offsets, shape (n_bins, v, u), from the line integrals of one view, in place."""
    return np.subtract(integrals, offsets, out=integrals)
