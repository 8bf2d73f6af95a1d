"""The whole of ``fdk()``: its time in this process, its memory in a fresh one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marspipe.bench.measure import Result, best_of, thread_text
from marspipe.bench.process import answer, in_fresh_process
from marspipe.bench.scans import cone_scan, noise, size_text
from marspipe.recon.fdk import fdk

_MIB = 2**20
# Beside the volume, where memory is limited: from 256^3 on less than fdk() takes if it may.
_ROOM_PER_THREAD = 16 * _MIB


def bench_fdk(voxels: int, views: int, detector: int, threads: Sequence[int], repeat: int = 2) -> list[Result]:
    """Measure ``fdk()`` on the CPU with each number of threads, from line integrals to volume in memory."""
    geometry, grid = cone_scan(views, detector, voxels)
    integrals = noise((views, detector, detector))
    fdk(integrals, geometry, grid.window(z=slice(0, 2)), backend="cpu", threads=1)
    updates = grid.n_voxels * views / 1e9
    results = []
    for number in threads:
        seconds, cpu = best_of(
            repeat,
            lambda n=number: fdk(integrals, geometry, grid, backend="cpu", threads=n),  # type: ignore[misc]
        )
        figures = {
            "gups": updates / seconds,
            "gups_per_core": updates / cpu,
            "gb_per_s": (integrals.nbytes + grid.nbytes) / 1e9 / seconds,  # read and written once
        }
        results.append(Result(f"fdk, {thread_text(number)}", size_text(geometry, grid), seconds, cpu, figures))
    return results


def bench_memory(voxels: int, views: int, detector: int, threads: int) -> list[Result]:
    """Measure by how much one ``fdk()`` call raises the resident memory, without and with a limit.

    The line integrals are there before; what may be added is the volume and a batch of filtered views.
    """
    size = size_text(*cone_scan(views, detector, voxels))
    scan = {"voxels": voxels, "views": views, "detector": detector, "threads": threads}
    free = in_fresh_process(__name__, {**scan, "max_memory": None})
    results = [
        Result(f"fdk memory, {thread_text(threads)}", size, free["seconds"], free["cpu_seconds"], _figures(free))
    ]
    limit = free["volume_bytes"] + threads * _ROOM_PER_THREAD
    held = in_fresh_process(__name__, {**scan, "max_memory": limit})
    figures = {**_figures(held), "max_memory_mib": limit / _MIB}
    bars = {"growth_mib": f"<= {limit / _MIB:.0f}"}
    name = f"fdk with max_memory, {thread_text(threads)}"
    return [*results, Result(name, size, held["seconds"], held["cpu_seconds"], figures, bars)]


def _figures(measured: dict[str, Any]) -> dict[str, float]:
    return {
        "growth_mib": measured["growth_bytes"] / _MIB,
        "volume_mib": measured["volume_bytes"] / _MIB,
        "line_integrals_mib": measured["integrals_bytes"] / _MIB,
    }


def _measure_memory(arguments: dict[str, Any]) -> dict[str, Any]:
    geometry, grid = cone_scan(arguments["views"], arguments["detector"], arguments["voxels"])
    integrals = noise((len(geometry), *geometry.detector_shape))
    options = {"backend": "cpu", "threads": arguments["threads"]}
    fdk(integrals, geometry, grid.window(z=slice(0, 2)), **options)  # loads the compiled code
    # The peak begins anew: where the code was not compiled before, the compiler has raised it.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    seconds, cpu = best_of(1, lambda: fdk(integrals, geometry, grid, max_memory=arguments["max_memory"], **options))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "growth_bytes": _status_bytes("VmHWM") - before,
        "volume_bytes": grid.nbytes,
        "integrals_bytes": integrals.nbytes,
    }


def _status_bytes(name: str) -> int:
    """Return a figure of this process's memory: VmRSS now, VmHWM its peak (not a parent's, as ``ru_maxrss`` may be)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


if __name__ == "__main__":
    answer(_measure_memory)
