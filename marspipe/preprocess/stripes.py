"""Rings by angle: what a pixel always measures too much, found from its mean over all views, taken from every view.

An error g of a pixel's gain adds the same ``-ln g`` to its line integral in every view: a stripe of the sinogram, a
ring of the slice. The object moves across the pixel, so that the mean over the views is an image of structures, smooth
or with long edges, and what every pixel has for itself is the error::

    m(v, u) = mean over the views of p(view, v, u)
    e       = m - structure(m)
    p'      = p - e                            in every view

This is the normalization of Boin and Haibel, Opt. Express 14, 12071-12075, 2006 (doi:10.1364/OE.14.012071), in its
additive form, since logarithms have been taken, with another smooth part: :mod:`marspipe.preprocess.structure` keeps
edges along v or u, and with them rods and beads on the axis, as far as they stand out of the errors.

What cannot be found: in a single row, the same error in all views is the sinogram of an object of circles about the
axis. Only neighbors tell them apart. Of errors in all pixels there stays the part that is as smooth as the object, and
at edges around the axis what the rows together leave open, an ``n``-th of the variance where ``n`` rows share an edge.

The sums over the views are fixed-point integers: exact, so that neither order nor grouping changes a bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import savgol_filter

from marspipe.errors import InputError, ScanError
from marspipe.preprocess.structure import structure_of

# Sums count in steps of 2**-32: with |p| <= 2**10 and at most 2**20 views they stay below 2**62.
FRACTION_BITS = 32
LARGEST_LINE_INTEGRAL = 2.0**10
MOST_VIEWS = 2**20

# Standard deviation of normal noise per median absolute deviation.
_SIGMA_PER_MAD = 1.4826
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
        Window along u, odd, px.
    rows_px : int
        Window along v, odd, px; at most the detector's rows are used. What is smooth over both windows is the
        object's. 1 takes every row by itself, for errors that whole columns of pixels share: the error is then what
        sticks out of a running parabola of ``columns_px``, and objects on the axis are damaged.

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
    """Return what to subtract from every view: what every pixel's mean has for itself.

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
    rows, columns = mean.shape
    if settings.columns_px > columns:
        raise InputError(f"columns_px is {settings.columns_px} px, but a detector row has {columns} px only")
    window = min(settings.rows_px, rows)
    if window == 1:
        return (mean - _smooth_along_u(mean, settings.columns_px)).astype(np.float32)
    # Levels are powers of two: 7 px are two of them, 51 px five.
    structure = structure_of(mean, window.bit_length() - 1, settings.columns_px.bit_length() - 1)
    return (mean - structure).astype(np.float32)


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
