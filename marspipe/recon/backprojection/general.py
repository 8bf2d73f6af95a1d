"""Backprojection for any geometry: one projection matrix per view, two linear interpolations per voxel."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from marspipe.recon.backprojection.threads import run_in_threads
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


def backproject_general(
    filtered: NDArray[np.float32],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    out: NDArray[np.float32],
    *,
    row_first: int = 0,
    threads: int | None = None,
    slice_weights: NDArray[np.float32] | None = None,
) -> None:
    """Add the backprojection to ``out``, whatever the geometry: tilted detectors, helices, camera positions.

    Parameters are those of :func:`marspipe.recon.backprojection.backproject`, which checks them.
    """
    matrices = geometry.projection_matrices()
    z_mm, y_mm, x_mm = (grid.axis_mm(axis) for axis in ("z", "y", "x"))
    rows = geometry.detector_shape[0]

    def add(first: int, stop: int) -> None:
        _add_voxel_rows(out, first, stop, z_mm, y_mm, x_mm, filtered, row_first, rows, matrices, slice_weights)

    run_in_threads(add, grid.shape[0] * grid.shape[1], threads)


@njit(nogil=True, error_model="numpy", cache=True)
def _add_voxel_rows(  # type: ignore[no-untyped-def]
    volume, first, stop, z_mm, y_mm, x_mm, filtered, row_first, detector_rows, matrices, slice_weights
):
    """Add all views to the voxel rows (runs along x) ``first .. stop - 1`` of a volume, counted along y first."""
    n_views, n_cols, n_rows = filtered.shape
    n_y, n_x = y_mm.size, x_mm.size
    for number in range(first, stop):
        z, y = z_mm[number // n_y], y_mm[number % n_y]
        line = volume[number // n_y, number % n_y]
        for view in range(n_views):
            factor = np.float32(1.0)
            if slice_weights is not None:
                factor = slice_weights[view, number // n_y]
                if factor == 0.0:
                    continue
            p = matrices[view]
            u_0 = p[0, 1] * y + p[0, 2] * z + p[0, 3]
            v_0 = p[1, 1] * y + p[1, 2] * z + p[1, 3]
            w_0 = p[2, 1] * y + p[2, 2] * z + p[2, 3]
            for i in range(n_x):
                x = x_mm[i]
                inverse = 1.0 / (p[2, 0] * x + w_0)
                u = (p[0, 0] * x + u_0) * inverse
                v = (p[1, 0] * x + v_0) * inverse
                if not (u > -1.0 and u < n_cols and v > -1.0 and v < detector_rows):
                    continue
                column, row = int(np.floor(u)), int(np.floor(v))
                a, b = u - column, v - row
                value = 0.0
                at = row - row_first
                # Beside the detector everything is zero; rows of the detector beside the band are never needed.
                if column >= 0:
                    if 0 <= at < n_rows:
                        value += (1.0 - a) * (1.0 - b) * filtered[view, column, at]
                    if 0 <= at + 1 < n_rows:
                        value += (1.0 - a) * b * filtered[view, column, at + 1]
                if column + 1 < n_cols:
                    if 0 <= at < n_rows:
                        value += a * (1.0 - b) * filtered[view, column + 1, at]
                    if 0 <= at + 1 < n_rows:
                        value += a * b * filtered[view, column + 1, at + 1]
                line[i] += np.float32(inverse * inverse * value) * factor
