"""Backprojection stage: the bands of one slab, in the order of the views -> the slab's slices.

A task holds one slab and one batch of views, never a stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import TaskContext

from marspipe.errors import ScanError
from marspipe.pipeline.planning.plan import OUTPUT_BATCH_BYTES, ReconstructionPlan
from marspipe.pipeline.planning.slabs import SlabTask
from marspipe.recon.backprojection import Backprojection, empty_batch, start_backprojection
from marspipe.store.blobs import binary_column, checksum, pixels_of
from marspipe.store.schema import table_schema


def _kernel_of_task(backend: str, context: TaskContext) -> tuple[str, int]:
    """Return the kernel and the device of a task: auto is the GPU that Spark gave to the task, else the CPU.

    Not whatever the machine has: all slabs of a volume come from the same kind of kernel.
    """
    gpu = context.resources().get("gpu")
    if backend == "auto":
        backend = "cpu" if gpu is None else "cuda"
    return backend, int(gpu.addresses[0]) if gpu is not None else 0


@dataclass(frozen=True)
class BackprojectionStage:
    """Everything a backprojection task needs to know; travels to the executors.

    Attributes
    ----------
    plan : ReconstructionPlan
        Geometry, bins and slabs.
    backend : str
        Kernel.
    tasks : tuple of int
        Number of the task of each partition.
    """

    plan: ReconstructionPlan
    backend: str
    tasks: tuple[int, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Turn the bands of this partition's task, sorted by view, into rows of the volume table."""
        context = TaskContext.get()
        if context is None:
            raise RuntimeError("a backprojection task runs on Spark only")
        number = self.tasks[context.partitionId()]
        bin_, index = divmod(number, len(self.plan.slabs))
        task = self.plan.slabs[index]
        backend, device = _kernel_of_task(self.backend, context)
        slab = start_backprojection(task.slab.grid, backend=backend, threads=1, device=device)
        self._accumulate(batches, number, task, slab)
        yield from self._slices(bin_, task, slab.volume())

    def _accumulate(self, batches: Iterator[pa.RecordBatch], number: int, task: SlabTask, slab: Backprojection) -> None:
        """Add the slab's views, as many per kernel call as the plan says, and count them."""
        geometry, cols = self.plan.filtered_geometry, self.plan.filtered_geometry.detector_shape[1]
        blend, z_mm = self.plan.redundancy.blend, task.slab.grid.axis_mm("z")
        filtered = empty_batch(min(self.plan.views_per_batch, task.n_views), cols, task.n_rows)
        next_view = first = task.view_first

        def flush() -> None:
            slab.add(
                filtered[: next_view - first],
                geometry[first:next_view],
                row_first=task.row_first,
                slice_weights=None if blend is None else blend.weights(z_mm, range(first, next_view)),
            )

        for batch in batches:
            for row in range(batch.num_rows):
                view, of_task = batch.column("view")[row].as_py(), batch.column("task")[row].as_py()
                if of_task != number:
                    raise ScanError(f"backprojection task {number} got rows of task {of_task}")
                if view != next_view:
                    problem = "is doubled" if view < next_view else "is missing"
                    raise ScanError(f"view {min(view, next_view)} {problem}: the scan must have each view once")
                filtered[next_view - first] = pixels_of(batch.column("pixels"), row, "<f4", (cols, task.n_rows))
                next_view += 1
                if next_view - first == len(filtered):
                    flush()
                    first = next_view
        if next_view != task.view_stop:
            raise ScanError(
                f"view {next_view} is missing: only {next_view - task.view_first} of {task.n_views} views reached "
                "the slab"
            )
        if next_view > first:
            flush()

    def _slices(self, bin_: int, task: SlabTask, volume: NDArray[np.float32]) -> Iterator[pa.RecordBatch]:
        """Cut a finished slab into rows of the volume table, several slices at a time, without copying pixels."""
        nz, ny, nx = volume.shape
        firsts = np.arange(0, ny, self.plan.tile_rows)
        rows = np.minimum(self.plan.tile_rows, ny - firsts)
        step = max(1, OUTPUT_BATCH_BYTES // volume[0].nbytes)
        schema = table_schema("volume").arrow()
        for k in range(0, nz, step):
            part = volume[k : k + step]
            n, tiles = len(part), len(firsts)
            blocks = [part[i, y : y + r] for i in range(n) for y, r in zip(firsts, rows, strict=True)]
            # Voxel indices of the table count from the first slice of the volume.
            z = np.arange(n, dtype=np.int32) + np.int32(task.slab.z_first - self.plan.grid.start[0] + k)
            arrays = [
                pa.array(np.full(n * tiles, bin_, dtype=np.int32)),
                pa.array(np.repeat(z, tiles)),
                pa.array(np.tile(np.arange(tiles, dtype=np.int32), n)),
                pa.array(np.tile(firsts.astype(np.int32), n)),
                pa.array(np.tile(rows.astype(np.int32), n)),
                pa.array(np.full(n * tiles, nx, dtype=np.int32)),
                binary_column(part, np.tile(rows * nx * 4, n)),
                pa.array(np.array([b.min() for b in blocks], dtype=np.float32)),
                pa.array(np.array([b.max() for b in blocks], dtype=np.float32)),
                pa.array(np.array([b.mean(dtype=np.float64) for b in blocks])),
                pa.array(np.array([checksum(b) for b in blocks], dtype=np.int64)),
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
