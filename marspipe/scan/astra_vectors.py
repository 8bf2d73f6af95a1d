"""ASTRA's cone-beam projection geometries, which are plain dictionaries: ours to them and back, without ASTRA."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import GeometryError

FloatArray = NDArray[np.float64]


def cone_vec(
    detector_shape: tuple[int, int], source_mm: FloatArray, center_mm: FloatArray, u_mm: FloatArray, v_mm: FloatArray
) -> dict[str, Any]:
    """Return the ``cone_vec`` geometry of per-view vectors, each of shape (n_views, 3), mm."""
    return {
        "type": "cone_vec",
        "DetectorRowCount": detector_shape[0],
        "DetectorColCount": detector_shape[1],
        "Vectors": np.hstack([source_mm, center_mm, u_mm, v_mm]),
    }


def description(projection_geometry: dict[str, Any]) -> dict[str, Any]:
    """Return what :meth:`ScanGeometry.from_dict` needs for a ``cone`` or ``cone_vec`` geometry.

    Raises
    ------
    GeometryError
        If the geometry is of another kind, or its vectors have another shape.
    """
    kind = projection_geometry.get("type")
    if kind not in ("cone", "cone_vec"):
        raise GeometryError(f"ASTRA geometry type must be 'cone' or 'cone_vec', got {kind!r}")
    shape = (projection_geometry["DetectorRowCount"], projection_geometry["DetectorColCount"])
    if kind == "cone":
        sod = projection_geometry["DistanceOriginSource"]
        return {
            "kind": "circular",
            "source_to_isocenter_mm": sod,
            "source_to_detector_mm": sod + projection_geometry["DistanceOriginDetector"],
            "detector_shape": shape,
            "pixel_pitch_mm": (projection_geometry["DetectorSpacingY"], projection_geometry["DetectorSpacingX"]),
            "angles_rad": projection_geometry["ProjectionAngles"],
        }
    vectors = np.asarray(projection_geometry["Vectors"], dtype=np.float64)
    if vectors.ndim != 2 or vectors.shape[1] != 12:
        raise GeometryError(f"ASTRA cone_vec vectors must have shape (n_views, 12), got {vectors.shape}")
    source, center, u, v = np.hsplit(vectors, 4)
    return {
        "kind": "per_view",
        "detector_shape": shape,
        "source_mm": source,
        "detector_center_mm": center,
        "u_mm": u,
        "v_mm": v,
    }
