"""The preview of a finished volume, drawn from pieces that tasks cut out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import groupby

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.pipeline.export.slices import numbered, numbers, run_all, runs_of_slices
from marspipe.pipeline.spark.failures import spark_failures
from marspipe.pipeline.spark.watch import watch_stages
from marspipe.scan.grid import AXES
from marspipe.show.preview import preview_cuts, write_preview
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.blobs import binary_column
from marspipe.store.tables import as_spark
from marspipe.store.volume import Volume, open_volume

PREVIEW_STAGES = ("cuts", "preview")
# What a run of slices gives to the cuts of a preview: float32 [1, y, x] across z, else [slices, x] or [slices, y].
PIECES = pa.schema(
    [
        pa.field("bin", pa.int32(), False),
        pa.field("axis", pa.string(), False),
        pa.field("first", pa.int32(), False),
        pa.field("pixels", pa.binary(), False),
    ]
)


def export_preview(spark: SparkSession, volume_uri: str, out_uri: str, *, progress: Progress) -> None:
    """Write the preview of a finished volume as one PNG.

    Cuts along the axis pass through every slice: many tasks read slices, one puts their rows together and draws.
    """
    volume = open_volume(volume_uri)
    cuts, work = preview_cuts(volume.grid), runs_of_slices(spark, volume)

    def cut(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number in numbers(batches):
            bin_, first, stop = work[number]
            source = open_volume(volume_uri)
            for axis, index in cuts:
                at, z = slice(index, index + 1), slice(first, stop)
                if axis == "z" and not first <= index < stop:
                    continue
                piece = source.roi(z=at, bin=bin_) if axis == "z" else source.roi(z=z, **{axis: at}, bin=bin_)
                pixels = binary_column(piece, [piece.nbytes])
                values = [pa.array([bin_], pa.int32()), pa.array([axis]), pa.array([first], pa.int32()), pixels]
                yield pa.RecordBatch.from_arrays(values, schema=PIECES)

    def draw(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        picture = io.BytesIO()
        write_preview(_PassingVolume(open_volume(volume_uri), batches), picture)
        storage.write_bytes(out_uri, picture.getvalue(), overwrite=True)
        yield pa.RecordBatch.from_pydict({"id": [0]})

    with spark_failures("drawing the preview"), watch_stages(spark, progress, PREVIEW_STAGES):
        pieces = numbered(spark, len(work)).mapInArrow(cut, as_spark(PIECES))
        together = pieces.repartition(1).sortWithinPartitions("bin")
        run_all(together.mapInArrow(draw, "id long"))


class _PassingVolume:
    """A volume of which a preview sees the cuts, whose pieces come bin after bin: those of one bin are in memory."""

    def __init__(self, volume: Volume, batches: Iterator[pa.RecordBatch]) -> None:
        self.bins, self.grid, self.metadata = volume.bins, volume.grid, volume.metadata
        self._pieces = groupby(_rows(batches), lambda piece: piece[0])
        self._bin: int | None = None
        self._cuts: dict[str, NDArray[np.float32]] = {}

    def slice(self, axis: str, index: int, bin: int = 0) -> NDArray[np.float32]:
        """Return one of the cuts of a bin; bins are asked for in their order."""
        del index
        if bin != self._bin:
            self._cuts = {}
            self._bin, pieces = next(self._pieces)
            for _, name, first, pixels in pieces:
                shape = tuple(n for n, other in zip(self.grid.shape, AXES, strict=True) if other != name)
                whole = self._cuts.setdefault(name, np.empty(shape, np.float32))
                rows = pixels.reshape(-1, shape[1])
                start = 0 if name == "z" else first
                whole[start : start + len(rows)] = rows
        return self._cuts[axis]


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, str, int, NDArray[np.float32]]]:
    """Yield bin, axis, first slice and pixels of pieces of cuts."""
    for batch in batches:
        for row in range(batch.num_rows):
            bin_, axis, first = (batch.column(i)[row].as_py() for i in range(3))
            yield bin_, axis, first, np.frombuffer(batch.column(3)[row].as_buffer(), np.float32)
