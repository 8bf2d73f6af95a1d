"""The angles of a scan in words: range, direction, steps, gaps, repeats."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# A step is irregular if it differs from the usual one by more than this part of it.
IRREGULAR_FRACTION = 0.01
# Angles closer than this, and than a tenth of the usual step, are the same.
SAME_ANGLE_RAD = 1e-4
SAME_HEIGHT_MM = 1e-3
# Fewer views than this on a height on average, and the source moves along a helix, not in circles.
_FEWEST_ON_CIRCLE = 8
_MOST_NAMED = 3


@dataclass(frozen=True)
class Step:
    """A step from one view to the next one around the axis, rad."""

    before: int
    after: int
    from_rad: float
    rad: float


@dataclass(frozen=True, eq=False)
class AngleSurvey:
    """What the angles of a scan are like.

    Attributes
    ----------
    angles_rad : ndarray, shape (n_views,), rad
        The angles.
    circles : int
        Heights on which the source goes round by itself; 1 for a helix.
    direction : {1, -1, 0}
        Angles grow or fall from view to view, or neither.
    usual_rad : float
        The usual step: the median of ``steps``; NaN for a single view.
    steps : tuple of Step
        In the order of the views, or of the angles if these are in no order; no repeats.
    closing_rad : float
        From the last angle around the circle to the first; 0 if the views pass all of it.
    tolerance_rad : float
        Angles closer than this are one.
    repeated : tuple of (int, int)
        Pairs of views with the same direction of the beam at the same height.
    """

    angles_rad: FloatArray
    circles: int
    direction: int
    usual_rad: float
    steps: tuple[Step, ...]
    closing_rad: float
    tolerance_rad: float
    repeated: tuple[tuple[int, int], ...]

    @property
    def irregular(self) -> tuple[Step, ...]:
        """Steps that are not the usual one."""
        allowed = max(IRREGULAR_FRACTION * self.usual_rad, 1e-9)
        return tuple(s for s in self.steps if abs(s.rad - self.usual_rad) > allowed)

    @property
    def largest(self) -> Step | None:
        """The largest step."""
        return max(self.steps, key=lambda s: s.rad, default=None)


def survey_angles(angles_rad: FloatArray, heights_mm: FloatArray | None = None) -> AngleSurvey:
    """Look for gaps and repeats.

    Parameters
    ----------
    angles_rad : ndarray, shape (n_views,), rad
        Angle of every view; it may pass a full turn.
    heights_mm : ndarray, shape (n_views,), mm, optional
        Height of the source, or of the sample, in every view: the same angle at another height is no repeat.
    """
    angles = np.asarray(angles_rad, dtype=np.float64)
    heights = np.zeros_like(angles) if heights_mm is None else np.asarray(heights_mm, dtype=np.float64)
    circles = _circles(heights)
    signs = {int(np.sign(d)) for c in circles for d in np.diff(angles[c]) if abs(d) > SAME_ANGLE_RAD}
    direction = signs.pop() if len(signs) == 1 else 0
    steps = [s for c in circles for s in _steps(angles, c, direction)]
    sizes = np.array([s.rad for s in steps if s.rad > SAME_ANGLE_RAD])
    usual = float(np.median(sizes)) if sizes.size else float("nan")
    tolerance = min(SAME_ANGLE_RAD, 0.1 * usual) if sizes.size else SAME_ANGLE_RAD
    steps = [s for s in steps if s.rad > tolerance]
    closing = max((_closing(angles[c]) for c in circles), default=0.0)
    repeated = tuple(pair for c in circles for pair in _repeated(angles, heights, c, tolerance))
    return AngleSurvey(angles, len(circles), direction, usual, tuple(steps), closing, tolerance, repeated)


def _circles(heights: FloatArray) -> list[NDArray[np.int64]]:
    """Return the views of every circle; all views together if they do not form circles."""
    levels = np.round(heights / SAME_HEIGHT_MM)
    found, of_view = np.unique(levels, return_inverse=True)
    if len(found) * _FEWEST_ON_CIRCLE > len(heights):
        return [np.arange(len(heights))]
    return [np.flatnonzero(of_view == k) for k in range(len(found))]


def _steps(angles: FloatArray, views: NDArray[np.int64], direction: int) -> list[Step]:
    if direction:
        values = angles[views]
    else:
        turned = np.mod(angles[views], 2 * np.pi)
        order = np.argsort(turned, kind="stable")
        views, values = views[order], turned[order]
    pairs = zip(pairwise(views.tolist()), pairwise(values.tolist()), strict=True)
    return [Step(one, other, a, abs(b - a)) for (one, other), (a, b) in pairs]


def _closing(angles: FloatArray) -> float:
    """Return what is left between the last angle and the first, around the circle."""
    if np.ptp(angles) >= 2 * np.pi - SAME_ANGLE_RAD:
        return 0.0
    turned = np.sort(np.mod(angles, 2 * np.pi))
    return float(max(np.diff(turned, append=turned[0] + 2 * np.pi)))


def _repeated(
    angles: FloatArray, heights: FloatArray, views: NDArray[np.int64], tolerance: float
) -> list[tuple[int, int]]:
    turned = np.mod(angles[views], 2 * np.pi)
    turned[turned > 2 * np.pi - tolerance] -= 2 * np.pi  # a hair below a full turn is zero
    order = np.argsort(turned, kind="stable")
    found = []
    for one, other in pairwise(order.tolist()):
        same_height = abs(heights[views[one]] - heights[views[other]]) <= SAME_HEIGHT_MM
        if turned[other] - turned[one] <= tolerance and same_height:
            found.append(tuple(sorted((int(views[one]), int(views[other])))))
    return sorted((a, b) for a, b in found)


def angle_lines(survey: AngleSurvey) -> list[tuple[str, str]]:
    """Return the survey as lines of a name and a text."""
    angles = np.rad2deg(survey.angles_rad) + 0.0
    text = f"{len(angles)}, {angles.min():.6g} to {angles.max():.6g} deg"
    if survey.steps:
        sizes = np.rad2deg([s.rad for s in survey.steps])
        text += f", steps {sizes.min():.6g} to {sizes.max():.6g} deg"
    sense = {1: "counterclockwise seen from +z", -1: "clockwise seen from +z", 0: "in no order"}[survey.direction]
    if len(angles) > 1:
        text += f", source goes {sense}"
    if survey.circles > 1:
        text += f", on {survey.circles} heights"
    lines = [("views", text)]
    if survey.steps:
        lines += [("gaps", _gaps(survey)), ("repeats", _repeats(survey))]
    return lines


def _gaps(survey: AngleSurvey) -> str:
    irregular, largest = survey.irregular, survey.largest
    assert largest is not None
    usual, percent = np.rad2deg(survey.usual_rad), 100 * IRREGULAR_FRACTION
    if irregular:
        start, size = np.rad2deg(largest.from_rad), np.rad2deg(largest.rad)
        text = (
            f"{len(irregular)} of {len(survey.steps)} steps differ from {usual:.6g} deg by more than {percent:g} %; "
            f"the largest, {size:.6g} deg, from view {largest.before} ({start:.6g} deg) to view {largest.after}"
        )
    else:
        text = f"none: every step is {usual:.6g} deg within {percent:g} %"
    closing = survey.closing_rad
    if closing > 1.5 * survey.usual_rad and closing > largest.rad * (1 + IRREGULAR_FRACTION):
        return f"{text}; {np.rad2deg(closing):.6g} deg of the circle are not measured"
    return text


def _repeats(survey: AngleSurvey) -> str:
    within = f"within {np.rad2deg(survey.tolerance_rad):.2g} deg"
    if not survey.repeated:
        return f"none {within}"
    named = [
        f"views {one} and {other} ({np.rad2deg(survey.angles_rad[one]):.6g} deg)"
        for one, other in survey.repeated[:_MOST_NAMED]
    ]
    more = len(survey.repeated) - len(named)
    rest = f" and {more} other{'s' if more > 1 else ''}" if more else ""
    return f"{len(survey.repeated)} {within}: {', '.join(named)}{rest}"
