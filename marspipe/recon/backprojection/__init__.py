"""Backprojection of filtered views: one contract, several kernels.

Every kernel adds to a volume the sum over views of the filtered value where the ray through a voxel meets the
detector (bilinear; zero beside the detector) times FDK's distance weight. Every voxel is summed in float32, view after
view in the order given, from positions that depend on the voxel's place in the whole lattice alone: a volume cut into
slabs or windows, or views into batches, gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import GeometryError, InputError
from marspipe.recon.backprojection.cpu import backproject_cpu
from marspipe.recon.backprojection.device import cuda_available, require_cuda
from marspipe.recon.backprojection.reference import backproject_reference
from marspipe.recon.backprojection.threads import thread_count
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


def _backproject_cuda(*arguments: Any, **options: Any) -> None:
    from marspipe.recon.backprojection.device_volume import backproject_cuda

    backproject_cuda(*arguments, **options)


#: The kernels by name; ``kernel(filtered, geometry, grid, out, row_first=, threads=, slice_weights=)``.
BACKENDS: dict[str, Callable[..., None]] = {
    "cpu": backproject_cpu,
    "cuda": _backproject_cuda,
    "reference": backproject_reference,
}

__all__ = [
    "BACKENDS",
    "Backprojection",
    "backproject",
    "choose_backend",
    "empty_batch",
    "start_backprojection",
    "whole_row_groups",
]


class Backprojection(Protocol):
    """A volume in the making, on the host or on a device: views are added batch by batch."""

    def add(
        self,
        filtered: NDArray[np.float32],
        geometry: ScanGeometry,
        *,
        row_first: int = 0,
        slice_weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Add a batch of filtered views; parameters and errors are those of :func:`backproject`."""

    def volume(self) -> NDArray[np.float32]:
        """Return what was added up so far, float32 ``[z, y, x]``, on the host, 1/mm."""


def start_backprojection(
    grid: VolumeGrid, *, backend: str = "auto", threads: int | None = None, device: int = 0
) -> Backprojection:
    """Return an empty volume to add views to.

    Parameters
    ----------
    grid : VolumeGrid
        The volume, or the window of one.
    backend : str
        ``"auto"`` or a name of :data:`BACKENDS`.
    threads : int, optional
        Threads of a host kernel; by default numba's, all cores.
    device : int
        Number of the CUDA device.

    Raises
    ------
    InputError
        If the backend is unknown, or the volume does not fit into the device's memory.
    EnvironmentMissingError
        If the backend needs a device that is not there.
    """
    backend = choose_backend(backend)
    if backend == "cuda":
        from marspipe.recon.backprojection.device_volume import CudaBackprojection

        return CudaBackprojection(grid, device=device)
    return _HostBackprojection(grid, backend, threads)


class _HostBackprojection:
    """A volume in the host's memory."""

    def __init__(self, grid: VolumeGrid, backend: str, threads: int | None) -> None:
        self._grid, self._backend, self._threads = grid, backend, threads
        self._volume = np.zeros(grid.shape, np.float32)

    def add(
        self,
        filtered: NDArray[np.float32],
        geometry: ScanGeometry,
        *,
        row_first: int = 0,
        slice_weights: NDArray[np.float32] | None = None,
    ) -> None:
        backproject(
            filtered,
            geometry,
            self._grid,
            self._volume,
            row_first=row_first,
            backend=self._backend,
            threads=self._threads,
            slice_weights=slice_weights,
        )

    def volume(self) -> NDArray[np.float32]:
        return self._volume


def backproject(
    filtered: NDArray[np.float32],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    out: NDArray[np.float32],
    *,
    row_first: int = 0,
    backend: str = "auto",
    threads: int | None = None,
    slice_weights: NDArray[np.float32] | None = None,
) -> None:
    """Add the backprojection of a batch of filtered views to a volume, in place.

    Parameters
    ----------
    filtered : ndarray, float32, shape (views, columns, rows of the band), C-contiguous
        Filtered views ``[view, u, v]``: detector rows ``row_first, row_first + 1, ..``, all columns. Fastest in an
        array from :func:`empty_batch` with a multiple of 16 rows.
    geometry : ScanGeometry
        The views of ``filtered``, with the whole detector.
    grid : VolumeGrid
        The volume, or the window of one, that ``out`` holds.
    out : ndarray, float32, shape ``grid.shape``, C-contiguous
        Volume ``[z, y, x]`` to add to, 1/mm.
    row_first : int
        First detector row of the band. The band must hold the rows that the grid needs
        (:meth:`ScanGeometry.rows_for` gives them).
    backend : str
        ``"auto"`` or a name of :data:`BACKENDS`.
    threads : int, optional
        Number of threads; by default numba's, all cores. The result does not depend on it.
    slice_weights : ndarray, float32, shape (views, nz), C-contiguous, optional
        Factor of every view in every slice, for sources that move along the axis; by default 1.

    Raises
    ------
    InputError
        If an array has another shape, dtype or layout, or holds a number that is not finite.
    GeometryError
        If the band lacks rows that the grid needs, or the grid reaches a source.
    """
    kernel = BACKENDS[choose_backend(backend)]
    thread_count(threads)
    check_views(filtered, geometry, grid, row_first, slice_weights)
    _check_array("out", out, 3)
    if out.shape != grid.shape:
        raise InputError(f"out must have the grid's shape {grid.shape}, got {out.shape}")
    kernel(filtered, geometry, grid, out, row_first=row_first, threads=threads, slice_weights=slice_weights)


