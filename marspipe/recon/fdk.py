"""Feldkamp, Davis and Kress' reconstruction: arrays in, volume out, in one process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.recon.backprojection import backproject, choose_backend, empty_batch
from marspipe.recon.backprojection.threads import thread_count
from marspipe.recon.field_of_view import FieldOfViewWarning, check_field_of_view, rows_of_slab
from marspipe.recon.filtering import ViewFilter
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid

__all__ = ["FieldOfViewWarning", "fdk"]

logger = logging.getLogger(__name__)

# Filtered views that are held at once: the more, the less often the kernel walks through the volume.
_BATCH_BYTES = 256 << 20
_BATCH_VIEWS = 64
_FEWEST_VIEWS = 4
# With a bound on the memory: fewer views a batch than this, and the volume is cut into more slabs instead.
_VIEWS_WORTH_A_SLAB = 16
# Transforms of a block of rows, tiles and columns of a thread.
_THREAD_BYTES = 8 << 20


def fdk(
    line_integrals: NDArray[np.float32],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    *,
    window: str = "ram-lak",
    cutoff: float = 1.0,
    backend: str = "auto",
    redundancy: str = "auto",
    truncation: str = "none",
    threads: int | None = None,
    max_memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Reconstruct the attenuation on a grid from the line integrals of a scan.

    Parameters
    ----------
    line_integrals : ndarray, float32, shape (views, rows, columns)
        ``-log`` of the transmission, ``[view, v, u]``, without unit.
    geometry : ScanGeometry
        The scan: one view per frame, one pixel per pixel.
    grid : VolumeGrid
        Where to reconstruct. A window of a grid gives the very bits of the whole.
    window, cutoff : str, float
        Window of the ramp filter, one of :data:`marspipe.recon.filtering.WINDOWS`, and the fraction of the Nyquist
        frequency at which it ends.
    backend : str
        ``"auto"`` (cuda where there is a device, else cpu), a name of :data:`marspipe.recon.backprojection.BACKENDS`,
        or ``"astra"``, which needs the extra of that name.
    redundancy : str
        ``"auto"`` chooses from the range of angles, the fan and the detector's offset, and logs what it chose;
        see :func:`marspipe.recon.redundancy.choose_redundancy`.
    truncation : str
        ``"extrapolate"`` continues rows that are cut off by the detector's edge, for objects larger than the field of
        view; see :class:`marspipe.recon.filtering.ViewFilter`.
    threads : int, optional
        Number of threads; by default all that numba may use. The result does not depend on it.
    max_memory : int, optional
        Most bytes to hold at once beside ``line_integrals``, the volume that is returned included. The volume is then
        made slab by slab if need be; its bits do not change.
    progress : callable, optional
        Called with (views done, views) after every batch; a view counts once per slab.

    Returns
    -------
    ndarray, float32, shape ``grid.shape``
        Attenuation ``[z, y, x]``, 1/mm.

    Raises
    ------
    InputError
        If an array or option is wrong, a pixel is not finite, or ``max_memory`` is too little.
    EnvironmentMissingError
        If the backend needs a device or a package that is not there.
    GeometryError
        If the scan cannot be reconstructed, or the grid lies outside of its cone.

    Warns
    -----
    IncompleteScanWarning
        If the views cover too small a range.
    FieldOfViewWarning
        If the grid reaches beyond the field of view.

    Notes
    -----
    Feldkamp, Davis and Kress, J. Opt. Soc. Am. A 1 (1984) 612, doi:10.1364/JOSAA.1.000612. Memory beside
    ``line_integrals``: the volume and one batch of filtered views (at most 64 views or 256 MiB, but 4 views at least).
    """
    _check_stack(line_integrals, geometry)
    if backend == "astra":
        from marspipe.recon.astra_backend import reconstruct_with_astra

        if max_memory is not None:
            raise InputError("backend 'astra' cannot bound its memory; max_memory must be None")
        return reconstruct_with_astra(
            line_integrals,
            geometry,
            grid,
            window=window,
            cutoff=cutoff,
            redundancy=redundancy,
            truncation=truncation,
            progress=progress,
        )
    backend = choose_backend(backend)
    workers = thread_count(threads)
    view_filter = ViewFilter(geometry, window=window, cutoff=cutoff, redundancy=redundancy, truncation=truncation)
    logger.info("redundancy weights: %s. %s", view_filter.redundancy.name, view_filter.redundancy.description)
    view_filter.filtered_geometry.rows_for(grid)  # refuses a grid beside the cone
    check_field_of_view(geometry, grid, view_filter.redundancy)
    if backend == "cuda":
        from marspipe.recon.fdk_cuda import fdk_on_device

        return fdk_on_device(line_integrals, view_filter, grid, max_memory_bytes=max_memory, progress=progress)
    slabs = _cut(view_filter.filtered_geometry, grid, workers, max_memory)
    volume = np.zeros(grid.shape, np.float32)
    done, total = 0, len(geometry) * len(slabs)
    with ThreadPoolExecutor(workers) as pool:
        for slab in slabs:
            part = volume[slab.first : slab.first + slab.grid.shape[0]]
            for n_views in _add_slab(line_integrals, view_filter, slab, part, pool, backend, workers):
                done += n_views
                if progress is not None:
                    progress(done, total)
    return volume


