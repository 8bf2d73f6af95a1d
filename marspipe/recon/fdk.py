"""Feldkamp, Davis and Kress' reconstruction: arrays in, volume out, in one process."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import GeometryError, InputError
from marspipe.recon.backprojection import backproject, check_backend, empty_batch, whole_row_groups
from marspipe.recon.backprojection.threads import thread_count
from marspipe.recon.filtering import ViewFilter
from marspipe.recon.redundancy import Redundancy
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid

logger = logging.getLogger(__name__)

# Filtered views that are held at once: the more, the less often the kernel walks through the volume.
_BATCH_BYTES = 256 << 20
_BATCH_VIEWS = 64


class FieldOfViewWarning(UserWarning):
    """The grid reaches beyond what the detector saw; the volume is wrong there."""


def fdk(
    line_integrals: NDArray[np.float32],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    *,
    window: str = "ram-lak",
    cutoff: float = 1.0,
    backend: str = "auto",
    redundancy: str = "auto",
    threads: int | None = None,
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
        One of :data:`marspipe.recon.backprojection.BACKENDS`.
    redundancy : str
        ``"auto"`` chooses from the range of angles, the fan and the detector's offset, and logs what it chose;
        see :func:`marspipe.recon.redundancy.choose_redundancy`.
    threads : int, optional
        Number of threads; by default all that numba may use. The result does not depend on it.
    progress : callable, optional
        Called with (views done, views) after every batch.

    Returns
    -------
    ndarray, float32, shape ``grid.shape``
        Attenuation ``[z, y, x]``, 1/mm.

    Raises
    ------
    InputError
        If an array or option is wrong, or a pixel is not finite.
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
    ``line_integrals``: the volume and one batch of filtered views (at most 256 MiB, or 4 views).
    """
    _check_stack(line_integrals, geometry)
    check_backend(backend)
    workers = thread_count(threads)
    view_filter = ViewFilter(geometry, window=window, cutoff=cutoff, redundancy=redundancy)
    logger.info("redundancy weights: %s. %s", view_filter.redundancy.name, view_filter.redundancy.description)
    filtered_geometry = view_filter.filtered_geometry
    rows, columns = filtered_geometry.detector_shape
    first, stop = whole_row_groups(*filtered_geometry.rows_for(grid), rows)
    check_field_of_view(geometry, grid, view_filter.redundancy)

    n_views = len(geometry)
    n_batch = min(n_views, max(4, min(_BATCH_VIEWS, _BATCH_BYTES // (4 * columns * (stop - first)))))
    volume = np.zeros(grid.shape, np.float32)
    batch = empty_batch(n_batch, columns, stop - first)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, n_views, n_batch):
            views = range(start, min(start + n_batch, n_views))

            def filter_view(view: int, start: int = start) -> None:
                view_filter.filter_to_columns(line_integrals[view], view, (first, stop), batch[view - start])

            list(pool.map(filter_view, views))
            backproject(
                batch[: len(views)],
                filtered_geometry[views.start : views.stop],
                grid,
                volume,
                row_first=first,
                backend=backend,
                threads=workers,
            )
            if progress is not None:
                progress(views.stop, n_views)
    return volume


def check_field_of_view(geometry: ScanGeometry, grid: VolumeGrid, redundancy: Redundancy) -> None:
    """Refuse a grid that lies wholly beside what the detector saw; warn once, with numbers, if it reaches beyond.

    Across the axis the grid counts as its inscribed cylinder: the corners of a square slice usually lie outside.

    Raises
    ------
    GeometryError
        If every voxel is farther from the axis than the field of view: some views may see it, but not enough.

    Warns
    -----
    FieldOfViewWarning
        If the grid's cylinder is wider than the field of view, or slices project above or below the detector.
    """
    problems = []
    y, x = (np.abs(grid.axis_mm(axis)) for axis in ("y", "x"))
    nearest = math.hypot(_distance_to_axis(grid.axis_mm("y")), _distance_to_axis(grid.axis_mm("x")))
    if nearest > redundancy.field_of_view_mm + max(grid.voxel_mm[1:]):
        raise GeometryError(
            f"the cone misses the grid: its nearest voxel is {nearest:.4g} mm from the axis, but the field of view has "
            f"a radius of {redundancy.field_of_view_mm:.4g} mm"
        )
    reach = max(np.hypot(x.max(), y.min()), np.hypot(x.min(), y.max()))
    if reach > redundancy.field_of_view_mm + max(grid.voxel_mm[1:]):
        problems.append(
            f"it reaches {reach:.4g} mm from the axis, but the detector sees {redundancy.field_of_view_mm:.4g} mm"
        )
    # The voxels nearest to the axis: further out a cone always loses some of the outermost slices.
    z, y, x = (grid.axis_mm(axis) for axis in ("z", "y", "x"))
    ends = np.array([(x[np.abs(x).argmin()], y[np.abs(y).argmin()], end) for end in (z[0], z[-1])])
    row, _, _ = geometry.project(ends)
    rows = geometry.detector_shape[0]
    beyond = max(-row.min(), row.max() - (rows - 1))
    if beyond > 1.0:
        problems.append(f"its outermost slices project up to {beyond:.4g} rows beside the detector of {rows} rows")
    if problems:
        warnings.warn(
            f"the grid is larger than the field of view, and wrong outside: {'; '.join(problems)}",
            FieldOfViewWarning,
            stacklevel=3,
        )


def _distance_to_axis(positions_mm: NDArray[np.float64]) -> float:
    """Return how far a run of voxel centers stays from zero; 0 if it lies on both sides."""
    low, high = float(positions_mm[0]), float(positions_mm[-1])
    return max(low, -high, 0.0)


def _check_stack(line_integrals: object, geometry: ScanGeometry) -> None:
    expected = (len(geometry), *geometry.detector_shape)
    if not isinstance(line_integrals, np.ndarray) or line_integrals.dtype != np.float32:
        found = line_integrals.dtype if isinstance(line_integrals, np.ndarray) else type(line_integrals).__name__
        raise InputError(f"line_integrals must be a float32 array, got {found}")
    if line_integrals.shape != expected:
        raise InputError(
            f"line_integrals must have the geometry's shape {expected} (views, rows, columns), "
            f"got {line_integrals.shape}"
        )
