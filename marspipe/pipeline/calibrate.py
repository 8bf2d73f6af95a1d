"""Average the open beams and dark frames of a scan into its calibration table, once, when the scan is ingested.

The pixels stay on the executors: partial sums per task, one shuffle by counter, one small table beside the frames that
the filter tasks read for themselves. The driver never holds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from marspipe.errors import ScanError
from marspipe.preprocess.chain import Calibration
from marspipe.store import storage
from marspipe.store.blobs import binary_column, pixels_of
from marspipe.store.schema import table_schema
from marspipe.store.tables import spark_schema, write_table

CALIBRATION_FOLDER = "_calibration"

SUMS = T.StructType(
    [
        T.StructField("counter", T.IntegerType(), False),
        T.StructField("frame_type", T.StringType(), False),
        T.StructField("n", T.LongType(), False),
        T.StructField("rows", T.IntegerType(), False),
        T.StructField("cols", T.IntegerType(), False),
        T.StructField("total", T.BinaryType(), False),
    ]
)
SUMS_ARROW = pa.schema(
    [
        pa.field("counter", pa.int32(), False),
        pa.field("frame_type", pa.string(), False),
        pa.field("n", pa.int64(), False),
        pa.field("rows", pa.int32(), False),
        pa.field("cols", pa.int32(), False),
        pa.field("total", pa.binary(), False),
    ]
)


@dataclass
class _Sum:
    n: int
    total: NDArray[np.float64]


def write_calibration(frames: DataFrame, uri: str, n_counters: int) -> None:
    """Write the calibration table of a scan.

    Parameters
    ----------
    frames : DataFrame
        The scan's frames table; it must hold open beams.
    uri : str
        Where to write; it belongs into the table's folder as :data:`CALIBRATION_FOLDER`.
    n_counters : int
        Counters of the scan.
    """
    frames = frames.where(F.col("frame_type") != "projection").select(
        "frame_type", "counter", "rows", "cols", "dtype", "pixels"
    )
    sums = frames.mapInArrow(partial_sums, SUMS).repartitionById(n_counters, "counter")
    write_table(sums.mapInArrow(averages, spark_schema("calibration")), uri, row_group_bytes=2**24)


def partial_sums(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn open beams and dark frames into their sums, one per counter and kind of a partition."""
    sums: dict[tuple[int, str], _Sum] = {}
    for batch in batches:
        rows = batch.drop_columns(["pixels"]).to_pylist()
        for i, row in enumerate(rows):
            shape = (row["rows"], row["cols"])
            frame = pixels_of(batch.column("pixels"), i, row["dtype"], shape)
            key = (row["counter"], row["frame_type"])
            if key not in sums:
                sums[key] = _Sum(0, np.zeros(shape))
            if sums[key].total.shape != shape:
                raise ScanError(
                    f"{key[1]} frames of counter {key[0]} differ in shape: {sums[key].total.shape}, {shape}"
                )
            sums[key].n += 1
            sums[key].total += frame
    for (counter, frame_type), value in sums.items():
        yield _sum_batch(counter, frame_type, value)


def _sum_batch(counter: int, frame_type: str, value: _Sum) -> pa.RecordBatch:
    rows, cols = value.total.shape
    columns: list[Any] = [[counter], [frame_type], [value.n], [rows], [cols]]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SUMS_ARROW, strict=False)]
    return pa.RecordBatch.from_arrays([*arrays, binary_column(value.total, [value.total.nbytes])], schema=SUMS_ARROW)


def averages(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn all partial sums of a counter into its row of the calibration table."""
    parts: dict[int, dict[str, _Sum]] = {}
    for batch in batches:
        rows = batch.drop_columns(["total"]).to_pylist()
        for i, row in enumerate(rows):
            shape = (row["rows"], row["cols"])
            total = pixels_of(batch.column("total"), i, "<f8", shape)
            of_counter = parts.setdefault(row["counter"], {})
            # Sums of counts are exact in float64, so that their order does not matter.
            seen = of_counter.setdefault(row["frame_type"], _Sum(0, np.zeros(shape)))
            if seen.total.shape != shape:
                raise ScanError(f"frames of counter {row['counter']} differ in shape: {seen.total.shape}, {shape}")
            seen.n += row["n"]
            seen.total += total
    for counter, sums in parts.items():
        if "open_beam" not in sums:
            raise ScanError(f"counter {counter} has dark frames but no open beam")
        flat = sums["open_beam"]
        dark = sums.get("dark", _Sum(0, np.zeros_like(flat.total)))
        if dark.total.shape != flat.total.shape:
            raise ScanError(
                f"counter {counter}: open beam {flat.total.shape} and dark {dark.total.shape} differ in shape"
            )
        rows, cols = flat.total.shape
        means = np.stack([flat.total / flat.n, dark.total / max(dark.n, 1)]).astype(np.float32)
        values: list[Any] = [[0], [counter], [rows], [cols], [flat.n], [dark.n]]
        schema = table_schema("calibration").arrow()
        arrays = [pa.array(v, f.type) for v, f in zip(values, schema, strict=False)]
        size = means[0].nbytes
        pixels = [binary_column(mean, [size]) for mean in means]
        yield pa.RecordBatch.from_arrays([*arrays, *pixels], schema=schema)


def read_calibration(frames_uri: str, n_counters: int) -> Calibration:
    """Read the calibration table of a frames table without Spark; this runs in the tasks.

    Raises
    ------
    ScanError
        If a counter has no open beam.
    """
    filesystem, path = storage.arrow_filesystem(storage.join(frames_uri, CALIBRATION_FOLDER))
    table = ds.dataset(path, filesystem=filesystem, format="parquet").to_table()
    rows = {row["counter"]: row for row in table.to_pylist()}
    missing = sorted(set(range(n_counters)) - set(rows))
    if missing:
        raise ScanError(f"{frames_uri}: no open beam for counter {', '.join(map(str, missing))}")
    shape = (rows[0]["rows"], rows[0]["cols"])

    def stack(name: str) -> NDArray[np.float32]:
        return np.stack([np.frombuffer(rows[c][name], dtype="<f4").reshape(shape) for c in range(n_counters)])

    return Calibration(stack("open_beam"), stack("dark"), min(row["n_open_beam"] for row in rows.values()))
