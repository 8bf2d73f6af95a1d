"""The CPU backprojection kernels alone: filtered views in memory, one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from marspipe.bench.measure import Result, best_of_each, thread_text
from marspipe.bench.scans import cone_scan, noise, size_text
from marspipe.recon.backprojection import empty_batch, whole_row_groups
from marspipe.recon.backprojection.cpu import avx512_available, backproject_circular
from marspipe.recon.backprojection.general import backproject_general
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


def bench_kernel(voxels: int, threads: Sequence[int], views: int = 64, repeat: int = 3) -> list[Result]:
    """Measure the backprojection kernels at ``voxels``^3.

    Returns the fast kernel with every number of threads asked for; then, on one thread, the same with weights of
    slices, its portable path, the kernel for any geometry, and the fast one on a grid of one slice.
    """
    detector = voxels * 5 // 4
    geometry, grid = cone_scan(views, detector, voxels)
    wide = avx512_available()
    name = f"kernel {'AVX-512' if wide else 'portable'}"

    results = _measure(name, backproject_circular, geometry, grid, threads, repeat)
    for result, number in zip(results, threads, strict=True):
        if wide:
            result.bars["gups_per_core"] = f">= {2.5 if voxels >= 512 else 1.9}"
        if number > 1 and threads[0] == 1:
            result.figures["times_one_thread"] = results[0].seconds / result.seconds
        if number == 2 and threads[0] == 1:
            result.bars["times_one_thread"] = ">= 1.9"

    weighted = partial(backproject_circular, slice_weights=np.ones((views, voxels), np.float32))
    results += _measure(f"{name} with slice weights", weighted, geometry, grid, [1], repeat)
    if wide:
        portable = partial(backproject_circular, simd="portable")
        results += _measure("kernel portable", portable, geometry[: views // 2], grid, [1], repeat)
        results[-1].bars["gups_per_core"] = ">= 0.5"
    results += _measure("general kernel", backproject_general, geometry[: views // 8], grid, [1], repeat)
    geometry, _ = cone_scan(6 * views, detector, voxels)
    one_slice = grid.window(z=slice(voxels // 2, voxels // 2 + 1))
    results += _measure("kernel of thin grids", backproject_circular, geometry, one_slice, [1], repeat)
    return results


def _measure(
    name: str,
    kernel: Callable[..., None],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    threads: Sequence[int],
    repeat: int,
) -> list[Result]:
    """Measure one kernel with several numbers of threads, in turns."""
    rows, cols = geometry.detector_shape
    first, stop = whole_row_groups(*geometry.rows_for(grid), rows)
    filtered = empty_batch(len(geometry), cols, stop - first)
    filtered[...] = noise(filtered.shape)
    out = np.zeros(grid.shape, dtype=np.float32)
    works = [partial(kernel, filtered, geometry, grid, out, row_first=first, threads=number) for number in threads]
    works[-1]()  # loads the compiled code
    updates = grid.n_voxels * len(geometry) / 1e9
    return [
        Result(
            f"{name}, {thread_text(number)}",
            size_text(geometry, grid),
            seconds,
            cpu,
            {"gups": updates / seconds, "gups_per_core": updates / cpu},
        )
        for number, (seconds, cpu) in zip(threads, best_of_each(repeat, works), strict=True)
    ]
