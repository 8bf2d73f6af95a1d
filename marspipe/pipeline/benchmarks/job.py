"""One reconstruction in a session of its own, with Spark's own figures: run by the benchmarks of clusters."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from marspipe.bench.process import answer
from marspipe.pipeline.ingest import ingest, open_scan
from marspipe.pipeline.reconstruct import prepare, reconstruct
from marspipe.pipeline.spark.metrics import StageMetrics, measured_stages
from marspipe.pipeline.spark.session import local_session, task_slots
from marspipe.recipe import parse_recipe
from marspipe.show.progress import Progress
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan

PITCH_MM = 0.055


def write_scan(folder: Path, views: int, detector: int) -> str:
    """Simulate a scan of one counter; return the URI of its raw files."""
    simulate_scan(
        folder,
        settings=SimulationSettings(
            scan_id="bench",
            views=views,
            detector_shape=(detector, detector),
            pixel_pitch_mm=(PITCH_MM, PITCH_MM),
            phantom=mars_phantom(_scale(detector)),
            thresholds_kev=(20.0,),
            open_beam_photons=3000.0,
            counter_depth_bits=12,
        ),
        overwrite=True,
    )
    return str(folder)


def recipe_text(voxels: int, detector: int, memory_mib: int | None = None) -> str:
    """Return the recipe of a cube that fills the field of view of :func:`write_scan`."""
    size = _scale(detector) * 128 * 0.11 / 1.25 / voxels
    run = "" if memory_mib is None else f"\nrun: {{memory_per_task_mib: {memory_mib}}}"
    return f"grid: {{shape: {[voxels] * 3}, voxel_mm: {[size] * 3}}}{run}"


def _scale(detector: int) -> float:
    return detector * PITCH_MM / (128 * 0.11)


def shuffled(stages: list[StageMetrics]) -> int:
    """Return the bytes that went from the filter tasks to the backprojection tasks: the job's last shuffle."""
    return [stage.shuffle_write_bytes for stage in stages if stage.shuffle_write_bytes][-1]


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Ingest once, reconstruct ``repeat`` times; return the best time and the stages of that run."""
    quiet = Progress(Console(quiet=True))
    spark = local_session(job["master"], **job["settings"])
    try:
        spark.range(1).count()
        frames = job["frames"]
        if job["raw"] is not None:
            ingest(spark, open_scan(job["raw"]), frames, progress=quiet, overwrite=True)
        recipe = parse_recipe(job["recipe"], "bench")
        slots = task_slots(spark)
        runs = []
        for _ in range(job["repeat"]):
            plan = prepare(frames, recipe, slots)
            start = time.perf_counter()
            with measured_stages(spark) as stages:
                reconstruct(spark, plan, job["out"], progress=quiet, overwrite=True)
            runs.append((time.perf_counter() - start, stages))
        seconds, stages = min(runs, key=lambda run: run[0])
        return {
            "seconds": seconds,
            "slots": slots,
            "tasks": plan.plan.n_tasks,
            "planned_shuffle_bytes": plan.plan.shuffle_bytes,
            "planned_task_bytes": plan.plan.task_bytes,
            "shuffle_bytes": shuffled(stages),
            "spilled_bytes": sum(stage.spilled_bytes for stage in stages),
            "stages": [
                {"name": s.name, "tasks": s.tasks, "wall_s": s.wall_s, "shuffle_bytes": s.shuffle_write_bytes}
                for s in stages
            ],
        }
    finally:
        spark.stop()


if __name__ == "__main__":
    answer(work)
