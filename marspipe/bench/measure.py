"""What a measurement is, how time is taken, and the machine it was taken on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import marspipe

_PACKAGES = ("numpy", "scipy", "numba", "pyspark", "pyarrow")
_OPTIONAL_PACKAGES = ("numba-cuda", "itk-rtk", "astra-toolbox")


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
        Processor time of the process: the best of the repetitions; 0 where it says nothing.
    figures : dict
        Derived figures, names with units.
    bars : dict
        What a figure should be on a quiet machine, by the figure's name: ``">= 2.5"``.
    """

    name: str
    size: str
    seconds: float
    cpu_seconds: float
    figures: dict[str, float] = field(default_factory=dict)
    bars: dict[str, str] = field(default_factory=dict)


def best_of(repeat: int, work: Callable[[], object]) -> tuple[float, float]:
    """Return the least wall time and the least processor time of ``repeat`` runs, s."""
    return best_of_each(repeat, [work])[0]


def best_of_each(repeat: int, works: Sequence[Callable[[], object]]) -> list[tuple[float, float]]:
    """Return :func:`best_of` of several works that take turns, so that a busy machine is busy for all of them."""
    times: list[list[tuple[float, float]]] = [[] for _ in works]
    for _ in range(repeat):
        for work, taken in zip(works, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [(min(wall for wall, _ in taken), min(cpu for _, cpu in taken)) for taken in times]


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def thread_text(threads: int) -> str:
    """Return ``1 thread``, ``2 threads``, .."""
    return f"{threads} thread{'s' * (threads > 1)}"


def machine() -> dict[str, Any]:
    """Return what the figures depend on: date, processor, cores, load, memory, versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((s.split(":", 1)[1].strip() for s in lines if s.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": model,
        "avx512": any(s.startswith("flags") and " avx512f " in s for s in lines),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "marspipe": marspipe.__version__,
        **{name: version(name) for name in _PACKAGES},
        **{name: found for name in _OPTIONAL_PACKAGES if (found := installed(name))},
    }


def installed(distribution: str) -> str | None:
    """Return the version of a distribution that may be missing."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def as_json(results: Sequence[Result], notes: Sequence[str], on_machine: dict[str, Any]) -> dict[str, Any]:
    """Return results, remarks and machine, ready for JSON."""
    return {"machine": on_machine, "results": list(map(asdict, results)), "notes": list(notes)}
