"""How a reconstruction is cut into tasks, computed before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from marspipe.errors import RecipeError
from marspipe.pipeline.planning.grid import centered_geometry, chosen_grid, filtered_geometry, tilted_geometry
from marspipe.pipeline.planning.slabs import (
    INTERPRETER_BYTES,
    MIB,
    SlabTask,
    backprojection_bytes,
    choose_slabs,
    left_bytes,
)
from marspipe.pipeline.spark.session import ARROW_BATCH_BYTES
from marspipe.recipe import Recipe
from marspipe.recon.field_of_view import check_field_of_view
from marspipe.recon.redundancy import Redundancy
from marspipe.scan.energy import CounterBin
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.store.blobs import ARROW_BINARY_LIMIT

# What a filter task left behind takes at most this part of the memory that slab and batch are planned by.
LARGEST_LEFT_SHARE = 0.6
# A kernel call walks the whole slab once, whatever the number of views; beyond this batch that no longer shows.
VIEWS_WANTED = 64
BATCH_BYTES_WANTED = 256 * MIB
# The bands of a view leave a filter task in batches of about this size.
BAND_BATCH_BYTES = 256 * MIB
# A volume slab leaves a task in runs of slices of about this size.
OUTPUT_BATCH_BYTES = 32 * MIB


@dataclass(frozen=True)
class ReconstructionPlan:
    """What is reconstructed, and in which pieces. Task number = bin * number of slabs + slab."""

    geometry: ScanGeometry
    filtered_geometry: ScanGeometry  # wider by the columns that offset-detector weights need
    redundancy: Redundancy
    grid: VolumeGrid
    bins: tuple[CounterBin, ...]
    slabs: tuple[SlabTask, ...]
    views_per_batch: int
    tile_rows: int

    @property
    def n_tasks(self) -> int:
        """Number of backprojection tasks."""
        return len(self.bins) * len(self.slabs)

    @property
    def tiles_per_slice(self) -> int:
        """Rows of the volume table per slice."""
        return math.ceil(self.grid.shape[1] / self.tile_rows)

    @cached_property
    def shuffle_bytes(self) -> int:
        """Bytes of filtered rows that travel from the filter tasks to the backprojection tasks."""
        rows = sum(task.n_views * task.n_rows for task in self.slabs)
        return 4 * len(self.bins) * self.filtered_geometry.detector_shape[1] * rows

    @property
    def volume_bytes(self) -> int:
        """Bytes of the finished volume."""
        return len(self.bins) * self.grid.nbytes

    @property
    def band_bytes(self) -> int:
        """Bytes of the largest row that travels to a backprojection task."""
        return 4 * self.filtered_geometry.detector_shape[1] * max(task.n_rows for task in self.slabs)

    def tasks_of_view(self, view: int) -> list[int]:
        """Return the backprojection tasks that read a view, bin by bin."""
        seeing = [n for n, task in enumerate(self.slabs) if task.view_first <= view < task.view_stop]
        return [bin_ * len(self.slabs) + n for bin_ in range(len(self.bins)) for n in seeing]

    def band_batches(self, tasks: Sequence[int]) -> Iterator[list[int]]:
        """Yield runs of backprojection tasks whose bands of a view travel together, of a bounded size."""
        run: list[int] = []
        size = 0
        for task in tasks:
            band = 4 * self.filtered_geometry.detector_shape[1] * self.slabs[task % len(self.slabs)].n_rows
            if run and size + band > BAND_BATCH_BYTES:
                yield run
                run, size = [], 0
            run.append(task)
            size += band
        if run:
            yield run

    @cached_property
    def view_bytes(self) -> int:
        """Bytes of all bands of the view that has most of them, all bins."""
        rows = np.zeros(len(self.geometry) + 1, np.int64)
        for task in self.slabs:
            rows[task.view_first] += task.n_rows
            rows[task.view_stop] -= task.n_rows
        return 4 * len(self.bins) * self.filtered_geometry.detector_shape[1] * int(rows.cumsum().max())

    @property
    def left_bytes(self) -> int:
        """Bytes that corrections and filter leave in a worker, which backprojects later."""
        return left_bytes(self.filtered_geometry, len(self.bins))

    @property
    def filter_bytes(self) -> int:
        """Python memory of a task that corrects and filters whole views."""
        rows, cols = self.filtered_geometry.detector_shape
        # Bands of overlapping slabs are more than the view: once in the worker, once on their way.
        batch = min(self.view_bytes, max(BAND_BATCH_BYTES, self.band_bytes))
        more = max(0, batch - 4 * len(self.bins) * rows * cols)
        return INTERPRETER_BYTES + self.left_bytes + 2 * more + 2 * ARROW_BATCH_BYTES

    @cached_property
    def task_bytes(self) -> int:
        """Python memory of the largest backprojection task."""
        cols = self.filtered_geometry.detector_shape[1]
        return self.left_bytes + max(backprojection_bytes(task, cols, self.views_per_batch) for task in self.slabs)

    @cached_property
    def overlap(self) -> float:
        """How often a detector row of a view is read, on average over those that are read at all."""
        rows = self.geometry.detector_shape[0]
        steps = np.zeros((len(self.geometry) + 1, rows + 1), np.int32)
        for task in self.slabs:
            for view, sign in ((task.view_first, 1), (task.view_stop, -1)):
                steps[view, task.row_first] += sign
                steps[view, task.row_stop] -= sign
        times = steps.cumsum(axis=0).cumsum(axis=1)
        return float(times.sum(dtype=np.float64) / max(1, np.count_nonzero(times)))

    def describe(self) -> str:
        """Return the plan as lines for people."""
        rows, cols = self.geometry.detector_shape
        nz, ny, nx = self.grid.shape
        dz, dy, dx = self.grid.voxel_mm
        thickest = max(task.slab.n_slices for task in self.slabs)
        return "\n".join(
            [
                f"scan     {len(self.geometry)} views of {rows} x {cols} px, {len(self.bins)} energy bins: "
                + ", ".join(b.energy.label for b in self.bins),
                f"volume   {nz} x {ny} x {nx} voxels (z, y, x) of {dz:.6g} x {dy:.6g} x {dx:.6g} mm per bin, "
                f"{self.volume_bytes / MIB:.1f} MiB in all",
                f"weights  {self.redundancy.name}: {self.redundancy.description}",
                f"slabs    {len(self.slabs)} of at most {thickest} slices; rows read {self.overlap:.2f} times",
                f"tasks    {self.n_tasks} backprojection tasks, {self.views_per_batch} views a kernel call",
                f"memory   {self.task_bytes / MIB:.0f} MiB of Python memory per backprojection task",
                f"shuffle  {self.shuffle_bytes / MIB:.1f} MiB of filtered rows",
            ]
        )


def plan_reconstruction(
    geometry: ScanGeometry, bins: tuple[CounterBin, ...], recipe: Recipe, slots: int
) -> ReconstructionPlan:
    """Cut a reconstruction into slabs.

    Parameters
    ----------
    geometry : ScanGeometry
        The scan's geometry as its manifest says; the recipe's corrections are applied here.
    bins : tuple of CounterBin
        Energy bins to reconstruct.
    recipe : Recipe
        Grid, memory, slab and batch sizes.
    slots : int
        Tasks that run at once.

    Raises
    ------
    GeometryError
        If the cone misses the grid or the grid reaches the source.
    RecipeError
        If not even one slice fits into the task's memory.
    """
    straight = centered_geometry(geometry, recipe)
    grid = chosen_grid(straight, recipe)
    geometry = tilted_geometry(straight, recipe)
    geometry.rows_for(grid)
    filtered, redundancy = filtered_geometry(geometry, recipe.filter)
    check_field_of_view(geometry, grid, redundancy)
    budget = recipe.run.memory_per_task_mib * MIB
    most = int(LARGEST_LEFT_SHARE * max(0, budget - INTERPRETER_BYTES))
    budget -= min(left_bytes(filtered, len(bins)), most)
    slabs = choose_slabs(filtered, redundancy.blend, grid, len(bins), recipe, slots, budget)
    cols = filtered.detector_shape[1]
    views = recipe.run.views_per_batch
    if views is None:
        free = budget - max(backprojection_bytes(task, cols, 0) for task in slabs)
        per_view = 4 * cols * max(task.n_rows for task in slabs)
        views = max(1, min(len(geometry), VIEWS_WANTED, BATCH_BYTES_WANTED // per_view, free // per_view))
    row_bytes = 4 * grid.shape[2]
    tile_rows = max(1, min(grid.shape[1], int(recipe.output.tile_mib * MIB) // row_bytes))
    plan = ReconstructionPlan(geometry, filtered, redundancy, grid, bins, slabs, views, tile_rows)
    if plan.band_bytes > ARROW_BINARY_LIMIT:
        raise RecipeError(
            f"the rows of a view that one slab reads are {plan.band_bytes / 2**30:.3g} GiB, and 2 GiB are the limit of "
            "a record: reconstruct a part of the volume at a time (grid.shape, grid.center_mm)"
        )
    return plan
