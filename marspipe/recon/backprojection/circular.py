"""The numbers that the fast kernels, on the CPU and on a CUDA device, take from a circular orbit and a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import GeometryError
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


@dataclass(frozen=True, eq=False)
class CircularViews:
    """Where voxels fall on the detector of a circular orbit, a helix or several circles.

    Attributes
    ----------
    sin, cos : ndarray, float64, shape (views,)
        Of the view angles.
    origin_scale : ndarray, float64, shape (views,)
        Rows at the isocenter from the principal row to lattice slice 0, times source_to_isocenter_mm.
    constants : tuple of float
        source_to_isocenter_mm, columns at the isocenter per mm times source_to_isocenter_mm, principal column, rows at
        the isocenter per slice times source_to_isocenter_mm, principal row.
    steepest : float
        Most detector rows from one slice to the next.
    """

    sin: NDArray[np.float64]
    cos: NDArray[np.float64]
    origin_scale: NDArray[np.float64]
    constants: tuple[float, ...]
    steepest: float


def circular_views(geometry: ScanGeometry, grid: VolumeGrid) -> CircularViews:
    """Return the numbers of a scan and a grid.

    Raises
    ------
    GeometryError
        If the geometry is not a circular orbit, or the grid reaches a source.
    """
    orbit = geometry.orbit
    if orbit is None:
        raise GeometryError("the fast kernel needs a circular orbit; this geometry has per-view vectors")
    # One libm call per angle: vectorised sines may depend on where an angle stands in its array.
    sin = np.array([math.sin(t) for t in geometry.angles_rad])
    cos = np.array([math.cos(t) for t in geometry.angles_rad])
    sod, sdd = orbit.source_to_isocenter_mm, orbit.source_to_detector_mm
    y_mm, x_mm = grid.axis_mm("y"), grid.axis_mm("x")
    nearest = min(float((sod - x * sin + y * cos).min()) for x in x_mm[[0, -1]] for y in y_mm[[0, -1]])
    if nearest <= 0:
        raise GeometryError(
            f"the grid reaches the source: its radius is {grid.radius_mm():.6g} mm and the source's {sod:.6g} mm"
        )
    rows_per_mm = sdd / orbit.pixel_pitch_mm[0]
    step_scale = grid.voxel_mm[0] * rows_per_mm
    origin_scale = (grid.origin_mm()[0] - geometry.source_mm[:, 2]) * rows_per_mm
    principal_row, principal_column = orbit.principal_point_px
    constants = (sod, sdd / orbit.pixel_pitch_mm[1], principal_column, step_scale, principal_row)
    return CircularViews(sin, cos, origin_scale, constants, step_scale / nearest)
