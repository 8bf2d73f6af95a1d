"""How a reconstruction is cut into tasks, computed before anything runs.

Memory of a backprojection task = interpreter + one slab + one batch of views + Arrow batches in flight. Slabs are as
thick as that allows, since thin ones read detector rows twice, and as many as keep all task slots busy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from marspipe.errors import GeometryError, RecipeError
from marspipe.pipeline.session import ARROW_BATCH_BYTES
from marspipe.recipe import Recipe
from marspipe.recon.backprojection import whole_row_groups
from marspipe.recon.fdk import check_field_of_view
from marspipe.recon.filtering import ViewFilter
from marspipe.recon.redundancy import Redundancy
from marspipe.scan.energy import CounterBin
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import Slab, VolumeGrid

MIB = 2**20

# A Python worker with NumPy, numba, SciPy and Arrow loaded and its kernels compiled.
INTERPRETER_BYTES = 340 * MIB
# Arrow holds one batch while the next arrives, on either side of the border to the JVM.
ARROW_BATCHES_IN_FLIGHT = 4
# A kernel call walks the whole slab once, whatever the number of views; beyond this batch that no longer shows.
VIEWS_WANTED = 64
BATCH_BYTES_WANTED = 256 * MIB
# A volume slab leaves a task in runs of slices of about this size.
OUTPUT_BATCH_BYTES = 32 * MIB
# Tasks should fill the slots evenly: accept this much idle time rather than thinner slabs.
ACCEPTED_IDLE = 1.1


@dataclass(frozen=True)
class SlabTask:
    """A slab and the detector rows ``[row_first, row_stop)`` that it reads."""

    slab: Slab
    row_first: int
    row_stop: int

    @property
    def n_rows(self) -> int:
        """Number of detector rows."""
        return self.row_stop - self.row_first


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
        rows = sum(task.n_rows for task in self.slabs)
        return 4 * len(self.bins) * len(self.geometry) * self.filtered_geometry.detector_shape[1] * rows

    @property
    def volume_bytes(self) -> int:
        """Bytes of the finished volume."""
        return len(self.bins) * self.grid.nbytes

    @cached_property
    def task_bytes(self) -> int:
        """Python memory of the largest backprojection task."""
        return max(
            backprojection_bytes(task, self.filtered_geometry.detector_shape[1], self.views_per_batch)
            for task in self.slabs
        )

    def describe(self) -> str:
        """Return the plan as lines for people."""
        rows, cols = self.geometry.detector_shape
        nz, ny, nx = self.grid.shape
        dz, dy, dx = self.grid.voxel_mm
        thickest = max(task.slab.n_slices for task in self.slabs)
        overlap = sum(task.n_rows for task in self.slabs) / max(1, max(t.row_stop for t in self.slabs))
        return "\n".join(
            [
                f"scan     {len(self.geometry)} views of {rows} x {cols} px, {len(self.bins)} energy bins: "
                + ", ".join(b.energy.label for b in self.bins),
                f"volume   {nz} x {ny} x {nx} voxels (z, y, x) of {dz:.6g} x {dy:.6g} x {dx:.6g} mm per bin, "
                f"{self.volume_bytes / MIB:.1f} MiB in all",
                f"weights  {self.redundancy.name}: {self.redundancy.description}",
                f"slabs    {len(self.slabs)} of at most {thickest} slices; rows read {overlap:.2f} times",
                f"tasks    {self.n_tasks} backprojection tasks, {self.views_per_batch} views a kernel call",
                f"memory   {self.task_bytes / MIB:.0f} MiB of Python memory per backprojection task",
                f"shuffle  {self.shuffle_bytes / MIB:.1f} MiB of filtered rows",
            ]
        )


def backprojection_bytes(task: SlabTask, cols: int, views: int) -> int:
    """Return the Python memory of one backprojection task, in bytes."""
    batch = 4 * views * task.n_rows * cols
    arrow = ARROW_BATCHES_IN_FLIGHT * max(ARROW_BATCH_BYTES, 4 * task.n_rows * cols)
    return INTERPRETER_BYTES + task.slab.grid.nbytes + batch + arrow


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
    geometry = corrected_geometry(geometry, recipe)
    grid = chosen_grid(geometry, recipe)
    geometry.rows_for(grid)
    view_filter = make_view_filter(geometry, recipe)
    filtered = view_filter.filtered_geometry
    check_field_of_view(geometry, grid, view_filter.redundancy)
    budget = recipe.run.memory_per_task_mib * MIB
    slabs = _choose_slabs(filtered, grid, len(bins), recipe, slots, budget)
    cols = filtered.detector_shape[1]
    views = recipe.run.views_per_batch
    if views is None:
        free = budget - max(backprojection_bytes(task, cols, 0) for task in slabs)
        per_view = 4 * cols * max(task.n_rows for task in slabs)
        views = max(1, min(len(geometry), VIEWS_WANTED, BATCH_BYTES_WANTED // per_view, free // per_view))
    row_bytes = 4 * grid.shape[2]
    tile_rows = max(1, min(grid.shape[1], int(recipe.output.tile_mib * MIB) // row_bytes))
    return ReconstructionPlan(geometry, filtered, view_filter.redundancy, grid, bins, slabs, views, tile_rows)


def _choose_slabs(
    geometry: ScanGeometry, grid: VolumeGrid, n_bins: int, recipe: Recipe, slots: int, budget: int
) -> tuple[SlabTask, ...]:
    nz, cols = grid.shape[0], geometry.detector_shape[1]
    if recipe.run.slab_slices is not None:
        return _slab_tasks(geometry, grid, recipe.run.slab_slices)
    tasks: tuple[SlabTask, ...] = ()
    for n in range(1, nz + 1):
        thickness = math.ceil(nz / n)
        count = n_bins * math.ceil(nz / thickness)
        if math.ceil(count / slots) * slots > ACCEPTED_IDLE * count and thickness > 1:
            continue
        tasks = _slab_tasks(geometry, grid, thickness)
        if max(backprojection_bytes(task, cols, 1) for task in tasks) <= budget:
            return tasks
    needed = max(backprojection_bytes(task, cols, 1) for task in tasks)
    raise RecipeError(
        f"run.memory_per_task_mib = {recipe.run.memory_per_task_mib} is too little: one slice of {grid.shape[1]} x "
        f"{grid.shape[2]} voxels needs {math.ceil(needed / MIB)} MiB"
    )


def _slab_tasks(geometry: ScanGeometry, grid: VolumeGrid, thickness: int) -> tuple[SlabTask, ...]:
    rows = geometry.detector_shape[0]
    return tuple(
        SlabTask(slab, *whole_row_groups(*_rows_or_none(geometry, slab.grid), rows)) for slab in grid.slabs(thickness)
    )


def _rows_or_none(geometry: ScanGeometry, window: VolumeGrid) -> tuple[int, int]:
    """Return the rows of a slab; one row for a slab above or below the cone, whose voxels stay zero."""
    try:
        return geometry.rows_for(window)
    except GeometryError:
        row = geometry.project(window.corners_mm())[0]
        return (0, 1) if row.max() < 0 else (geometry.detector_shape[0] - 1, geometry.detector_shape[0])


def make_view_filter(geometry: ScanGeometry, recipe: Recipe) -> ViewFilter:
    """Return the weights and the ramp filter that a recipe asks for."""
    return ViewFilter(
        geometry, window=recipe.filter.window, cutoff=recipe.filter.cutoff, redundancy=recipe.filter.redundancy
    )


def corrected_geometry(geometry: ScanGeometry, recipe: Recipe) -> ScanGeometry:
    """Return the geometry with the recipe's principal point or center of rotation."""
    point, column = recipe.geometry.principal_point_px, recipe.geometry.center_of_rotation_px
    if point is None and column is None:
        return geometry
    orbit = geometry.orbit
    if orbit is None:
        raise RecipeError(
            "geometry.principal_point_px and geometry.center_of_rotation_px apply to circular orbits only; "
            "this scan has a general geometry"
        )
    row, given = point if point is not None else orbit.principal_point_px
    return ScanGeometry.circular(
        source_to_isocenter_mm=orbit.source_to_isocenter_mm,
        source_to_detector_mm=orbit.source_to_detector_mm,
        detector_shape=geometry.detector_shape,
        pixel_pitch_mm=orbit.pixel_pitch_mm,
        angles_rad=geometry.angles_rad,
        principal_point_px=(row, given if column is None else column),
    )


