"""Flipped bytes in the stored frames: named, and never a volume."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from marspipe.errors import RunError, ScanError
from marspipe.pipeline.reconstruct import prepare, reconstruct
from marspipe.recipe import parse_recipe
from marspipe.store.commit import committed
from tests.pipeline.scans import quiet

GRID = "grid: {shape: [8, 8, 8], voxel_mm: [1, 1, 1]}"


def projections(frames: Path) -> Iterator[tuple[Path, pq.FileMetaData, dict[str, pq.ColumnChunkMetaData]]]:
    """Return the row groups that hold projections: file, footer, columns."""
    for path in sorted(frames.glob("*.parquet")):
        footer = pq.read_metadata(path)
        for group in map(footer.row_group, range(footer.num_row_groups)):
            columns = {group.column(c).path_in_schema: group.column(c) for c in range(group.num_columns)}
            kind = columns["frame_type"].statistics
            if kind.min == kind.max == "projection":
                yield path, footer, columns


@pytest.mark.parametrize("where", ["pixels", "header of a page", "footer", "mark at the end"])
def test_a_flipped_byte_in_a_file_of_frames_is_named(
    spark: SparkSession, frames_uri: str, tmp_path: Path, out: str, where: str
) -> None:
    shutil.copytree(frames_uri, tmp_path / "frames")
    path, footer, columns = next(projections(tmp_path / "frames"))
    raw = bytearray(path.read_bytes())
    pixels = columns["pixels"]
    place = {
        "pixels": pixels.data_page_offset + pixels.total_compressed_size - 100,
        "header of a page": pixels.data_page_offset,
        "footer": len(raw) - 8 - footer.serialized_size,
        "mark at the end": len(raw) - 2,
    }[where]
    raw[place] ^= 0xFF
    path.write_bytes(raw)
    expected = "stored pixels of view .* do not match their checksum" if where == "pixels" else re.escape(path.name)
    with pytest.raises((RunError, ScanError), match=expected) as failed:
        job = prepare(str(tmp_path / "frames"), parse_recipe(GRID, "test"), 2)
        reconstruct(spark, job, out, progress=quiet())
    assert "\n" not in str(failed.value)
    assert committed(f"{out}/volume") is None
