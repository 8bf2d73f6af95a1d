"""The scans that are measured: a circle at MARS distances, and what its detector may have seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


def cone_scan(views: int, detector: int, voxels: int) -> tuple[ScanGeometry, VolumeGrid]:
    """Return a full circular scan and a grid that fills its field of view (MARS distances).

    Parameters
    ----------
    views, detector, voxels : int
        Number of views, of detector rows and columns, of voxels along each axis.
    """
    pitch = 0.055 * 256 / detector
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=200.0,
        source_to_detector_mm=250.0,
        detector_shape=(detector, detector),
        pixel_pitch_mm=(pitch, pitch),
        angles_rad=np.linspace(0, 2 * np.pi, views, endpoint=False),
    )
    size = pitch * detector / 1.25 / voxels
    return geometry, VolumeGrid((voxels,) * 3, (size,) * 3)


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return reproducible float32 noise in [0, 1)."""
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def size_text(geometry: ScanGeometry, grid: VolumeGrid) -> str:
    """Return the size of a reconstruction: voxels, views, detector."""
    (nz, ny, nx), (rows, cols) = grid.shape, geometry.detector_shape
    voxels = f"{nx}^3" if nz == ny == nx else f"{nz} x {ny} x {nx}"
    return f"{voxels}, {len(geometry)} views of {f'{rows}^2' if rows == cols else f'{rows} x {cols}'}"