def chosen_grid(geometry: ScanGeometry, recipe: Recipe) -> VolumeGrid:
    """Return the recipe's grid, what it leaves out taken from the detector.

    Voxels are as large as a pixel at the isocenter. The grid covers the field of view: across, the circle that every
    view sees; along the axis, what the detector sees at the isocenter.
    """
    orbit = geometry.orbit
    spec = recipe.grid
    if orbit is None:
        if spec.shape is None or spec.voxel_mm is None:
            raise RecipeError("grid.shape and grid.voxel_mm must be given for a scan with a general geometry")
        return VolumeGrid(spec.shape, spec.voxel_mm, spec.center_mm)
    pitch_v, pitch_u = (pitch / orbit.magnification for pitch in orbit.pixel_pitch_mm)
    voxel = spec.voxel_mm or (pitch_v, pitch_u, pitch_u)
    shape = spec.shape
    if shape is None:
        rows, cols = geometry.detector_shape
        half_px = min(orbit.principal_point_px[1], cols - 1 - orbit.principal_point_px[1]) + 0.5
        if half_px <= 0.5:
            raise RecipeError("grid.shape must be given: the rotation axis projects beside the detector")
        fan_rad = math.atan(half_px * orbit.pixel_pitch_mm[1] / orbit.source_to_detector_mm)
        diameter = 2 * orbit.source_to_isocenter_mm * math.sin(fan_rad)
        # A hair of tolerance: the field of view of a parallel beam is a whole number of voxels up to rounding.
        across = [max(1, math.floor(diameter / size * (1 + 1e-3) + 1e-6)) for size in voxel[1:]]
        shape = (max(1, round(rows * pitch_v / voxel[0])), across[0], across[1])
    return VolumeGrid(shape, voxel, spec.center_mm)
