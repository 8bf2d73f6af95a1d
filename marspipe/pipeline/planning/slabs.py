"""How thick the slabs of a volume are, and what each of them reads.

Memory of a backprojection task = worker + what an earlier filter task left in it + one slab + one batch of views +
Arrow batches in flight. Slabs are as thick as that allows, since thin ones read detector rows twice, and as many as
keep all task slots busy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from marspipe.errors import RecipeError
from marspipe.pipeline.spark.session import ARROW_BATCH_BYTES
from marspipe.recipe import Recipe
from marspipe.recon.backprojection import whole_row_groups
from marspipe.recon.field_of_view import rows_of_slab
from marspipe.recon.redundancy.blending import Blend
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import Slab, VolumeGrid

MIB = 2**20

# A Python worker with NumPy, numba, SciPy and Arrow loaded and its kernels compiled.
INTERPRETER_BYTES = 335 * MIB
# Arrow holds one batch while the next arrives, on either side of the border to the JVM.
ARROW_BATCHES_IN_FLIGHT = 2
# What the corrections and the filter of a view hold and leave in the heap, per pixel of the wide detector and bin:
# open beams and their sums in float64, masks, weights, the view on its way and its bands.
FILTER_BYTES_PER_PIXEL = 240
# Tasks should fill the slots evenly: accept this much idle time rather than thinner slabs.
ACCEPTED_IDLE = 1.1


@dataclass(frozen=True)
class SlabTask:
    """A slab, and the detector rows ``[row_first, row_stop)`` and views ``[view_first, view_stop)`` that it reads."""

    slab: Slab
    row_first: int
    row_stop: int
    view_first: int
    view_stop: int

    @property
    def n_rows(self) -> int:
        """Number of detector rows."""
        return self.row_stop - self.row_first

    @property
    def n_views(self) -> int:
        """Number of views."""
        return self.view_stop - self.view_first


def left_bytes(filtered_geometry: ScanGeometry, n_bins: int) -> int:
    """Return what corrections and filter leave in a worker, in bytes."""
    rows, cols = filtered_geometry.detector_shape
    return FILTER_BYTES_PER_PIXEL * n_bins * rows * cols


def backprojection_bytes(task: SlabTask, cols: int, views: int) -> int:
    """Return the Python memory of one backprojection task in a fresh worker, in bytes."""
    batch = 4 * views * task.n_rows * cols
    arrow = ARROW_BATCHES_IN_FLIGHT * max(ARROW_BATCH_BYTES, 4 * task.n_rows * cols)
    return INTERPRETER_BYTES + task.slab.grid.nbytes + batch + arrow


def choose_slabs(
    geometry: ScanGeometry,
    blend: Blend | None,
    grid: VolumeGrid,
    n_bins: int,
    recipe: Recipe,
    slots: int,
    budget: int,
) -> tuple[SlabTask, ...]:
    """Return the slabs of a volume: as thick as a budget of Python memory in bytes allows, and enough for all slots.

    Raises
    ------
    RecipeError
        If not even one slice fits.
    """
    nz, cols = grid.shape[0], geometry.detector_shape[1]
    rows = SlabRows(geometry, grid)
    if recipe.run.slab_slices is not None:
        return _slab_tasks(rows, blend, grid, recipe.run.slab_slices)
    slice_bytes = 4 * grid.shape[1] * grid.shape[2]
    # No thicker slab can fit, whatever rows it reads.
    thickest = max(1, min(nz, (budget - INTERPRETER_BYTES) // slice_bytes))
    tasks: tuple[SlabTask, ...] = ()
    tried = 0
    for n in range(math.ceil(nz / thickest), nz + 1):
        thickness = math.ceil(nz / n)
        count = n_bins * math.ceil(nz / thickness)
        if math.ceil(count / slots) * slots > ACCEPTED_IDLE * count and thickness > 1:
            continue
        if thickness == tried:
            continue
        tried = thickness
        tasks = _slab_tasks(rows, blend, grid, thickness)
        if max(backprojection_bytes(task, cols, 1) for task in tasks) <= budget:
            return tasks
    needed = max(backprojection_bytes(task, cols, 1) for task in tasks)
    needed += recipe.run.memory_per_task_mib * MIB - budget
    raise RecipeError(
        f"run.memory_per_task_mib = {recipe.run.memory_per_task_mib} is too little: one slice of {grid.shape[1]} x "
        f"{grid.shape[2]} voxels needs {math.ceil(needed / MIB)} MiB"
    )


class SlabRows:
    """The detector rows of slab after slab of a grid: what :func:`rows_of_slab` says, from matrices worked out once.

    Parameters
    ----------
    geometry : ScanGeometry
        All views.
    grid : VolumeGrid
        The whole volume.
    """

    def __init__(self, geometry: ScanGeometry, grid: VolumeGrid) -> None:
        self._geometry = geometry
        self.n_views = len(geometry)
        y, x = (grid.axis_mm(axis)[[0, -1]] for axis in ("y", "x"))
        corners = np.array([(i, j, 0.0, 1.0) for j in y for i in x])
        matrices = geometry.projection_matrices()
        self._row, self._w = (matrices[:, k] @ corners.T for k in (1, 2))  # views x corners, at height 0
        self._row_step, self._w_step = (matrices[:, k, 2, None] for k in (1, 2))  # per mm of height

    def of(self, slab: VolumeGrid, first: int, stop: int) -> tuple[int, int]:
        """Return the rows ``[first, stop)`` of a slab in a run of views."""
        views = slice(first, stop)
        ends = []
        for z in slab.axis_mm("z")[[0, -1]]:
            w = self._w[views] + z * self._w_step[views]
            if w.min() <= 0:
                return rows_of_slab(self._geometry[views], slab)  # raises
            row = (self._row[views] + z * self._row_step[views]) / w
            ends += [row.min(), row.max()]
        rows = self._geometry.detector_shape[0]
        low, high = min(ends), max(ends)
        if not (high > -1 and low < rows):
            return rows_of_slab(self._geometry[views], slab)  # beside the detector
        band = int(np.clip(math.floor(low) - 1, 0, rows - 1))
        return whole_row_groups(band, int(np.clip(math.floor(high) + 3, band + 1, rows)), rows)


def _slab_tasks(rows: SlabRows, blend: Blend | None, grid: VolumeGrid, thickness: int) -> tuple[SlabTask, ...]:
    tasks = []
    for slab in grid.slabs(thickness):
        first, stop = 0, rows.n_views
        if blend is not None:
            used = np.flatnonzero(blend.weights(slab.grid.axis_mm("z")).any(axis=1))
            first, stop = int(used[0]), int(used[-1]) + 1
        tasks.append(SlabTask(slab, *rows.of(slab.grid, first, stop), first, stop))
    return tuple(tasks)
