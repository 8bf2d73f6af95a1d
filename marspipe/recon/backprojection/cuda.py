"""The CUDA kernels of the backprojection, and how they are launched.

The volume stands on the device as ``[y, x, z]``. A warp owns one (x, y) column and 32 neighboring slices a step, up to
256 in all, whose sums it keeps in registers while it runs over the views of a batch. For a circular orbit (column, row
of the origin, row step, weights) depend on (x, y, view) alone: once per 32 views every lane computes them for one view,
in float64, and leaves them in shared memory. Then, view by view, the warp reads the two detector columns as aligned
runs of 32 rows, leaves their weighted sum in shared memory (zeros beside the detector, so that nothing is special at
its edges), and every voxel takes one linear interpolation from there. Warps never wait for each other.

Limits for 256 voxels of a column, one view, and steps near one row, on a multiprocessor that issues 4 instructions and
one access of 128 bytes per clock. Accesses: 18 loads, 9 stores, some 19 shared loads (two a voxel, and conflicts where
a step is above 32 / 31 rows) and 3 of parameters: 49 clocks. Instructions, as compiled for 9.0: about 226, of which 97
are the voxels' (12 for each of 8 in a lane; 5 of them floating point that interpolates and adds), 90 the staging: 57
clocks. So 4.5 updates per clock at best, or 1.0e12 per second on 132 multiprocessors at 1.75 GHz (H200). Four direct
loads a voxel of rows that straddle lines would take 64 accesses. Device memory hardly matters: a launch walks through
the volume once, and the views of neighboring columns meet in the L2 cache, for which blocks are numbered in squares.

Rows come from ``fma(k, step, origin)`` with the lattice index k, as on the CPU, and every voxel is summed in float32 in
the order of the views: slabs, windows and batches do not change a bit on one device.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import cuda as numba_cuda
from numba import float32, int32, int64
from numba.cuda import libdevice as numba_libdevice

# mypy would take the simulator's side of numba.
cuda: Any = numba_cuda
libdevice: Any = numba_libdevice

# Indices without sign: numba counts signed ones from the end if they are negative, which costs instructions.
_u32, _u64 = np.uint32, np.uint64

LANES = 32
PATCH = 4  # voxel columns of a block along x and y, one per warp
SUPER = 16  # blocks along x and y of a square that is numbered in one go
SQUARE = SUPER * SUPER
VIEWS_AT_ONCE = LANES  # views whose parameters are in shared memory
GROUP = 3  # runs of 32 rows whose loads are in flight together
ROWS = 384  # rows of a column that a warp can stage, a multiple of 32 GROUP
# Rows that a run of slices may need beyond its reach: 31 for the alignment, 2 for the row above, 3 to spare.
ROWS_TO_SPARE = LANES + 4
TURN_LINES = 8  # rows of a tile that are turned at once

ZERO, ONE = np.float32(0), np.float32(1)
# Added with rounding down, 1.5 * 2**23 leaves the floor of a number below 2**22 in the low bits of a float32.
MAGIC, MAGIC_BITS = np.float32(12582912.0), 0x4B400000


def jit_kernel(threads: int, blocks: int) -> Any:
    """Return numba's decorator for kernels that share a multiprocessor with ``blocks - 1`` others of this size."""
    return cuda.jit(launch_bounds=(threads, blocks), lto=False, cache=True)


