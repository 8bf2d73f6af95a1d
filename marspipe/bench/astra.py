"""ASTRA's side of the comparison: its FDK on a CUDA device, or its backprojection of one slice on the CPU.

ASTRA's CPU code is two-dimensional. Its fan-beam backprojection is the transpose of its projector and falls off with
the distance from the source, FDK's with the distance squared: another sum. With parallel rays both weights are constant
and both sums the same, up to the interpolation; so that is what is compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.bench.measure import best_of
from marspipe.bench.process import answer
from marspipe.errors import EnvironmentMissingError
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run FDK_CUDA or BP; the clock runs while the algorithm does, transfers to and from the device included."""
    try:
        import astra
    except ImportError as error:
        raise EnvironmentMissingError(f"ASTRA cannot be imported: {error}") from error
    geometry, grid = ScanGeometry.from_dict(job["geometry"]), VolumeGrid.from_dict(job["grid"])
    frames = np.load(Path(job["folder"]) / "line_integrals.npy")
    if job["work"] == "fdk":
        if not astra.use_cuda():  # without a device FDK_CUDA ends the process
            raise EnvironmentMissingError("ASTRA's FDK needs a CUDA device, and ASTRA finds none")
        seconds, cpu, volume = _fdk(astra, frames, geometry, grid, job["repeat"])
    else:
        seconds, cpu, volume = _slice(astra, frames, geometry, grid, job["repeat"])
    np.save(Path(job["folder"]) / job["out"], volume)
    return {"seconds": seconds, "cpu_seconds": cpu}


def _fdk(
    astra: Any, frames: NDArray[np.float32], geometry: ScanGeometry, grid: VolumeGrid, repeat: int
) -> tuple[float, float, NDArray[np.float32]]:
    z, y, x = (_ends(grid, axis) for axis in ("z", "y", "x"))
    nz, ny, nx = grid.shape
    volume_geometry = astra.create_vol_geom(ny, nx, nz, *x, *y, *z)
    data = astra.data3d.create("-sino", geometry.to_astra(), np.ascontiguousarray(frames.transpose(1, 0, 2)))
    volume = astra.data3d.create("-vol", volume_geometry, 0)
    settings = astra.astra_dict("FDK_CUDA")
    settings["ProjectionDataId"], settings["ReconstructionDataId"] = data, volume
    algorithm = astra.algorithm.create(settings)
    astra.algorithm.run(algorithm)  # wakes the device
    seconds, cpu = best_of(repeat, lambda: astra.algorithm.run(algorithm))
    # Its result is that of a single run, whether or not a run begins with an empty volume.
    astra.data3d.store(volume, 0)
    astra.algorithm.run(algorithm)
    return seconds, cpu, astra.data3d.get(volume)


def _slice(
    astra: Any, frames: NDArray[np.float32], geometry: ScanGeometry, grid: VolumeGrid, repeat: int
) -> tuple[float, float, NDArray[np.float32]]:
    _, ny, nx = grid.shape
    spacing = geometry.pixel_pitch_mm[1]
    volume_geometry = astra.create_vol_geom(ny, nx, *_ends(grid, "x"), *_ends(grid, "y"))
    rays = astra.create_proj_geom("parallel", spacing, geometry.detector_shape[1], geometry.angles_rad)
    projector = astra.create_projector("linear", rays, volume_geometry)
    data = astra.data2d.create("-sino", rays, np.ascontiguousarray(frames[:, 0]))
    settings = astra.astra_dict("BP")
    settings["ProjectorId"], settings["ProjectionDataId"] = projector, data
    volume = settings["ReconstructionDataId"] = astra.data2d.create("-vol", volume_geometry, 0)
    algorithm = astra.algorithm.create(settings)
    seconds, cpu = best_of(repeat, lambda: astra.algorithm.run(algorithm))
    # Every ray adds its length in a pixel: the pixel's area over the rays' spacing, on average. Rows run down y.
    image = astra.data2d.get(volume)[::-1] * (spacing / (grid.voxel_mm[1] * grid.voxel_mm[2]))
    return seconds, cpu, np.asarray(image, np.float32)[None]


def _ends(grid: VolumeGrid, axis: str) -> tuple[float, float]:
    """Return where the first voxel begins and the last one ends along an axis, mm."""
    centers, size = grid.axis_mm(axis), grid.voxel_mm["zyx".index(axis)]
    return float(centers[0] - size / 2), float(centers[-1] + size / 2)


if __name__ == "__main__":
    answer(run)
