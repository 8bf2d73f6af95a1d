"""marspipe's side of the comparison with its peers: a process with a job, like theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from marspipe.bench.measure import best_of
from marspipe.bench.process import answer
from marspipe.recon.backprojection import backproject
from marspipe.recon.fdk import fdk
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Reconstruct, or backproject without a filter; the code is compiled and loaded before the clock starts."""
    geometry, grid = ScanGeometry.from_dict(job["geometry"]), VolumeGrid.from_dict(job["grid"])
    frames = np.load(Path(job["folder"]) / "line_integrals.npy")
    volume = np.empty(0, np.float32)
    options = {"backend": job["backend"], "threads": job["threads"]}

    def reconstruct() -> None:
        nonlocal volume
        volume = fdk(frames, geometry, grid, **options)

    def add_up() -> None:
        nonlocal volume
        volume = np.zeros(grid.shape, np.float32)
        backproject(columns, geometry, grid, volume, **options)

    if job["work"] == "fdk":
        fdk(frames, geometry, grid.window(z=slice(0, min(16, grid.shape[0]))), **options)
        seconds, cpu = best_of(job["repeat"], reconstruct)
    else:
        columns = np.ascontiguousarray(frames.transpose(0, 2, 1))
        add_up()
        seconds, cpu = best_of(job["repeat"], add_up)
    np.save(Path(job["folder"]) / job["out"], volume)
    return {"seconds": seconds, "cpu_seconds": cpu}


if __name__ == "__main__":
    answer(run)
