"""Slices at uneven places, or on a leaning lattice, brought onto a regular grid by linear interpolation.

Exact for values that change linearly in space. Where a voxel has no measured neighbors, it becomes NaN.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from marspipe.errors import InputError
from marspipe.scan.grid import VolumeGrid

_EDGE_VOXELS = 1e-4  # by which a place may lie outside for rounding
_FLATTEST = 1e-3  # volume of a lattice cell whose sides have length 1


def even_slices(
    stack: NDArray[np.float32], distances_mm: NDArray[np.float64], tolerance_mm: float
) -> tuple[NDArray[np.float32], float]:
    """Interpolate slices linearly to even spacing, the median of the gaps.

    Parameters
    ----------
    stack : ndarray, float32, shape (slices, rows, columns)
    distances_mm : ndarray, float64, shape (slices,)
        Of every slice from the first, ascending.
    tolerance_mm : float
        Slices this near to an even place are taken as they are.

    Returns
    -------
    even : ndarray, float32, shape (new slices, rows, columns)
        From the first slice on, not beyond the last.
    spacing_mm : float
    """
    spacing = float(np.median(np.diff(distances_mm)))
    total = float(distances_mm[-1])
    count = round(total / spacing)
    if abs(total - count * spacing) <= tolerance_mm:
        spacing = total / count
    else:
        count = int(total / spacing)
    even = np.empty((count + 1, *stack.shape[1:]), dtype=np.float32)
    for number in range(count + 1):
        place = number * spacing
        nearest = int(np.argmin(np.abs(distances_mm - place)))
        if abs(distances_mm[nearest] - place) <= tolerance_mm:
            even[number] = stack[nearest]
            continue
        above = int(np.searchsorted(distances_mm, place))
        low, high = distances_mm[above - 1], distances_mm[above]
        part = np.float32((place - low) / (high - low))
        even[number] = (1 - part) * stack[above - 1] + part * stack[above]
    return even, spacing


def world_axes(steps_mm: NDArray[np.float64]) -> tuple[int, int, int]:
    """Return which lattice axis runs most along world z, y and x.

    Parameters
    ----------
    steps_mm : ndarray, float64, shape (3, 3)
        Step along every lattice axis: rows for slices, rows, columns; components z, y, x.

    Raises
    ------
    InputError
        If the steps do not span a volume.
    """
    unit = steps_mm / np.linalg.norm(steps_mm, axis=1, keepdims=True)
    if abs(float(np.linalg.det(unit))) < _FLATTEST:
        raise InputError("the slices follow each other within their own plane: they make no volume")
    z, y, x = max(permutations(range(3)), key=lambda p: abs(float(np.prod(unit[list(p), [0, 1, 2]]))))
    return z, y, x


def world_grid(shape: tuple[int, ...], origin_mm: NDArray[np.float64], steps_mm: NDArray[np.float64]) -> VolumeGrid:
    """Return the grid, along the world's axes, of the box that a lattice fills.

    Its voxels are as far apart as lattice points are along the world axis that their own axis is nearest to: a sheared
    lattice then needs interpolation along one axis only.

    Parameters
    ----------
    shape : (int, int, int)
        Of the lattice.
    origin_mm : ndarray, float64, shape (3,)
        World (z, y, x) of lattice point (0, 0, 0).
    steps_mm : ndarray
        As in :func:`world_axes`.
    """
    axes = world_axes(steps_mm)
    voxel = [abs(float(steps_mm[axes[w], w])) for w in range(3)]
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1) @ steps_mm + origin_mm
    low, high = corners.min(axis=0), corners.max(axis=0)
    count = [int((high[w] - low[w]) / voxel[w] + _EDGE_VOXELS) + 1 for w in range(3)]
    center = [float(low[w]) + 0.5 * (count[w] - 1) * voxel[w] for w in range(3)]
    return VolumeGrid((count[0], count[1], count[2]), (voxel[0], voxel[1], voxel[2]), (center[0], center[1], center[2]))


def onto_grid(
    stack: NDArray[np.float32], origin_mm: NDArray[np.float64], steps_mm: NDArray[np.float64], grid: VolumeGrid
) -> NDArray[np.float32]:
    """Interpolate a lattice of any shape linearly onto a grid along the world's axes.

    Parameters
    ----------
    stack : ndarray, float32, shape (slices, rows, columns)
        NaN where there is no value.
    origin_mm, steps_mm : ndarray, float64
        As in :func:`world_grid`.
    grid : VolumeGrid

    Returns
    -------
    ndarray, float32, shape of the grid
        NaN outside the lattice, and where a value that counts is NaN.
    """
    known = np.isfinite(stack)
    has_holes = not bool(known.all())
    filled = np.where(known, stack, np.float32(0)) if has_holes else stack
    weights = known.astype(np.float32) if has_holes else None
    inverse = np.linalg.inv(steps_mm)
    z, y, x = (grid.axis_mm(a) for a in "zyx")
    plane = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    last = np.array(stack.shape, dtype=np.float64) - 1
    volume = np.full(grid.shape, np.nan, dtype=np.float32)
    for number, height in enumerate(z):
        places = (height - origin_mm[0]) * inverse[0] + (plane - origin_mm[1:]) @ inverse[1:]
        inside = ((places >= -_EDGE_VOXELS) & (places <= last + _EDGE_VOXELS)).all(axis=-1)
        if not inside.any():
            continue
        at = places[inside].T
        values = map_coordinates(filled, at, order=1, mode="nearest", output=np.float32)
        if weights is not None:
            share = map_coordinates(weights, at, order=1, mode="nearest", output=np.float32)
            values = np.where(share > 1 - _EDGE_VOXELS, values / np.maximum(share, 0.5), np.nan)
        volume[number][inside] = values
    return volume
