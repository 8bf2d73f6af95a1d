"""Redundancy weights: how much each ray counts, so that together they cover every line once.

The choice follows from three facts about a scan: which part of the circle its views cover, the angles (in the plane
of the orbit) at which rays leave the source, and whether the rotation axis falls near the middle of the detector.
Angles may be irregular, repeated, in any order and either direction; every view stands for half the gap to each
neighbor.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import GeometryError, InputError
from marspipe.scan.geometry import ScanGeometry

FloatArray = NDArray[np.float64]

CHOICES = ("auto", "full", "parallel-180", "parker", "wang")

# Below this fan angle (rad) rays count as parallel: over a whole sample they part by less than a thousandth of a pixel.
_PARALLEL_FAN = 1e-6
# With the axis this far (in detector widths) from the middle the detector is taken as offset on purpose.
_OFFSET = 0.05
# An orbit whose views leave out no arc wider than this (and than four mean steps) counts as closed.
_CLOSED_GAP = math.radians(20)


class IncompleteScanWarning(UserWarning):
    """The views of a scan do not cover every line through the sample; the volume will show it."""


@dataclass(frozen=True, eq=False)
class Redundancy:
    """The weights of a scan's rays.

    Attributes
    ----------
    name : str
        full, parallel-180, parker, wang, or limited-angle (what is left when the range is too small).
    description : str
        One sentence for people.
    view_weights_rad : ndarray, float64, shape (views,)
        Angle that each view stands for, halved where every line is measured twice.
    column_weights : ndarray, float64, shape (views or 1, columns)
        Weight of each detector column in each view; 1 row if it is the same in all views.
    pad_columns : (int, int)
        Columns of zeros to add at the low and the high end of the detector before the ramp filter, because voxels
        that an offset detector sees from one side only need the filtered values beside it.
    field_of_view_mm : float
        Radius about the axis within which the detector misses no voxel in any view (wang: in any other view).
    """

    name: str
    description: str
    view_weights_rad: FloatArray
    column_weights: FloatArray
    pad_columns: tuple[int, int]
    field_of_view_mm: float

    def columns(self, view: int) -> FloatArray:
        """Return the column weights of one view, shape (columns,)."""
        row: FloatArray = self.column_weights[view if len(self.column_weights) > 1 else 0]
        return row


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
        If the scan cannot be reconstructed: fewer than two angles, an axis that the detector does not see, a source
        or detector that moves along; or if the scheme insisted on does not apply.

    Warns
    -----
    IncompleteScanWarning
        If the views cover too small a range.
    """
    if redundancy not in CHOICES:
        raise InputError(f"redundancy must be one of {', '.join(CHOICES)}, got {redundancy!r}")
    fan = fan_angles_rad(geometry)
    _check_motion(geometry, fan)
    low, high = float(-fan.min(axis=1).max()), float(fan.max(axis=1).min())
    if low < 0 or high < 0:
        column = _axis_columns(fan)[0]
        raise GeometryError(
            f"the detector does not see the rotation axis: it falls on column {column:.6g} of columns "
            f"0..{fan.shape[1] - 1}"
        )
    angles = geometry.angles_rad
    if geometry.orbit is None:
        angles = np.arctan2(geometry.source_mm[:, 0], -geometry.source_mm[:, 1])
    scan = _Scan(angles, fan, low, high, float(np.hypot(*geometry.source_mm[:, :2].T).mean()))
    if redundancy == "auto":
        return scan.auto()
    return {"full": scan.full, "parallel-180": scan.parallel, "parker": scan.parker, "wang": scan.wang}[redundancy]()


def _check_motion(geometry: ScanGeometry, fan: FloatArray) -> None:
    if geometry.orbit is not None:
        return
    along = float(np.ptp(geometry.source_mm[:, 2]))
    radius = float(np.hypot(*geometry.source_mm[:, :2].T).mean())
    if along > 0.01 * radius:
        raise GeometryError(
            f"the source moves {along:.6g} mm along the rotation axis; only a single circle can be reconstructed"
        )
    moved = float(max(np.ptp(fan[:, 0]), np.ptp(fan[:, -1])))
    if moved > 0.1 * float(np.ptp(fan, axis=1).min()):
        raise GeometryError(
            f"the detector moves across the beam by {math.degrees(moved):.4g} degrees of fan angle between views; "
            "join the camera positions to one detector first"
        )


