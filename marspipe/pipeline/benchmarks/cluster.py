"""The same reconstruction with more and more task slots, and one that is larger than the memory of its executors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from marspipe.bench.measure import Result
from marspipe.bench.process import in_fresh_process
from marspipe.pipeline.benchmarks.job import recipe_text, write_scan
from marspipe.pipeline.benchmarks.standalone import ExecutorMemory, StandaloneCluster, Worker

_MIB, _GIB = 2**20, 2**30
TWO_WORKERS = (Worker(memory="2g"), Worker(memory="2g"))
_JOB = "marspipe.pipeline.benchmarks.job"
# The JVM takes some 250 MiB beside its heap.
LARGE_HEAP_MIB = 640
LARGE_TASK_MIB = 832
LARGE_LIMIT_GIB = 2.0


def bench_scaling(folder: Path, voxels: int, views: int, detector: int, repeat: int = 3) -> list[Result]:
    """Measure the same job with one and two task slots, and on a cluster of two workers of one core."""
    raw: str | None = write_scan(folder / "raw", views, detector)
    size = f"{voxels}^3, {views} views of {detector} x {detector}"
    results: list[Result] = []
    for place, name in (("local[1]", "1 slot"), ("local[2]", "2 slots"), ("", "2 workers of 1 core")):
        job = _job(folder, raw, recipe_text(voxels, detector), repeat)
        raw = None
        if place:
            done = in_fresh_process(_JOB, {**job, "master": place})
        else:
            with StandaloneCluster(folder / "cluster", TWO_WORKERS) as cluster:
                settings = {**job["settings"], "spark__executor__memory": "1g"}
                done = in_fresh_process(_JOB, {**job, "master": cluster.url, "settings": settings})
        first = results[0].seconds if results else done["seconds"]
        figures = {
            "speed_up": first / done["seconds"],
            "tasks": float(done["tasks"]),
            **_shuffle(done),
            **{f"stage_{n}_wall_s": stage["wall_s"] for n, stage in enumerate(done["stages"], 1)},
            **{f"stage_{n}_shuffle_mib": s["shuffle_bytes"] / _MIB for n, s in enumerate(done["stages"], 1)},
        }
        results.append(
            Result(f"spark, {name}", size, done["seconds"], 0.0, figures, {"times_planned_shuffle": "0.9 to 1.1"})
        )
    return results


def bench_large(folder: Path, voxels: int = 1024, views: int = 60, detector: int = 1100) -> list[Result]:
    """Measure a volume larger than its executors' memory; the limit is checked by sampling, nothing enforces it.

    An executor has one core: a JVM whose heap Spark limits, and one Python worker that the plan limits.
    """
    raw = write_scan(folder / "raw", views, detector)
    with StandaloneCluster(folder / "cluster") as cluster:
        job = _job(folder, raw, recipe_text(voxels, detector, LARGE_TASK_MIB), repeat=1)
        settings = {**job["settings"], "spark__executor__memory": f"{LARGE_HEAP_MIB}m"}
        with ExecutorMemory(cluster.worker_pids) as memory:
            done = in_fresh_process(_JOB, {**job, "master": cluster.url, "settings": settings})
    return [
        Result(
            "spark, 2 executors, larger than memory",
            f"{voxels}^3, {views} views of {detector} x {detector}",
            done["seconds"],
            0.0,
            {
                "volume_mib": 4 * voxels**3 / _MIB,
                "tasks": float(done["tasks"]),
                "executor_peak_gib": memory.peak_bytes / _GIB,
                "jvm_peak_mib": memory.jvm_peak_bytes / _MIB,
                "python_peak_mib": memory.python_peak_bytes / _MIB,
                "planned_task_mib": done["planned_task_bytes"] / _MIB,
                "spilled_mib": done["spilled_bytes"] / _MIB,
                **_shuffle(done),
            },
            {"executor_peak_gib": f"< {LARGE_LIMIT_GIB:g}", "times_planned_shuffle": "0.9 to 1.1"},
        )
    ]


def _job(folder: Path, raw: str | None, recipe: str, repeat: int) -> dict[str, Any]:
    settings = {
        "spark__ui__enabled": "false",
        "spark__driver__host": "127.0.0.1",
        "spark__driver__bindAddress": "127.0.0.1",
        "spark__executor__cores": "1",
        "spark__cores__max": "2",
        "spark__executor__extraJavaOptions": "-XX:+UseParallelGC",
        "spark__executorEnv__NUMBA_NUM_THREADS": "1",
        "spark__executorEnv__OMP_NUM_THREADS": "1",
    }
    return {
        "raw": raw,
        "frames": str(folder / "frames"),
        "out": str(folder / "out"),
        "recipe": recipe,
        "repeat": repeat,
        "settings": settings,
    }


def _shuffle(done: dict[str, Any]) -> dict[str, float]:
    return {
        "shuffle_mib": done["shuffle_bytes"] / _MIB,
        "times_planned_shuffle": done["shuffle_bytes"] / done["planned_shuffle_bytes"],
    }
