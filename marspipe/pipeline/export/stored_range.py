"""The range of values that each series stores, from histograms that tasks make of all slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
from pyspark.sql import SparkSession

from marspipe.dicom.series import SeriesHeader
from marspipe.dicom.value_range import ValueHistogram, robust_range
from marspipe.pipeline.export.slices import numbered, numbers, runs_of_slices
from marspipe.pipeline.spark.failures import spark_failures
from marspipe.pipeline.spark.watch import watch_stages
from marspipe.show.progress import Progress
from marspipe.store.volume import open_volume


def stored_ranges(
    spark: SparkSession, volume_uri: str, headers: Mapping[int, SeriesHeader], *, progress: Progress
) -> dict[int, tuple[float, float]]:
    """Return the ranges of those series that clip outliers, in the volume's units; the others store all values.

    Parameters
    ----------
    spark : SparkSession
        The session.
    volume_uri : str
        A committed volume.
    headers : mapping
        By bin, of series over the whole range.
    progress : Progress
        Where to report.
    """
    # Hounsfield units have a range of their own, and floats need none.
    wanted = tuple(b for b, h in headers.items() if h.kind != "parametric-map" and h.scale.units != "HU")
    volume = open_volume(volume_uri)
    work = runs_of_slices(spark, volume, wanted)
    if not work:
        return {}

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        source = open_volume(volume_uri)
        for number in numbers(batches):
            bin_, first, stop = work[number]
            outside = headers[bin_].outside()
            histogram = ValueHistogram.empty(*headers[bin_].value_range)
            for z in range(first, stop):
                histogram = histogram.add(source[bin_][z], outside)
            yield pa.RecordBatch.from_pydict({"bin": [bin_], "histogram": [histogram.to_bytes()]})

    def merge(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        whole: dict[int, ValueHistogram] = {}
        for batch in batches:
            for row in batch.to_pylist():
                part = ValueHistogram.from_bytes(row["histogram"])
                whole[row["bin"]] = whole[row["bin"]] + part if row["bin"] in whole else part
        for bin_, histogram in whole.items():
            low, high = robust_range(histogram)
            yield pa.RecordBatch.from_pydict({"bin": [bin_], "low": [low], "high": [high]})

    with spark_failures("finding the range of values"), watch_stages(spark, progress, ["range"]):
        counted = numbered(spark, len(work)).mapInArrow(count, "bin long, histogram binary")
        found = counted.repartition(1).mapInArrow(merge, "bin long, low double, high double").collect()
    ranges = {row.bin: (row.low, row.high) for row in found}
    return {bin_: limits for bin_, limits in ranges.items() if limits != headers[bin_].value_range}
