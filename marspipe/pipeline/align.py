"""Find the center of rotation of a scan, and show it: one slice, reconstructed for several columns around it.

Executors preprocess every view as the recipe says and keep only the detector rows that the search and the slice need.
What reaches the driver is views x rows x columns of float32, at most :data:`MOST_BYTES`; from raw files also their
averaged open beams and dark frames, two frames per counter.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.errors import GeometryError, InputError
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.ingest import RawScan
from marspipe.pipeline.needed_rows import NeededRows, collect_rows
from marspipe.pipeline.planning.grid import centered_geometry, chosen_grid, tilted_geometry
from marspipe.pipeline.planning.plan import ReconstructionPlan, plan_reconstruction
from marspipe.pipeline.source import Measured
from marspipe.recipe import Geometry, Recipe
from marspipe.recon.alignment import (
    LOW_QUALITY,
    METHODS,
    CenterEstimate,
    UncertainCenterWarning,
    find_center,
    with_axis_column,
)
from marspipe.recon.alignment.sharpness import edge_slope
from marspipe.recon.fdk import fdk
from marspipe.recon.redundancy import choose_redundancy
from marspipe.scan.energy import counter_bins
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.show.progress import Progress

MIB = 2**20
# What the driver may be sent: it also must pass the JVM's driver, whose default memory is 2 GiB.
MOST_BYTES = 256 * MIB
MOST_STEPS = 12
# Rows around the mid-plane that are averaged for the search.
_ROWS_AVERAGED = 3


@dataclass(frozen=True, eq=False)
class SweepSlice:
    """A slice reconstructed with the axis at one column.

    Attributes
    ----------
    column_px : float
        The assumed column of the rotation axis, px.
    image : ndarray, float32, shape (y, x)
        Attenuation, 1/mm.
    sharpness : float
        :func:`marspipe.recon.alignment.sharpness.edge_slope` inside the field of view, 1/mm per mm.
    """

    column_px: float
    image: NDArray[np.float32]
    sharpness: float


@dataclass(frozen=True, eq=False)
class Alignment:
    """What :func:`align` found.

    Attributes
    ----------
    scan_id : str
        The scan.
    bin_label : str
        The energy bin that was used.
    given_px : float
        The axis' column of the scan's manifest or the recipe.
    estimate : CenterEstimate
        The column found, its quality and uncertainty.
    grid : VolumeGrid
        The slice that was reconstructed: one voxel along z.
    slices : tuple of SweepSlice
        In ascending order of the columns; ``slices[chosen]`` is at the column found.
    chosen : int
        See slices.
    """

    scan_id: str
    bin_label: str
    given_px: float
    estimate: CenterEstimate
    grid: VolumeGrid
    slices: tuple[SweepSlice, ...]
    chosen: int

    @property
    def trusted(self) -> bool:
        """Whether the column may be used without a look at the sweep."""
        return self.estimate.quality >= LOW_QUALITY

    @property
    def sharpest(self) -> SweepSlice:
        """The slice with the steepest edges."""
        return max(self.slices, key=lambda s: s.sharpness)


@dataclass(frozen=True, eq=False)
class AlignmentJob:
    """A scan, and which of its rows are needed; from :func:`prepare_alignment`."""

    source: RawScan | FramesTable
    recipe: Recipe
    plan: ReconstructionPlan
    geometry: ScanGeometry  # as manifest and recipe say
    bin: int
    slice: int
    method: str
    step_px: float
    steps: int
    search_rows: tuple[int, int]
    slice_rows: tuple[int, int]
    needed: NeededRows  # both of them, in the views of the slice's circle


def prepare_alignment(
    source: RawScan | FramesTable,
    recipe: Recipe,
    *,
    bin: int = 0,
    slice: int | None = None,
    method: str = "auto",
    step_px: float = 1.0,
    steps: int = 4,
) -> AlignmentJob:
    """Validate what is asked for, without Spark and without reading pixels.

    Parameters
    ----------
    source : RawScan or FramesTable
        From :func:`marspipe.pipeline.source.open_source`.
    recipe : Recipe
        Preprocessing, bins, grid and filter.
    bin : int
        Energy bin.
    slice : int, optional
        Index of the slice in the grid; by default the one nearest to the plane of the orbit.
    method : str
        One of :data:`marspipe.recon.alignment.METHODS`.
    step_px : float
        Distance of the sweep's columns, px.
    steps : int
        Columns on each side of the one found.

    Raises
    ------
    InputError
        If an option is wrong, or the scan has no orbit with a center of rotation.
    """
    if method not in METHODS:
        raise InputError(f"--method must be one of {', '.join(METHODS)}, got {method!r}")
    if not (math.isfinite(step_px) and step_px > 0):
        raise InputError(f"--step-px must be positive (px), got {step_px:g}")
    if not 1 <= steps <= MOST_STEPS:
        raise InputError(f"--steps must be 1..{MOST_STEPS} columns on each side, got {steps}")
    measured = Measured.by(source)
    given, counters = measured.geometry, measured.counters
    if given.orbit is None:
        raise GeometryError("a center of rotation needs a circular orbit, but this scan has a general geometry")
    geometry = centered_geometry(given, recipe)
    bins = tuple(counter_bins(counters, recipe.bins.kind))
    if not 0 <= bin < len(bins):
        raise InputError(f"--bin must be 0..{len(bins) - 1} ({', '.join(b.energy.label for b in bins)}), got {bin}")
    # The axis may be anywhere: plan, and reckon with rows, as if it were in the middle of the detector.
    middle = with_axis_column(geometry, 0.5 * (geometry.detector_shape[1] - 1))
    free = recipe.model_copy(update={"geometry": Geometry()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sweep says what matters for its slice
        plan = plan_reconstruction(middle, bins, free, 1)
    heights = geometry.source_mm[:, 2]
    z_mm = plan.grid.axis_mm("z")
    if slice is None:
        slice = int(np.abs(z_mm - 0.5 * (heights.min() + heights.max())).argmin())
    if not 0 <= slice < len(z_mm):
        raise InputError(f"--slice must be 0..{len(z_mm) - 1}, got {slice}")
    views = _circle(geometry, float(z_mm[slice]))
    if np.ptp(heights[views]) > 0.1 * _row_mm(geometry):
        raise GeometryError(
            f"the source moves from {heights.min():.6g} to {heights.max():.6g} mm along the axis: opposite views of a "
            "helix never see the same plane, so they cannot tell the center of rotation; align a circular scan"
        )
    window = plan.grid.window(z=_one(slice))
    bands = [tilted_geometry(g[views], recipe).rows_for(window) for g in (middle, geometry)]
    slice_rows = min(band[0] for band in bands), max(band[1] for band in bands)
    search_rows = slice_rows if _parallel(geometry) else _rows_near_mid_plane(geometry)
    rows = np.union1d(np.arange(*search_rows), np.arange(*slice_rows))
    needed = NeededRows(views, rows, geometry.detector_shape[1])
    if needed.nbytes > MOST_BYTES:
        raise InputError(
            f"--slice {slice} needs {len(rows)} detector rows of {len(views)} views, {needed.nbytes / MIB:.0f} MiB of "
            f"at most {MOST_BYTES // MIB} MiB: choose one nearer to the plane of the orbit"
        )
    return AlignmentJob(
        source, recipe, plan, geometry, bin, slice, method, step_px, steps, search_rows, slice_rows, needed
    )


def _one(index: int) -> Any:
    return np.s_[index : index + 1]


def _parallel(geometry: ScanGeometry) -> bool:
    assert geometry.orbit is not None
    return geometry.detector_shape[1] * geometry.orbit.pixel_pitch_mm[1] < 1e-3 * geometry.orbit.source_to_detector_mm


def _row_mm(geometry: ScanGeometry) -> float:
    """Return the height of a detector row, scaled to the axis, mm."""
    assert geometry.orbit is not None
    return geometry.orbit.pixel_pitch_mm[0] / geometry.orbit.magnification


def _circle(geometry: ScanGeometry, z_mm: float) -> NDArray[np.int64]:
    """Return the views of the circle nearest to a height; all views if they do not form circles."""
    heights, row_mm = geometry.source_mm[:, 2], _row_mm(geometry)
    levels = np.unique(np.round(heights / (0.1 * row_mm)))
    if len(levels) > len(heights) / 8:
        return np.arange(len(heights))
    nearest = heights[np.abs(heights - z_mm).argmin()]
    return np.flatnonzero(np.abs(heights - nearest) <= 0.1 * row_mm)


def _rows_near_mid_plane(geometry: ScanGeometry) -> tuple[int, int]:
    assert geometry.orbit is not None
    rows, row = geometry.detector_shape[0], geometry.orbit.principal_point_px[0]
    if not -1 < row < rows:
        warnings.warn(
            f"the plane of the orbit falls on row {row:.6g} of rows 0..{rows - 1}: opposite views do not see the same "
            "plane, and the center of rotation is less sure than its quality says",
            UncertainCenterWarning,
            stacklevel=3,
        )
    first = min(max(round(row - 0.5 * (_ROWS_AVERAGED - 1)), 0), max(rows - _ROWS_AVERAGED, 0))
    return first, min(first + _ROWS_AVERAGED, rows)


def align(spark: SparkSession, job: AlignmentJob, *, progress: Progress) -> Alignment:
    """Find the center of rotation and reconstruct the sweep.

    Parameters
    ----------
    spark : SparkSession
        The session.
    job : AlignmentJob
        From :func:`prepare_alignment`.
    progress : Progress
        Where to report.

    Raises
    ------
    InputError
        If the scan is damaged, or cannot tell where the axis is.

    Warns
    -----
    UncertainCenterWarning
        If the data hardly tell; the sweep then is around the best guess.
    """
    stack = collect_rows(spark, job.source, job.plan, job.recipe, job.bin, job.needed, progress=progress)
    geometry = job.geometry[job.needed.views]
    estimate = find_center(_band(stack, job, job.search_rows), geometry, method=job.method)
    of_slice = np.ascontiguousarray(_band(stack, job, job.slice_rows))
    with progress.stage("sweep", total=2 * job.steps + 1, unit="slices") as stage:
        grid, slices = _sweep(of_slice, geometry, job, estimate.column_px, stage.update)
    found = job.geometry.orbit
    assert found is not None
    chosen = int(np.argmin([abs(s.column_px - estimate.column_px) for s in slices]))
    label = job.plan.bins[job.bin].energy.label
    scan_id = job.source.scan_id if isinstance(job.source, FramesTable) else job.source.manifest.scan_id
    return Alignment(scan_id, label, found.principal_point_px[1], estimate, grid, slices, chosen)


def _band(stack: NDArray[np.float32], job: AlignmentJob, rows: tuple[int, int]) -> NDArray[np.float32]:
    first = int(np.searchsorted(job.needed.rows, rows[0]))
    return stack[:, first : first + rows[1] - rows[0]]


def _sweep(
    stack: NDArray[np.float32],
    geometry: ScanGeometry,
    job: AlignmentJob,
    column_px: float,
    done: Callable[[float], None],
) -> tuple[VolumeGrid, tuple[SweepSlice, ...]]:
    """Reconstruct the slice with the axis at the column found and at those around it, as far as they are columns."""
    recipe = job.recipe
    settings = recipe.filter
    best = with_axis_column(geometry, column_px)
    grid = chosen_grid(best, recipe).window(z=_one(job.slice))
    y, x = grid.axis_mm("y"), grid.axis_mm("x")
    columns = column_px + job.step_px * np.arange(-job.steps, job.steps + 1)
    columns = columns[(columns > 0) & (columns < geometry.detector_shape[1] - 1)]
    slices = []
    first, stop = job.slice_rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inside = np.hypot(y[:, None], x) < 0.97 * choose_redundancy(best, settings.redundancy).field_of_view_mm
    for number, column in enumerate(columns):
        with warnings.catch_warnings():
            if column != column_px:
                warnings.simplefilter("ignore")  # said once, for the column found
            image = fdk(
                stack,
                tilted_geometry(with_axis_column(geometry, float(column)), recipe)[:, first:stop],
                grid,
                window=settings.window,
                cutoff=settings.cutoff,
                redundancy=settings.redundancy,
                truncation=settings.truncation,
                backend=recipe.run.backend,
            )[0]
        slices.append(SweepSlice(float(column), image, edge_slope(image, grid.voxel_mm[1:], inside)))
        done(number + 1)
    return grid, tuple(slices)
