"""Which pixels of a slice the scan saw: those outside hold no data and are written as padding."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.scan.grid import VolumeGrid


def field_of_view_mm(metadata: Mapping[str, Any]) -> float | None:
    """Return the radius about the axis that the scan saw, ``redundancy.field_of_view_mm`` of a volume's metadata."""
    radius = (metadata.get("redundancy") or {}).get("field_of_view_mm")
    return None if radius is None else float(radius)


def padded_beyond_mm(grid: VolumeGrid, radius_mm: float | None) -> float | None:
    """Return the distance from the axis beyond which pixels are padding; None if the grid lies within it.

    A voxel whose center is up to one voxel outside the field of view still counts as seen, as it does for the
    reconstruction's own warning.

    Raises
    ------
    InputError
        If the radius is not positive.
    """
    if radius_mm is None:
        return None
    if not radius_mm > 0:
        raise InputError(f"the radius of the field of view must be positive (mm), got {radius_mm!r}")
    limit = radius_mm + max(grid.voxel_mm[1:])
    y, x = (np.abs(grid.axis_mm(axis)).max() for axis in ("y", "x"))
    return limit if np.hypot(y, x) > limit else None


@lru_cache(maxsize=4)
def outside(
    shape: tuple[int, int], origin_mm: tuple[float, float], voxel_mm: tuple[float, float], limit_mm: float
) -> NDArray[np.bool_]:
    """Return which pixels of a slice lie farther from the axis x = y = 0 than a limit.

    Parameters
    ----------
    shape : (int, int)
        Rows (y), columns (x).
    origin_mm, voxel_mm : (float, float)
        Center of pixel (0, 0) and spacing, (y, x).
    limit_mm : float
        From :func:`padded_beyond_mm`.

    Returns
    -------
    ndarray, bool, shape (rows, columns)
        Read-only: slices of a series share it.
    """
    y = origin_mm[0] + voxel_mm[0] * np.arange(shape[0])
    x = origin_mm[1] + voxel_mm[1] * np.arange(shape[1])
    mask: NDArray[np.bool_] = y[:, None] ** 2 + x**2 > limit_mm**2
    mask.setflags(write=False)
    return mask
