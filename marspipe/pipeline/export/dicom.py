"""DICOM series of a finished volume, written by tasks."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import SparkSession

from marspipe.dicom.ct import series_files
from marspipe.dicom.identity import SeriesIdentity
from marspipe.dicom.series import series_header
from marspipe.pipeline.export.slices import numbered, numbers, run_all, runs_of_slices
from marspipe.pipeline.spark.failures import spark_failures
from marspipe.pipeline.spark.watch import watch_stages
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.volume import open_volume


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
    work = runs_of_slices(spark, volume)
    storage.remove_tree(out_uri)

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number in numbers(batches):
            bin_, first, stop = work[number]
            source = open_volume(volume_uri)
            header = series_header(source, bin_, identity)
            for file in series_files(source, header, range(first, stop)):
                storage.write_bytes(storage.join(out_uri, file.path), file.content, overwrite=True)
            yield pa.RecordBatch.from_pydict({"id": [number]})

    with spark_failures("writing the DICOM series"), watch_stages(spark, progress, ["dicom"]):
        run_all(numbered(spark, len(work)).mapInArrow(write, "id long"))
    return volume.shape[0] * len(volume)
