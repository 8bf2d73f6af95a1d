"""FDK on a CUDA device: filtered where CuPy or torch have transforms for it, else on the host beside the kernel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.recon.backprojection.cuda import LANES, cuda
from marspipe.recon.backprojection.device import require_cuda
from marspipe.recon.backprojection.device_memory import device_empty, free_bytes, free_deferred
from marspipe.recon.backprojection.device_volume import CudaBackprojection
from marspipe.recon.backprojection.threads import thread_count
from marspipe.recon.device_filter import (
    DeviceFilter,
    Transforms,
    bytes_per_view,
    filters_on_device,
    find_transforms,
)
from marspipe.recon.field_of_view import rows_of_slab
from marspipe.recon.filtering import ViewFilter
from marspipe.scan.grid import Slab, VolumeGrid

logger = logging.getLogger(__name__)

# Views of a launch of the kernel, and of a transfer: the first bound how often the kernel walks through the volume.
_LAUNCH_VIEWS = 64
_TRANSFER_VIEWS = 16
_STAGING_BYTES = 256 << 20
# Device memory left to libraries and to the driver.
_SPARE_SHARE = 0.92
_THREAD_BYTES = 8 << 20


def fdk_on_device(
    line_integrals: NDArray[np.float32],
    view_filter: ViewFilter,
    grid: VolumeGrid,
    *,
    device: int = 0,
    max_memory_bytes: int | None = None,
    max_device_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Reconstruct on a CUDA device.

    Parameters
    ----------
    line_integrals : ndarray, float32, shape (views, rows, columns)
        ``[view, v, u]``, without unit; one view per view of the filter's geometry.
    view_filter : ViewFilter
        The filter, with the geometry of the scan.
    grid : VolumeGrid
        Where to reconstruct.
    device : int
        Number of the device.
    max_memory_bytes : int, optional
        Most bytes of the host to hold beside ``line_integrals`` and what the CUDA driver takes, the volume included.
    max_device_bytes : int, optional
        Most bytes of the device to use; by default 0.92 of what is free. A volume that is larger is made in slabs.
    progress : callable, optional
        Called with (views done, views) after every launch; a view counts once per slab.

    Returns
    -------
    ndarray, float32, shape ``grid.shape``
        Attenuation ``[z, y, x]``, 1/mm.

    Raises
    ------
    EnvironmentMissingError
        If numba-cuda, the driver or the device are missing.
    InputError
        If a pixel is not finite, or the memory allowed is too little.
    """
    require_cuda()
    transforms = find_transforms(device) if filters_on_device(view_filter) else None
    logger.info("filtering on %s", "the host" if transforms is None else f"the device, through {transforms.name}")
    try:
        with cuda.gpus[device]:
            plan = _plan(view_filter, grid, transforms, max_memory_bytes, max_device_bytes)
            out = np.empty(grid.shape, np.float32)
            run = _Run(line_integrals, view_filter, transforms, plan, progress, device)
            for slab in plan.slabs:
                first = slab.z_first - grid.start[0]
                run.slab(slab, out[first : first + slab.n_slices])
            return out
    finally:
        if transforms is not None:
            transforms.close()


@dataclass(frozen=True)
class _Plan:
    """The slabs, and how many views a launch and a transfer take."""

    slabs: list[Slab]
    launch_views: int
    transfer_views: int
    staging_bytes: int


