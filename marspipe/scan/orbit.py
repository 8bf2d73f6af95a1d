"""The circular orbit: the few numbers that all views share, and the per-view vectors that follow from them.

Source and detector may stand at another height in every view: then the orbit is a helix, or several circles.
"""

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
        Detector position (row, column) of the ray through the rotation axis at the source's height, px.
    """

    source_to_isocenter_mm: float
    source_to_detector_mm: float
    pixel_pitch_mm: tuple[float, float]
    principal_point_px: tuple[float, float]

    @property
    def magnification(self) -> float:
        """SDD / SOD."""
        return self.source_to_detector_mm / self.source_to_isocenter_mm


def orbit_vectors(orbit: CircularOrbit, angles: FloatArray, heights: FloatArray, shape: tuple[int, int]) -> ViewVectors:
    """Return source, detector center, u step and v step of every view of an orbit, each of shape (n_views, 3), mm."""
    sin, cos, zero = np.sin(angles), np.cos(angles), np.zeros_like(angles)
    column_axis = np.stack([cos, sin, zero], axis=1)
    row_axis = np.stack([zero, zero, np.ones_like(angles)], axis=1)
    outward = np.stack([-sin, cos, zero], axis=1)
    pitch_v, pitch_u = orbit.pixel_pitch_mm
    off_v = ((shape[0] - 1) / 2 - orbit.principal_point_px[0]) * pitch_v
    off_u = ((shape[1] - 1) / 2 - orbit.principal_point_px[1]) * pitch_u
    height = heights[:, None] * np.array([0.0, 0.0, 1.0])
    source = height - orbit.source_to_isocenter_mm * outward
    center = (
        (orbit.source_to_detector_mm - orbit.source_to_isocenter_mm) * outward + off_u * column_axis + off_v * row_axis
    )
    center += height
    return source, center, pitch_u * column_axis, pitch_v * row_axis


def tilted_detector(
    orbit: CircularOrbit,
    angles: FloatArray,
    shape: tuple[int, int],
    in_plane_rad: float,
    about_u_rad: float,
    about_v_rad: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return u step, v step and center of a detector turned about its principal point, each (n_views, 3), mm.

    The turns are those of :meth:`marspipe.scan.geometry.ScanGeometry.with_tilted_detector`.
    """
    # In the frame (u, v, towards the source) of the untilted detector.
    cos, sin = np.cos(in_plane_rad), np.sin(in_plane_rad)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    cos, sin = np.cos(about_u_rad), np.sin(about_u_rad)
    turn = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]]) @ turn
    cos, sin = np.cos(about_v_rad), np.sin(about_v_rad)
    turn = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]]) @ turn
    sines, cosines, zero = np.sin(angles), np.cos(angles), np.zeros_like(angles)
    frame = np.stack(
        [
            np.stack([cosines, sines, zero], axis=1),
            np.stack([zero, zero, zero + 1.0], axis=1),
            np.stack([sines, -cosines, zero], axis=1),
        ],
        axis=2,
    )
    pitch_v, pitch_u = orbit.pixel_pitch_mm
    u, v = frame @ turn[:, 0] * pitch_u, frame @ turn[:, 1] * pitch_v
    pivot = -(orbit.source_to_detector_mm - orbit.source_to_isocenter_mm) * frame[:, :, 2]
    row, column = ((n - 1) / 2 - p for n, p in zip(shape, orbit.principal_point_px, strict=True))
    return u, v, pivot + column * u + row * v


def recognize_orbit(angles: FloatArray, vectors: ViewVectors, shape: tuple[int, int]) -> CircularOrbit | None:
    """Return the circular orbit that reproduces the vectors at the source's heights to rounding, or None."""
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
        (rows - 1) / 2 - float(center[2] - source[0, 2]) / pitch_v,
        (cols - 1) / 2 - float(center @ column_axis[0]) / pitch_u,
    )
    orbit = CircularOrbit(sod, max(sdd, sod), (pitch_v, pitch_u), point)
    expected = orbit_vectors(orbit, angles, source[:, 2], shape)
    # A source far away must not make the detector's place vague: it counts with its rounding alone.
    near = float(np.abs(centers).max()) + max(rows * pitch_v, cols * pitch_u)
    tolerances = (1e-10 * sod, 1e-10 * near + 1e-15 * sod, 1e-10 * pitch_u, 1e-10 * pitch_v)
    same = all(np.abs(e - a).max() <= t for e, a, t in zip(expected, vectors, tolerances, strict=True))
    return orbit if same else None
