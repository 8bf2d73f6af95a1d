"""The circular orbit: the few numbers that all views share, and the per-view vectors that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
# Source, detector center, u step, v step of every view.
ViewVectors = tuple[FloatArray, FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True)
class CircularOrbit:
    """The parameters that all views of a circular orbit share.

    Attributes
    ----------
    source_to_isocenter_mm, source_to_detector_mm : float
        SOD and SDD, mm.
    pixel_pitch_mm : (float, float)
        Detector pixel pitch (v, u), mm.
    principal_point_px : (float, float)
        Detector position (row, column) of the ray through the isocenter, px.
    """

    source_to_isocenter_mm: float
    source_to_detector_mm: float
    pixel_pitch_mm: tuple[float, float]
    principal_point_px: tuple[float, float]

    @property
    def magnification(self) -> float:
        """SDD / SOD."""
        return self.source_to_detector_mm / self.source_to_isocenter_mm


def orbit_vectors(orbit: CircularOrbit, angles: FloatArray, shape: tuple[int, int]) -> ViewVectors:
    """Return source, detector center, u step and v step of every view of an orbit, each of shape (n_views, 3), mm."""
    sin, cos, zero = np.sin(angles), np.cos(angles), np.zeros_like(angles)
    column_axis = np.stack([cos, sin, zero], axis=1)
    row_axis = np.stack([zero, zero, np.ones_like(angles)], axis=1)
    outward = np.stack([-sin, cos, zero], axis=1)
    pitch_v, pitch_u = orbit.pixel_pitch_mm
    off_v = ((shape[0] - 1) / 2 - orbit.principal_point_px[0]) * pitch_v
    off_u = ((shape[1] - 1) / 2 - orbit.principal_point_px[1]) * pitch_u
    source = -orbit.source_to_isocenter_mm * outward
    center = (
        (orbit.source_to_detector_mm - orbit.source_to_isocenter_mm) * outward + off_u * column_axis + off_v * row_axis
    )
    return source, center, pitch_u * column_axis, pitch_v * row_axis


def recognize_orbit(angles: FloatArray, vectors: ViewVectors, shape: tuple[int, int]) -> CircularOrbit | None:
    """Return the circular orbit that reproduces the vectors to rounding, or None."""
    source, centers, u, v = vectors
    sod = float(np.hypot(source[0, 0], source[0, 1]))
    if sod <= 0:
        return None
    outward = np.stack([-np.sin(angles), np.cos(angles), np.zeros_like(angles)], axis=1)
    column_axis = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)
    pitch_v, pitch_u = (float(np.linalg.norm(a[0])) for a in (v, u))
    center = centers[0]
    rows, cols = shape
    sdd = sod + float(center @ outward[0])
    if sdd < sod * (1 - 1e-12):
        return None
    point = (
        (rows - 1) / 2 - float(center[2]) / pitch_v,
        (cols - 1) / 2 - float(center @ column_axis[0]) / pitch_u,
    )
    orbit = CircularOrbit(sod, max(sdd, sod), (pitch_v, pitch_u), point)
    expected = orbit_vectors(orbit, angles, shape)
    # A source far away must not make the detector's place vague: it counts with its rounding alone.
    near = float(np.abs(centers).max()) + max(rows * pitch_v, cols * pitch_u)
    tolerances = (1e-10 * sod, 1e-10 * near + 1e-15 * sod, 1e-10 * pitch_u, 1e-10 * pitch_v)
    same = all(np.abs(e - a).max() <= t for e, a, t in zip(expected, vectors, tolerances, strict=True))
    return orbit if same else None
