"""How fast a session writes the DICOM series of a volume."""

from __future__ import annotations

import time
from pathlib import Path

from pyspark.sql import SparkSession
from rich.console import Console

from marspipe.bench.measure import Result
from marspipe.dicom.compression import TransferSyntax
from marspipe.pipeline.benchmarks.pipeline import PythonMemory
from marspipe.pipeline.benchmarks.retrieval import write_noise_volume
from marspipe.pipeline.export.dicom import export_dicom
from marspipe.pipeline.export.options import DicomOptions
from marspipe.pipeline.spark.session import task_slots
from marspipe.show.progress import Progress

SLICES_PER_S_BAR = 100


def bench_dicom_export(
    spark: SparkSession, folder: Path, side: int = 512, slices: int = 512, repeat: int = 3
) -> list[Result]:
    """Measure the export of a volume of one bin, from its Parquet files to files on the local disk.

    Parameters
    ----------
    spark : SparkSession
        The session.
    folder : Path
        Where volume and series go.
    side, slices : int
        Voxels along x and y; along z.
    repeat : int
        Runs after a first one, of which the fastest counts.
    """
    quiet, volume_uri = Progress(Console(quiet=True)), str(folder / "volume")
    write_noise_volume(volume_uri, (slices, side, side))
    size = f"{slices} slices of {side} x {side}, {task_slots(spark)} tasks"
    results = []
    syntaxes: tuple[TransferSyntax, ...] = ("uncompressed", "jpeg-ls")
    for syntax in syntaxes:
        options = DicomOptions(transfer_syntax=syntax)
        times = []
        with PythonMemory() as memory:
            for _ in range(repeat + 1):
                start = time.perf_counter()
                export_dicom(spark, volume_uri, str(folder / syntax), options, progress=quiet)
                times.append(time.perf_counter() - start)
        best = min(times[1:])
        figures = {"slices_per_s": slices / best, "python_workers_peak_gib": memory.peak_bytes / 2**30}
        bars = {"slices_per_s": f">= {SLICES_PER_S_BAR}"} if syntax == "uncompressed" else {}
        results.append(Result(f"export to DICOM, {syntax}", size, best, 0.0, figures, bars))
    return results
