"""The noise of a reconstructed voxel from the noise of the line integrals.

The reconstruction is linear: a voxel is a weighted sum of the line integrals p of all pixels (v, u) in all views t, and
if their noise is independent, its variance is the sum with squared weights::

    voxel      = sum_t d_t  sum_r b_r  sum_c a_c  sum_u h(c - u) w_t(r, u) p_t(r, u)
    var(voxel) = sum_t d_t^2  sum_r b_r^2  sum_u (sum_c a_c h(c - u))^2  w_t(r, u)^2 var(p_t(r, u))

with the distance weight d, the shares b and a of the two detector rows r and columns c that the voxel falls between,
the ramp kernel h, and the cosine, redundancy and angular weight w before it. The square of the sum over the two columns
has two terms of squared kernels and one of their product; each is a convolution of the weighted variances along the
row. No approximation is made. After Wunderlich and Noo, Phys. Med. Biol. 53, 2471-2493, 2008
(doi:10.1088/0031-9155/53/10/002), who have it for fans; here with both interpolations.

What repeats in all views, such as the noise of the open beam, is not independent: it makes rings, and off the axis
somewhat more or less noise than counted here. Open beams of many more counts than a frame keep it small.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from marspipe.errors import GeometryError, InputError
from marspipe.recon.filtering import ViewFilter, ramp_response
from marspipe.recon.ray_weights import leveled, pixels_per_mm, ray_weights
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid

Float = NDArray[np.float64]


def voxel_variance(
    variances: NDArray[np.float32],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    *,
    window: str = "ram-lak",
    cutoff: float = 1.0,
    redundancy: str = "auto",
) -> Float:
    """Return the variance of every voxel that :func:`marspipe.recon.fdk.fdk` makes of line integrals with these.

    Parameters
    ----------
    variances : ndarray, real, shape (views, rows, columns)
        Variance of every line integral, ``[view, v, u]``, for example from
        :func:`marspipe.preprocess.open_beam.line_integral_variance`. Noise is taken as independent from pixel to pixel
        and from view to view.
    geometry, grid, window, cutoff, redundancy
        As for ``fdk``. Plain NumPy: meant for windows of a grid, not for whole volumes.

    Returns
    -------
    ndarray, float64, shape ``grid.shape``
        Variance ``[z, y, x]``, 1/mm^2.

    Raises
    ------
    InputError
        If the shape is wrong, or a variance is negative or not finite.
    GeometryError
        If the detector is turned in its plane: its rows are interpolated first, and their noise is not independent.
    """
    variances = np.asarray(variances)
    expected = (len(geometry), *geometry.detector_shape)
    if variances.shape != expected:
        raise InputError(
            f"variances must have the geometry's shape {expected} (views, rows, columns), got {variances.shape}"
        )
    if not (np.isfinite(variances).all() and variances.min() >= 0):
        raise InputError("variances must be finite and not negative")
    if leveled(geometry)[1] is not None:
        raise GeometryError(
            "the noise of a detector that is turned in its plane cannot be predicted: rows must be level"
        )
    view_filter = ViewFilter(geometry, window=window, cutoff=cutoff, redundancy=redundancy)
    wide, weights = view_filter.filtered_geometry, view_filter.redundancy
    kernels = _Kernels(wide.detector_shape[1], window, cutoff)
    scale = weights.view_weights_rad * pixels_per_mm(geometry)
    slices = weights.slice_weights(grid)
    if slices is None:
        slices = np.ones((len(geometry), grid.shape[0]), np.float32)
    y, x = np.meshgrid(grid.axis_mm("y"), grid.axis_mm("x"), indexing="ij")
    z = grid.axis_mm("z")
    low, columns = weights.pad_columns[0], geometry.detector_shape[1]
    total = np.zeros(grid.shape)
    for view, matrix in enumerate(wide.projection_matrices()):
        factors = scale[view] * weights.columns(view) * ray_weights(geometry, view).astype(np.float64)
        weighted = np.zeros(wide.detector_shape)
        weighted[:, low : low + columns] = factors**2 * variances[view]
        squares, products = kernels.convolve(weighted)
        for k in np.flatnonzero(slices[view]):
            u, v, w = (row[0] * x + row[1] * y + row[2] * z[k] + row[3] for row in matrix)
            total[k] += (float(slices[view, k]) / w**2) ** 2 * _at(squares, products, v / w, u / w)
    return total


class _Kernels:
    """The convolutions of weighted variances along rows with the ramp kernel's squares and neighbors' products."""

    def __init__(self, columns: int, window: str, cutoff: float) -> None:
        self._columns = columns
        self._size = int(scipy.fft.next_fast_len(2 * columns, real=True))
        kernel = scipy.fft.irfft(ramp_response(self._size, window, cutoff), n=self._size)
        self._squares = scipy.fft.rfft(kernel**2)
        self._products = scipy.fft.rfft(kernel * np.roll(kernel, -1))

    def convolve(self, weighted: Float) -> tuple[Float, Float]:
        """Return the variance of every filtered pixel, and its covariance with the next column's.

        Both have a row and a column of zeros on each side: beside the detector nothing is measured.
        """
        spectrum = scipy.fft.rfft(weighted, n=self._size, axis=1)
        squares, products = (
            np.pad(scipy.fft.irfft(spectrum * kernel, n=self._size, axis=1)[:, : self._columns], 1)
            for kernel in (self._squares, self._products)
        )
        products[:, self._columns] = 0.0
        return squares, products


def _at(squares: Float, products: Float, row: Float, column: Float) -> Float:
    """Return the variance of the filtered view interpolated at places in pixels."""
    rows, columns = (n - 2 for n in squares.shape)
    v, u = np.clip(row + 1, 0, rows + 1), np.clip(column + 1, 0, columns + 1)
    r, c = np.minimum(v.astype(np.int64), rows), np.minimum(u.astype(np.int64), columns)
    b, a = v - r, u - c

    def of_row(i: NDArray[np.int64]) -> Float:
        variance: Float = (1 - a) ** 2 * squares[i, c] + a**2 * squares[i, c + 1] + 2 * a * (1 - a) * products[i, c]
        return variance

    variance: Float = (1 - b) ** 2 * of_row(r) + b**2 * of_row(r + 1)
    return variance
