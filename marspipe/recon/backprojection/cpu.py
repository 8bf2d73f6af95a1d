"""The fast CPU backprojection for circular orbits whose detector columns are parallel to the rotation axis."""

from __future__ import annotations

import math

import llvmlite.binding
import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.recon.backprojection.circular import circular_views
from marspipe.recon.backprojection.general import backproject_general
from marspipe.recon.backprojection.lanes import LANES
from marspipe.recon.backprojection.simd import TILE, add_tiles
from marspipe.recon.backprojection.thin import add_lines
from marspipe.recon.backprojection.threads import numba_config, run_in_threads
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid

SIMD = ("auto", "avx512", "portable")

# Voxels of a column that are worked on at once: columns of this many voxels and their rows stay in the caches.
_Z_BLOCK = 512
# Up to this many slices the vectors run along x instead: measured, see `marspipe bench kernel`.
_THIN = 4
# The permute reaches 32 neighboring rows: 15 steps of just under 2 rows, and the row above.
_PERMUTE_STEP = 1.999


def avx512_available() -> bool:
    """Return whether numba compiles for a processor with AVX-512."""
    if numba_config.CPU_NAME or numba_config.CPU_FEATURES:  # numba was told to compile for something else
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))


def backproject_cpu(
    filtered: NDArray[np.float32],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    out: NDArray[np.float32],
    *,
    row_first: int = 0,
    threads: int | None = None,
    slice_weights: NDArray[np.float32] | None = None,
) -> None:
    """Add the backprojection to ``out`` with the fast kernel where the orbit allows, else with the general one."""
    kernel = backproject_general if geometry.orbit is None else backproject_circular
    kernel(filtered, geometry, grid, out, row_first=row_first, threads=threads, slice_weights=slice_weights)


def backproject_circular(
    filtered: NDArray[np.float32],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    out: NDArray[np.float32],
    *,
    row_first: int = 0,
    threads: int | None = None,
    slice_weights: NDArray[np.float32] | None = None,
    simd: str = "auto",
) -> None:
    """Add the backprojection of a circular orbit, a helix or several circles to ``out``.

    Parameters are those of :func:`marspipe.recon.backprojection.backproject`, which checks them, and ``simd``:
    ``"auto"`` takes the AVX-512 path where the processor has it and a voxel column's rows lie close enough
    together; ``"avx512"`` and ``"portable"`` insist. All give the same bits.

    Raises
    ------
    GeometryError
        If the geometry is not a circular orbit, or the grid reaches a source.
    InputError
        If ``simd`` is unknown or not possible here.
    """
    views = circular_views(geometry, grid)
    n_z, steepest = grid.shape[0], views.steepest
    z_block = min(_Z_BLOCK, -(-n_z // LANES) * LANES, max(LANES, int(2 * _Z_BLOCK / steepest) // LANES * LANES))
    constants = (*views.constants, math.ceil(steepest * z_block) + 3.0)
    weights, weight_stride = None, -(-n_z // LANES) * LANES
    if slice_weights is not None:
        padded = np.zeros((len(geometry), weight_stride), np.float32)
        padded[:, :n_z] = slice_weights
        weights = padded.reshape(-1)
    permute = True if _takes_permute(simd, steepest) else None
    scan = (
        grid.start[0],
        grid.axis_mm("y"),
        grid.axis_mm("x"),
        filtered,
        row_first,
        views.sin,
        views.cos,
        views.origin_scale,
        constants,
        weights,
        weight_stride,
    )
    if n_z <= _THIN:
        run_in_threads(lambda first, stop: add_lines(out, first, stop, *scan), grid.shape[1], threads)
    else:
        tiles = -(-grid.shape[1] // TILE) * -(-grid.shape[2] // TILE)
        run_in_threads(lambda first, stop: add_tiles(out, first, stop, *scan, z_block, permute), tiles, threads)


def _takes_permute(simd: str, steepest: float) -> bool:
    if simd not in SIMD:
        raise InputError(f"simd must be one of {', '.join(SIMD)}, got {simd!r}")
    if simd == "avx512":
        if not avx512_available():
            raise InputError("simd='avx512' needs a processor with AVX-512; this one has none")
        if steepest > _PERMUTE_STEP:
            raise InputError(f"simd='avx512' needs less than 2 detector rows per voxel, got {steepest:.4g}")
    return simd != "portable" and steepest <= _PERMUTE_STEP and avx512_available()
