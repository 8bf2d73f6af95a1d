"""How a reconstruction is cut into tasks, computed before anything runs.

Memory of a backprojection task = worker + what an earlier filter task left in it + one slab + one batch of views +
Arrow batches in flight. Slabs are as thick as that allows, since thin ones read detector rows twice, and as many as
keep all task slots busy.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from marspipe.errors import RecipeError
from marspipe.pipeline.session import ARROW_BATCH_BYTES
from marspipe.recipe import Filter, Recipe
from marspipe.recon.backprojection import whole_row_groups
from marspipe.recon.field_of_view import check_field_of_view, rows_of_slab
from marspipe.recon.filtering import ViewFilter
from marspipe.recon.redundancy import Redundancy, choose_redundancy
from marspipe.recon.redundancy.blending import TURN_AND_BLEND, Blend, HelixBlend
from marspipe.scan.energy import CounterBin
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import Slab, VolumeGrid
from marspipe.store.blobs import ARROW_BINARY_LIMIT

MIB = 2**20

# A Python worker with NumPy, numba, SciPy and Arrow loaded and its kernels compiled.
INTERPRETER_BYTES = 335 * MIB
# Arrow holds one batch while the next arrives, on either side of the border to the JVM.
ARROW_BATCHES_IN_FLIGHT = 2
# What the corrections and the filter of a view hold and leave in the heap, per pixel of the wide detector and bin:
# open beams and their sums in float64, masks, weights, the view on its way and its bands.
FILTER_BYTES_PER_PIXEL = 240
# What a filter task left behind takes at most this part of the memory that slab and batch are planned by.
LARGEST_LEFT_SHARE = 0.6
# A kernel call walks the whole slab once, whatever the number of views; beyond this batch that no longer shows.
VIEWS_WANTED = 64
BATCH_BYTES_WANTED = 256 * MIB
# A volume slab leaves a task in runs of slices of about this size.
OUTPUT_BATCH_BYTES = 32 * MIB
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
        more = max(0, self.view_bytes - 4 * len(self.bins) * rows * cols)
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


def left_bytes(filtered_geometry: ScanGeometry, n_bins: int) -> int:
    """Return what corrections and filter leave in a worker, in bytes."""
    rows, cols = filtered_geometry.detector_shape
    return FILTER_BYTES_PER_PIXEL * n_bins * rows * cols


def backprojection_bytes(task: SlabTask, cols: int, views: int) -> int:
    """Return the Python memory of one backprojection task in a fresh worker, in bytes."""
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
    straight = centered_geometry(geometry, recipe)
    grid = chosen_grid(straight, recipe)
    geometry = tilted_geometry(straight, recipe)
    geometry.rows_for(grid)
    filtered, redundancy = _filtered_geometry(geometry, recipe.filter)
    check_field_of_view(geometry, grid, redundancy)
    budget = recipe.run.memory_per_task_mib * MIB
    most = int(LARGEST_LEFT_SHARE * max(0, budget - INTERPRETER_BYTES))
    budget -= min(left_bytes(filtered, len(bins)), most)
    slabs = _choose_slabs(filtered, redundancy.blend, grid, len(bins), recipe, slots, budget)
    cols = filtered.detector_shape[1]
    views = recipe.run.views_per_batch
    if views is None:
        free = budget - max(backprojection_bytes(task, cols, 0) for task in slabs)
        per_view = 4 * cols * max(task.n_rows for task in slabs)
        views = max(1, min(len(geometry), VIEWS_WANTED, BATCH_BYTES_WANTED // per_view, free // per_view))
    row_bytes = 4 * grid.shape[2]
    tile_rows = max(1, min(grid.shape[1], int(recipe.output.tile_mib * MIB) // row_bytes))
    plan = ReconstructionPlan(geometry, filtered, redundancy, grid, bins, slabs, views, tile_rows)
    if plan.view_bytes > ARROW_BINARY_LIMIT:
        raise RecipeError(
            f"the bands of a view for all {len(slabs)} slabs are {plan.view_bytes / 2**30:.3g} GiB, and 2 GiB are the "
            "limit of a record: give thicker slabs more run.memory_per_task_mib, or reconstruct a part of the volume "
            "at a time (grid.shape, grid.center_mm)"
        )
    return plan


def _filtered_geometry(geometry: ScanGeometry, settings: Filter) -> tuple[ScanGeometry, Redundancy]:
    """Return the geometry of the filtered views and the redundancy weights."""
    orbit = geometry.orbit
    if orbit is None or np.ptp(geometry.source_mm[:, 2]) > 0:
        view_filter = make_view_filter(geometry, settings)
        return view_filter.filtered_geometry, view_filter.redundancy
    # Neither depends on the rows of a circle's detector, and the weights of all its pixels can be gigabytes.
    view_filter = make_view_filter(geometry[:, :1], settings)
    thin = view_filter.filtered_geometry
    assert thin.orbit is not None
    if thin.detector_shape[1] == geometry.detector_shape[1]:
        return geometry, view_filter.redundancy
    shape = geometry.detector_shape[0], thin.detector_shape[1]
    point = orbit.principal_point_px[0], thin.orbit.principal_point_px[1]
    return geometry.with_detector(shape, point), view_filter.redundancy


def _choose_slabs(
    geometry: ScanGeometry,
    blend: Blend | None,
    grid: VolumeGrid,
    n_bins: int,
    recipe: Recipe,
    slots: int,
    budget: int,
) -> tuple[SlabTask, ...]:
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


def make_view_filter(geometry: ScanGeometry, settings: Filter) -> ViewFilter:
    """Return the weights and the ramp filter that a recipe asks for."""
    return ViewFilter(
        geometry,
        window=settings.window,
        cutoff=settings.cutoff,
        redundancy=settings.redundancy,
        truncation=settings.truncation,
    )


def tilted_geometry(geometry: ScanGeometry, recipe: Recipe) -> ScanGeometry:
    """Return the geometry with the detector turned and tilted as the recipe says; a general one then."""
    turns = recipe.geometry
    if not (turns.detector_in_plane_rad or turns.detector_about_u_rad or turns.detector_about_v_rad):
        return geometry
    return geometry.with_tilted_detector(
        in_plane_rad=turns.detector_in_plane_rad,
        about_u_rad=turns.detector_about_u_rad,
        about_v_rad=turns.detector_about_v_rad,
    )


def centered_geometry(geometry: ScanGeometry, recipe: Recipe) -> ScanGeometry:
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
    return geometry.with_detector(geometry.detector_shape, (row, given if column is None else column))


def chosen_grid(geometry: ScanGeometry, recipe: Recipe) -> VolumeGrid:
    """Return the recipe's grid, what it leaves out taken from the detector.

    Voxels are as large as a pixel at the isocenter. The grid covers the field of view: across, the circle that every
    view sees, or every other view if the detector is offset on purpose; along the axis, what the detector sees there.
    """
    orbit = geometry.orbit
    spec = recipe.grid
    heights = geometry.source_mm[:, 2]
    center = spec.center_mm or (float(heights.min() + heights.max()) / 2, 0.0, 0.0)
    if orbit is None:
        if spec.shape is None or spec.voxel_mm is None:
            raise RecipeError("grid.shape and grid.voxel_mm must be given for a scan with a general geometry")
        return VolumeGrid(spec.shape, spec.voxel_mm, center)
    pitch_v, pitch_u = (pitch / orbit.magnification for pitch in orbit.pixel_pitch_mm)
    voxel = spec.voxel_mm or (pitch_v, pitch_u, pitch_u)
    shape = spec.shape
    if shape is None:
        rows, cols = geometry.detector_shape
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the view filter will say it
            redundancy = choose_redundancy(geometry, recipe.filter.redundancy)
        sides = orbit.principal_point_px[1], cols - 1 - orbit.principal_point_px[1]
        half_px = (max(sides) if any(redundancy.pad_columns) else min(sides)) + 0.5
        fan_rad = math.atan(half_px * orbit.pixel_pitch_mm[1] / orbit.source_to_detector_mm)
        diameter = 2 * orbit.source_to_isocenter_mm * math.sin(fan_rad)
        # A hair of tolerance: the field of view of a parallel beam is a whole number of voxels up to rounding.
        across = [max(1, math.floor(diameter / size * (1 + 1e-3) + 1e-6)) for size in voxel[1:]]
        along = rows * pitch_v
        if redundancy.blend is not None:
            along += float(np.ptp(heights))
        if isinstance(redundancy.blend, HelixBlend):
            along -= 2 * TURN_AND_BLEND * redundancy.blend.pitch_mm  # the turns at the ends measure less
        shape = (max(1, round(along / voxel[0])), across[0], across[1])
    return VolumeGrid(shape, voxel, center)
