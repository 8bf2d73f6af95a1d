"""What is made from a finished volume: DICOM series and the preview, by tasks, so that the driver sees no pixels."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pyarrow as pa
from pyspark.sql import SparkSession

from marspipe.dicom.ct import series_files
from marspipe.dicom.identity import SeriesIdentity
from marspipe.dicom.series import series_header
from marspipe.pipeline.spark.failures import spark_failures
from marspipe.pipeline.spark.session import task_slots
from marspipe.pipeline.spark.watch import watch_stages
from marspipe.show.preview import write_preview
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.volume import open_volume

# A DICOM task writes about this many slices: seconds of work.
SLICES_PER_TASK = 128


def export_dicom(
    spark: SparkSession,
    volume_uri: str,
    out_uri: str,
    *,
    progress: Progress,
    identity: SeriesIdentity | None = None,
) -> int:
    """Write one CT series per energy bin of a finished volume.

    Parameters
    ----------
    spark : SparkSession
        The session.
    volume_uri : str
        A committed volume.
    out_uri : str
        Folder of the series; whatever lies there is replaced.
    progress : Progress
        Where to report.
    identity : SeriesIdentity, optional
        Patient and study; by default nobody's.

    Returns
    -------
    int
        Number of files written.
    """
    volume = open_volume(volume_uri)
    nz = volume.shape[0]
    step = max(1, min(SLICES_PER_TASK, -(-nz * len(volume) // task_slots(spark))))
    work = [(bin_, first) for bin_ in range(len(volume)) for first in range(0, nz, step)]
    storage.remove_tree(out_uri)

    def write(number: int) -> None:
        bin_, first = work[number]
        source = open_volume(volume_uri)
        header = series_header(source, bin_, identity)
        for file in series_files(source, header, range(first, min(first + step, nz))):
            storage.write_bytes(storage.join(out_uri, file.path), file.content, overwrite=True)

    with spark_failures("writing the DICOM series"), watch_stages(spark, progress, ["dicom"]):
        _run_each(spark, len(work), write)
    return nz * len(volume)


def export_preview(spark: SparkSession, volume_uri: str, out_uri: str, *, progress: Progress) -> None:
    """Write the preview of a finished volume as one PNG."""

    def write(number: int) -> None:
        del number
        picture = io.BytesIO()
        write_preview(open_volume(volume_uri), picture)
        storage.write_bytes(out_uri, picture.getvalue(), overwrite=True)

    with spark_failures("drawing the preview"), watch_stages(spark, progress, ["preview"]):
        _run_each(spark, 1, write)


def _run_each(spark: SparkSession, n_tasks: int, work: Callable[[int], None]) -> None:
    """Run ``work(0) ... work(n_tasks - 1)``, each in a task of its own."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column("id").to_pylist():
                work(number)
            yield batch

    spark.range(0, n_tasks, 1, n_tasks).mapInArrow(run, "id long").write.format("noop").mode("overwrite").save()
