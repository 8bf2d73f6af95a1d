"""Stripes in the sinogram on Spark: line integrals -> bands of rows in all views -> corrected -> back to views.

Two shuffles of the line integrals, both placed by number. First the bands meet, one (bin, band) to a task, sorted by
view: a task holds its band in all views and one sinogram's scratch, never a stack, and the band is as low as the
memory asks. Then the pieces of a view meet again, a run of views to a task, sorted: that task holds one view.

A method sees one row at a time, so that the cut into bands and tasks changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import TaskContext

from marspipe.errors import RecipeError, ScanError
from marspipe.pipeline.corrections.views import Views
from marspipe.pipeline.planning.slabs import ARROW_BATCHES_IN_FLIGHT, INTERPRETER_BYTES, MIB
from marspipe.pipeline.spark.session import ARROW_BATCH_BYTES
from marspipe.preprocess.sinogram_stripes import SinogramMethod
from marspipe.store.blobs import binary_column, pixels_of
from marspipe.store.tables import as_spark

# Copies of a sinogram in float64 and of its ranks; tracemalloc saw at most 9.6 such in any method.
SCRATCH_BYTES_PER_PIXEL = 12 * 8
# SciPy and algotom beside what a backprojection worker loads.
METHOD_BYTES = 60 * MIB
# A run of views that comes back to one task.
GROUP_BYTES = 128 * MIB

_PIECES_ARROW = pa.schema(
    [
        pa.field("task", pa.int32(), False),
        pa.field("view", pa.int32(), False),
        pa.field("group", pa.int32(), False),
        pa.field("pixels", pa.binary(), False),
    ]
)
_PIECES = as_spark(_PIECES_ARROW)


@dataclass(frozen=True)
class RowBands:
    """How the line integrals of a scan are cut: bands of rows by bin, and runs of views. Travels to the executors.

    Task number = bin * number of bands + band.

    Attributes
    ----------
    n_views, n_bins : int
        Of the scan.
    detector_shape : (int, int)
        Rows and columns.
    band_rows : int
        Rows of a band; the last one may have fewer.
    group_views : int
        Views of a run; the last one may have fewer.
    """

    n_views: int
    n_bins: int
    detector_shape: tuple[int, int]
    band_rows: int
    group_views: int

    @property
    def n_bands(self) -> int:
        """Bands of one bin."""
        return math.ceil(self.detector_shape[0] / self.band_rows)

    @property
    def n_tasks(self) -> int:
        """Tasks that correct a band each."""
        return self.n_bins * self.n_bands

    @property
    def n_groups(self) -> int:
        """Runs of views."""
        return math.ceil(self.n_views / self.group_views)

    def rows_of(self, task: int) -> tuple[int, int, int]:
        """Return bin, first row and row after the last of a task."""
        bin_, band = divmod(task, self.n_bands)
        first = band * self.band_rows
        return bin_, first, min(first + self.band_rows, self.detector_shape[0])

    def views_of(self, group: int) -> range:
        """Return the views of a run."""
        first = group * self.group_views
        return range(first, min(first + self.group_views, self.n_views))

    def cut(self, views: Iterable[tuple[int, NDArray[np.float32]]]) -> Iterator[pa.RecordBatch]:
        """Cut the line integrals of view after view, shape (n_bins, v, u), into pieces, one per task.

        Raises
        ------
        ScanError
            If a view is not one of the scan's, or not of its shape.
        """
        cols = self.detector_shape[1]
        spans = [self.rows_of(task) for task in range(self.n_bands)]
        sizes = [4 * cols * (stop - first) for _, first, stop in spans]
        for view, integrals in views:
            if not 0 <= view < self.n_views:
                raise ScanError(f"view {view} is not one of the {self.n_views} views of the scan")
            if integrals.shape != (self.n_bins, *self.detector_shape):
                raise ScanError(
                    f"view {view} has line integrals of {integrals.shape}, "
                    f"expected {(self.n_bins, *self.detector_shape)}"
                )
            for bin_, frame in enumerate(integrals):
                tasks = bin_ * self.n_bands + np.arange(self.n_bands, dtype=np.int32)
                pixels = binary_column(np.ascontiguousarray(frame, dtype=np.float32), sizes)
                yield self._pieces(tasks, np.full(self.n_bands, view, np.int32), pixels)

    def correct(self, task: int, batches: Iterable[pa.RecordBatch], method: SinogramMethod) -> Iterator[pa.RecordBatch]:
        """Correct the rows of one task, whose pieces come sorted by view, and yield them as pieces again.

        Raises
        ------
        ScanError
            If a view is missing or doubled, or a value is not finite.
        """
        bin_, first, stop = self.rows_of(task)
        band = np.empty((self.n_views, stop - first, self.detector_shape[1]), dtype=np.float32)
        expected = 0
        for batch in batches:
            for number in range(batch.num_rows):
                found, view = (batch.column(name)[number].as_py() for name in ("task", "view"))
                if found != task:
                    raise ScanError(f"stripe task {task} got rows of task {found}")
                _require(view, expected)
                band[view] = pixels_of(batch.column("pixels"), number, "<f4", band.shape[1:])
                expected += 1
        if expected != self.n_views:
            raise ScanError(f"view {expected} is missing: only {expected} of {self.n_views} views reached the stripes")
        for row in range(stop - first):
            try:
                band[:, row] = method(np.ascontiguousarray(band[:, row]))
            except ScanError as error:
                raise ScanError(f"bin {bin_}, detector row {first + row}: {error}") from error
        step = max(1, ARROW_BATCH_BYTES // band[0].nbytes)
        for start in range(0, self.n_views, step):
            part = band[start : start + step]
            views = np.arange(start, start + len(part), dtype=np.int32)
            tasks = np.full(len(part), task, dtype=np.int32)
            yield self._pieces(tasks, views, binary_column(part, [part[0].nbytes] * len(part)))

    def assemble(self, group: int, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Put the pieces of a run of views, sorted by view and task, together again.

        Yields
        ------
        view : int
            View number.
        integrals : ndarray, shape (n_bins, v, u), float32
            Corrected line integrals; a new array for every view.

        Raises
        ------
        ScanError
            If a piece is missing or doubled.
        """
        views = self.views_of(group)
        view, task = views.start, 0
        integrals = np.empty((self.n_bins, *self.detector_shape), dtype=np.float32)
        for batch in batches:
            for number in range(batch.num_rows):
                found = tuple(batch.column(name)[number].as_py() for name in ("view", "task"))
                if found != (view, task):
                    problem = "doubled" if found < (view, task) else "missing"
                    at, of = min(found, (view, task))
                    raise ScanError(f"view {at} is {problem}: rows of task {of} of the stripe correction")
                bin_, first, stop = self.rows_of(task)
                shape = (stop - first, self.detector_shape[1])
                integrals[bin_, first:stop] = pixels_of(batch.column("pixels"), number, "<f4", shape)
                task += 1
                if task == self.n_tasks:
                    yield view, integrals
                    integrals = np.empty_like(integrals)
                    view, task = view + 1, 0
        if (view, task) != (views.stop, 0):
            raise ScanError(f"view {view} is missing: rows of task {task} of the stripe correction")

    def _pieces(self, tasks: NDArray[np.int32], views: NDArray[np.int32], pixels: pa.Array) -> pa.RecordBatch:
        arrays = [pa.array(tasks), pa.array(views), pa.array(views // np.int32(self.group_views)), pixels]
        return pa.RecordBatch.from_arrays(arrays, schema=_PIECES_ARROW)


def plan_row_bands(
    n_views: int,
    n_bins: int,
    detector_shape: tuple[int, int],
    *,
    slots: int,
    memory_bytes: int,
    band_rows: int | None = None,
    group_views: int | None = None,
) -> RowBands:
    """Choose the rows of a band and the views of a run.

    Bands are as high as the memory of a task allows, but so many that all slots have work; runs have about 128 MiB.

    Parameters
    ----------
    n_views, n_bins : int
        Of the scan.
    detector_shape : (int, int)
        Rows and columns.
    slots : int
        Tasks that run at once.
    memory_bytes : int
        Python memory of one task.
    band_rows, group_views : int, optional
        Instead of the choice.

    Raises
    ------
    RecipeError
        If not even one row in all views fits into the memory.
    """
    rows, cols = detector_shape
    sinogram = 4 * n_views * cols
    fixed = band_bytes(n_views, cols, 0)
    free = memory_bytes - fixed
    if free < sinogram:
        raise RecipeError(
            f"run.memory_per_task_mib = {memory_bytes // MIB} is too little: the stripe correction of one row in "
            f"{n_views} views of {cols} px needs {math.ceil((fixed + sinogram) / MIB)} MiB; by angle it needs less"
        )
    if band_rows is None:
        bands = max(math.ceil(rows * sinogram / free), math.ceil(slots / n_bins))
        band_rows = max(1, min(math.ceil(rows / bands), free // sinogram))
    if group_views is None:
        view_bytes = 4 * n_bins * rows * cols
        group_views = max(1, min(math.ceil(n_views / slots), GROUP_BYTES // view_bytes))
    return RowBands(n_views, n_bins, detector_shape, min(band_rows, rows), min(group_views, n_views))


def band_bytes(n_views: int, cols: int, band_rows: int) -> int:
    """Return the Python memory of a task that corrects a band, in bytes."""
    arrow = ARROW_BATCHES_IN_FLIGHT * ARROW_BATCH_BYTES
    scratch = SCRATCH_BYTES_PER_PIXEL * n_views * cols
    return INTERPRETER_BYTES + METHOD_BYTES + arrow + scratch + 4 * n_views * cols * band_rows


def without_stripes(views: Views, bands: RowBands, method: SinogramMethod) -> Views:
    """Return the line integrals of a scan, corrected in the sinograms.

    Parameters
    ----------
    views : Views
        Line integrals of the scan.
    bands : RowBands
        How to cut.
    method : SinogramMethod
        The correction.
    """
    views_of = views.read  # the DataFrame itself cannot travel

    def cut(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from bands.cut(views_of(batches))

    def correct(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from bands.correct(_partition(), batches, method)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        yield from bands.assemble(_partition(), batches)

    pieces = views.data.mapInArrow(cut, _PIECES)
    by_band = pieces.repartitionById(bands.n_tasks, "task").sortWithinPartitions("view")
    corrected = by_band.mapInArrow(correct, _PIECES)
    by_view = corrected.repartitionById(bands.n_groups, "group").sortWithinPartitions("view", "task")
    return Views(by_view, read)


def _partition() -> int:
    context: Any = TaskContext.get()
    if context is None:
        raise RuntimeError("a stripe task runs on Spark only")
    return int(context.partitionId())


def _require(view: int, expected: int) -> None:
    if view != expected:
        problem = "is doubled" if view < expected else "is missing"
        raise ScanError(f"view {min(view, expected)} {problem}: the scan must have each view once")
