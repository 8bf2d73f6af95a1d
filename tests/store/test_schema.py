"""The schema files, the Spark types and the tables that are written say the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyspark.sql.pandas.types import to_arrow_schema

from marspipe.store.blobs import binary_column, checksum, pixels_of
from marspipe.store.schema import table_schema
from marspipe.store.tables import spark_schema

TABLES = ("frames", "calibration", "bands", "pixel_flags", "volume")


@pytest.mark.parametrize("table", TABLES)
def test_file_arrow_and_spark_agree(table: str, project: Path) -> None:
    stored = json.loads((project / "schemas" / f"{table}.json").read_text())
    assert stored["table"] == table
    schema = table_schema(table)
    assert [c["name"] for c in stored["columns"]] == list(schema.names) == spark_schema(table).fieldNames()
    assert [c["nullable"] for c in stored["columns"]] == [f.nullable for f in spark_schema(table).fields]
    assert to_arrow_schema(spark_schema(table)).equals(schema.arrow())
    assert set(schema.sort) <= set(schema.names)


def test_every_schema_file_is_used(project: Path) -> None:
    stored = {path.name for path in (project / "schemas").glob("*.json")}
    assert stored == {f"{t}.json" for t in TABLES} | {"cluster.schema.json", "recipe.schema.json", "scan.schema.json"}


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.floats(-1, 1, width=32)),
)
def test_pixels_survive_the_table(blocks: np.ndarray) -> None:
    column = binary_column(blocks, [blocks[0].nbytes] * len(blocks))
    restored = pa.ipc.open_stream(_stream(column)).read_all().column(0).combine_chunks()
    for i, block in enumerate(blocks):
        np.testing.assert_array_equal(pixels_of(restored, i, "<f4", block.shape), block)
        assert checksum(pixels_of(restored, i, "<f4", block.shape)) == checksum(block)


def _stream(column: pa.Array) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays([column], names=["pixels"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def test_a_batch_of_pixels_is_checked() -> None:
    with pytest.raises(ValueError, match="sizes add up to 8 bytes, but the array has 16"):
        binary_column(np.zeros(4, dtype=np.float32), [4, 4])
    with pytest.raises(ValueError, match="below 2 GiB"):
        binary_column(np.broadcast_to(np.float32(0), (2**29,)), [2**31])
