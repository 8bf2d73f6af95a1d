"""What a scan saw of a grid."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import GeometryError
from marspipe.recon.backprojection import whole_row_groups
from marspipe.recon.redundancy import Redundancy
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


class FieldOfViewWarning(UserWarning):
    """The grid reaches beyond what the detector saw; the volume is wrong there."""


def rows_of_slab(geometry: ScanGeometry, window: VolumeGrid) -> tuple[int, int]:
    """Return the detector rows of a slab, in groups of 16; one row for a slab beside the cone, which stays zero."""
    rows = geometry.detector_shape[0]
    try:
        return whole_row_groups(*geometry.rows_for(window), rows)
    except GeometryError:
        if geometry.project(window.corners_mm())[2].min() <= 0:
            raise  # the slab reaches the source
        return (0, 1) if geometry.project(window.corners_mm())[0].max() < 0 else (rows - 1, rows)


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
    used = np.ones(row.shape, bool) if redundancy.blend is None else redundancy.blend.weights(z[[0, -1]]) > 0.01
    rows = geometry.detector_shape[0]
    beyond = max(-row[used].min(), row[used].max() - (rows - 1))
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
