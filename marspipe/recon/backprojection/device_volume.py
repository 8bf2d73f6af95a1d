"""A volume in the making on a CUDA device, and the launches of the kernels that add to it.

The volume stays on the device between batches. Batches from the host go through two pinned buffers on a stream of
their own, so that the next one is on its way while the kernel runs over the last.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.recon.backprojection.circular import circular_views
from marspipe.recon.backprojection.cuda import (
    LANES,
    PATCH,
    ROWS,
    ROWS_TO_SPARE,
    SUPER,
    TURN_LINES,
    circular_kernel,
    cuda,
    general_kernel,
    turning_kernel,
)
from marspipe.recon.backprojection.device import require_cuda
from marspipe.recon.backprojection.device_memory import (
    StagingBuffers,
    copy_in_threads,
    device_empty,
    free_deferred,
    launch,
)
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid

# A launch walks through the whole volume once: with 64 views that is 1/20 of its time or less.
_BATCH_VIEWS = 64
_BATCH_BYTES = 256 << 20
_PER_LANE = (8, 4, 2, 1)
_LAUNCHES_AHEAD = 4


class CudaBackprojection:
    """A volume on a CUDA device, to which batches of filtered views are added.

    Parameters
    ----------
    grid : VolumeGrid
        The volume, or the window of one.
    device : int
        Number of the device.
    stream : numba stream, optional
        Where the kernels run; by default a stream of its own.

    Raises
    ------
    EnvironmentMissingError
        If numba-cuda, the driver or the device are missing.
    InputError
        If the volume does not fit into the device's free memory.
    """

    def __init__(self, grid: VolumeGrid, *, device: int = 0, stream: Any = None) -> None:
        require_cuda()
        if not 0 <= device < len(cuda.gpus):
            raise InputError(f"device must be 0..{len(cuda.gpus) - 1}, the CUDA devices there are, got {device!r}")
        self.device = device
        self.batch_bytes = _BATCH_BYTES
        self._context = cuda.gpus[device]
        self._memory: Any = None
        with self._context:
            self.stream = cuda.stream() if stream is None else stream
            self.staging = StagingBuffers(self.stream)
            self.restart(grid)

    def restart(self, grid: VolumeGrid) -> None:
        """Begin an empty volume, in the memory of the last one if it is large enough."""
        with self._context:
            self.stream.synchronize()
            self.grid = grid
            self._empty = True
            if self._memory is None or self._memory.size < grid.n_voxels:
                self._memory = None
                free_deferred()
                self._memory = device_empty(grid.n_voxels, np.float32, f"a volume of {_times(grid.shape)} voxels")
            self._volume = self._memory[: grid.n_voxels]
            # On the stream that reads them: it need not wait for the default stream.
            self._y_mm, self._x_mm = (cuda.to_device(grid.axis_mm(axis), stream=self.stream) for axis in "yx")
            self._held: list[tuple[Any, tuple[Any, ...]]] = []

    def add(
        self,
        filtered: Any,
        geometry: ScanGeometry,
        *,
        row_first: int = 0,
        slice_weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Add a batch of filtered views; it may be overwritten afterwards if it is a host array.

        Parameters
        ----------
        filtered : ndarray or device array, float32, shape (views, columns, rows of the band), C-contiguous
            As for :func:`marspipe.recon.backprojection.backproject`. Anything with ``__cuda_array_interface__`` is
            read where it is, once its stream is done; it must not change before :meth:`volume` returns.
        geometry, row_first, slice_weights
            As for :func:`marspipe.recon.backprojection.backproject`.

        Raises
        ------
        InputError
            If an array is wrong, or the volume and two batches do not fit into the device's memory.
        GeometryError
            If the band lacks rows that the grid needs, or the grid reaches a source.
        """
        from marspipe.recon.backprojection import _check_band, check_views

        on_device = not isinstance(filtered, np.ndarray) and hasattr(filtered, "__cuda_array_interface__")
        if on_device:
            _check_device_array(filtered, geometry, row_first)
            _check_band(geometry, self.grid, row_first, filtered.shape[2])
        else:
            check_views(filtered, geometry, self.grid, row_first, slice_weights)
        with self._context:
            if on_device:
                views = cuda.as_cuda_array(filtered)
                n_rows = views.shape[2]
                self.launch(views.reshape(views.size), n_rows, n_rows, geometry, row_first, slice_weights)
                return
            n_views, n_cols, n_rows = filtered.shape
            pitch = -(-n_rows // LANES) * LANES
            most = max(1, min(n_views, _BATCH_VIEWS, self.batch_bytes // (4 * n_cols * pitch)))
            self.staging.reserve(most * n_cols * pitch)
            for first in range(0, n_views, most):
                part = slice(first, min(first + most, n_views))
                turn, pinned, device = self.staging.next((part.stop - first, n_cols, pitch))
                copy_in_threads(pinned[:, :, :n_rows], filtered[part])
                self.staging.upload(turn, pinned, device)
                weights = None if slice_weights is None else slice_weights[part]
                self.launch(device, n_rows, pitch, geometry[part], row_first, weights)
                self.staging.used(turn)

    def launch(
        self,
        filtered: Any,
        n_rows: int,
        pitch: int,
        geometry: ScanGeometry,
        row_first: int,
        slice_weights: NDArray[np.float32] | None,
    ) -> None:
        """Launch the kernel for views on the device, ``[view, u, v]`` flat, ``pitch`` floats from column to column."""
        if geometry.detector_shape[1] * pitch >= 2**31:
            raise InputError(f"a filtered view of {geometry.detector_shape[1]} x {pitch} pixels has 2**31 or more")
        grid, weighted = self.grid, slice_weights is not None
        n_z, n_y, n_x = grid.shape
        if geometry.orbit is not None:
            orbit = circular_views(geometry, grid)
            views = np.stack([orbit.sin, orbit.cos, orbit.origin_scale], axis=1)
            constants, steepest = orbit.constants, orbit.steepest
            per_lane, staged = _voxels_per_lane(n_z, steepest)
            kernel = circular_kernel(per_lane, staged, weighted, PATCH)
        else:
            views, constants = _general_views(geometry, grid)
            per_lane, _ = _voxels_per_lane(n_z, math.inf)
            kernel = general_kernel(per_lane, weighted, PATCH)
        runs = -(-n_z // (LANES * per_lane))
        weights, active = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.uint8)
        if slice_weights is not None:
            weights = slice_weights
            starts = np.arange(runs) * LANES * per_lane
            active = np.ascontiguousarray(np.logical_or.reduceat(weights != 0, starts, axis=1).T.astype(np.uint8))
        small = [cuda.to_device(np.ascontiguousarray(array), stream=self.stream) for array in (weights, active, views)]
        squares = [-(-n // (PATCH * SUPER)) for n in (n_x, n_y)]
        launch(
            kernel,
            (squares[0] * squares[1] * SUPER * SUPER, runs),
            (LANES, PATCH * PATCH),
            self.stream,
            self._volume,
            filtered,
            small[0],
            small[1],
            self._y_mm,
            self._x_mm,
            small[2],
            *map(np.float64, constants),
            *map(np.int32, (grid.start[0], n_z, geometry.detector_shape[1], n_rows, pitch, row_first, squares[0])),
            np.int32(self._empty),
        )
        self._empty = False
        self._hold(filtered, *small)

    def _hold(self, *arrays: Any) -> None:
        """Keep arrays until the kernels launched so far are done: numba frees what Python forgets."""
        done = cuda.event()
        done.record(self.stream)
        self._held.append((done, arrays))
        if len(self._held) > _LAUNCHES_AHEAD:
            self._held.pop(0)[0].synchronize()

    def volume(self) -> NDArray[np.float32]:
        """Return what was added up so far, float32 ``[z, y, x]``, on the host, 1/mm."""
        out = np.empty(self.grid.shape, np.float32)
        self.copy_to(out)
        return out

    def copy_to(self, out: NDArray[np.float32]) -> None:
        """Write what was added up so far to a host array ``[z, y, x]``."""
        if self._empty:
            out[...] = 0.0
            return
        with self._context:
            waiting: list[tuple[int, NDArray[np.float32], slice]] = []
            for cut in self._chunks():
                turn, pinned, device = self.staging.next((cut.stop - cut.start, *self.grid.shape[1:]))
                self._turn_volume(True, device, cut)
                self.staging.download(turn, pinned, device)
                waiting.append((turn, pinned, cut))
                if len(waiting) == 2:
                    self._collect(out, *waiting.pop(0))
            for chunk in waiting:
                self._collect(out, *chunk)
            self._held.clear()

    def load(self, volume: NDArray[np.float32]) -> None:
        """Begin with a host volume ``[z, y, x]`` instead of zeros."""
        with self._context:
            for cut in self._chunks():
                turn, pinned, device = self.staging.next((cut.stop - cut.start, *self.grid.shape[1:]))
                copy_in_threads(pinned, volume[cut])
                self.staging.upload(turn, pinned, device)
                self._turn_volume(False, device, cut)
                self.staging.used(turn)
            self._empty = False

    def _chunks(self) -> list[slice]:
        """Return runs of slices that fit into the staging buffers."""
        n_z, n_y, n_x = self.grid.shape
        self.staging.reserve(n_y * n_x)
        thick = max(1, max(self.staging.nbytes, min(self.batch_bytes, self.grid.nbytes)) // (4 * n_y * n_x))
        self.staging.reserve(min(thick, n_z) * n_y * n_x)
        return [slice(first, min(first + thick, n_z)) for first in range(0, n_z, thick)]

    def _turn_volume(self, to_slices: bool, slices: Any, cut: slice) -> None:
        n_z, n_y, n_x = self.grid.shape
        thick = cut.stop - cut.start
        blocks = (-(-n_x // LANES), -(-thick // LANES), n_y)
        sizes = map(np.int32, (cut.start, thick, n_y, n_x, n_z))
        launch(turning_kernel(to_slices), blocks, (LANES, TURN_LINES), self.stream, self._volume, slices, *sizes)

    def _collect(self, out: NDArray[np.float32], turn: int, pinned: NDArray[np.float32], cut: slice) -> None:
        self.staging.wait(turn)
        copy_in_threads(out[cut], pinned)


def backproject_cuda(
    filtered: Any,
    geometry: ScanGeometry,
    grid: VolumeGrid,
    out: NDArray[np.float32],
    *,
    row_first: int = 0,
    threads: int | None = None,
    slice_weights: NDArray[np.float32] | None = None,
) -> None:
    """Add the backprojection to ``out``, a host array, on the first CUDA device.

    Parameters are those of :func:`marspipe.recon.backprojection.backproject`; ``threads`` is ignored. The volume goes
    to the device and back: for many batches take :class:`CudaBackprojection`.
    """
    volume = CudaBackprojection(grid)
    if out.any():
        volume.load(out)
    volume.add(filtered, geometry, row_first=row_first, slice_weights=slice_weights)
    volume.copy_to(out)


def time_kernel(geometry: ScanGeometry, grid: VolumeGrid, *, device: int = 0, repeat: int = 3) -> list[float]:
    """Return the seconds that the kernel alone takes for all views, one figure per repetition, from CUDA events.

    The filtered views (noise; every launch reads the same pixels) and the volume are on the device before. A first
    round, not counted, compiles the kernel and warms the device up.
    """
    n_views, (n_rows, n_cols) = len(geometry), geometry.detector_shape
    per_launch = min(_BATCH_VIEWS, n_views)
    pitch = -(-n_rows // LANES) * LANES
    volume = CudaBackprojection(grid, device=device)
    with cuda.gpus[device]:
        noise = np.random.default_rng(1).random((per_launch, n_cols, pitch), dtype=np.float32)
        filtered = cuda.to_device(noise.reshape(-1), stream=volume.stream)
        seconds = []
        for _ in range(1 + repeat):
            start, stop = cuda.event(), cuda.event()
            start.record(volume.stream)
            for first in range(0, n_views, per_launch):
                volume.launch(filtered, n_rows, pitch, geometry[first : first + per_launch], 0, None)
            stop.record(volume.stream)
            stop.synchronize()
            seconds.append(start.elapsed_time(stop) / 1000.0)
    return seconds[1:]


def _voxels_per_lane(n_z: int, steepest: float) -> tuple[int, bool]:
    """Return how many voxels of a column a lane takes, and whether columns go through shared memory.

    Neither changes the result. Counted are shared memory accesses and the share of lanes above the last slice.
    """
    best = min(_PER_LANE, key=lambda n: -(-n_z // (LANES * n)) * (n + 1))
    options = [n for n in _PER_LANE if steepest * (LANES * n - 1) + ROWS_TO_SPARE <= ROWS]
    if not options:
        return min(best, 4), False

    def cost(n: int) -> float:
        runs_of_rows = (steepest * LANES * n + LANES) / LANES
        return -(-n_z // (LANES * n)) * (3 * runs_of_rows + 2 * n * max(1.0, steepest) + 4)

    return min(options, key=cost), True


def _general_views(geometry: ScanGeometry, grid: VolumeGrid) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """Return the projection matrix of every view as 12 numbers, and what all views share."""
    rows, cols = geometry.detector_shape
    constants = (grid.origin_mm()[0], grid.voxel_mm[0], (cols - 1) / 2, (rows - 1) / 2, 0.0)
    return geometry.projection_matrices().reshape(-1, 12), constants


def _check_device_array(filtered: Any, geometry: ScanGeometry, row_first: int) -> None:
    interface = filtered.__cuda_array_interface__
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    rows, cols = geometry.detector_shape
    if np.dtype(interface["typestr"]) != np.float32 or len(shape) != 3 or shape[:2] != (len(geometry), cols):
        raise InputError(
            f"filtered must be float32 of shape ({len(geometry)}, {cols}, rows of the band) (views, columns, rows), "
            f"got {interface['typestr']} {shape}"
        )
    if strides is not None and tuple(strides) != (4 * shape[1] * shape[2], 4 * shape[2], 4):
        raise InputError(f"filtered must be C-contiguous, got strides {tuple(strides)} for shape {shape}")
    if shape[2] < 1 or row_first < 0 or row_first + shape[2] > rows:
        raise InputError(f"the band of rows {row_first}..{row_first + shape[2] - 1} leaves the detector of {rows} rows")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
