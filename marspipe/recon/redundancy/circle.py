"""The weights of a single circle: full, half of parallel rays, short (Parker), or with an offset detector (Wang)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import GeometryError
from marspipe.recon.redundancy.rays import angular_shares_rad, axis_columns
from marspipe.recon.redundancy.values import Redundancy, warn_incomplete

FloatArray = NDArray[np.float64]

CHOICES = ("auto", "full", "parallel-180", "parker", "wang")

# Below this fan angle (rad) rays count as parallel: over a whole sample they part by less than a thousandth of a pixel.
_PARALLEL_FAN = 1e-6
# With the axis this far (in detector widths) from the middle the detector is taken as offset on purpose.
_OFFSET = 0.05
# An orbit whose views leave out no arc wider than this (and than four mean steps) counts as closed.
_CLOSED_GAP = math.radians(20)


class CircleScan:
    """What the choice depends on, computed once."""

    def __init__(self, angles: FloatArray, fan: FloatArray, low: float, high: float, radius_mm: float) -> None:
        self.angles, self.fan, self.radius_mm = angles, fan, radius_mm
        self.short_side, self.long_side = min(low, high), max(low, high)
        self.parallel_rays = self.long_side < _PARALLEL_FAN
        self.offset_sign = 1.0 if high >= low else -1.0
        self.offset_columns = axis_columns(fan) - (fan.shape[1] - 1) / 2

    def choose(self, redundancy: str, names: tuple[str, ...] = CHOICES) -> Redundancy:
        """Return the weights of the scheme asked for, one of ``names``."""
        if redundancy not in names:
            raise GeometryError(f"redundancy {redundancy!r} does not apply here; it must be one of {', '.join(names)}")
        schemes = {"full": self.full, "parallel-180": self.parallel, "parker": self.parker, "wang": self.wang}
        return schemes.get(redundancy, self.auto)()

    def auto(self) -> Redundancy:
        """Return what suits the range of angles, the fan and the detector's place."""
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
        return Redundancy(name, text, views, columns, (0, 0), self.radius_mm * math.sin(side) + 0.0)

    def _ones(self) -> FloatArray:
        return np.ones((1, self.fan.shape[1]))

    def full(self) -> Redundancy:
        """Return half of every view's share: a circle measures every line twice."""
        text = "Full circle: every line is measured twice, each time with half its weight."
        period = 2 * math.pi
        if self._closed(period):
            shares, _, widest = angular_shares_rad(self.angles, period)
            self._warn_hole(shares, widest)
        else:
            shares, _, covered = self._arc_shares(period)
            warn_incomplete(f"full-circle weights on a scan of {math.degrees(covered):.4g} degrees: lines are missing")
        return self._result("full", text, shares / 2, self._ones(), self.short_side)

    def parallel(self) -> Redundancy:
        """Return the shares of 180 degrees, enough for parallel rays."""
        if self.long_side > 0.01:
            raise GeometryError(
                f"parallel-180 weights need parallel rays, but the fan reaches {math.degrees(self.long_side):.4g} "
                "degrees from its middle"
            )
        if not self._closed(math.pi):
            shares, _, covered = self._arc_shares(math.pi)
            warn_incomplete(f"the views cover {math.degrees(covered):.4g} of the 180 degrees that parallel rays need")
            text = f"Limited angle, {math.degrees(covered):.4g} degrees of parallel rays: lines are missing."
            return self._result("limited-angle", text, shares, self._ones(), self.short_side)
        shares, _, widest = angular_shares_rad(self.angles, math.pi)
        self._warn_hole(shares, widest)
        text = "Parallel rays over 180 degrees: every line is measured once; angles that differ by 180 degrees share."
        return self._result("parallel-180", text, shares, self._ones(), self.short_side)

    def parker(self) -> Redundancy:
        """Return Parker's weights for what exceeds 180 degrees."""
        self._closed(2 * math.pi)  # refuses a single angle
        shares, beta, covered = self._arc_shares(2 * math.pi)
        needed = math.pi + 2 * self.long_side
        delta = (covered - math.pi) / 2
        columns = parker_weights(beta[:, None], self.fan, delta)
        step = float(np.median(shares))
        degrees = math.degrees(covered)
        if covered + 1.5 * step < needed:
            within = self.radius_mm * math.sin(delta) if delta > 0 else 0.0
            warn_incomplete(
                f"the views cover {degrees:.4g} of the {math.degrees(needed):.4g} degrees that this fan needs; "
                + (f"only lines within {within:.4g} mm of the axis are all measured" if within else "lines are missing")
            )
            text = f"Limited angle, {degrees:.4g} of {math.degrees(needed):.4g} degrees: lines are missing."
            return self._result("limited-angle", text, shares, columns, self.short_side)
        text = f"Short scan of {degrees:.4g} degrees: Parker's weights, widened after Silver to the range measured."
        return self._result("parker", text, shares, columns, self.short_side)

    def wang(self) -> Redundancy:
        """Return Wang's weights for the strip around the axis that an offset detector measures twice."""
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
            warn_incomplete(f"{math.degrees(widest):.4g} degrees of the scan have no view")


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
    fall = ~rise & (beta >= math.pi - 2 * gamma)
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