@dataclass(frozen=True)
class _Slab:
    """A run of slices, from slice ``first`` of the volume; its detector rows, and how many views it takes at once."""

    grid: VolumeGrid
    first: int
    rows: tuple[int, int]
    batch_views: int


def _cut(geometry: ScanGeometry, grid: VolumeGrid, workers: int, max_memory: int | None) -> list[_Slab]:
    """Return the whole grid, or as few slabs as leave room for a batch of views worth the walk through the slab."""
    n_views, columns = len(geometry), geometry.detector_shape[1]
    free = _BATCH_BYTES
    if max_memory is not None:
        held = grid.nbytes + workers * _THREAD_BYTES
        free = min(free, max_memory - held)
    tried = 0
    for n in range(1, grid.shape[0] + 1):
        thickness = -(-grid.shape[0] // n)
        if thickness == tried:
            continue
        tried = thickness
        slabs = []
        for slab in grid.slabs(thickness):
            rows = rows_of_slab(geometry, slab.grid)
            # The weights of slices, where there are any, come on top: one number per view and slice.
            bytes_per_view = 4 * columns * (rows[1] - rows[0]) + 8 * slab.n_slices
            least = _FEWEST_VIEWS if max_memory is None else 1
            batch = min(n_views, max(least, min(_BATCH_VIEWS, free // bytes_per_view)))
            slabs.append(_Slab(slab.grid, slab.z_first - grid.start[0], rows, batch))
            if max_memory is not None and batch * bytes_per_view > free:
                break
        else:
            fewest = min(slab.batch_views for slab in slabs)
            if max_memory is None or fewest >= min(n_views, _VIEWS_WORTH_A_SLAB) or thickness == 1:
                return slabs
    assert max_memory is not None
    raise InputError(
        f"max_memory = {max_memory} bytes is too little: the volume takes {grid.nbytes}, {workers} threads "
        f"{workers * _THREAD_BYTES}, and one view of one slice {bytes_per_view}"
    )


def _add_slab(
    line_integrals: NDArray[np.float32],
    view_filter: ViewFilter,
    slab: _Slab,
    volume: NDArray[np.float32],
    pool: ThreadPoolExecutor,
    backend: str,
    workers: int,
) -> Iterator[int]:
    """Filter and backproject the views of a slab batch by batch; yield how many views are through."""
    geometry = view_filter.filtered_geometry
    n_views = len(geometry)
    batch = empty_batch(slab.batch_views, geometry.detector_shape[1], slab.rows[1] - slab.rows[0])
    blend = view_filter.redundancy.blend
    for start in range(0, n_views, slab.batch_views):
        views = range(start, min(start + slab.batch_views, n_views))
        slices, weights = slice(0, slab.grid.shape[0]), None
        if blend is not None:
            weights = blend.weights(slab.grid.axis_mm("z"), views)
            used = np.flatnonzero(weights.any(axis=0))
            if not used.size:
                yield len(views)
                continue
            slices = slice(int(used[0]), int(used[-1]) + 1)
            weights = np.ascontiguousarray(weights[:, slices])

        def filter_view(view: int, start: int = start) -> None:
            view_filter.filter_to_columns(line_integrals[view], view, slab.rows, batch[view - start])

        list(pool.map(filter_view, views))
        backproject(
            batch[: len(views)],
            geometry[views.start : views.stop],
            slab.grid.window(z=slices),
            volume[slices],
            row_first=slab.rows[0],
            backend=backend,
            threads=workers,
            slice_weights=weights,
        )
        yield len(views)


def _check_stack(line_integrals: object, geometry: ScanGeometry) -> None:
    expected = (len(geometry), *geometry.detector_shape)
    if isinstance(line_integrals, np.ma.MaskedArray):
        raise InputError("line_integrals are a masked array; fill what is masked first")
    if not isinstance(line_integrals, np.ndarray) or line_integrals.dtype != np.float32:
        found = line_integrals.dtype if isinstance(line_integrals, np.ndarray) else type(line_integrals).__name__
        raise InputError(f"line_integrals must be a float32 array, got {found}")
    if line_integrals.shape != expected:
        raise InputError(
            f"line_integrals must have the geometry's shape {expected} (views, rows, columns), "
            f"got {line_integrals.shape}"
        )
