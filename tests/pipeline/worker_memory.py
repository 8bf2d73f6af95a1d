"""Run jobs on small scans in fresh Python workers; print their peaks of memory and the plan's.

First the filter and backprojection tasks, probed from inside; then a whole job, from raw files to the preview, watched
from outside.

Run as a script, so that no worker has memory of other tests: ``python -m tests.pipeline.worker_memory FOLDER``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from marspipe.pipeline.backproject_slabs import BackprojectionStage
from marspipe.pipeline.corrections.views import corrected_in_place
from marspipe.pipeline.filter_views import FilterStage
from marspipe.pipeline.forecast.compare import measured_run
from marspipe.pipeline.forecast.inputs import load_cluster
from marspipe.pipeline.forecast.report import forecast
from marspipe.pipeline.forecast.workload import Workload
from marspipe.pipeline.frames.exposures import FRAME_COLUMNS
from marspipe.pipeline.ingest import ingest, open_scan
from marspipe.pipeline.reconstruct import corrections_of, prepare
from marspipe.pipeline.source import open_source
from marspipe.pipeline.spark.metrics import measured_stages
from marspipe.pipeline.spark.session import configure, local_session
from marspipe.recipe import parse_recipe
from marspipe.show.progress import Progress
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan
from marspipe.store.tables import read_table, spark_schema, write_table

# detector, views, counters, voxels along each axis, slices of a slab
CASES = ((256, 70, 1, 256, 256), (256, 40, 4, 96, 24), (448, 24, 1, 320, 80))
Work = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def probed(work: Work, name: str, folder: str) -> Work:
    """Return a stage that also writes the peak resident memory of its worker while it ran."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import os
        from pathlib import Path
        from uuid import uuid4

        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew from what is resident now
        yield from work(batches)
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
        (Path(folder) / f"{name}-{os.getpid()}-{uuid4().hex}").write_text(str(peak))

    return run


def measure_job(folder: Path) -> dict[str, Any]:
    """Return predicted and measured bytes of all Python workers of a whole job, and of the largest."""
    recipe, raw = parse_recipe("", "test"), str(folder / "raw")
    _simulate(folder, 192, 90, 2)
    spark = local_session("local[2]")
    try:
        took = measured_run(spark, open_source(raw), str(folder / "out"), recipe, time.perf_counter())
    finally:
        spark.stop()
    predicted = forecast(Workload.of(open_source(raw)), recipe, load_cluster("this-machine"))
    return {
        "largest": [predicted.task_bytes, took.largest_worker_bytes],
        "together": [predicted.executor_python_bytes, took.workers_bytes],
    }


def _simulate(folder: Path, detector: int, views: int, counters: int) -> None:
    pitch = 0.055
    simulate_scan(
        folder / "raw",
        settings=SimulationSettings(
            scan_id="memory",
            views=views,
            detector_shape=(detector, detector),
            pixel_pitch_mm=(pitch, pitch),
            phantom=mars_phantom(detector * pitch / (128 * 0.11)),
            thresholds_kev=tuple(20.0 + 10 * k for k in range(counters)),
            open_beam_photons=3000.0,
            counter_depth_bits=12,
        ),
    )


def measure(folder: Path, detector: int, views: int, counters: int, voxels: int, slices: int) -> dict[str, Any]:
    """Return predicted and measured bytes of one scan."""
    pitch, quiet = 0.055, Progress(Console(quiet=True))
    _simulate(folder, detector, views, counters)
    size = 0.99 * detector * pitch / 1.25 / voxels
    text = f"grid: {{shape: {[voxels] * 3}, voxel_mm: {[size] * 3}}}\nrun: {{slab_slices: {slices}}}"
    recipe = parse_recipe(text, "test")
    peaks = folder / "peaks"
    peaks.mkdir()
    frames = str(folder / "frames")
    spark = local_session("local[2]")
    try:
        ingest(spark, open_scan(str(folder / "raw")), frames, progress=quiet)
        configure(spark)
        spark.conf.set("spark.sql.files.maxPartitionBytes", str(2**20))
        job = prepare(frames, recipe, 2)
        tasks = range(job.plan.n_tasks)
        everything = read_table(spark, frames, "frames", "frame_type", *FRAME_COLUMNS)
        projections = everything.where("frame_type = 'projection'").drop("frame_type")
        integrals = corrected_in_place(projections, corrections_of(job))
        filtering, read = FilterStage(job.plan, recipe.filter, frozenset(tasks)), integrals.read
        stage = probed(lambda batches: filtering(read(batches)), "filter", str(peaks))
        bands = integrals.data.mapInArrow(stage, spark_schema("bands"))
        placed = bands.repartitionById(job.plan.n_tasks, "task").sortWithinPartitions("view")
        backprojection = BackprojectionStage(job.plan, "cpu", tuple(tasks))
        slabs = placed.mapInArrow(probed(backprojection, "backproject", str(peaks)), spark_schema("volume"))
        with measured_stages(spark) as stages:
            write_table(slabs, str(folder / "volume"), row_group_bytes=2**27, row_group_rows=1)
    finally:
        spark.stop()
    predicted = forecast(Workload.of(job.frames), recipe, load_cluster("this-machine"))
    of_stage = {s.name: s for s in predicted.stages}
    found: dict[str, list[tuple[str, int]]] = {}
    for file in peaks.iterdir():
        name, worker, _ = file.name.split("-")
        found.setdefault(name, []).append((worker, int(file.read_text())))
    workers = {worker for rows in found.values() for worker, _ in rows}
    together = sum(max(p for rows in found.values() for w, p in rows if w == worker) for worker in workers)
    return {
        "filter": [of_stage["filter"].task_bytes, max(peak for _, peak in found["filter"])],
        "backproject": [of_stage["backproject"].task_bytes, max(peak for _, peak in found["backproject"])],
        "executor": [len(workers) * max(of_stage[name].task_bytes for name in found), together],
        "shuffled": [of_stage["filter"].shuffle_bytes, sum(s.shuffle_write_bytes for s in stages)],
    }


if __name__ == "__main__":
    for number, case in enumerate(CASES):
        place = Path(sys.argv[1]) / str(number)
        place.mkdir()
        print(json.dumps(measure(place, *case)), flush=True)
    place = Path(sys.argv[1]) / "job"
    place.mkdir()
    print(json.dumps(measure_job(place)), flush=True)