def _axis_columns(fan: FloatArray) -> FloatArray:
    """Return the column of the ray through the axis in every row of fan angles (linear, also beside the detector)."""
    n = fan.shape[1]
    if n == 1:
        return np.zeros(len(fan))
    tangents = np.tan(fan)
    slope = (tangents[:, -1] - tangents[:, 0]) / (n - 1)
    columns: FloatArray = -tangents[:, 0] / slope
    return columns


class _Scan:
    """What the choice depends on, computed once."""

    def __init__(self, angles: FloatArray, fan: FloatArray, low: float, high: float, radius_mm: float) -> None:
        self.angles, self.fan, self.radius_mm = angles, fan, radius_mm
        self.short_side, self.long_side = min(low, high), max(low, high)
        self.parallel_rays = self.long_side < _PARALLEL_FAN
        self.offset_sign = 1.0 if high >= low else -1.0
        self.offset_columns = _axis_columns(fan) - (fan.shape[1] - 1) / 2

    def auto(self) -> Redundancy:
        closed = self._closed(2 * math.pi)
        offset = float(np.abs(self.offset_columns).max()) > _OFFSET * self.fan.shape[1]
        if closed and offset:
            return self.wang()
        if closed:
            return self.full()
        return self.parallel() if self.parallel_rays else self.parker()

    def _closed(self, period: float) -> bool:
        distinct = np.unique(np.round(np.mod(self.angles, period) / period, 12) % 1.0)
        if distinct.size < 2:
            raise GeometryError(f"a reconstruction needs views at two angles or more, got {distinct.size}")
        gaps = np.sort(np.diff(distinct, append=distinct[0] + 1.0)) * period
        return bool(gaps[-1] <= 1.5 * gaps[-2] or (gaps[-1] <= _CLOSED_GAP and gaps[-1] <= 4 * period / distinct.size))

    def _arc_shares(self, period: float) -> tuple[FloatArray, FloatArray, float]:
        """Return shares, angles from the arc's start, and the range that the arc covers."""
        shares, beta, widest = angular_shares_rad(self.angles, period, closed=False)
        return shares, beta, period - widest

    def _result(self, name: str, text: str, views: FloatArray, columns: FloatArray, side: float) -> Redundancy:
        return Redundancy(name, text, views, columns, (0, 0), self.radius_mm * math.sin(side))

    def _ones(self) -> FloatArray:
        return np.ones((1, self.fan.shape[1]))

    def full(self) -> Redundancy:
        text = "Full circle: every line is measured twice, each time with half its weight."
        period = 2 * math.pi
        if self._closed(period):
            shares, _, widest = angular_shares_rad(self.angles, period)
            self._warn_hole(shares, widest)
        else:
            shares, _, covered = self._arc_shares(period)
            _warn(f"full-circle weights on a scan of {math.degrees(covered):.4g} degrees: lines are missing")
        return self._result("full", text, shares / 2, self._ones(), self.short_side)

    def parallel(self) -> Redundancy:
        if self.long_side > 0.01:
            raise GeometryError(
                f"parallel-180 weights need parallel rays, but the fan reaches {math.degrees(self.long_side):.4g} "
                "degrees from its middle"
            )
        if not self._closed(math.pi):
            shares, _, covered = self._arc_shares(math.pi)
            _warn(f"the views cover {math.degrees(covered):.4g} of the 180 degrees that parallel rays need")
            text = f"Limited angle, {math.degrees(covered):.4g} degrees of parallel rays: lines are missing."
            return self._result("limited-angle", text, shares, self._ones(), self.short_side)
        shares, _, widest = angular_shares_rad(self.angles, math.pi)
        self._warn_hole(shares, widest)
        text = "Parallel rays over 180 degrees: every line is measured once; angles that differ by 180 degrees share."
        return self._result("parallel-180", text, shares, self._ones(), self.short_side)

    def parker(self) -> Redundancy:
        self._closed(2 * math.pi)  # refuses a single angle
        shares, beta, covered = self._arc_shares(2 * math.pi)
        needed = math.pi + 2 * self.long_side
        delta = (covered - math.pi) / 2
        columns = parker_weights(beta[:, None], self.fan, delta)
        step = float(np.median(shares))
        degrees = math.degrees(covered)
        if covered + 1.5 * step < needed:
            within = self.radius_mm * math.sin(delta) if delta > 0 else 0.0
            _warn(
                f"the views cover {degrees:.4g} of the {math.degrees(needed):.4g} degrees that this fan needs; "
                + (f"only lines within {within:.4g} mm of the axis are all measured" if within else "lines are missing")
            )
            text = f"Limited angle, {degrees:.4g} of {math.degrees(needed):.4g} degrees: lines are missing."
            return self._result("limited-angle", text, shares, columns, self.short_side)
        text = f"Short scan of {degrees:.4g} degrees: Parker's weights, widened after Silver to the range measured."
        return self._result("parker", text, shares, columns, self.short_side)

    def wang(self) -> Redundancy:
        period = 2 * math.pi
        if not self._closed(period):
            _, _, widest = angular_shares_rad(self.angles, period)
            raise GeometryError(
                f"an offset detector needs views all around, but {math.degrees(widest):.4g} degrees have none"
            )
        shares, _, widest = angular_shares_rad(self.angles, period)
        self._warn_hole(shares, widest)
        columns = wang_weights(self.fan * self.offset_sign, self.short_side)
        text = (
            "Full circle with an offset detector: Wang's weights; the strip around the axis that is seen from both "
            f"sides reaches {self.radius_mm * math.sin(self.short_side):.4g} mm."
        )
        result = self._result("wang", text, shares, columns, self.long_side)
        pad = math.ceil(float(np.abs(self.offset_columns).max()) * 2 - 1e-9)
        return Redundancy(
            result.name,
            result.description,
            result.view_weights_rad,
            result.column_weights,
            (pad, 0) if self.offset_sign > 0 else (0, pad),
            result.field_of_view_mm,
        )

    @staticmethod
    def _warn_hole(shares: FloatArray, widest: float) -> None:
        if widest > _CLOSED_GAP and widest > 4 * float(np.median(shares)):
            _warn(f"{math.degrees(widest):.4g} degrees of the scan have no view")


