"""Weights and ramp filter: line integrals of a view to the filtered view that is backprojected."""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.recon.backprojection.lanes import LANES, transpose_rows
from marspipe.recon.ray_weights import level_rows, leveled, pixels_per_mm, ray_weights, widened
from marspipe.recon.redundancy import Redundancy, choose_redundancy
from marspipe.recon.truncation import RowEnds, added_columns, check_truncation
from marspipe.scan.geometry import ScanGeometry

WINDOWS = ("ram-lak", "shepp-logan", "cosine", "hamming", "hann")

# Values of a block of rows that go through the transforms together: block, spectrum and result stay near the cache.
_BLOCK_VALUES = 1 << 17


def window_values(name: str, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a window at frequencies in cycles per sample (Nyquist 0.5); 1 at frequency 0.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    if name == "ram-lak":
        return np.ones_like(frequency)
    if name == "shepp-logan":
        return np.sinc(frequency)
    if name == "cosine":
        return np.cos(math.pi * frequency)
    if name == "hamming":
        return 0.54 + 0.46 * np.cos(2 * math.pi * frequency)
    if name == "hann":
        return 0.5 + 0.5 * np.cos(2 * math.pi * frequency)
    raise InputError(f"window must be one of {', '.join(WINDOWS)}, got {name!r}")


def ramp_response(size: int, window: str = "ram-lak", cutoff: float = 1.0) -> NDArray[np.float64]:
    """Return the response of the band-limited ramp for samples of spacing 1, shape (size // 2 + 1,), float64.

    It is the transform of the kernel sampled in space, not ``|f|``: that would lose a constant and cup the image.

    Parameters
    ----------
    size : int
        Length of the transform.
    window : str
        One of :data:`WINDOWS`.
    cutoff : float
        Fraction of the Nyquist frequency at which the window ends, in (0, 1].

    Raises
    ------
    InputError
        If window or cutoff are wrong.

    Notes
    -----
    Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, equation 61 of chapter 3.
    """
    if not (isinstance(cutoff, Real) and 0 < cutoff <= 1):
        raise InputError(f"cutoff must be a fraction of the Nyquist frequency in (0, 1], got {cutoff!r}")
    distance = np.minimum(np.arange(size), size - np.arange(size)).astype(np.float64)
    odd = distance % 2 == 1
    kernel = np.zeros(size)
    kernel[0] = 0.25
    kernel[odd] = -1.0 / (math.pi * distance[odd]) ** 2
    frequency = np.arange(size // 2 + 1) / size / cutoff
    response: NDArray[np.float64] = np.asarray(scipy.fft.rfft(kernel)).real * window_values(window, frequency)
    response[frequency > 0.5 * (1 + 1e-12)] = 0.0
    return response


class ViewFilter:
    """Turns the line integrals of single views into filtered views.

    Per view: cosine of the ray's angle, redundancy and angular weight, then the ramp filter along the rows at the
    pixel spacing of the virtual detector in the isocenter. What :func:`~marspipe.recon.backprojection.backproject`
    adds up from these views is 1/mm. A view's result depends on nothing but the view; rows do not depend on each
    other, unless the detector is turned in its plane. One instance may be used from several threads.

    Parameters
    ----------
    geometry : ScanGeometry
        All views of the scan: the weights come from their angles.
    window : str
        One of :data:`WINDOWS`.
    cutoff : float
        Fraction of the Nyquist frequency at which the window ends.
    redundancy : str
        See :func:`marspipe.recon.redundancy.choose_redundancy`.
    truncation : str
        One of :data:`marspipe.recon.truncation.TRUNCATIONS`: ``"extrapolate"`` continues rows that end inside the
        object, so that it does not glow at the rim of the field of view.

    Attributes
    ----------
    geometry : ScanGeometry
        As given.
    filtered_geometry : ScanGeometry
        The geometry of the filtered views, for the backprojection. It is ``geometry``, unless the redundancy weights
        widen the detector by columns, or rows that do not run across the axis are made level.
    redundancy : Redundancy
        The weights, with their name and description.

    Raises
    ------
    InputError
        If window, cutoff, redundancy or truncation are unknown.
    GeometryError
        If the scan cannot be reconstructed.
    """

    def __init__(
        self,
        geometry: ScanGeometry,
        *,
        window: str = "ram-lak",
        cutoff: float = 1.0,
        redundancy: str = "auto",
        truncation: str = "none",
    ) -> None:
        self.geometry = geometry
        self.window, self.cutoff = window, cutoff
        self.truncation = check_truncation(truncation)
        ramp_response(2, window, cutoff)  # refuses wrong names before the work of the weights
        level, self._slopes = leveled(geometry)
        self.redundancy: Redundancy = choose_redundancy(level, redundancy)
        self._pad = self.redundancy.pad_columns[0]
        self.filtered_geometry = widened(level, *self.redundancy.pad_columns)
        self._columns = self.filtered_geometry.detector_shape[1]
        added = (0, 0)
        if truncation != "none":
            axis = float(level.project(np.zeros(3))[1].mean())
            added = added_columns(axis, geometry.detector_shape[1], self.redundancy.pad_columns)
        self._wide_geometry = widened(level, *added)
        self._ends = RowEnds(self._wide_geometry, added) if any(added) else None
        # Twice the reach of the kernel: the circular convolution of the transforms is then the linear one.
        self._size = int(scipy.fft.next_fast_len(2 * (self._columns + max(added)), real=True))
        response = ramp_response(self._size, window, cutoff)
        self._response = np.repeat(response.astype(np.float32), 2)  # for real and imaginary parts
        # Whole groups of 16 rows: a row then always goes through the transform's vector code, wherever it stands.
        most = max(_BLOCK_VALUES // self._size // LANES, 1)
        groups = -(-geometry.detector_shape[0] // LANES)
        self._block_rows = LANES * min(range(most, most // 2, -1), key=lambda size: -(-groups // size) * size)
        self._scale = self.redundancy.view_weights_rad * pixels_per_mm(self._wide_geometry)
        self._ray_weights = self._split_ray_weights(0) if self._wide_geometry.orbit is not None else None
        self._buffers: list[NDArray[np.float32]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_buffers": []}

    def filter(self, line_integrals: NDArray[np.float32], view: int) -> NDArray[np.float32]:
        """Return the filtered view ``[v, u]`` of the line integrals ``[v, u]`` of one view.

        Parameters
        ----------
        line_integrals : ndarray, float32, shape (rows, columns)
            Line integrals of one view.
        view : int
            Index of the view in ``geometry``.

        Returns
        -------
        ndarray, float32, shape ``filtered_geometry.detector_shape``

        Raises
        ------
        InputError
            If the array has another shape or dtype, or a pixel is not finite.
        """
        out = np.empty(self.filtered_geometry.detector_shape, np.float32)
        for first, rows in self._blocks(line_integrals, view, 0, len(line_integrals)):
            stop = min(first + len(rows), len(out))
            out[first:stop] = rows[: stop - first, : self._columns]
        return out

    def filter_to_columns(
        self,
        line_integrals: NDArray[np.float32],
        view: int,
        rows: tuple[int, int] | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return a band of rows of the filtered view as ``[u, v]``, the layout that is backprojected.

        Parameters
        ----------
        line_integrals, view
            As for :meth:`filter`: the whole view.
        rows : (int, int), optional
            Detector rows ``[first, stop)`` of the band; by default all.
        out : ndarray, float32, shape (columns, stop - first), C-contiguous, optional
            Where to write.

        Raises
        ------
        InputError
            As :meth:`filter`, or if band or ``out`` are wrong.
        """
        n_rows = self.geometry.detector_shape[0]
        band_first, band_stop = (0, n_rows) if rows is None else rows
        if not 0 <= band_first < band_stop <= n_rows:
            raise InputError(f"rows must be a band of the {n_rows} detector rows, got {rows}")
        shape = (self._columns, band_stop - band_first)
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise InputError(f"out must be a C-contiguous float32 array of shape {shape}, got {out.dtype} {out.shape}")
        for first, block in self._blocks(line_integrals, view, band_first, band_stop):
            low, high = max(first, band_first), min(first + len(block), band_stop)
            transpose_rows(block, low - first, high - low, out, low - band_first)
        return out

    def _blocks(
        self, line_integrals: NDArray[np.float32], view: int, first_row: int, stop_row: int
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (first row, filtered rows) of the blocks that hold the rows asked for; columns beyond are scrap."""
        self._check(line_integrals, view)
        line_integrals = np.asarray(line_integrals)
        if self._slopes is not None:
            line_integrals = level_rows(line_integrals, self._slopes[view])
        low, cosine, high = self._ray_weights if self._ray_weights is not None else self._split_ray_weights(view)
        weights = (self._scale[view] * self.redundancy.columns(view)).astype(np.float32)
        n_rows, n_cols = self.geometry.detector_shape
        try:
            buffer = self._buffers.pop()  # list.pop and append are atomic: each thread works in a buffer of its own
        except IndexError:
            buffer = np.zeros((self._block_rows, self._size), np.float32)
        try:
            for first in range(first_row // self._block_rows * self._block_rows, stop_row, self._block_rows):
                stop = min(first + self._block_rows, n_rows)
                rows = slice(first, stop)
                _weigh(line_integrals[rows], cosine[rows], weights, buffer[:, self._pad :])
                if self._ends is not None:
                    # What lies below the first column wraps around to the end of the buffer.
                    stop_column = self._pad + n_cols
                    beyond = (
                        buffer[:, self._size - low.shape[1] :],
                        buffer[:, stop_column : stop_column + high.shape[1]],
                    )
                    self._ends.fill(line_integrals[rows], view, (low[rows], high[rows]), weights, beyond)
                buffer[stop - first :] = 0.0
                spectrum = scipy.fft.rfft(buffer, axis=1, workers=1)
                _multiply_rows(spectrum.view(np.float32), self._response)
                yield first, scipy.fft.irfft(spectrum, n=self._size, axis=1, workers=1, overwrite_x=True)
        finally:
            self._buffers.append(buffer)

    def _split_ray_weights(self, view: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return the weights of rays below, on and above the detector's columns."""
        low, _ = self._ends.added if self._ends is not None else (0, 0)
        parts = np.split(ray_weights(self._wide_geometry, view), [low, low + self.geometry.detector_shape[1]], axis=1)
        below, on, above = (np.ascontiguousarray(part) for part in parts)
        return below, on, above

    def _check(self, line_integrals: NDArray[np.float32], view: int) -> None:
        if not isinstance(line_integrals, np.ndarray) or line_integrals.dtype != np.float32:
            found = getattr(line_integrals, "dtype", type(line_integrals).__name__)
            raise InputError(f"line_integrals must be a float32 array, got {found} (view {view})")
        if isinstance(line_integrals, np.ma.MaskedArray):
            raise InputError(f"line_integrals of view {view} are a masked array; fill what is masked first")
        if line_integrals.shape != self.geometry.detector_shape:
            raise InputError(
                f"line_integrals of view {view} must have the detector's shape {self.geometry.detector_shape} "
                f"(rows, columns), got {line_integrals.shape}"
            )
        if not 0 <= view < len(self.geometry):
            raise InputError(f"view must be 0..{len(self.geometry) - 1}, got {view}")
        if not (math.isfinite(line_integrals.min()) and math.isfinite(line_integrals.max())):
            bad = np.argwhere(~np.isfinite(line_integrals))
            raise InputError(
                f"line_integrals must be finite, but view {view} has {len(bad)} pixels that are not, "
                f"the first at row {bad[0][0]}, column {bad[0][1]}"
            )


@njit(nogil=True, error_model="numpy", cache=True)
def _weigh(line_integrals, cosine, weights, target):  # type: ignore[no-untyped-def]
    for i in range(line_integrals.shape[0]):
        source, factors, line = line_integrals[i], cosine[i], target[i]
        for j in range(weights.size):
            line[j] = source[j] * factors[j] * weights[j]


@njit(nogil=True, error_model="numpy", cache=True)
def _multiply_rows(values, factors):  # type: ignore[no-untyped-def]
    for i in range(values.shape[0]):
        line = values[i]
        for j in range(factors.size):
            line[j] *= factors[j]
