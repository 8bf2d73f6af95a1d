"""The fast kernel for grids of a few slices, where columns along z are too short to be worth a vector.

The arithmetic is that of :mod:`marspipe.recon.backprojection.simd`, number for number, so a grid gives the same bits
whichever kernel its thickness chooses; but the vectors run along x. All loops over x are simple ones over arrays that
start at 0, which the compiler turns into vector code.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from marspipe.recon.backprojection.lanes import floor32, floor64, fma32


@njit(nogil=True, error_model="numpy", cache=True)
def add_lines(  # type: ignore[no-untyped-def]
    volume,
    first_line,
    stop_line,
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
):
    """Add the views of a batch to lines ``first_line .. stop_line - 1`` (runs along x) of a volume.

    Lines are counted along y; each takes all its slices. The other parameters are those of
    :func:`marspipe.recon.backprojection.simd.add_tiles`.
    """
    sod, u_scale, u_principal, step_scale, v_principal, _ = constants
    n_views, n_cols, n_rows = filtered.shape
    nz, n_x = volume.shape[0], x_mm.size
    flat = filtered.reshape(-1)
    at_left, at_right = np.empty(n_x, np.int64), np.empty(n_x, np.int64)
    w_left, w_right = np.empty(n_x, np.float32), np.empty(n_x, np.float32)
    origins, steps = np.empty(n_x, np.float32), np.empty(n_x, np.float32)
    last = n_rows - 1
    zero = np.float32(0.0)

    for y in range(first_line, stop_line):
        y_here = y_mm[y]
        for view in range(n_views):
            s, c, origin_here = sin[view], cos[view], origin_scale[view]
            view_start = view * n_cols
            for x in range(n_x):
                x_here = x_mm[x]
                inverse = 1.0 / (sod - x_here * s + y_here * c)
                u = (x_here * c + y_here * s) * u_scale * inverse + u_principal
                whole = floor64(u)
                fraction = u - whole
                weight = (sod * inverse) * (sod * inverse)
                left = np.int64(whole)
                right = left + 1
                # Beside the detector everything is zero: half-covered cells lose one neighbor.
                w_left[x] = np.float32(weight * (1.0 - fraction)) if 0 <= left < n_cols else zero
                w_right[x] = np.float32(weight * fraction) if 0 <= right < n_cols else zero
                at_left[x] = (view_start + min(max(left, 0), n_cols - 1)) * n_rows
                at_right[x] = (view_start + min(max(right, 0), n_cols - 1)) * n_rows
                origins[x] = np.float32(origin_here * inverse + v_principal)
                steps[x] = np.float32(step_scale * inverse)
            for z in range(nz):
                line = volume[z, y]
                k = np.float32(k_first + z)
                for x in range(n_x):
                    row = fma32(k, steps[x], origins[x])
                    floor = floor32(row)
                    fraction = row - floor
                    low = np.int64(floor) - row_first
                    high = low + 1
                    # Indices without sign: numba would count negative ones from the end.
                    low_in, high_in = np.uint64(min(max(low, 0), last)), np.uint64(min(max(high, 0), last))
                    from_left, from_right = np.uint64(at_left[x]), np.uint64(at_right[x])
                    below = fma32(w_right[x], flat[from_right + low_in], w_left[x] * flat[from_left + low_in])
                    above = fma32(w_right[x], flat[from_right + high_in], w_left[x] * flat[from_left + high_in])
                    below = below if 0 <= low <= last else zero
                    above = above if 0 <= high <= last else zero
                    value = fma32(fraction, above - below, below)
                    if slice_weights is None:
                        line[x] += value
                    else:
                        line[x] = fma32(slice_weights[view * weight_stride + z], value, line[x])
