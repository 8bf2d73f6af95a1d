"""ITK-RTK's FDK on the CPU, tuned, on the scan of a job.

RTK turns the scan around its y axis. With its axes named X, Y, Z ours are x = X, y = -Z, z = Y; angles are the same.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from marspipe.bench.measure import best_of
from marspipe.bench.process import answer
from marspipe.errors import EnvironmentMissingError, InputError
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid

#: Projections that RTK filters and backprojects at once: its fastest choice on CPUs.
SUBSET = 16


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Reconstruct with as many work units as threads; the clock runs while the last filter updates."""
    try:
        import itk
        from itk import RTK as rtk
    except ImportError as error:
        raise EnvironmentMissingError(f"ITK-RTK cannot be imported: {error}") from error
    geometry, grid = ScanGeometry.from_dict(job["geometry"]), VolumeGrid.from_dict(job["grid"])
    orbit = geometry.orbit
    if orbit is None:
        raise InputError("RTK's side of the comparison is written for a circular orbit")
    # Plain threads, one piece of work for each: faster than ITK's pool and TBB on few cores.
    itk.MultiThreaderBase.SetGlobalDefaultThreader(itk.MultiThreaderBaseEnums.Threader_Platform)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(job["threads"])

    circle = rtk.ThreeDCircularProjectionGeometry.New()
    for angle in geometry.angles_rad:
        circle.AddProjection(orbit.source_to_isocenter_mm, orbit.source_to_detector_mm, math.degrees(angle))
    frames = np.load(Path(job["folder"]) / "line_integrals.npy")
    projections = itk.image_view_from_array(frames)
    pitch_v, pitch_u = orbit.pixel_pitch_mm
    row, column = orbit.principal_point_px
    projections.SetSpacing([pitch_u, pitch_v, 1.0])
    projections.SetOrigin([-column * pitch_u, -row * pitch_v, 0.0])
    (nz, ny, nx), (dz, dy, dx) = grid.shape, grid.voxel_mm
    x, y, z = grid.axis_mm("x"), grid.axis_mm("y"), grid.axis_mm("z")
    image = type(projections)
    result: Any = None

    def reconstruct() -> None:
        nonlocal result
        empty = rtk.ConstantImageSource[image].New(
            Origin=[x[0], z[0], -y[-1]], Spacing=[dx, dz, dy], Size=[nx, nz, ny], Constant=0.0
        )
        filters = rtk.FDKConeBeamReconstructionFilter[image].New()
        filters.SetInput(0, empty.GetOutput())
        filters.SetInput(1, projections)
        filters.SetGeometry(circle)
        filters.SetProjectionSubsetSize(SUBSET)
        filters.SetNumberOfWorkUnits(job["threads"])
        filters.Update()
        result = filters.GetOutput()
        result.DisconnectPipeline()  # or whoever looks at it starts the work again

    seconds, cpu = best_of(job["repeat"], reconstruct)
    volume = itk.array_view_from_image(result).transpose(1, 0, 2)[:, ::-1]
    np.save(Path(job["folder"]) / job["out"], volume)
    return {"seconds": seconds, "cpu_seconds": cpu}


if __name__ == "__main__":
    answer(run)
