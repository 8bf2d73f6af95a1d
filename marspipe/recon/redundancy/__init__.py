"""Redundancy weights: how much each ray counts, so that together they cover every line once.

The choice follows from three facts about a scan: which part of the circle its views cover, the angles (in the plane
of the orbit) at which rays leave the source, and whether the rotation axis falls near the middle of the detector.
Angles may be irregular, repeated, in any order and either direction; every view stands for half the gap to each
neighbor. If the source moves along the axis, every circle, or a helix's turn, is weighted by itself, and a
:mod:`blend <marspipe.recon.redundancy.blending>` says which views make a slice.
"""

from __future__ import annotations

import math

import numpy as np

from marspipe.errors import GeometryError, InputError
from marspipe.recon.redundancy.circle import CHOICES, CircleScan, parker_weights, wang_weights
from marspipe.recon.redundancy.moving import Rows, circle_numbers, circles_weights, helix_weights
from marspipe.recon.redundancy.rays import FloatArray, angular_shares_rad, axis_columns, fan_angles_rad
from marspipe.recon.redundancy.values import IncompleteScanWarning, Redundancy
from marspipe.scan.geometry import ScanGeometry

__all__ = [
    "CHOICES",
    "IncompleteScanWarning",
    "Redundancy",
    "angular_shares_rad",
    "choose_redundancy",
    "fan_angles_rad",
    "parker_weights",
    "wang_weights",
]


def choose_redundancy(geometry: ScanGeometry, redundancy: str = "auto") -> Redundancy:
    """Choose and compute the redundancy weights of a scan.

    Parameters
    ----------
    geometry : ScanGeometry
        All views of the scan.
    redundancy : str
        ``"auto"``, or one of full, parallel-180, parker, wang to insist.

    Raises
    ------
    InputError
        If the name is unknown.
    GeometryError
        If the scan cannot be reconstructed: fewer than two angles, an axis that the detector does not see, a detector
        that moves across the beam, a source that goes up and down; or if the scheme insisted on does not apply.

    Warns
    -----
    IncompleteScanWarning
        If the views cover too small a range.
    """
    if redundancy not in CHOICES:
        raise InputError(f"redundancy must be one of {', '.join(CHOICES)}, got {redundancy!r}")
    fan = fan_angles_rad(geometry)
    _check_detector_motion(fan)
    low, high = float(-fan.min(axis=1).max()), float(fan.max(axis=1).min())
    if min(low, high) < -1e-9:
        column = axis_columns(fan)[0]
        raise GeometryError(
            f"the detector does not see the rotation axis: it falls on column {column:.6g} of columns "
            f"0..{fan.shape[1] - 1}"
        )
    low, high = max(low, 0.0), max(high, 0.0)
    angles = geometry.angles_rad
    if geometry.orbit is None:
        angles = np.unwrap(np.arctan2(geometry.source_mm[:, 0], -geometry.source_mm[:, 1]))
    radius = float(np.hypot(*geometry.source_mm[:, :2].T).mean())
    rows = Rows.of(geometry, radius)
    if rows.half_height_mm <= 0 and np.ptp(rows.heights_mm) > 0:
        raise GeometryError("the source moves along the axis, but the detector has no row at the source's own height")
    if not rows.source_moves:
        return CircleScan(angles, fan, low, high, radius).choose(redundancy)
    circles = circle_numbers(rows.heights_mm)
    if circles is None:
        return helix_weights(CircleScan(angles, fan, low, high, radius), rows, redundancy)
    parts = []
    for number in range(circles.max() + 1):
        views = circles == number
        part = fan[views] if len(fan) > 1 else fan
        parts.append(CircleScan(angles[views], part, low, high, radius).choose(redundancy))
    return circles_weights(parts, circles, rows)


def _check_detector_motion(fan: FloatArray) -> None:
    moved = float(max(np.ptp(fan[:, 0]), np.ptp(fan[:, -1])))
    if moved > 0.1 * float(np.ptp(fan, axis=1).min()) + 1e-9:
        raise GeometryError(
            f"the detector moves across the beam by {math.degrees(moved):.4g} degrees of fan angle between views; "
            "join the camera positions to one detector first"
        )
