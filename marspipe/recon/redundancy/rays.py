"""The angles of a scan's rays and views: what the redundancy weights are computed from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marspipe.scan.geometry import ScanGeometry

FloatArray = NDArray[np.float64]


def fan_angles_rad(geometry: ScanGeometry) -> FloatArray:
    """Return the angle between each column's ray and the ray through the axis, seen along the axis.

    Returns
    -------
    ndarray, float64, shape (views or 1, columns), rad
        Positive towards the column axis ``u``; one row if it is the same in all views.
    """
    columns = np.arange(geometry.detector_shape[1])
    orbit = geometry.orbit
    if orbit is not None:
        u = (columns - orbit.principal_point_px[1]) * orbit.pixel_pitch_mm[1]
        return np.asarray(np.arctan(u / orbit.source_to_detector_mm)[None], np.float64)
    source, center, step = geometry.source_mm[:, :2], geometry.detector_center_mm[:, :2], geometry.u_mm[:, :2]
    offset = (columns - (columns.size - 1) / 2)[None, :, None]
    ray = (center - source)[:, None] + offset * step[:, None]
    inward = -source[:, None]
    across = ray[..., 0] * inward[..., 1] - ray[..., 1] * inward[..., 0]
    angles: FloatArray = np.arctan2(across, (ray * inward).sum(axis=-1))
    return angles


def axis_columns(fan: FloatArray) -> FloatArray:
    """Return the column of the ray through the axis in every row of fan angles (linear, also beside the detector)."""
    n = fan.shape[1]
    if n == 1:
        return np.zeros(len(fan))
    tangents = np.tan(fan)
    slope = (tangents[:, -1] - tangents[:, 0]) / (n - 1)
    columns: FloatArray = -tangents[:, 0] / slope
    return columns


def angular_shares_rad(
    angles_rad: FloatArray, period_rad: float, *, closed: bool = True
) -> tuple[FloatArray, FloatArray, float]:
    """Return the share of the circle of each view, and the widest arc without a view.

    Parameters
    ----------
    angles_rad : ndarray, float64, shape (views,)
        View angles, in any order.
    period_rad : float
        2 pi, or pi for parallel rays.
    closed : bool
        Whether the views beside the widest gap share it. If not, the ends of the arc stand for as much outside of it
        as inside.

    Returns
    -------
    shares_rad : ndarray, shape (views,)
        Half the gaps to both neighbors on the circle; views at the same angle share.
    after_gap_rad : ndarray, shape (views,)
        Angle of each view counted from the end of the widest gap.
    widest_gap_rad : float
        The widest gap between neighbors.
    """
    angles = np.mod(angles_rad, period_rad)
    order = np.argsort(angles, kind="stable")
    after = np.diff(angles[order], append=angles[order[0]] + period_rad)
    before = np.roll(after, 1)
    last = int(np.argmax(after))
    first = (last + 1) % len(order)
    widest = float(after[last])
    if not closed:
        after[last], before[first] = before[last], after[first]
    shares = np.empty_like(angles)
    shares[order] = (before + after) / 2
    return shares, np.mod(angles - angles[order[first]], period_rad), widest


def line_shares_rad(angles_rad: FloatArray) -> FloatArray:
    """Return the share of each view of a helix, whose angles go on from turn to turn.

    Half the gaps to both neighbors; the ends stand for as much outside as inside, and views at one angle share.
    """
    order = np.argsort(angles_rad, kind="stable")
    gaps = np.diff(angles_rad[order])
    shares = np.empty_like(angles_rad)
    shares[order] = (np.concatenate([gaps[:1], gaps]) + np.concatenate([gaps, gaps[-1:]])) / 2
    return shares
