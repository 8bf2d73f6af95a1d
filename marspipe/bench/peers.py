"""marspipe beside ITK-RTK and ASTRA: the same scan, the same line integrals, one run, and how far the results differ.

Every contestant works in a process of its own, one after the other, and leaves its volume for the comparison.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.bench import astra, own, rtk
from marspipe.bench.measure import Result, installed, thread_text
from marspipe.bench.process import in_fresh_process
from marspipe.bench.scans import cone_scan, size_text
from marspipe.errors import EnvironmentMissingError, RunError
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import line_integrals, shepp_logan


@dataclass(frozen=True)
class Peer:
    """A program that does what marspipe does: its name, distribution, the module that runs it, what it runs."""

    name: str
    distribution: str
    module: str
    runs: str


@dataclass
class Comparison:
    """Results side by side, and remarks.

    Attributes
    ----------
    results : list of Result
        marspipe first, then the peer. ``times_marspipe``: the peer's wall time over marspipe's;
        ``times_marspipe_cpu``: its processor time over marspipe's, which other programs disturb less.
        ``relative_difference``: root mean square of the difference to marspipe's volume over that of the volume, in
        the ball that all views see.
    notes : list of str
        One sentence each: what is missing, what died, what was compared.
    """

    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare_rtk(voxels: int, views: int, detector: int, threads: int, repeat: int = 2) -> Comparison:
    """Reconstruct a Shepp-Logan phantom with ``fdk()`` and with ITK-RTK's FDK, both on the CPU."""
    geometry, grid = cone_scan(views, detector, voxels)
    units = thread_text(threads).replace("thread", "work unit")
    peer = Peer("ITK-RTK", "itk-rtk", rtk.__name__, f"FDK, {units}, Platform threader, subset {rtk.SUBSET}")
    job = {"work": "fdk", "threads": threads, "repeat": repeat, "backend": "cpu"}
    bar = ">= 15" if voxels >= 256 else ""
    return side_by_side(peer, geometry, grid, job, f"marspipe fdk, {thread_text(threads)}", bar)


def compare_astra_slice(voxels: int, views: int, repeat: int = 5) -> Comparison:
    """Backproject the parallel sinogram of one slice with marspipe's kernel and with ASTRA's, on one CPU thread."""
    geometry = ScanGeometry.parallel(
        detector_shape=(1, voxels * 3 // 2),
        pixel_pitch_mm=(1.0, 1.0),
        angles_rad=np.linspace(0, np.pi, views, endpoint=False),
    )
    grid = VolumeGrid((1, voxels, voxels), (1.0, 1.0, 1.0))
    peer = Peer("ASTRA", "astra-toolbox", astra.__name__, "BP on the CPU, linear projector")
    job = {"work": "backproject", "threads": 1, "repeat": repeat, "backend": "cpu"}
    done = side_by_side(peer, geometry, grid, job, "marspipe backprojection, 1 thread, parallel rays")
    if done.results:
        done.notes.append(
            "ASTRA's FDK needs a CUDA device. Its CPU backprojection works on single slices, with a fan beam's values "
            "weighted otherwise than FDK's; so one slice of parallel rays is compared, where both compute the same."
        )
    return done


def compare_astra_cuda(voxels: int, views: int, detector: int, repeat: int = 3) -> Comparison:
    """Reconstruct a Shepp-Logan phantom with ``fdk()`` and with ASTRA's FDK_CUDA, both on the first CUDA device."""
    geometry, grid = cone_scan(views, detector, voxels)
    peer = Peer("ASTRA", "astra-toolbox", astra.__name__, "FDK_CUDA")
    job = {"work": "fdk", "threads": None, "repeat": repeat, "backend": "cuda"}
    return side_by_side(peer, geometry, grid, job, "marspipe fdk, CUDA", ">= 1.3")


def side_by_side(
    peer: Peer, geometry: ScanGeometry, grid: VolumeGrid, job: dict[str, Any], own_name: str, bar: str = ""
) -> Comparison:
    """Give marspipe and a peer the same job, one after the other.

    Parameters
    ----------
    peer : Peer
        Whom to compare with. If it is not installed or fails, a remark says so.
    geometry, grid : ScanGeometry, VolumeGrid
        The scan of the phantom, and where to reconstruct it.
    job : dict
        ``work`` ("fdk" or "backproject"), ``threads``, ``repeat`` and marspipe's ``backend``.
    own_name : str
        What marspipe's result is called.
    bar : str
        What ``times_marspipe`` should be.

    Raises
    ------
    EnvironmentMissingError, RunError
        If marspipe itself cannot do the job.
    """
    done = Comparison()
    version = installed(peer.distribution)
    if version is None:
        done.notes.append(
            f"{peer.name} is not installed, so nothing is compared with it: pip install 'marspipe[bench]'"
        )
        return done
    updates = grid.n_voxels * len(geometry) / 1e9
    width = min(n * size for n, size in zip(grid.shape[1:], grid.voxel_mm[1:], strict=True))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "line_integrals.npy", line_integrals(shepp_logan(0.45 * width), geometry))
        job = {**job, "folder": name, "geometry": geometry.to_dict(), "grid": grid.to_dict()}
        for contestant, module in ((own_name, own.__name__), (f"{peer.name} {version} {peer.runs}", peer.module)):
            try:
                taken = in_fresh_process(module, {**job, "out": f"{len(done.results)}.npy"})
            except (EnvironmentMissingError, RunError) as error:
                if module == own.__name__:
                    raise
                done.notes.append(f"{contestant}: {error}")
                return done
            figures = {"gups": updates / taken["seconds"], "gups_per_core": updates / taken["cpu_seconds"]}
            size = size_text(geometry, grid)
            done.results.append(Result(contestant, size, taken["seconds"], taken["cpu_seconds"], figures))
        inside = _ball(grid, 0.45 * width)
        ours, theirs = (np.load(folder / f"{number}.npy")[inside].astype(np.float64) for number in range(2))
    own_result, result = done.results
    result.figures["times_marspipe"] = result.seconds / own_result.seconds
    result.figures["times_marspipe_cpu"] = result.cpu_seconds / own_result.cpu_seconds
    result.figures["relative_difference"] = float(np.sqrt(np.mean((theirs - ours) ** 2) / np.mean(ours**2)))
    if bar:
        result.bars["times_marspipe"] = bar
    return done


def _ball(grid: VolumeGrid, radius_mm: float) -> NDArray[np.bool_]:
    """Return which voxels lie within a ball (of one slice: a disc) around the isocenter."""
    z, y, x = (grid.axis_mm(axis) for axis in ("z", "y", "x"))
    inside: NDArray[np.bool_] = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= radius_mm**2
    return inside
