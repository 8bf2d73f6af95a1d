"""The pixels that a reconstruction does not believe: found once per camera position, kept with the volume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.pipeline.corrections.line_integrals import Corrections
from marspipe.pipeline.spark.session import task_slots
from marspipe.preprocess.bad_pixels import PixelFlag, count_reasons
from marspipe.store import storage
from marspipe.store.blobs import binary_column, checksum
from marspipe.store.schema import table_schema
from marspipe.store.tables import spark_schema, write_table

# Tasks per slot, where there are that many camera positions.
_TASKS_PER_SLOT = 4
REASONS = tuple(str(flag.name).lower() for flag in PixelFlag if flag)


def write_pixel_flags(spark: SparkSession, corrections: Corrections, uri: str) -> None:
    """Write the flags of all camera positions; each task has the open beams of one position at a time."""

    def find(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for tile in batch.column("id").to_pylist():
                yield _record(tile, corrections.preprocessor(tile).flags)

    n_tiles = corrections.camera.n_tiles
    tiles = spark.range(0, n_tiles, 1, min(n_tiles, _TASKS_PER_SLOT * task_slots(spark)))
    flags = tiles.mapInArrow(find, spark_schema("pixel_flags"))
    write_table(flags, uri, row_group_bytes=2**27, row_group_rows=1)


def _record(tile: int, flags: NDArray[np.uint8]) -> pa.RecordBatch:
    schema = table_schema("pixel_flags").arrow()
    n_bins, rows, cols = flags.shape
    counts = [{key.replace(" ", "_"): n for key, n in count_reasons(of_bin).items()} for of_bin in flags]
    columns: dict[str, list[Any]] = {
        "tile": [tile] * n_bins,
        "bin": list(range(n_bins)),
        "rows": [rows] * n_bins,
        "cols": [cols] * n_bins,
        "bad": [int(np.count_nonzero(of_bin)) for of_bin in flags],
        **{reason: [of_bin[reason] for of_bin in counts] for reason in REASONS},
        "checksum": [checksum(of_bin) for of_bin in flags],
    }
    pixels = binary_column(np.ascontiguousarray(flags), [flags[0].nbytes] * n_bins)
    arrays = [pixels if f.name == "flags" else pa.array(columns[f.name], f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def count_flags_of_bins(uri: str, n_bins: int) -> list[dict[str, int]]:
    """Return how many pixels of every bin each reason condemns, all camera positions together.

    Returns
    -------
    list of dict
        Per bin: ``pixels``, ``bad``, and a count for each of :data:`REASONS`.
    """
    filesystem, path = storage.arrow_filesystem(uri)
    table = ds.dataset(path, schema=table_schema("pixel_flags").arrow(), filesystem=filesystem, format="parquet")
    counts = table.to_table(columns=["bin", "rows", "cols", "bad", *REASONS])
    result = []
    for bin_ in range(n_bins):
        of_bin = counts.filter(pc.equal(counts["bin"], bin_))
        pixels = pc.sum(pc.multiply(of_bin["rows"].cast("int64"), of_bin["cols"].cast("int64"))).as_py()
        result.append({"pixels": pixels, **{name: pc.sum(of_bin[name]).as_py() for name in ("bad", *REASONS)}})
    return result
