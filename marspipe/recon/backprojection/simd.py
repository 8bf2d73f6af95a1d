"""The fast kernel: the two vector loops that carry it, and the walk through tiles of voxels around them.

For a circular orbit and one (x, y, view) the detector column, the distance weight and the step in detector rows from
one z slice to the next are constants. The tile loop interpolates that one column between its two neighbors, weight
folded in, and then every voxel of the column takes one linear interpolation along it, 16 voxels at a time.

Sixteen neighboring voxels read at most 31 neighboring rows when the step is below two rows, so two contiguous loads
and a two-register permute (AVX-512) stand for 16 gathered loads. Elsewhere the same instructions run on 16 lanes of
whatever vectors the processor has, with one load of two floats per lane. Both paths are one text that differs in that
fetch alone, so they give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from marspipe.recon.backprojection.lanes import (
    F32,
    F64,
    I32,
    I64,
    IOTA,
    LANES,
    V16,
    W16,
    Codegen,
    call,
    cgutils,
    data_of,
    fma32,
    integer,
    intrinsic,
    load,
    splat,
    store,
    transpose_block,
)

TILE = 16  # voxels of a tile along x and y: 64 bytes of a volume row, and projections that stay in the L2 cache
VIEWS_AT_ONCE = 4  # interpolated columns kept in the L1 cache while a column of voxels runs over them


@intrinsic
def blend_columns(
    typingctx: Any, target: Any, to: Any, source: Any, left: Any, right: Any, blocks: Any, w_left: Any, w_right: Any
) -> tuple[Any, Codegen]:
    """Write ``w_left * source[left + r] + w_right * source[right + r]`` to ``target[to + r]``, 16 blocks[r] at a time.

    ``target`` must be aligned to 64 bytes and ``to`` a multiple of 16.
    """
    signature = types.void(target, to, source, left, right, blocks, w_left, w_right)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        _, to_, _, left_, right_, blocks_, w_left_, w_right_ = values
        target_ = data_of(context, builder, sig.args[0], values[0])
        source_ = data_of(context, builder, sig.args[2], values[2])
        a, b = splat(builder, w_left_, V16), splat(builder, w_right_, V16)
        with cgutils.for_range(builder, blocks_) as loop:
            at = builder.mul(loop.index, integer(LANES))
            from_left = builder.fmul(a, load(builder, source_, builder.add(left_, at)))
            both = call(builder, "llvm.fma.v16f32", V16, b, load(builder, source_, builder.add(right_, at)), from_left)
            store(builder, both, target_, builder.add(to_, at), align=64)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_columns(
    typingctx: Any,
    voxels: Any,
    first: Any,
    blocks: Any,
    k_first: Any,
    columns: Any,
    stride: Any,
    row_of_origin: Any,
    row_step: Any,
    row_base: Any,
    n_columns: Any,
    weights: Any,
    weight_base: Any,
    permute: Any,
) -> tuple[Any, Codegen]:
    """Add ``n_columns`` detector columns, in their order, to one column of ``16 * blocks`` voxels.

    Voxel ``voxels[first + i]`` has lattice index ``k = k_first + i`` and reads column ``j`` at row
    ``fma(k, row_step[j], row_of_origin[j])``; row ``r`` of column ``j`` stands at
    ``columns[j * stride + r - row_base[j]]``. The value counts ``weights[weight_base[j] + i]`` times, or once if
    ``weights`` is None. ``permute`` is None for the portable fetch, True for AVX-512.
    """
    signature = types.void(
        voxels,
        first,
        blocks,
        k_first,
        columns,
        stride,
        row_of_origin,
        row_step,
        row_base,
        n_columns,
        weights,
        weight_base,
        permute,
    )
    weighted = not isinstance(weights, types.NoneType)
    fetch = _fetch_lane_by_lane if isinstance(permute, types.NoneType) else _fetch_by_permute

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        voxels_, columns_, origin_, step_, base_ = (
            data_of(context, builder, sig.args[i], values[i]) for i in (0, 4, 6, 7, 8)
        )
        first_, blocks_, k_first_, stride_, n_columns_ = (values[i] for i in (1, 2, 3, 5, 9))
        weights_, weight_base_ = (
            (data_of(context, builder, sig.args[i], values[i]) for i in (10, 11)) if weighted else (None, None)
        )
        sum_slot = cgutils.alloca_once(builder, V16)
        with cgutils.for_range(builder, blocks_) as block:
            at = builder.mul(block.index, integer(LANES))
            k = builder.add(splat(builder, builder.trunc(builder.add(k_first_, at), I32), W16), IOTA)
            k = builder.sitofp(k, V16)
            builder.store(load(builder, voxels_, builder.add(first_, at), align=64), sum_slot)
            with cgutils.for_range(builder, n_columns_) as column:
                j = column.index
                step = splat(builder, builder.load(builder.gep(step_, [j])), V16)
                origin = splat(builder, builder.load(builder.gep(origin_, [j])), V16)
                row = call(builder, "llvm.fma.v16f32", V16, k, step, origin)
                floor = call(builder, "llvm.floor.v16f32", V16, row)
                fraction = builder.fsub(row, floor)
                index = builder.fptosi(floor, W16)
                lowest = builder.extract_element(index, ir.Constant(I32, 0))
                index = builder.sub(index, splat(builder, lowest, W16))
                start = builder.sub(builder.sext(lowest, I64), builder.load(builder.gep(base_, [j])))
                window = builder.gep(columns_, [builder.add(start, builder.mul(j, stride_))])
                below, above = fetch(builder, window, index)
                value = call(builder, "llvm.fma.v16f32", V16, fraction, builder.fsub(above, below), below)
                sum_before = builder.load(sum_slot)
                if weighted:
                    base = builder.load(builder.gep(weight_base_, [j]))
                    weight = load(builder, weights_, builder.add(base, at))
                    builder.store(call(builder, "llvm.fma.v16f32", V16, weight, value, sum_before), sum_slot)
                else:
                    builder.store(builder.fadd(sum_before, value), sum_slot)
            store(builder, builder.load(sum_slot), voxels_, builder.add(first_, at), align=64)
        return context.get_dummy_value()

    return signature, codegen


def _fetch_by_permute(builder: Any, window: Any, index: Any) -> tuple[Any, Any]:
    low, high = load(builder, window, integer(0)), load(builder, window, integer(LANES))
    name = "llvm.x86.avx512.vpermi2var.ps.512"
    next_index = builder.add(index, ir.Constant(W16, [1] * LANES))
    return call(builder, name, V16, low, index, high), call(builder, name, V16, low, next_index, high)


def _fetch_lane_by_lane(builder: Any, window: Any, index: Any) -> tuple[Any, Any]:
    # The two rows of a lane lie side by side: one load of 64 bits fetches both.
    pairs = ir.Constant(ir.VectorType(F64, LANES), ir.Undefined)
    for lane in range(LANES):
        offset = builder.sext(builder.extract_element(index, ir.Constant(I32, lane)), I64)
        pair = builder.load(builder.bitcast(builder.gep(window, [offset]), F64.as_pointer()))
        pair.align = 4
        pairs = builder.insert_element(pairs, pair, ir.Constant(I32, lane))
    rows = builder.bitcast(pairs, ir.VectorType(F32, 2 * LANES))
    below = builder.shuffle_vector(rows, rows, ir.Constant(W16, list(range(0, 2 * LANES, 2))))
    above = builder.shuffle_vector(rows, rows, ir.Constant(W16, list(range(1, 2 * LANES, 2))))
    return below, above


@njit(inline="always")
def _aligned(n):  # type: ignore[no-untyped-def]
    raw = np.empty(n + LANES, np.float32)
    skip = ((64 - (raw.ctypes.data & 63)) >> 2) & 15
    return raw[skip : skip + n]


@njit(nogil=True, error_model="numpy", cache=True)
def add_tiles(  # type: ignore[no-untyped-def]
    volume,
    first_tile,
    stop_tile,
    k_first,
    y_mm,
    x_mm,
    filtered,
    row_first,
    sin,
    cos,
    origin_scale,
    constants,
    slice_weights,
    weight_stride,
    z_block,
    permute,
):
    """Add the views of a batch to tiles ``first_tile .. stop_tile - 1`` (16 x 16 columns of voxels each) of a volume.

    Parameters
    ----------
    volume : float32 [z, y, x], C-contiguous
    first_tile, stop_tile : int
        Tiles are counted along x first.
    k_first : int
        Lattice index of slice 0 of ``volume``.
    y_mm, x_mm : float64 arrays
        Voxel centers.
    filtered : float32 [view, u, v], C-contiguous
    row_first : int
        Detector row of ``filtered[:, :, 0]``.
    sin, cos : float64 [view]
        Of the view angles.
    origin_scale : float64 [view]
        Rows at the isocenter from the principal row to lattice slice 0, times source_to_isocenter_mm.
    constants : float64 tuple
        source_to_isocenter_mm, columns at the isocenter per mm times source_to_isocenter_mm, principal column,
        rows at the isocenter per slice times source_to_isocenter_mm, principal row, largest number of rows a block of
        a column can reach over.
    slice_weights : None or float32 [view * weight_stride + z]
        Factor of every view in every slice of ``volume``.
    weight_stride : int
        The slices of ``volume``, up to a multiple of 16.
    z_block : int
        Voxels of a column taken at once, a multiple of 16.
    permute : None or True
        See :func:`add_columns`.
    """
    sod, u_scale, u_principal, step_scale, v_principal, reach = constants
    n_views, n_cols, n_rows = filtered.shape
    nz, ny, nx = volume.shape
    flat_volume, flat_filtered = volume.reshape(-1), filtered.reshape(-1)
    slice_stride = ny * nx
    tiles_x = (nx + TILE - 1) // TILE

    # 16 floats more than a power of two between neighboring columns keep them out of each other's cache sets.
    z_stride = z_block + LANES
    tile = _aligned(TILE * TILE * z_stride)
    stride = (np.int64(reach) + 4 * LANES) // LANES * LANES
    columns = _aligned(VIEWS_AT_ONCE * stride + LANES)
    row_of_origin = np.empty(VIEWS_AT_ONCE, np.float32)
    row_step = np.empty(VIEWS_AT_ONCE, np.float32)
    row_base = np.empty(VIEWS_AT_ONCE, np.int64)
    weight_base = np.zeros(VIEWS_AT_ONCE, np.int64)
    column = np.empty((VIEWS_AT_ONCE, TILE), np.int64)
    w_left = np.empty((VIEWS_AT_ONCE, TILE), np.float32)
    w_right = np.empty((VIEWS_AT_ONCE, TILE), np.float32)
    origins = np.empty((VIEWS_AT_ONCE, TILE), np.float32)
    steps = np.empty((VIEWS_AT_ONCE, TILE), np.float32)
    lowest = np.empty((VIEWS_AT_ONCE, TILE), np.int64)
    highest = np.empty((VIEWS_AT_ONCE, TILE), np.int64)

    for number in range(first_tile, stop_tile):
        y_first, x_first = number // tiles_x * TILE, number % tiles_x * TILE
        n_y, n_x = min(TILE, ny - y_first), min(TILE, nx - x_first)
        for z_first in range(0, nz, z_block):
            n_z = min(z_block, nz - z_first)
            blocks = (n_z + LANES - 1) // LANES
            k = k_first + z_first
            k_low, k_high = np.float32(k), np.float32(k + n_z - 1)
            _load_tile(flat_volume, tile, z_first, n_z, y_first, n_y, x_first, n_x, slice_stride, nx, z_stride)
            for view_first in range(0, n_views, VIEWS_AT_ONCE):
                n_group = min(VIEWS_AT_ONCE, n_views - view_first)
                for y in range(n_y):
                    y_here = y_mm[y_first + y]
                    for j in range(n_group):
                        s, c = sin[view_first + j], cos[view_first + j]
                        origin_here = origin_scale[view_first + j]
                        for x in range(n_x):
                            x_here = x_mm[x_first + x]
                            inverse = 1.0 / (sod - x_here * s + y_here * c)
                            u = (x_here * c + y_here * s) * u_scale * inverse + u_principal
                            whole = np.floor(u)
                            fraction = u - whole
                            weight = (sod * inverse) * (sod * inverse)
                            column[j, x] = np.int64(whole)
                            w_left[j, x] = weight * (1.0 - fraction)
                            w_right[j, x] = weight * fraction
                            origin = np.float32(origin_here * inverse + v_principal)
                            step = np.float32(step_scale * inverse)
                            origins[j, x], steps[j, x] = origin, step
                            lowest[j, x] = np.int64(np.floor(fma32(k_low, step, origin)))
                            highest[j, x] = np.int64(np.floor(fma32(k_high, step, origin)))
                    for x in range(n_x):
                        n = 0
                        for j in range(n_group):
                            left, step, origin = column[j, x], steps[j, x], origins[j, x]
                            if left < -1 or left >= n_cols:
                                continue
                            # Rows of this block, from a multiple of 16 in the band: aligned loads.
                            row = lowest[j, x]
                            row -= (row - row_first) & (LANES - 1)
                            stop = highest[j, x] + 2
                            low, high = max(row, row_first), min(stop, row_first + n_rows)
                            if high <= low:
                                continue
                            # Beside the detector everything is zero: half-covered cells lose one neighbor.
                            a, b = w_left[j, x], w_right[j, x]
                            right = left + 1
                            if left < 0:
                                left, a = 0, np.float32(0.0)
                            if right >= n_cols:
                                right, b = left, np.float32(0.0)
                            view_start = (view_first + j) * n_cols
                            at_left = (view_start + left) * n_rows + low - row_first
                            at_right = (view_start + right) * n_rows + low - row_first
                            to = n * stride + low - row
                            length = high - low
                            whole_blocks = (length + LANES - 1) // LANES
                            if at_right + whole_blocks * LANES > flat_filtered.size:
                                whole_blocks = length // LANES
                                for r in range(whole_blocks * LANES, length):
                                    from_left = a * flat_filtered[at_left + r]
                                    columns[to + r] = fma32(b, flat_filtered[at_right + r], from_left)
                            blend_columns(columns, to, flat_filtered, at_left, at_right, whole_blocks, a, b)
                            for r in range(n * stride, to):
                                columns[r] = 0.0
                            for r in range(to + length, n * stride + stop - row):
                                columns[r] = 0.0
                            row_of_origin[n], row_step[n], row_base[n] = origin, step, row
                            weight_base[n] = (view_first + j) * weight_stride + z_first
                            n += 1
                        first = (y * TILE + x) * z_stride
                        add_columns(
                            tile,
                            first,
                            blocks,
                            k,
                            columns,
                            stride,
                            row_of_origin,
                            row_step,
                            row_base,
                            n,
                            slice_weights,
                            weight_base,
                            permute,
                        )
            _store_tile(flat_volume, tile, z_first, n_z, y_first, n_y, x_first, n_x, slice_stride, nx, z_stride)


@njit(error_model="numpy")
def _load_tile(  # type: ignore[no-untyped-def]
    flat_volume, tile, z_first, n_z, y_first, n_y, x_first, n_x, slice_stride, row_stride, z_stride
):
    for z in range(0, n_z, LANES):
        for y in range(n_y):
            start = (z_first + z) * slice_stride + (y_first + y) * row_stride + x_first
            to = y * TILE * z_stride + z
            if n_x == TILE and z + LANES <= n_z:
                transpose_block(flat_volume, start, slice_stride, tile, to, z_stride)
            else:
                for i in range(min(LANES, n_z - z)):
                    for x in range(n_x):
                        tile[to + x * z_stride + i] = flat_volume[start + i * slice_stride + x]


@njit(error_model="numpy")
def _store_tile(  # type: ignore[no-untyped-def]
    flat_volume, tile, z_first, n_z, y_first, n_y, x_first, n_x, slice_stride, row_stride, z_stride
):
    for z in range(0, n_z, LANES):
        for y in range(n_y):
            start = (z_first + z) * slice_stride + (y_first + y) * row_stride + x_first
            to = y * TILE * z_stride + z
            if n_x == TILE and z + LANES <= n_z:
                transpose_block(tile, to, z_stride, flat_volume, start, slice_stride)
            else:
                for i in range(min(LANES, n_z - z)):
                    for x in range(n_x):
                        flat_volume[start + i * slice_stride + x] = tile[to + x * z_stride + i]
