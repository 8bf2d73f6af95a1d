"""What users give for a geometry, brought into its form or refused with name, value, expectation and unit."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marspipe.errors import GeometryError

FloatArray = NDArray[np.float64]


def length_mm(name: str, value: object) -> float:
    """Return a positive, finite length."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise GeometryError(f"{name} must be a length in mm, got {value!r}") from error
    if not (math.isfinite(number) and number > 0):
        raise GeometryError(f"{name} must be positive and finite (mm), got {number!r}")
    return number


def number_pair(name: str, value: object, unit: str) -> tuple[float, float]:
    """Return two finite numbers (v, u)."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray)) or len(value) != 2:
        raise GeometryError(f"{name} must be two numbers (v, u) in {unit}, got {value!r}")
    try:
        pair = (float(value[0]), float(value[1]))
    except (TypeError, ValueError) as error:
        raise GeometryError(f"{name} must be two numbers (v, u) in {unit}, got {value!r}") from error
    if not all(map(math.isfinite, pair)):
        raise GeometryError(f"{name} must be finite ({unit}), got {pair}")
    return pair


def detector_size(value: object) -> tuple[int, int]:
    """Return the detector's (rows, columns), each at least 1."""
    try:
        rows, cols = (operator.index(n) for n in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise GeometryError(f"detector_shape must be two integers (rows, cols), got {value!r}") from error
    if rows < 1 or cols < 1:
        raise GeometryError(f"detector_shape must be at least 1 x 1 pixel, got {(rows, cols)}")
    return rows, cols


def _real_numbers(name: str, value: ArrayLike) -> FloatArray:
    """Return a float64 array of its own; dates, text, complex numbers and ragged lists are refused by name."""
    try:
        found = np.asarray(value)
        if found.dtype.kind not in "iuf":
            raise TypeError(f"numbers of type {found.dtype}")
        return np.array(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GeometryError(f"{name} must be an array of real numbers, got {error}") from error


def finite_angles(value: ArrayLike) -> FloatArray:
    """Return angles as a read-only float64 array; the message names the first view that is not finite."""
    angles = _real_numbers("angles_rad", value)
    if angles.ndim != 1 or angles.size == 0:
        raise GeometryError(f"angles_rad must be a non-empty one-dimensional array, got shape {angles.shape}")
    bad = np.flatnonzero(~np.isfinite(angles))
    if bad.size:
        raise GeometryError(f"angles_rad must be finite, but view {bad[0]} is {angles[bad[0]]} ({bad.size} such views)")
    angles.setflags(write=False)
    return angles


def view_heights(value: ArrayLike | None, n_views: int) -> FloatArray:
    """Return the source's height in every view, mm, as a read-only float64 array; None is 0, one number is for all."""
    heights = _real_numbers("source_z_mm", 0.0 if value is None else value)
    if heights.shape not in ((), (n_views,)):
        raise GeometryError(f"source_z_mm must be a number or one per view ({n_views}), got shape {heights.shape}")
    heights = np.array(np.broadcast_to(heights, n_views)) + 0.0
    bad = np.flatnonzero(~np.isfinite(heights))
    if bad.size:
        raise GeometryError(f"source_z_mm must be finite (mm), but view {bad[0]} is {heights[bad[0]]}")
    heights.setflags(write=False)
    return heights


def refuse_degrees(angles: FloatArray, helix: bool = False) -> None:
    """Refuse angles that must be degrees.

    Whatever a scanner or a simulation really does in radians comes in parts of a turn, which is no round number;
    degrees come in round steps and in multiples of 180. A handful of views may be anything, so 0, 1, 2, 3 rad pass.

    Parameters
    ----------
    angles : ndarray, float64, shape (n_views,), rad
        Rotation angles, finite.
    helix : bool
        Whether the source moves along the axis. If not, more than two turns can only be degrees.

    Raises
    ------
    GeometryError
        With what is suspicious about the angles.
    """
    span = float(np.ptp(angles))
    distinct = np.unique(angles)
    if span <= 2 * math.pi:
        return
    found = None
    turning = np.abs(np.diff(angles))
    step = float(np.median(turning[turning > 0]))
    if span > 4 * math.pi and not helix:
        found = f"span {span:.6g}, more than two turns (4 pi)"
    elif span > 4 * math.pi and step > math.pi:
        found = f"change by {step:.6g} from view to view, more than half a turn (pi)"
    elif span > 4 * math.pi and any(_is_whole(whole / 180) for whole in (span, span + step)):
        found = f"span {span:.6g} in steps of {step:.6g}, a multiple of 180"
    elif distinct.size >= 8:
        steps = np.diff(distinct)
        step = float(np.median(steps))
        even = float(np.abs(steps - step).max()) <= 1e-6 * step
        coarse = step >= (0.5 if span < 100 else 0.05)
        if even and coarse and span > 2 * math.pi + step and _is_whole(360 / step):
            found = f"span {span:.6g} in even steps of {step:.6g}"
    if found is not None:
        raise GeometryError(f"angles_rad {found}: are they degrees? use np.deg2rad")


def _is_whole(number: float) -> bool:
    return number >= 0.5 and abs(number - round(number)) <= 1e-6


def view_vectors(name: str, value: ArrayLike, n_views: int) -> FloatArray:
    """Return per-view vectors as a read-only float64 array of shape (n_views, 3)."""
    vectors = _real_numbers(name, value)
    if vectors.shape != (n_views, 3):
        raise GeometryError(f"{name} must have shape ({n_views}, 3) (views, xyz), got {vectors.shape}")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise GeometryError(f"{name} must be finite (mm), but view {bad[0]} is {vectors[bad[0]].tolist()}")
    vectors.setflags(write=False)
    return vectors
