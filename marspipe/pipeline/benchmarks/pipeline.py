"""The Spark plan measured beside the same work in one process."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession
from rich.console import Console

from marspipe.bench.measure import Result, best_of
from marspipe.pipeline.ingest import ingest, open_scan
from marspipe.pipeline.reconstruct import corrections_of, prepare, reconstruct
from marspipe.pipeline.spark.session import task_slots
from marspipe.readers import READERS
from marspipe.recipe import parse_recipe
from marspipe.recon.fdk import fdk
from marspipe.show.progress import Progress
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan
from marspipe.store import storage

# The JVM compiles its hot paths during the first runs.
WARM_UP_RUNS = 4


def bench_pipeline(
    spark: SparkSession, folder: Path, voxels: int, views: int, detector: int, repeat: int = 4
) -> list[Result]:
    """Measure the Spark plan from frames table to committed volume beside the same work in one process.

    Both read nothing but counts of one counter, and both use as many cores as the session has task slots. The JVM and
    its Python workers run already, and the code of both is compiled.
    """
    quiet = Progress(Console(quiet=True))
    pitch = 0.055
    raw, frames, out = (folder / name for name in ("raw", "frames", "out"))
    scale = detector * pitch / (128 * 0.11)
    simulate_scan(
        raw,
        settings=SimulationSettings(
            scan_id="bench",
            views=views,
            detector_shape=(detector, detector),
            pixel_pitch_mm=(pitch, pitch),
            phantom=mars_phantom(scale),
            thresholds_kev=(20.0,),
            open_beam_photons=3000.0,
            counter_depth_bits=12,
        ),
        overwrite=True,
    )
    scan = open_scan(str(raw))
    size = scale * 128 * 0.11 / 1.25 / voxels
    recipe = parse_recipe(f"grid: {{shape: {[voxels] * 3}, voxel_mm: {[size] * 3}}}", "bench")
    wall = time.perf_counter()
    ingest(spark, scan, str(frames), progress=quiet, overwrite=True)
    ingested = time.perf_counter() - wall
    job = prepare(str(frames), recipe, task_slots(spark))
    for _ in range(WARM_UP_RUNS):
        reconstruct(spark, job, str(out), progress=quiet, overwrite=True)

    def on_spark() -> None:
        reconstruct(spark, prepare(str(frames), recipe, task_slots(spark)), str(out), progress=quiet, overwrite=True)

    slots = task_slots(spark)
    corrections = corrections_of(job)
    preprocess, clock = corrections.preprocessor(0), corrections.calibrations.clock
    file = next(f for f in scan.files if f.entry.frame_type == "projection")
    with storage.open_input(file.uri) as stream:
        reader = READERS[file.entry.reader]
        entries = reader.index(stream, file.uri)
        counts = np.stack(list(reader.read_many(stream, entries)))

    def in_one_process() -> None:
        integrals = np.empty(counts.shape, dtype=np.float32)

        def line_integrals(view: int) -> None:
            entry = entries[view]
            time = clock.of_frame(view, entry.acquired_at)
            integrals[view] = preprocess(counts[view : view + 1], time=time, exposure_s=entry.exposure_s)[0]

        with ThreadPoolExecutor(slots) as pool:
            list(pool.map(line_integrals, range(views)))
        fdk(integrals, job.plan.geometry, job.plan.grid, threads=slots)

    in_one_process()
    with PythonMemory() as memory:
        spark_seconds, _ = best_of(repeat, on_spark)
    alone, alone_cpu = best_of(repeat, in_one_process)
    size_text = f"{voxels}^3, {views} views of {detector} x {detector}, {slots} cores"
    return [
        Result("ingest", size_text, ingested, 0.0, {"mb_per_second": scan.pixel_bytes / 1e6 / ingested}),
        Result("one process: preprocessing + fdk", size_text, alone, alone_cpu),
        Result(
            "spark: frames table -> committed volume",
            size_text,
            spark_seconds,
            0.0,
            {
                "times_one_process": spark_seconds / alone,
                "tasks": float(job.plan.n_tasks),
                "shuffle_mib": job.plan.shuffle_bytes / 2**20,
                "planned_task_gib": job.plan.task_bytes / 2**30,
                "python_workers_peak_gib": memory.peak_bytes / 2**30,
            },
        ),
    ]


class PythonMemory:
    """Samples the resident memory of all Python workers below this process; the driver itself is not counted."""

    def __init__(self) -> None:
        self.peak_bytes = 0  # of all of them together
        self.largest_bytes = 0  # of one
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PythonMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._stop.wait(0.05):
            parents: dict[int, int] = {}
            resident: dict[int, int] = {}
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    name, _, rest = (folder / "stat").read_text().partition(") ")
                    parents[int(folder.name)] = int(rest.split()[1])
                    if "(python" in name:
                        resident[int(folder.name)] = int((folder / "statm").read_text().split()[1]) * page
                except (OSError, ValueError):
                    continue  # ended meanwhile
            below = {os.getpid()}
            while grown := {pid for pid, parent in parents.items() if parent in below} - below:
                below |= grown
            workers = below - {os.getpid()}
            sizes = [resident.get(pid, 0) for pid in workers]
            self.peak_bytes = max(self.peak_bytes, sum(sizes))
            self.largest_bytes = max([self.largest_bytes, *sizes])
