"""The CUDA device: the kernel alone, the kernel fed from the host, and the whole of ``fdk()``.

It needs a device, and its users ask :func:`marspipe.recon.backprojection.device.require_cuda` first.
"""

from __future__ import annotations

import numpy as np

from marspipe.bench.measure import Result, best_of
from marspipe.bench.scans import cone_scan, noise, size_text
from marspipe.recon.backprojection import empty_batch, whole_row_groups
from marspipe.recon.backprojection.device_volume import CudaBackprojection, time_kernel
from marspipe.recon.fdk import fdk

# Filtered views that are sent at once.
_BATCH_VIEWS = 64


def bench_kernel(voxels: int, views: int, detector: int, slab_slices: int | None = None, repeat: int = 3) -> Result:
    """Measure the kernel alone by the device's clock: volume and filtered views are there before.

    Parameters
    ----------
    voxels, views, detector : int
        Size of the reconstruction.
    slab_slices : int, optional
        Thickness of the slabs that are made one after the other; by default the whole volume at once.
    repeat : int
        Rounds; the best counts.
    """
    geometry, grid = cone_scan(views, detector, voxels)
    slabs = [slab.grid for slab in grid.slabs(slab_slices or voxels)]
    seconds = sum(min(time_kernel(geometry, slab, repeat=repeat)) for slab in slabs)
    name = "CUDA kernel" if len(slabs) == 1 else f"CUDA kernel, {len(slabs)} slabs"
    result = Result(name, size_text(geometry, grid), seconds, 0.0, {"gups": grid.n_voxels * views / 1e9 / seconds})
    if voxels == 1024:
        result.bars["gups"] = ">= 500"
    return result


def bench_stream(voxels: int, views: int, detector: int, slab_slices: int | None = None, repeat: int = 2) -> Result:
    """Measure the kernel fed with filtered views from the host, batch by batch; the volume stays on the device.

    Parameters are those of :func:`bench_kernel`. Every batch holds the same noise, and is sent again for each slab.
    """
    geometry, grid = cone_scan(views, detector, voxels)
    slabs = [slab.grid for slab in grid.slabs(slab_slices or voxels)]
    batches = [geometry[first : first + _BATCH_VIEWS] for first in range(0, views, _BATCH_VIEWS)]
    filtered = empty_batch(min(_BATCH_VIEWS, views), detector, detector)
    filtered[...] = noise(filtered.shape)
    bands = [whole_row_groups(*geometry.rows_for(slab), detector) for slab in slabs]
    shares = [np.ascontiguousarray(filtered[:, :, first:stop]) for first, stop in bands]
    volume = CudaBackprojection(slabs[0])

    def work() -> None:
        for slab, (first, _), share in zip(slabs, bands, shares, strict=True):
            volume.restart(slab)
            for batch in batches:
                volume.add(share[: len(batch)], batch, row_first=first)
        volume.stream.synchronize()

    work()
    seconds, cpu = best_of(repeat, work)
    sent = sum(share[0].nbytes for share in shares) * views
    figures = {"gups": grid.n_voxels * views / 1e9 / seconds, "gb_per_s": sent / 1e9 / seconds}
    name = "CUDA kernel fed from the host"
    return Result(
        name if len(slabs) == 1 else f"{name}, {len(slabs)} slabs", size_text(geometry, grid), seconds, cpu, figures
    )


def bench_fdk(voxels: int, views: int, detector: int, repeat: int = 2) -> Result:
    """Measure ``fdk()`` on the device, from line integrals to volume in the host's memory."""
    geometry, grid = cone_scan(views, detector, voxels)
    integrals = noise((views, detector, detector))
    fdk(integrals, geometry, grid, backend="cuda")
    seconds, cpu = best_of(repeat, lambda: fdk(integrals, geometry, grid, backend="cuda"))
    figures = {
        "gups": grid.n_voxels * views / 1e9 / seconds,
        "gb_per_s": (integrals.nbytes + grid.nbytes) / 1e9 / seconds,  # to the device and back
    }
    return Result("fdk, CUDA", size_text(geometry, grid), seconds, cpu, figures)
