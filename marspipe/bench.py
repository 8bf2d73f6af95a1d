"""Benchmarks: every speed that marspipe claims is measured here.

GUPS = 1e9 voxel updates per second = nx * ny * nz * views / s / 1e9.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

import marspipe
from marspipe.recon.backprojection import backproject
from marspipe.recon.fdk import fdk
from marspipe.recon.filtering import ViewFilter
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


@dataclass(frozen=True)
class Result:
    """One measurement.

    Attributes
    ----------
    name : str
        What was measured.
    size : str
        Of what.
    seconds : float
        Wall time: the best of the repetitions.
    cpu_seconds : float
        Processor time of this process in that repetition.
    figures : dict
        Derived figures, names with units.
    """

    name: str
    size: str
    seconds: float
    cpu_seconds: float
    figures: dict[str, float] = field(default_factory=dict)


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, memory, versions."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ("numpy", "scipy", "numba", "pyspark", "pyarrow")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "marspipe": marspipe.__version__,
        **{name: version(name) for name in packages},
    }


def best_of(repeat: int, work: Callable[[], object]) -> tuple[float, float]:
    """Return wall and processor time of the fastest of ``repeat`` runs."""
    times = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(times)


def cone_scan(views: int, detector: int, voxels: int) -> tuple[ScanGeometry, VolumeGrid]:
    """Return a full circular scan and a grid that fills its field of view (MARS distances)."""
    pitch = 0.055 * 256 / detector
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=200.0,
        source_to_detector_mm=250.0,
        detector_shape=(detector, detector),
        pixel_pitch_mm=(pitch, pitch),
        angles_rad=np.linspace(0, 2 * np.pi, views, endpoint=False),
    )
    size = pitch * detector / 1.25 / voxels
    return geometry, VolumeGrid((voxels,) * 3, (size,) * 3)


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return reproducible float32 noise."""
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def bench_kernel(voxels: int, threads: int, backend: str = "auto", views: int = 64, repeat: int = 3) -> Result:
    """Measure the backprojection kernel alone: filtered views in memory, one batch."""
    geometry, grid = cone_scan(views, voxels * 5 // 4, voxels)
    rows, cols = geometry.detector_shape
    filtered = noise((views, cols, rows))
    out = np.zeros(grid.shape, dtype=np.float32)

    def work() -> None:
        backproject(filtered, geometry, grid, out, backend=backend, threads=threads)

    work()
    seconds, cpu = best_of(repeat, work)
    updates = grid.n_voxels * views / 1e9
    return Result(
        f"kernel {backend}, {threads} thread{'s' * (threads > 1)}",
        f"{voxels}^3, {views} views of {rows} x {cols}",
        seconds,
        cpu,
        {"gups": updates / seconds, "gups_per_cpu_second": updates / cpu},
    )


def bench_filter(detector: int, views: int = 24, repeat: int = 3) -> list[Result]:
    """Measure weights and ramp filter of one thread, beside the bare transforms of the same lengths."""
    geometry, _ = cone_scan(views, detector, detector)
    ramp = ViewFilter(geometry)
    frames = noise((views, detector, detector))
    pixels = frames.size / 1e6
    length = scipy.fft.next_fast_len(2 * detector, real=True)

    def filtered() -> None:
        for view, frame in enumerate(frames):
            ramp.filter(frame, view)

    def bare() -> None:
        for frame in frames:
            scipy.fft.irfft(scipy.fft.rfft(frame, n=length, axis=1, workers=1), n=length, axis=1, workers=1)

    size = f"{views} views of {detector} x {detector}"
    results = []
    for name, work in (("filter", filtered), ("bare transforms", bare)):
        work()
        seconds, cpu = best_of(repeat, work)
        results.append(Result(name, size, seconds, cpu, {"mpixel_per_second": pixels / seconds}))
    return results


def bench_fdk(voxels: int, views: int, detector: int, threads: int, repeat: int = 2) -> Result:
    """Measure the whole of ``fdk()`` in one process."""
    geometry, grid = cone_scan(views, detector, voxels)
    integrals = noise((views, detector, detector))
    fdk(integrals, geometry, grid.window(z=slice(0, 2)), threads=threads)
    seconds, cpu = best_of(repeat, lambda: fdk(integrals, geometry, grid, threads=threads))
    updates = grid.n_voxels * views / 1e9
    return Result(
        f"fdk, {threads} thread{'s' * (threads > 1)}",
        f"{voxels}^3, {views} views of {detector} x {detector}",
        seconds,
        cpu,
        {"gups": updates / seconds, "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20},
    )


def as_json(results: list[Result]) -> dict[str, Any]:
    """Return results and machine, ready for JSON."""
    return {
        "machine": machine(),
        "results": list(map(asdict, results)),
    }
