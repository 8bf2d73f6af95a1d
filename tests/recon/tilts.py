"""Detectors turned out of their upright place, for the tests of the reconstruction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from marspipe.scan.geometry import ScanGeometry


def tilted(geometry: ScanGeometry, roll: float = 0.0, yaw: float = 0.0, pitch: float = 0.0) -> ScanGeometry:
    """Return the geometry with the detector turned about its middle.

    Parameters
    ----------
    roll, yaw, pitch : float, rad
        Turn in the detector's plane, then about its column axis, then about its row axis as they were.
    """
    u, v = geometry.u_mm, geometry.v_mm
    normal = np.cross(u, v)

    def turn(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        for axis, angle in ((normal, roll), (v, yaw), (u, pitch)):
            unit = axis / np.linalg.norm(axis, axis=1, keepdims=True)
            vectors = np.asarray(Rotation.from_rotvec(angle * unit).apply(vectors.copy()))
        return vectors

    return ScanGeometry(
        detector_shape=geometry.detector_shape,
        source_mm=geometry.source_mm,
        detector_center_mm=geometry.detector_center_mm,
        u_mm=turn(u),
        v_mm=turn(v),
        angles_rad=geometry.angles_rad,
    )