@cache
def circular_kernel(per_lane: int, staged: bool, weighted: bool, patch: int) -> Any:
    """Return the kernel for circular orbits, helices and circles along the axis.

    Parameters
    ----------
    per_lane : int
        Voxels per lane: the warp works on ``32 per_lane`` slices at once.
    staged : bool
        Whether columns go through shared memory; else every voxel loads its four pixels, whatever its rows.
    weighted : bool
        Whether slices have weights.
    patch : int
        Voxel columns of a block along x and y.
    """
    run = LANES * per_lane
    warps = patch * patch
    stage_size = warps * ROWS if staged else 1
    slots, pairs = (warps * VIEWS_AT_ONCE, 4), (warps * VIEWS_AT_ONCE, 2)

    @jit_kernel(LANES * warps, 2)
    def kernel(  # type: ignore[no-untyped-def]
        volume, filtered, weights, active, y_mm, x_mm, views, sod, u_scale, u_principal, step_scale, v_principal,
        k_first, nz, n_cols, n_rows, pitch, row_first, across, fresh,
    ):  # fmt: skip
        stage = cuda.shared.array(stage_size, float32)
        numbers = cuda.shared.array(slots, float32)  # left weight, right weight, row of the origin, row step
        places = cuda.shared.array(pairs, int64)  # where row_first of the left and of the right column would be
        rows = cuda.shared.array(pairs, int32)  # first row of the band to stage, number of runs of 32 rows
        sums = cuda.local.array(per_lane, float32)
        left_values = cuda.local.array(GROUP, float32)
        right_values = cuda.local.array(GROUP, float32)

        lane, warp = cuda.threadIdx.x, cuda.threadIdx.y
        square, inside = cuda.blockIdx.x // SQUARE, cuda.blockIdx.x % SQUARE
        x = (square % across * SUPER + inside % SUPER) * patch + warp % patch
        y = (square // across * SUPER + inside // SUPER) * patch + warp // patch
        if x >= x_mm.size or y >= y_mm.size:
            return
        z = cuda.blockIdx.y * run + lane
        at = _u64(y * x_mm.size + x) * _u64(nz) + _u64(z)
        for i in range(per_lane):
            sums[i] = ZERO
            if fresh == 0 and z + LANES * i < nz:
                sums[i] = volume[at + _u64(LANES * i)]

        x_here, y_here = x_mm[x], y_mm[y]
        k_low = np.float32(k_first + cuda.blockIdx.y * run)
        k = k_low + np.float32(lane)
        band_stop = row_first + n_rows
        stage_first, slot_first = warp * ROWS, warp * VIEWS_AT_ONCE
        n_views = views.shape[0]
        for first in range(0, n_views, VIEWS_AT_ONCE):
            mine = first + lane
            runs = np.int32(0)
            if mine < n_views and (not weighted or active[cuda.blockIdx.y, mine] != 0):
                s, c = views[mine, 0], views[mine, 1]
                depth = sod - x_here * s + y_here * c
                inverse = np.float64(ONE / np.float32(depth))
                inverse = inverse * (2.0 - depth * inverse)  # Newton's step: good to 1e-14
                u = (x_here * c + y_here * s) * u_scale * inverse + u_principal
                origin = np.float32(views[mine, 2] * inverse + v_principal)
                step = np.float32(step_scale * inverse)
                low = cuda.fma(k_low, step, origin)
                high = cuda.fma(k_low + np.float32(run - 1), step, origin)
                if u > -1.0 and u < n_cols and high >= np.float32(row_first - 1) and low < np.float32(band_stop):
                    whole = math.floor(u)
                    fraction = u - whole
                    distance_weight = (sod * inverse) * (sod * inverse)
                    left, right = np.int32(whole), np.int32(whole + 1)
                    w_left = np.float32(distance_weight * (1.0 - fraction))
                    w_right = np.float32(distance_weight * fraction)
                    # Beside the detector everything is zero: half-covered cells lose one neighbor.
                    if left < 0:
                        left, w_left = np.int32(0), ZERO
                    if right >= n_cols:
                        right, w_right = left, ZERO
                    to = _u32(slot_first + lane)
                    numbers[to, 0], numbers[to, 1] = w_left, w_right
                    numbers[to, 2], numbers[to, 3] = origin, step
                    at_left = (np.int64(mine) * n_cols + left) * pitch
                    at_right = (np.int64(mine) * n_cols + right) * pitch
                    runs, row_base = np.int32(1), np.int32(row_first)
                    if staged:
                        # Runs of rows start at a multiple of 128 bytes in the left column.
                        row_low = np.int32(math.floor(low)) - row_first
                        row_base = np.int32(row_low - ((at_left + row_low) & (LANES - 1)))
                        runs = np.int32((np.int32(math.floor(high)) - row_first + 1 + LANES - row_base) // LANES)
                        at_left += row_base
                        at_right += row_base
                    places[to, 0], places[to, 1] = at_left, at_right
                    rows[to, 0] = row_base
            rows[_u32(slot_first + lane), 1] = runs
            cuda.syncwarp()
            for j in range(np.int32(min(VIEWS_AT_ONCE, n_views - first))):
                slot = _u32(slot_first + j)
                row_base, runs = rows[slot, 0], rows[slot, 1]
                if runs == 0:
                    continue
                w_left, w_right = numbers[slot, 0], numbers[slot, 1]
                origin, step = numbers[slot, 2], numbers[slot, 3]
                at_left, at_right = places[slot, 0], places[slot, 1]
                if staged:
                    at_left += lane
                    at_right += lane
                    row = np.int32(row_base + lane)
                    stop = _u32(min(n_rows, np.int32(row_base + LANES * runs)))
                    to = _u32(stage_first + lane)
                    for group in range(0, ROWS // LANES, GROUP):
                        if group < runs:
                            for g in range(group, group + GROUP):
                                left_values[g - group] = ZERO
                                right_values[g - group] = ZERO
                                if _u32(row + LANES * g) < stop:  # also false below the band
                                    left_values[g - group] = filtered[_u64(at_left + LANES * g)]
                                    right_values[g - group] = filtered[_u64(at_right + LANES * g)]
                            for g in range(group, group + GROUP):
                                stage[to + _u32(LANES * g)] = cuda.fma(
                                    w_right, right_values[g - group], w_left * left_values[g - group]
                                )
                    cuda.syncwarp()
                    offset = stage_first - row_base - row_first - MAGIC_BITS
                    for i in range(per_lane):
                        row_here = cuda.fma(k + np.float32(LANES * i), step, origin)
                        shifted = libdevice.fadd_rd(row_here, MAGIC)
                        cell = _u64(libdevice.float_as_int(shifted) + offset)
                        below, above = stage[cell], stage[cell + _u64(1)]
                        value = cuda.fma(row_here - (shifted - MAGIC), above - below, below)
                        if weighted:
                            z_here = min(z + LANES * i, nz - 1)
                            sums[i] = cuda.fma(weights[first + j, z_here], value, sums[i])
                        else:
                            sums[i] += value
                    cuda.syncwarp()
                else:
                    for i in range(per_lane):
                        row_here = cuda.fma(k + np.float32(LANES * i), step, origin)
                        if row_here >= np.float32(row_first - 1) and row_here < np.float32(band_stop):
                            shifted = libdevice.fadd_rd(row_here, MAGIC)
                            row = libdevice.float_as_int(shifted) - MAGIC_BITS - row_first
                            below, above = ZERO, ZERO
                            if row >= 0:
                                from_left = w_left * filtered[_u64(at_left + row)]
                                below = cuda.fma(w_right, filtered[_u64(at_right + row)], from_left)
                            if row + 1 < n_rows:
                                from_left = w_left * filtered[_u64(at_left + row + 1)]
                                above = cuda.fma(w_right, filtered[_u64(at_right + row + 1)], from_left)
                            value = cuda.fma(row_here - (shifted - MAGIC), above - below, below)
                            if weighted:
                                z_here = min(z + LANES * i, nz - 1)
                                sums[i] = cuda.fma(weights[first + j, z_here], value, sums[i])
                            else:
                                sums[i] += value
            cuda.syncwarp()
        for i in range(per_lane):
            if z + LANES * i < nz:
                volume[at + _u64(LANES * i)] = sums[i]

    return kernel


@cache
def general_kernel(per_lane: int, weighted: bool, patch: int) -> Any:
    """Return the kernel for any geometry: projection matrices, four loads per voxel; parameters as above."""
    run = LANES * per_lane
    warps = patch * patch
    slots = (warps * VIEWS_AT_ONCE, 8)

    @jit_kernel(LANES * warps, 2)
    def kernel(  # type: ignore[no-untyped-def]
        volume, filtered, weights, active, y_mm, x_mm, views, z_origin, z_step, u_middle, v_middle, unused,
        k_first, nz, n_cols, n_rows, pitch, row_first, across, fresh,
    ):  # fmt: skip
        # Column, row (both from the detector's middle) and depth of lattice slice 0, what a slice adds, the middle.
        numbers = cuda.shared.array(slots, float32)
        sums = cuda.local.array(per_lane, float32)
        lane, warp = cuda.threadIdx.x, cuda.threadIdx.y
        square, inside = cuda.blockIdx.x // SQUARE, cuda.blockIdx.x % SQUARE
        x = (square % across * SUPER + inside % SUPER) * patch + warp % patch
        y = (square // across * SUPER + inside // SUPER) * patch + warp // patch
        if x >= x_mm.size or y >= y_mm.size:
            return
        z = cuda.blockIdx.y * run + lane
        at = _u64(y * x_mm.size + x) * _u64(nz) + _u64(z)
        for i in range(per_lane):
            sums[i] = ZERO
            if fresh == 0 and z + LANES * i < nz:
                sums[i] = volume[at + _u64(LANES * i)]

        x_here, y_here = x_mm[x], y_mm[y]
        k = np.float32(k_first + z)
        band_stop = row_first + n_rows
        slot_first = warp * VIEWS_AT_ONCE
        n_views = views.shape[0]
        view_size = np.int64(n_cols) * pitch
        for first in range(0, n_views, VIEWS_AT_ONCE):
            mine = first + lane
            if mine < n_views:
                to = _u32(slot_first + lane)
                w_0 = views[mine, 8] * x_here + views[mine, 9] * y_here + views[mine, 10] * z_origin + views[mine, 11]
                u_0 = views[mine, 0] * x_here + views[mine, 1] * y_here + views[mine, 2] * z_origin + views[mine, 3]
                v_0 = views[mine, 4] * x_here + views[mine, 5] * y_here + views[mine, 6] * z_origin + views[mine, 7]
                numbers[to, 0] = np.float32(u_0 - u_middle * w_0)
                numbers[to, 1] = np.float32((views[mine, 2] - u_middle * views[mine, 10]) * z_step)
                numbers[to, 2] = np.float32(v_0 - v_middle * w_0)
                numbers[to, 3] = np.float32((views[mine, 6] - v_middle * views[mine, 10]) * z_step)
                numbers[to, 4] = np.float32(w_0)
                numbers[to, 5] = np.float32(views[mine, 10] * z_step)
                numbers[to, 6] = np.float32(u_middle)  # from here it need not be converted again and again
                numbers[to, 7] = np.float32(v_middle)
            cuda.syncwarp()
            for j in range(min(VIEWS_AT_ONCE, n_views - first)):
                if weighted and active[cuda.blockIdx.y, first + j] == 0:
                    continue
                slot = _u32(slot_first + j)
                u_0, u_step, v_0, v_step = numbers[slot, 0], numbers[slot, 1], numbers[slot, 2], numbers[slot, 3]
                w_0, w_step, u_middle_px, v_middle_px = (
                    numbers[slot, 4],
                    numbers[slot, 5],
                    numbers[slot, 6],
                    numbers[slot, 7],
                )
                start = (first + j) * view_size - row_first
                for i in range(per_lane):
                    k_here = k + np.float32(LANES * i)
                    inverse = ONE / cuda.fma(k_here, w_step, w_0)
                    u = cuda.fma(cuda.fma(k_here, u_step, u_0), inverse, u_middle_px)
                    v = cuda.fma(cuda.fma(k_here, v_step, v_0), inverse, v_middle_px)
                    if (
                        u > -ONE
                        and u < np.float32(n_cols)
                        and v > np.float32(row_first - 1)
                        and v < np.float32(band_stop)
                    ):
                        shifted = libdevice.fadd_rd(u, MAGIC)
                        column = libdevice.float_as_int(shifted) - MAGIC_BITS
                        a = u - (shifted - MAGIC)
                        shifted = libdevice.fadd_rd(v, MAGIC)
                        row = libdevice.float_as_int(shifted) - MAGIC_BITS
                        b = v - (shifted - MAGIC)
                        value = ZERO
                        cell = start + column * np.int64(pitch) + row
                        if column >= 0:
                            if row >= row_first:
                                value += (ONE - a) * (ONE - b) * filtered[_u64(cell)]
                            if row + 1 < band_stop:
                                value += (ONE - a) * b * filtered[_u64(cell + 1)]
                        if column + 1 < n_cols:
                            if row >= row_first:
                                value += a * (ONE - b) * filtered[_u64(cell + pitch)]
                            if row + 1 < band_stop:
                                value += a * b * filtered[_u64(cell + pitch + 1)]
                        value = inverse * inverse * value
                        if weighted:
                            value = value * weights[first + j, min(z + LANES * i, nz - 1)]
                        sums[i] += value
            cuda.syncwarp()
        for i in range(per_lane):
            if z + LANES * i < nz:
                volume[at + _u64(LANES * i)] = sums[i]

    return kernel


@cache
def turning_kernel(to_slices: bool) -> Any:
    """Return the kernel that turns ``[y, x, z]`` into slices ``[z, y, x]``, or slices back, through shared memory."""
    tile_shape = (LANES, LANES + 1)  # a column more: no two lanes of a warp in the same bank

    @jit_kernel(LANES * TURN_LINES, 4)
    def kernel(volume, slices, z_first, n_slices, ny, nx, nz):  # type: ignore[no-untyped-def]
        tile = cuda.shared.array(tile_shape, float32)
        lane, line = cuda.threadIdx.x, cuda.threadIdx.y
        x_first, z_tile, y = cuda.blockIdx.x * LANES, cuda.blockIdx.y * LANES, cuda.blockIdx.z
        for i in range(line, LANES, TURN_LINES):
            if to_slices:
                x, z = x_first + i, z_tile + lane
                if x < nx and z < n_slices:
                    tile[i, lane] = volume[_u64(y * nx + x) * _u64(nz) + _u64(z_first + z)]
            else:
                x, z = x_first + lane, z_tile + i
                if x < nx and z < n_slices:
                    tile[i, lane] = slices[_u64(z * ny + y) * _u64(nx) + _u64(x)]
        cuda.syncthreads()
        for i in range(line, LANES, TURN_LINES):
            if to_slices:
                x, z = x_first + lane, z_tile + i
                if x < nx and z < n_slices:
                    slices[_u64(z * ny + y) * _u64(nx) + _u64(x)] = tile[lane, i]
            else:
                x, z = x_first + i, z_tile + lane
                if x < nx and z < n_slices:
                    volume[_u64(y * nx + x) * _u64(nz) + _u64(z_first + z)] = tile[lane, i]

    return kernel
