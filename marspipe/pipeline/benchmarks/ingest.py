"""Ingest measured on very many small frames: raw bytes from the page cache into the committed table."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from pyspark.sql import SparkSession
from rich.console import Console

from marspipe.bench.measure import Result
from marspipe.pipeline.benchmarks.many_frames import write_many_frames
from marspipe.pipeline.benchmarks.pipeline import PythonMemory
from marspipe.pipeline.ingest import ingest_into, open_scan
from marspipe.pipeline.spark.session import task_slots
from marspipe.show.progress import Progress

MB = 10**6


def bench_ingest(spark: SparkSession, folder: Path, megabytes: int, repeat: int = 2) -> list[Result]:
    """Measure ingest, a repetition that finds nothing new, and the look at the headers.

    Parameters
    ----------
    spark : SparkSession
        The session; figures are per task slot, of which there should not be more than cores.
    folder : Path
        Where the raw scan and the table go.
    megabytes : int
        Size of the scan, 10**6 bytes.
    repeat : int
        Runs, of which the fastest counts; the first one starts the workers and compiles the JVM's code.
    """
    quiet = Progress(Console(quiet=True))
    manifest, frames = write_many_frames(folder / "raw", megabytes * MB)
    table = folder / "frames"
    slots = task_slots(spark)
    opened, added, again = [], [], []
    with PythonMemory() as memory:
        for _ in range(repeat):
            shutil.rmtree(table, ignore_errors=True)
            start = time.perf_counter()
            scan = open_scan(str(manifest), spark, tolerant=True)
            opened.append(time.perf_counter() - start)
            ingest_into(spark, scan, str(table), progress=quiet)
            added.append(time.perf_counter() - start)
            start = time.perf_counter()
            ingest_into(spark, scan, str(table), progress=quiet)
            again.append(time.perf_counter() - start)
    size = f"{frames} frames of 128 KiB in {len(scan.files)} files, {slots} task slots"
    mb = scan.pixel_bytes / MB

    def rate(seconds: float) -> dict[str, float]:
        return {"mb_per_second": mb / seconds, "mb_per_second_per_core": mb / seconds / slots}

    bars = {"mb_per_second_per_core": ">= 100", "peak_mib_per_task": "< 1024"}
    peak = {"peak_mib_per_task": memory.largest_bytes / 2**20}
    return [
        Result("headers and manifest", size, min(opened), 0.0, {"files_per_second": len(scan.files) / min(opened)}),
        Result("ingest: raw files -> committed table", size, min(added), 0.0, rate(min(added)) | peak, bars),
        Result("ingest again: nothing is new", size, min(again), 0.0, rate(min(again))),
    ]
