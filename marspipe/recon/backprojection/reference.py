"""The backprojection in plain NumPy: what every kernel must equal, in the fewest lines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


def backproject_reference(
    filtered: NDArray[np.float32],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    out: NDArray[np.float32],
    *,
    row_first: int = 0,
    threads: int | None = None,
    slice_weights: NDArray[np.float32] | None = None,
) -> None:
    """Add the backprojection to ``out`` slice by slice, positions and values in float64; for tests, not for work.

    Parameters are those of :func:`marspipe.recon.backprojection.backproject`; ``threads`` is ignored.
    """
    rows, cols = geometry.detector_shape
    n_rows = filtered.shape[2]
    y, x = np.meshgrid(grid.axis_mm("y"), grid.axis_mm("x"), indexing="ij")
    if slice_weights is None:
        slice_weights = np.ones((len(geometry), grid.shape[0]), np.float32)
    for data, matrix, factors in zip(filtered, geometry.projection_matrices(), slice_weights, strict=True):
        # One row and column of zeros on each side: pixels beside the detector count as zero.
        padded = np.zeros((cols + 2, rows + 2))
        padded[1 : cols + 1, 1 + row_first : 1 + row_first + n_rows] = data
        for k, z in enumerate(grid.axis_mm("z")):
            u, v, w = (row[0] * x + row[1] * y + row[2] * z + row[3] for row in matrix)
            u, v = np.clip(u / w + 1, 0, cols + 1), np.clip(v / w + 1, 0, rows + 1)
            column = np.minimum(u.astype(np.int64), cols)
            row = np.minimum(v.astype(np.int64), rows)
            a, b = u - column, v - row
            left = (1 - b) * padded[column, row] + b * padded[column, row + 1]
            right = (1 - b) * padded[column + 1, row] + b * padded[column + 1, row + 1]
            out[k] += (factors[k] * ((1 - a) * left + a * right) / w**2).astype(np.float32)