def _warn(text: str) -> None:
    warnings.warn(text, IncompleteScanWarning, stacklevel=5)


def parker_weights(beta_rad: FloatArray, fan_rad: FloatArray, delta_rad: float) -> FloatArray:
    """Return the weights of a short scan, smooth and one in sum for the two measurements of a line.

    Parameters
    ----------
    beta_rad : ndarray, shape (views, 1), rad
        View angle from the start of the scan.
    fan_rad : ndarray, shape (views or 1, columns), rad
        Fan angles, positive towards the column axis ``u``.
    delta_rad : float
        Half of what the scan covers beyond 180 degrees; with the half fan angle it is the minimal scan.

    Notes
    -----
    Parker, Med. Phys. 9 (1982) 254, doi:10.1118/1.595078; over-scan after Silver, Med. Phys. 27 (2000) 773,
    doi:10.1118/1.598939.
    """
    gamma = -fan_rad
    beta, gamma = np.broadcast_arrays(beta_rad, gamma)
    weights = np.ones(beta.shape)
    rise = beta < 2 * (delta_rad - gamma)
    weights[rise] = np.sin(math.pi / 4 * beta[rise] / (delta_rad - gamma[rise])) ** 2
    fall = ~rise & (beta > math.pi - 2 * gamma)
    left = np.maximum(math.pi + 2 * delta_rad - beta[fall], 0.0)
    width = np.maximum(delta_rad + gamma[fall], np.finfo(float).tiny)
    weights[fall] = np.sin(math.pi / 4 * np.minimum(left / width, 2.0)) ** 2
    return weights


def wang_weights(fan_rad: FloatArray, short_side_rad: float) -> FloatArray:
    """Return the weights of an offset detector; the two measurements of a line sum to one.

    Parameters
    ----------
    fan_rad : ndarray, rad
        Fan angles, positive towards the long side of the detector.
    short_side_rad : float
        Fan angle to which the short side reaches.

    Notes
    -----
    Wang, Med. Phys. 29 (2002) 1634, doi:10.1118/1.1489043, in fan angles.
    """
    inside = np.clip(fan_rad / max(short_side_rad, np.finfo(float).tiny), -1.0, 1.0)
    weights: FloatArray = 0.5 * (1.0 + np.sin(math.pi / 2 * inside))
    return weights
