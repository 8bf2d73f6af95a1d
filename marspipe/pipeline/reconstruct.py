"""Reconstruct a scan: frames table -> line integrals -> filtered rows -> slabs -> committed volume.

The plan, in order: per view, counters to line integrals; stripes, by angle or in the sinograms; weights and ramp
filter, cut into the row bands that each slab needs; shuffle so that the bands of (bin, slab) meet in the partition of
that number, sorted by view; backproject slab by slab; write; commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import marspipe
from marspipe.errors import ScanError
from marspipe.pipeline.backproject_slabs import BackprojectionStage
from marspipe.pipeline.calibrate import CalibrationReader
from marspipe.pipeline.camera import Camera
from marspipe.pipeline.corrections import angular_stripes, settings_for, sinogram_stripes
from marspipe.pipeline.exposures import FRAME_COLUMNS
from marspipe.pipeline.failures import spark_failures
from marspipe.pipeline.filter_views import FilterStage
from marspipe.pipeline.line_integrals import Corrections
from marspipe.pipeline.pixel_flags import count_flags_of_bins, write_pixel_flags
from marspipe.pipeline.plan import ReconstructionPlan, plan_reconstruction
from marspipe.pipeline.scan_frames import FramesTable
from marspipe.pipeline.session import configure, task_slots
from marspipe.pipeline.source import Measured
from marspipe.pipeline.stages import as_function
from marspipe.pipeline.stock import take_stock
from marspipe.pipeline.stripe_bands import plan_row_bands, without_stripes
from marspipe.pipeline.stripe_sums import AngularStage, without_offsets, write_stripe_offsets
from marspipe.pipeline.views import Views, corrected_by_position, corrected_in_place, joins_open_beams
from marspipe.pipeline.watch import watch_stages
from marspipe.preprocess.chain_settings import ChainSettings
from marspipe.recipe import Recipe, content_hash
from marspipe.scan.energy import counter_bins
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.commit import claim_output, commit, committed
from marspipe.store.pixel_flags import PIXEL_FLAGS_FOLDER
from marspipe.store.tables import read_table, spark_schema, write_table

# Input splits of the filter stage per task slot, unless that would make them too large. A Python task costs some 30 ms
# before its first row, so small scans are cut no finer than the slots need.
SPLITS_PER_SLOT = 1
LARGEST_SPLIT_BYTES = 128 * 2**20
# Beside the volume while it is made.
SCRATCH_FOLDER = "_scratch"


@dataclass(frozen=True)
class Reconstruction:
    """A scan, a recipe and the plan that follows from them."""

    frames: FramesTable
    measured: Measured
    recipe: Recipe
    settings: ChainSettings
    plan: ReconstructionPlan

    @property
    def camera(self) -> Camera:
        """The camera and its positions."""
        return self.measured.camera

    @property
    def content_hash(self) -> str:
        """Hash of everything the voxels depend on: frames, recipe, grid, geometry and code version."""
        return content_hash(
            [
                self.frames.metadata["content_hash"],
                self.recipe.content_hash(),
                self.plan.grid.to_dict(),
                self.plan.geometry.to_dict(),
                marspipe.__version__,
            ]
        )


def prepare(frames_uri: str, recipe: Recipe, slots: int) -> Reconstruction:
    """Validate a recipe against a frames table and cut the work, without running it and without reading pixels.

    Raises
    ------
    InputError
        If no frames are committed there, or the recipe does not fit the scan.
    """
    frames = FramesTable.open(frames_uri)
    dim = sorted({c.index for c in frames.counters} - frames.open_beam_counters)
    if dim:
        raise ScanError(f"{frames_uri}: no open beam for counter {', '.join(map(str, dim))}")
    bins = tuple(counter_bins(frames.counters, recipe.bins.kind))
    measured = Measured.by(frames)
    settings = settings_for(recipe, frames.metadata.get("tube"), measured)
    plan = plan_reconstruction(measured.geometry, bins, recipe, slots)
    return Reconstruction(frames, measured, recipe, settings, plan)


def reconstruct(
    spark: SparkSession,
    job: Reconstruction,
    out_uri: str,
    *,
    progress: Progress,
    overwrite: bool = False,
    resume: bool = False,
) -> str:
    """Reconstruct and commit a volume.

    Parameters
    ----------
    spark : SparkSession
        The session.
    job : Reconstruction
        From :func:`prepare`.
    out_uri : str
        Folder of the results; the volume goes to ``out_uri/volume``.
    progress : Progress
        Where to report.
    overwrite : bool
        Replace a committed volume.
    resume : bool
        Keep a committed volume that was made from the same frames by the same recipe and code.

    Returns
    -------
    str
        Folder of the committed volume.

    Raises
    ------
    OutputExistsError
        If a committed volume is in the way, or the folder cannot be written.
    RunError
        If the run failed; then nothing is committed.
    """
    volume_uri = storage.join(out_uri, "volume")
    existing = committed(volume_uri)
    if resume and existing is not None and existing.get("content_hash") == job.content_hash:
        return volume_uri
    corrections = corrections_of(job)
    claim_output(volume_uri, overwrite=overwrite)
    configure(spark)
    scratch = storage.join(out_uri, SCRATCH_FOLDER)
    flags_uri = storage.join(scratch, "pixel_flags")
    try:
        with spark_failures("the search for bad pixels"), watch_stages(spark, progress, ["bad pixels"]):
            write_pixel_flags(spark, corrections, flags_uri)
        views = without_rings(spark, job, corrected_views(spark, job, corrections, flags_uri), scratch, progress)
        with spark_failures("the reconstruction"), watch_stages(spark, progress, _stage_names(job)):
            slabs = backprojected(filtered_bands(views, job), job)
            # A tile is a row group: a slice is one ranged read, and the footers know every tile's statistics.
            write_table(slabs, volume_uri, row_group_bytes=2**27, row_group_rows=1)
        storage.rename(flags_uri, storage.join(volume_uri, PIXEL_FLAGS_FOLDER))
    finally:
        storage.remove_tree(scratch)
    files, statistics = take_stock(volume_uri, job.plan)
    bad_pixels = count_flags_of_bins(storage.join(volume_uri, PIXEL_FLAGS_FOLDER), len(job.plan.bins))
    commit(volume_uri, _volume_metadata(job, files, statistics, bad_pixels))
    return volume_uri


def corrections_of(job: Reconstruction) -> Corrections:
    """Return how the frames of a scan become line integrals."""
    calibrations = CalibrationReader.of(job.frames.uri, job.frames.metadata)
    return Corrections(job.camera, job.plan.bins, job.settings, calibrations, str(uuid4())).on_one_scale()


def corrected_views(spark: SparkSession, job: Reconstruction, corrections: Corrections, flags_uri: str) -> Views:
    """Return the line integrals of a scan, stripes and all."""
    slots = task_slots(spark)
    split_bytes = max(2**20, min(LARGEST_SPLIT_BYTES, job.frames.pixel_bytes // (SPLITS_PER_SLOT * slots)))
    spark.conf.set("spark.sql.files.maxPartitionBytes", str(split_bytes))
    # Row groups hold whole views (see ingest), splits hold whole row groups: a view never meets two tasks.
    frames = read_table(spark, job.frames.uri, "frames", "frame_type", *FRAME_COLUMNS)
    projections = frames.where(F.col("frame_type") == "projection").drop("frame_type")
    if joins_open_beams(job.frames.uri, job.camera.n_tiles, job.recipe.run):
        n_views = len(job.plan.geometry)
        return corrected_by_position(projections, corrections, flags_uri, n_views=n_views, slots=slots)
    return corrected_in_place(projections, corrections)


def without_rings(spark: SparkSession, job: Reconstruction, views: Views, scratch: str, progress: Progress) -> Views:
    """Return the line integrals without the stripes that the recipe wants removed."""
    stripes, n_bins = job.recipe.preprocess.stripes, len(job.plan.bins)
    by_angle, method = angular_stripes(stripes), sinogram_stripes(stripes)
    n_views, shape = len(job.plan.geometry), job.plan.geometry.detector_shape
    if by_angle is not None:
        stage = AngularStage(n_views, n_bins, shape, by_angle)
        uri = storage.join(scratch, "stripe_offsets")
        with spark_failures("the search for stripes"), watch_stages(spark, progress, ["correct", "stripes"]):
            write_stripe_offsets(views, stage, uri)
        return without_offsets(views, stage, uri)
    if method is not None:
        memory = job.recipe.run.memory_per_task_mib * 2**20
        bands = plan_row_bands(n_views, n_bins, shape, slots=task_slots(spark), memory_bytes=memory)
        return without_stripes(views, bands, method)
    return views


def _stage_names(job: Reconstruction) -> list[str]:
    joined = joins_open_beams(job.frames.uri, job.camera.n_tiles, job.recipe.run)
    before = ["frames", "correct"] if joined else []
    if job.recipe.preprocess.stripes.mode == "sinogram":
        before = before or ["correct"]
        before.append("stripes")
    return [*before, "filter", "backproject"]


def filtered_bands(views: Views, job: Reconstruction) -> DataFrame:
    """Return the bands table of a scan: one row per view and backprojection task."""
    stage, views_of = FilterStage(job.plan, job.recipe.filter), views.read

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from stage(views_of(batches))

    return views.data.mapInArrow(run, spark_schema("bands"))


def backprojected(bands: DataFrame, job: Reconstruction) -> DataFrame:
    """Return the volume table: partition number = task number, one whole slab each."""
    # Placement by number, since hashing would leave some partitions empty and others doubled.
    placed = bands.repartitionById(job.plan.n_tasks, "task").sortWithinPartitions("view")
    stage = BackprojectionStage(job.plan, job.recipe.run.backend)
    return placed.mapInArrow(as_function(stage), spark_schema("volume"))


def _volume_metadata(
    job: Reconstruction,
    files: list[dict[str, Any]],
    statistics: list[dict[str, float]],
    bad_pixels: list[dict[str, int]],
) -> dict[str, Any]:
    plan, recipe, frames = job.plan, job.recipe, job.frames
    return {
        "kind": "volume",
        "format": 1,
        "version": marspipe.__version__,
        "scan_id": frames.scan_id,
        "description": frames.metadata.get("description", ""),
        "units": "1/mm",
        "bins": [
            {"low_kev": b.energy.low_kev, "high_kev": b.energy.high_kev, "label": b.energy.label, "mode": b.mode}
            for b in plan.bins
        ],
        "grid": plan.grid.to_dict(),
        "geometry": plan.geometry.to_dict(),
        "tube": frames.metadata.get("tube"),
        "acquired_at": frames.metadata.get("acquired_at"),
        "redundancy": {"name": plan.redundancy.name, "description": plan.redundancy.description},
        "filter": recipe.filter.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe.content_hash(),
        "frames_uri": frames.uri,
        "frames_hash": frames.metadata["content_hash"],
        "content_hash": job.content_hash,
        "statistics": statistics,
        "camera_positions_mm": [list(position) for position in job.camera.positions_mm],
        "bad_pixels": bad_pixels,
        "files": files,
    }