def _plan(
    view_filter: ViewFilter,
    grid: VolumeGrid,
    transforms: Transforms | None,
    max_memory_bytes: int | None,
    max_device_bytes: int | None,
) -> _Plan:
    """Return the fewest slabs that fit into the device beside the buffers for their views."""
    n_views, n_cols = len(view_filter.geometry), view_filter.filtered_geometry.detector_shape[1]
    n_rows = view_filter.geometry.detector_shape[0]
    slice_bytes = 4 * grid.shape[1] * grid.shape[2]
    view_bytes = 4 * n_cols * (-(-n_rows // LANES) * LANES)
    staging = _STAGING_BYTES
    if max_memory_bytes is not None:
        threads = thread_count(None) * _THREAD_BYTES
        staging = min(staging, (max_memory_bytes - grid.nbytes - threads) // 2)
        if staging < max(slice_bytes, view_bytes):
            raise InputError(
                f"max_memory = {max_memory_bytes} bytes is too little: the volume takes {grid.nbytes}, the threads of "
                f"the filter {threads}, and two buffers for a view or a slice {2 * max(slice_bytes, view_bytes)}"
            )
    staging = max(staging, slice_bytes, view_bytes)
    launch_views = min(n_views, _LAUNCH_VIEWS)
    transfer_views = max(1, min(n_views, _TRANSFER_VIEWS, staging // view_bytes))
    if transforms is None:
        launch_views = transfer_views = max(1, min(launch_views, staging // view_bytes))

    free_deferred()
    free = free_bytes()
    allowed = free * _SPARE_SHARE if max_device_bytes is None else min(free, max_device_bytes)
    buffers = 2 * staging
    if transforms is not None:
        buffers += launch_views * view_bytes + transfer_views * bytes_per_view(view_filter, n_rows)
        buffers += 4 * (n_rows + n_views) * n_cols  # weights
    room = allowed - buffers
    if room < slice_bytes:
        raise InputError(
            f"the CUDA device has too little memory: {allowed / 2**30:.3g} GiB may be used, the buffers take "
            f"{buffers / 2**30:.3g} GiB and one slice {slice_bytes / 2**30:.3g} GiB"
        )
    n_slabs = -(-grid.shape[0] // int(min(room / slice_bytes, grid.shape[0])))
    slabs = list(grid.slabs(-(-grid.shape[0] // n_slabs)))
    return _Plan(slabs, launch_views, transfer_views, staging)


class _Run:
    """What the slabs of a reconstruction share."""

    def __init__(
        self,
        line_integrals: NDArray[np.float32],
        view_filter: ViewFilter,
        transforms: Transforms | None,
        plan: _Plan,
        progress: Callable[[int, int], None] | None,
        device: int,
    ) -> None:
        self._line_integrals, self._filter, self._transforms = line_integrals, view_filter, transforms
        self._plan, self._progress = plan, progress
        self._checked = 0  # views found to be finite
        self._done = 0
        stream = None if transforms is None else transforms.stream
        self._volume = CudaBackprojection(plan.slabs[0].grid, device=device, stream=stream)
        self._volume.batch_bytes = plan.staging_bytes

    def slab(self, slab: Slab, out: NDArray[np.float32]) -> None:
        """Reconstruct a slab into ``out``."""
        if slab.index:
            self._volume.restart(slab.grid)
        rows = rows_of_slab(self._filter.filtered_geometry, slab.grid)
        n_views = len(self._filter.geometry)
        with ThreadPoolExecutor(thread_count(None)) as pool:
            add = (self._filtering_here if self._transforms is None else self._filtering_there)(rows, pool)
            for start in range(0, n_views, self._plan.launch_views):
                views = range(start, min(start + self._plan.launch_views, n_views))
                weights = None
                blend = self._filter.redundancy.blend
                if blend is not None:
                    weights = np.ascontiguousarray(blend.weights(slab.grid.axis_mm("z"), views))
                if weights is None or weights.any():
                    add(views, weights)
                elif self._checked < views.stop:
                    self._check(views, pool)
                self._done += len(views)
                if self._progress is not None:
                    self._progress(self._done, n_views * len(self._plan.slabs))
            self._volume.copy_to(out)

    def _filtering_here(
        self, rows: tuple[int, int], pool: ThreadPoolExecutor
    ) -> Callable[[range, NDArray[np.float32] | None], None]:
        """Return what filters views on the host, into pinned memory, and adds them; kernels run meanwhile."""
        volume, staging = self._volume, self._volume.staging
        n_rows, n_cols = rows[1] - rows[0], self._filter.filtered_geometry.detector_shape[1]
        staging.reserve(self._plan.launch_views * n_cols * n_rows)

        def add(views: range, weights: NDArray[np.float32] | None) -> None:
            turn, pinned, device = staging.next((len(views), n_cols, n_rows))

            def filter_view(view: int) -> None:
                self._filter.filter_to_columns(self._line_integrals[view], view, rows, pinned[view - views.start])

            list(pool.map(filter_view, views))
            staging.upload(turn, pinned, device)
            part = self._filter.filtered_geometry[views.start : views.stop]
            volume.launch(device, n_rows, n_rows, part, rows[0], weights)
            staging.used(turn)

        return add

    def _filtering_there(
        self, rows: tuple[int, int], pool: ThreadPoolExecutor
    ) -> Callable[[range, NDArray[np.float32] | None], None]:
        """Return what sends views to the device, filters them there and adds them."""
        assert self._transforms is not None
        volume, staging = self._volume, self._volume.staging
        n_rows, n_raw_cols = rows[1] - rows[0], self._filter.geometry.detector_shape[1]
        n_cols = self._filter.filtered_geometry.detector_shape[1]
        pitch = -(-n_rows // LANES) * LANES
        most = self._plan.transfer_views
        staging.reserve(most * n_rows * n_raw_cols)
        filter_ = DeviceFilter(self._filter, self._transforms, rows, most)
        filtered = device_empty(self._plan.launch_views * n_cols * pitch, np.float32, "a batch of filtered views")

        def add(views: range, weights: NDArray[np.float32] | None) -> None:
            for start in range(views.start, views.stop, most):
                part = range(start, min(start + most, views.stop))
                turn, pinned, device = staging.next((len(part), n_rows, n_raw_cols))

                def copy_view(view: int, pinned: NDArray[np.float32] = pinned, start: int = start) -> None:
                    np.copyto(pinned[view - start], self._line_integrals[view, rows[0] : rows[1]])

                if self._checked < part.stop:
                    self._check(part, pool)
                list(pool.map(copy_view, part))
                staging.upload(turn, pinned, device)
                filter_.add_to(filtered, start - views.start, pitch, device, start, len(part))
                staging.used(turn)
            geometry = self._filter.filtered_geometry[views.start : views.stop]
            volume.launch(filtered, n_rows, pitch, geometry, rows[0], weights)

        return add

    def _check(self, views: range, pool: ThreadPoolExecutor) -> None:
        """Refuse views with pixels that are not finite."""

        def check(view: int) -> None:
            frame = self._line_integrals[view]
            if not (np.isfinite(frame.min()) and np.isfinite(frame.max())):
                bad = np.argwhere(~np.isfinite(frame))
                raise InputError(
                    f"line_integrals must be finite, but view {view} has {len(bad)} pixels that are not, "
                    f"the first at row {bad[0][0]}, column {bad[0][1]}"
                )

        list(pool.map(check, views))
        self._checked = views.stop
