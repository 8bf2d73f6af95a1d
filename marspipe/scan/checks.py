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
    pair = (float(value[0]), float(value[1]))
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


def finite_angles(value: ArrayLike) -> FloatArray:
    """Return angles as a read-only float64 array; the message names the first view that is not finite."""
    angles = np.array(value, dtype=np.float64)
    if angles.ndim != 1 or angles.size == 0:
        raise GeometryError(f"angles_rad must be a non-empty one-dimensional array, got shape {angles.shape}")
    bad = np.flatnonzero(~np.isfinite(angles))
    if bad.size:
        raise GeometryError(f"angles_rad must be finite, but view {bad[0]} is {angles[bad[0]]} ({bad.size} such views)")
    angles.setflags(write=False)
    return angles


def view_vectors(name: str, value: ArrayLike, n_views: int) -> FloatArray:
    """Return per-view vectors as a read-only float64 array of shape (n_views, 3)."""
    vectors = np.array(value, dtype=np.float64)
    if vectors.shape != (n_views, 3):
        raise GeometryError(f"{name} must have shape ({n_views}, 3) (views, xyz), got {vectors.shape}")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise GeometryError(f"{name} must be finite (mm), but view {bad[0]} is {vectors[bad[0]].tolist()}")
    vectors.setflags(write=False)
    return vectors
