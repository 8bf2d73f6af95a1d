"""Stripes by angle on Spark: the mean line integral of every pixel over all views, by one aggregation.

Every task sums its views; the partial sums of a bin meet in one task, which finds the bin's offsets. Sums are exact
integers (see :mod:`marspipe.preprocess.stripes`), so that no cut of the views changes a bit. They travel in blocks of
rows. The offsets, one frame per bin, go to a small table that every worker reads for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray
from pyspark import TaskContext

from marspipe.errors import ScanError
from marspipe.pipeline.corrections.views import Views
from marspipe.preprocess.stripes import AngularStripes, AngularSums, remove_stripes_by_angle, stripe_offsets
from marspipe.store import storage
from marspipe.store.blobs import binary_column, checksum, pixels_of
from marspipe.store.tables import as_spark, write_table

BLOCK_BYTES = 16 * 2**20

_SUMS_ARROW = pa.schema(
    [
        pa.field("bin", pa.int32(), False),
        pa.field("row_first", pa.int32(), False),
        pa.field("views", pa.binary(), False),
        pa.field("total", pa.binary(), False),
    ]
)
_SUMS = as_spark(_SUMS_ARROW)
_OFFSETS_ARROW = pa.schema(
    [
        pa.field("bin", pa.int32(), False),
        pa.field("checksum", pa.int64(), False),
        pa.field("pixels", pa.binary(), False),
    ]
)
_OFFSETS = as_spark(_OFFSETS_ARROW)


@dataclass(frozen=True)
class AngularStage:
    """Sizes and settings of the aggregation; travels to the executors.

    Attributes
    ----------
    n_views, n_bins : int
        Of the scan.
    detector_shape : (int, int)
        Rows and columns.
    settings : AngularStripes
        Windows of the correction.
    block_bytes : int
        Most bytes of a block of rows; the offsets do not depend on it.
    """

    n_views: int
    n_bins: int
    detector_shape: tuple[int, int]
    settings: AngularStripes
    block_bytes: int = BLOCK_BYTES

    def partial(self, views: Iterable[tuple[int, NDArray[np.float32]]]) -> Iterator[pa.RecordBatch]:
        """Sum the views of one task, and yield the sums, block of rows by block of rows."""
        sums = AngularSums((self.n_bins, *self.detector_shape))
        for view, integrals in views:
            sums.add(view, integrals)
        if not sums.views:
            return
        rows, cols = self.detector_shape
        step = max(1, self.block_bytes // (8 * cols))
        seen = np.array(sorted(sums.views), dtype="<i4")
        for bin_, total in enumerate(sums.total):
            for first in range(0, rows, step):
                block = total[first : first + step]
                arrays = [
                    pa.array([bin_], pa.int32()),
                    pa.array([first], pa.int32()),
                    binary_column(seen, [seen.nbytes]),
                    binary_column(block, [block.nbytes]),
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=_SUMS_ARROW)

    def offsets(self, bin_: int, batches: Iterable[pa.RecordBatch]) -> pa.RecordBatch:
        """Add up all partial sums of a bin, and return its offsets as a record.

        Raises
        ------
        ScanError
            If a view is missing, doubled or unknown.
        """
        rows, cols = self.detector_shape
        blocks: dict[int, AngularSums] = {}
        for batch in batches:
            for number in range(batch.num_rows):
                found, first = (batch.column(name)[number].as_py() for name in ("bin", "row_first"))
                if found != bin_:
                    raise ScanError(f"the stripe task of bin {bin_} got sums of bin {found}")
                size = len(batch.column("total")[number].as_buffer())
                total = pixels_of(batch.column("total"), number, "<i8", (size // (8 * cols), cols))
                n_seen = len(batch.column("views")[number].as_buffer()) // 4
                sums = blocks.setdefault(first, AngularSums(total.shape))
                sums.claim(set(pixels_of(batch.column("views"), number, "<i4", (n_seen,)).tolist()))
                sums.total += total
        if sum(len(sums.total) for sums in blocks.values()) != rows:
            raise ScanError(f"view 0 is missing: no sums of some detector rows of bin {bin_} came")
        mean = np.concatenate([blocks[first].mean(self.n_views) for first in sorted(blocks)])
        pixels = stripe_offsets(mean, self.settings)
        arrays = [
            pa.array([bin_], pa.int32()),
            pa.array([checksum(pixels)], pa.int64()),
            binary_column(pixels, [pixels.nbytes]),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=_OFFSETS_ARROW)


def write_stripe_offsets(views: Views, stage: AngularStage, uri: str) -> None:
    """Find the offsets of a scan and write them to a folder.

    Parameters
    ----------
    views : Views
        Line integrals of the scan.
    stage : AngularStage
        Sizes and settings.
    uri : str
        Folder; leftovers are replaced.
    """

    def partial(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from stage.partial(views_of(batches))

    def finish(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        if context is None:
            raise RuntimeError("a stripe task runs on Spark only")
        yield stage.offsets(context.partitionId(), batches)

    views_of = views.read  # the DataFrame itself cannot travel
    sums = views.data.mapInArrow(partial, _SUMS).repartitionById(stage.n_bins, "bin")
    write_table(sums.mapInArrow(finish, _OFFSETS), uri, row_group_bytes=2**24)


def without_offsets(views: Views, stage: AngularStage, uri: str) -> Views:
    """Return the line integrals of a scan without the offsets that :func:`write_stripe_offsets` has found."""
    views_of = views.read

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        offsets = read_stripe_offsets(uri, stage.n_bins, stage.detector_shape)
        for view, integrals in views_of(batches):
            yield view, remove_stripes_by_angle(integrals, offsets)

    return Views(views.data, read)


def read_stripe_offsets(uri: str, n_bins: int, detector_shape: tuple[int, int]) -> NDArray[np.float32]:
    """Read the offsets of a scan, shape (n_bins, v, u), without Spark; this runs in the tasks.

    Raises
    ------
    ScanError
        If a bin is missing or damaged.
    """
    filesystem, path = storage.arrow_filesystem(uri)
    table = ds.dataset(path, schema=_OFFSETS_ARROW, filesystem=filesystem, format="parquet").to_table()
    offsets = np.empty((n_bins, *detector_shape), dtype=np.float32)
    found = []
    for row in table.to_pylist():
        if row["bin"] >= n_bins or len(row["pixels"]) != offsets[0].nbytes:
            raise ScanError(f"{uri}: the stripe offsets of bin {row['bin']} do not fit {offsets.shape}")
        offsets[row["bin"]] = np.frombuffer(row["pixels"], dtype="<f4").reshape(detector_shape)
        if checksum(offsets[row["bin"]]) != row["checksum"]:
            raise ScanError(f"{uri}: the stripe offsets of bin {row['bin']} do not match their checksum")
        found.append(row["bin"])
    if sorted(found) != list(range(n_bins)):
        raise ScanError(f"{uri}: stripe offsets of bins {sorted(found)}, expected {n_bins} bins")
    return offsets
