"""What stands before the ramp filter for the sake of the geometry: level rows, and the weights of rays.

The ramp filter works along detector rows, and they must run across the rotation axis. A circular orbit has such rows.
Those of a detector that is turned in its plane are made level first, by moving pixels along the columns.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from marspipe.errors import GeometryError
from marspipe.scan.geometry import ScanGeometry


def widened(geometry: ScanGeometry, low: int, high: int) -> ScanGeometry:
    """Return the geometry with columns added at both ends of the detector."""
    if low == high == 0:
        return geometry
    rows, cols = geometry.detector_shape
    shape = (rows, low + cols + high)
    orbit = geometry.orbit
    if orbit is not None:
        return geometry.with_detector(shape, (orbit.principal_point_px[0], orbit.principal_point_px[1] + low))
    return ScanGeometry(
        detector_shape=shape,
        source_mm=geometry.source_mm,
        detector_center_mm=geometry.detector_center_mm + 0.5 * (high - low) * geometry.u_mm,
        u_mm=geometry.u_mm,
        v_mm=geometry.v_mm,
        angles_rad=geometry.angles_rad,
    )


def leveled(geometry: ScanGeometry) -> tuple[ScanGeometry, NDArray[np.float64] | None]:
    """Return the geometry with level rows, and how far its pixels moved.

    Returns
    -------
    geometry : ScanGeometry
        The same detector plane, columns and middle, but with rows across the axis; the one given if they are already.
    slopes : ndarray, float64, shape (views,), or None
        Rows to move along the column per column from the middle, for :func:`level_rows`; None if nothing moves.

    Raises
    ------
    GeometryError
        If rows run along the axis rather than across.
    """
    if geometry.orbit is not None:
        return geometry, None
    u, v = geometry.u_mm, geometry.v_mm
    rise = np.abs(u[:, 2]) > np.hypot(u[:, 0], u[:, 1])
    flat = (np.abs(v[:, 2]) <= 1e-6 * np.linalg.norm(v, axis=1)) & (u[:, 2] != 0)
    bad = np.flatnonzero(rise | flat)
    if bad.size:
        angle = math.degrees(math.atan2(abs(u[bad[0], 2]), math.hypot(u[bad[0], 0], u[bad[0], 1])))
        raise GeometryError(
            f"detector rows must run across the rotation axis, but those of view {bad[0]} rise by {angle:.4g} degrees "
            f"({bad.size} such views); if rows and columns are exchanged, transpose the frames and swap u_mm and v_mm"
        )
    slopes = np.where(u[:, 2] == 0, 0.0, -u[:, 2] / np.where(v[:, 2] == 0, 1.0, v[:, 2]))
    if np.abs(slopes).max() * geometry.detector_shape[1] < 1e-6:  # rounding
        return geometry, None
    level = ScanGeometry(
        detector_shape=geometry.detector_shape,
        source_mm=geometry.source_mm,
        detector_center_mm=geometry.detector_center_mm,
        u_mm=u + slopes[:, None] * v,
        v_mm=v,
        angles_rad=geometry.angles_rad,
    )
    return level, slopes


@njit(nogil=True, error_model="numpy", cache=True)
def level_rows(frame, slope):  # type: ignore[no-untyped-def]
    """Return a frame ``[v, u]`` with its pixels moved along the columns, interpolated; beyond the ends the last row."""
    rows, cols = frame.shape
    out = np.empty((rows, cols), np.float32)
    for i in range(rows):
        for j in range(cols):
            place = min(max(i + slope * (j - 0.5 * (cols - 1)), 0.0), rows - 1.0)
            row = min(int(place), max(rows - 2, 0))
            share = np.float32(place - row)
            above = frame[min(row + 1, rows - 1), j]
            out[i, j] = (np.float32(1.0) - share) * frame[row, j] + share * above
    return out


def ray_weights(geometry: ScanGeometry, view: int) -> NDArray[np.float32]:
    """Return the weight of every pixel of a view before the ramp filter.

    Parameters
    ----------
    geometry : ScanGeometry
        A scan with level rows, as :func:`leveled` gives it.
    view : int
        Which view; on a circular orbit all are alike.

    Returns
    -------
    ndarray, float32, shape (rows, columns)
        Cosine between the ray and the ray through the axis, over the pixel spacing at the axis, 1/mm. On a circular
        orbit the cosine alone: the spacing is the same for all pixels, and :func:`pixels_per_mm` has it.

    Notes
    -----
    The fan formula depends on the sines of the angles between the rays of a row. The sine for two pixels is their
    distance times the distance of the row from the source, over the lengths of both rays. Those lengths cancel against
    the change of variable and against the distance weight of the backprojection, and a factor per row is left. It is
    the same in all rows of an upright detector, and changes from row to row where the detector leans towards the axis.
    """
    rows, cols = geometry.detector_shape
    orbit = geometry.orbit
    if orbit is not None:
        v = (np.arange(rows) - orbit.principal_point_px[0]) * orbit.pixel_pitch_mm[0]
        u = (np.arange(cols) - orbit.principal_point_px[1]) * orbit.pixel_pitch_mm[1]
        sdd = orbit.source_to_detector_mm
        return np.asarray(sdd / np.sqrt(sdd**2 + u**2 + v[:, None] ** 2), np.float32)
    source, step = geometry.source_mm[view], geometry.u_mm[view]
    radius = math.hypot(source[0], source[1])
    inward = np.array([-source[0] / radius, -source[1] / radius, 0.0])
    across = (np.arange(cols) - (cols - 1) / 2)[:, None] * step
    middles = (geometry.detector_center_mm[view] - source) + (np.arange(rows) - (rows - 1) / 2)[:, None] * (
        geometry.v_mm[view]
    )
    rays = middles[:, None] + across
    cosines = rays @ inward / np.linalg.norm(rays, axis=2)
    normal = np.cross(step, geometry.v_mm[view])
    magnification = (normal @ middles[0]) / (normal @ -source)
    moment = np.cross(middles, step)
    moment -= (moment @ inward)[:, None] * inward
    factors = magnification**2 * radius / np.linalg.norm(moment, axis=1)
    return np.asarray(cosines * factors[:, None], np.float32)


def pixels_per_mm(geometry: ScanGeometry) -> float:
    """Return what :func:`ray_weights` lacks for a circular orbit: pixels per mm at the axis; else 1."""
    orbit = geometry.orbit
    return 1.0 if orbit is None else orbit.magnification / orbit.pixel_pitch_mm[1]