def check_views(
    filtered: NDArray[np.float32],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    row_first: int,
    slice_weights: NDArray[np.float32] | None,
) -> None:
    """Refuse a batch of filtered views that does not fit its geometry or grid, as :func:`backproject` says."""
    rows, cols = geometry.detector_shape
    _check_array("filtered", filtered, 3)
    n_rows = filtered.shape[2]
    if filtered.shape[:2] != (len(geometry), cols) or n_rows < 1:
        raise InputError(
            f"filtered must have shape ({len(geometry)}, {cols}, rows of the band) (views, columns, rows) "
            f"as its geometry, got {filtered.shape}"
        )
    if row_first < 0 or row_first + n_rows > rows:
        raise InputError(f"the band of rows {row_first}..{row_first + n_rows - 1} leaves the detector of {rows} rows")
    if slice_weights is not None:
        _check_array("slice_weights", slice_weights, 2)
        if slice_weights.shape != (len(geometry), grid.shape[0]):
            raise InputError(
                f"slice_weights must have shape {(len(geometry), grid.shape[0])} (views, slices), "
                f"got {slice_weights.shape}"
            )
    if not (math.isfinite(filtered.min()) and math.isfinite(filtered.max())):
        bad = int(np.flatnonzero(~np.isfinite(filtered).all(axis=(1, 2)))[0])
        raise InputError(f"filtered must be finite, but view {bad} of the batch is not")
    _check_band(geometry, grid, row_first, n_rows)


def empty_batch(n_views: int, n_columns: int, n_rows: int) -> NDArray[np.float32]:
    """Return an array for filtered views ``[view, u, v]``, not filled, aligned so that the kernels read fastest."""
    size = n_views * n_columns * n_rows
    raw = np.empty(size + 16, np.float32)
    skip = -raw.ctypes.data // 4 % 16
    return raw[skip : skip + size].reshape(n_views, n_columns, n_rows)


def whole_row_groups(first: int, stop: int, rows: int) -> tuple[int, int]:
    """Return a band that holds ``[first, stop)`` in a multiple of 16 rows if the detector has them: aligned reads."""
    stop = min(rows, first + -(-(stop - first) // 16) * 16)
    return max(0, stop - -(-(stop - first) // 16) * 16), stop


def choose_backend(backend: str) -> str:
    """Return the backend meant: ``"auto"`` is cuda where numba-cuda finds a device, else cpu.

    Raises
    ------
    InputError
        If there is no backend of this name.
    EnvironmentMissingError
        If it is cuda, and a package, a driver or a device is missing.
    """
    if backend == "auto":
        return "cuda" if cuda_available() else "cpu"
    if backend not in BACKENDS:
        raise InputError(f"backend must be one of {', '.join(['auto', *BACKENDS])}, got {backend!r}")
    if backend == "cuda":
        require_cuda()
    return backend


def _check_array(name: str, array: object, ndim: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != ndim:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{name} must be a float32 array of {ndim} dimensions, got {found}")
    if not array.flags.c_contiguous:
        raise InputError(f"{name} must be C-contiguous, got strides {array.strides} for shape {array.shape}")


def _check_band(geometry: ScanGeometry, grid: VolumeGrid, row_first: int, n_rows: int) -> None:
    row, _, w = geometry.project(grid.corners_mm())
    if w.min() <= 0:
        raise GeometryError(
            f"the grid reaches the source: a corner voxel lies behind the source of view "
            f"{int(np.argmin(w.min(axis=1)))} of the batch; the grid's radius is {grid.radius_mm():.6g} mm"
        )
    rows = geometry.detector_shape[0]
    # A thousandth of a row is far above rounding, and far below what an image could show.
    first = min(max(math.floor(row.min() + 1e-3), 0), rows)
    last = max(min(math.floor(row.max() - 1e-3) + 1, rows - 1), -1)
    if first < row_first or last >= row_first + n_rows:
        if first > last:
            return  # the grid lies beside the detector
        raise GeometryError(
            f"the grid needs detector rows {first}..{last}, but the band holds rows "
            f"{row_first}..{row_first + n_rows - 1}"
        )
