"""Small scans and their volumes, for the tests of the reconstruction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


def circle(n_views: int, turn: float = 2 * np.pi, first: float = 0.0) -> NDArray[np.float64]:
    return first + np.arange(n_views) * turn / n_views


def cone(**changes: Any) -> ScanGeometry:
    """Return a strongly opened cone (fan half angle 12 degrees) on a small detector."""
    settings: dict[str, Any] = {
        "source_to_isocenter_mm": 40.0,
        "source_to_detector_mm": 60.0,
        "detector_shape": (37, 43),
        "pixel_pitch_mm": (0.6, 0.6),
        "angles_rad": circle(24),
    }
    return ScanGeometry.circular(**(settings | changes))


def without_orbit(geometry: ScanGeometry, turn_rad: float = 0.0) -> ScanGeometry:
    """Return the geometry in general form, the detector turned in its plane; never taken for a circular orbit."""
    u, v = geometry.u_mm, geometry.v_mm
    pitch_v, pitch_u = geometry.pixel_pitch_mm
    sin, cos = np.sin(turn_rad), np.cos(turn_rad)
    general = ScanGeometry(
        detector_shape=geometry.detector_shape,
        source_mm=geometry.source_mm,
        detector_center_mm=geometry.detector_center_mm,
        u_mm=cos * u + sin * pitch_u / pitch_v * v,
        v_mm=cos * v - sin * pitch_v / pitch_u * u,
        angles_rad=geometry.angles_rad,
    )
    object.__setattr__(general, "orbit", None)
    return general


def columns_of(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``[view, v, u]`` as the kernels want it, ``[view, u, v]``."""
    return np.ascontiguousarray(stack.transpose(0, 2, 1))


def random_stack(geometry: ScanGeometry, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((len(geometry), *geometry.detector_shape), dtype=np.float32)


def ball(grid: VolumeGrid, radius_mm: float, center_mm: tuple[float, float, float] = (0, 0, 0)) -> NDArray[np.bool_]:
    """Return which voxels lie within a ball; the center is (x, y, z)."""
    z, y, x = np.meshgrid(*(grid.axis_mm(axis) for axis in ("z", "y", "x")), indexing="ij")
    inside: NDArray[np.bool_] = (
        (x - center_mm[0]) ** 2 + (y - center_mm[1]) ** 2 + (z - center_mm[2]) ** 2
    ) <= radius_mm**2
    return inside
