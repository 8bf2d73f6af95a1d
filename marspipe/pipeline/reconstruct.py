"""Reconstruct a scan: frames table -> line integrals -> filtered rows -> slabs -> committed volume.

The plan, in order: per view, counters to line integrals; stripes, by angle or in the sinograms; weights and ramp
filter, cut into the row bands that each slab needs; shuffle so that the bands of (bin, slab) meet in one partition,
sorted by view; backproject slab by slab; write; commit.

A version of the volume is made in a work folder beside the others. What an interrupted job has finished there, tables
of the early stages and slabs, is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import marspipe
from marspipe.errors import ScanError
from marspipe.pipeline.backproject_slabs import BackprojectionStage
from marspipe.pipeline.corrections.calibrate import CalibrationReader
from marspipe.pipeline.corrections.camera import Camera
from marspipe.pipeline.corrections.line_integrals import Corrections
from marspipe.pipeline.corrections.pixel_flags import count_flags_of_bins, write_pixel_flags
from marspipe.pipeline.corrections.settings import angular_stripes, settings_for, sinogram_stripes
from marspipe.pipeline.corrections.stripe_bands import plan_row_bands, without_stripes
from marspipe.pipeline.corrections.stripe_sums import AngularStage, without_offsets, write_stripe_offsets
from marspipe.pipeline.corrections.views import Views, corrected_by_position, corrected_in_place, joins_open_beams
from marspipe.pipeline.filter_views import FilterStage
from marspipe.pipeline.frames.exposures import FRAME_COLUMNS
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.planning.plan import ReconstructionPlan, plan_reconstruction
from marspipe.pipeline.source import Measured
from marspipe.pipeline.spark.failures import spark_failures
from marspipe.pipeline.spark.gpu import gpu_profile
from marspipe.pipeline.spark.session import configure, task_slots
from marspipe.pipeline.spark.stages import as_function
from marspipe.pipeline.spark.watch import watch_stages
from marspipe.pipeline.stock import take_stock
from marspipe.pipeline.work_folder import FILTERED, STRIPE_OFFSETS, WorkFolder
from marspipe.preprocess.chain_settings import ChainSettings
from marspipe.recipe import Recipe, content_hash
from marspipe.scan.energy import counter_bins
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.commit import committed, refuse_committed, require_writable
from marspipe.store.pixel_flags import PIXEL_FLAGS_FOLDER
from marspipe.store.tables import read_table, spark_schema, write_table
from marspipe.store.versions import add_version, data_folder, keep_newest, remove_unfinished

# Input splits of the filter stage per task slot, unless that would make them too large. A Python task costs some 30 ms
# before its first row, so small scans are cut no finer than the slots need.
SPLITS_PER_SLOT = 1
LARGEST_SPLIT_BYTES = 128 * 2**20
FILTERED_ROW_GROUP_BYTES = 32 * 2**20
# What the frames table says of the scan beside its frames and their geometry, and a volume is made with.
_FACTS_OF_THE_SCAN = ("counters", "camera_positions_mm", "chip_edges", "counter_depth_bits", "tube")


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
        """Hash of everything a volume depends on: frames, facts of the scan, recipe, grid, geometry, code's results."""
        return content_hash(
            [
                self.frames.metadata["content_hash"],
                [self.frames.metadata.get(name) for name in _FACTS_OF_THE_SCAN],
                self.recipe.content_hash(),
                self.plan.grid.to_dict(),
                self.plan.geometry.to_dict(),
                marspipe.RESULTS_VERSION,
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


@dataclass(frozen=True)
class Reconstructed:
    """What a reconstruction did.

    Attributes
    ----------
    volume_uri : str
        The committed volume.
    version_uri : str
        The version of it that was made from these frames by this recipe.
    slabs : int
        Slabs of all bins.
    slabs_kept : int
        Those that were there already: from an interrupted job, or all of them if the volume was.
    stages_kept : tuple of str
        Earlier stages whose tables were there already.
    """

    volume_uri: str
    version_uri: str
    slabs: int
    slabs_kept: int
    stages_kept: tuple[str, ...] = ()


def reconstruct(
    spark: SparkSession,
    job: Reconstruction,
    out_uri: str,
    *,
    progress: Progress,
    overwrite: bool = False,
    resume: bool = False,
    keep_versions: int = 1,
    run_id: str | None = None,
    before_commit: Callable[[], None] = lambda: None,
) -> Reconstructed:
    """Reconstruct and commit a volume.

    What an interrupted job of the same content hash has left is used, unless ``overwrite`` is given without
    ``resume``. Only one job may work in a folder: see :func:`marspipe.store.lock.held`.

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
        Make a new version of a committed volume.
    resume : bool
        Keep a committed volume that was made from the same frames by the same recipe and code.
    keep_versions : int
        Versions of the volume that stay, the new one among them.
    run_id : str, optional
        Name of the run, for the volume's metadata.
    before_commit : callable
        Called before the new version becomes the current one; what it raises prevents that.

    Raises
    ------
    OutputExistsError
        If a committed volume is in the way, or the folder cannot be written.
    RunError
        If the run failed; then nothing is committed, and what it finished is kept for the next one.
    """
    volume_uri = storage.join(out_uri, "volume")
    existing = committed(volume_uri)
    if resume and existing is not None and existing.get("content_hash") == job.content_hash:
        n_tasks = len(existing["files"])
        return Reconstructed(volume_uri, data_folder(volume_uri, existing), n_tasks, n_tasks)
    if not overwrite:
        refuse_committed(volume_uri)
    require_writable(volume_uri)
    configure(spark)
    work = WorkFolder.of(volume_uri, job.content_hash)
    work.claim(anew=overwrite and not resume)
    job = _cut_as_before(job, work)
    done = work.finished(job.plan)
    missing = tuple(number for number in range(job.plan.n_tasks) if number not in done)
    kept = _make(spark, job, work, missing, progress)
    work.clear_scratch()
    files, statistics = take_stock(work.uri, job.plan)
    bad_pixels = count_flags_of_bins(work.pixel_flags_uri, len(job.plan.bins))
    before_commit()
    metadata = {**_volume_metadata(job, files, statistics, bad_pixels), "run_id": run_id}
    version = add_version(volume_uri, work.name, metadata)
    remove_unfinished(volume_uri)
    keep_newest(volume_uri, keep_versions)
    return Reconstructed(volume_uri, version.uri, job.plan.n_tasks, len(done), kept)


def _cut_as_before(job: Reconstruction, work: WorkFolder) -> Reconstruction:
    """Return the job with the slabs of an interrupted one, if these fit into a task's memory now."""
    slices = work.recorded_thickness()
    if slices is None or slices == job.plan.slabs[0].slab.n_slices:
        return job
    run = job.recipe.run.model_copy(update={"slab_slices": slices})
    recipe = job.recipe.model_copy(update={"run": run})
    plan = plan_reconstruction(job.measured.geometry, job.plan.bins, recipe, slots=1)
    return job if plan.task_bytes > job.recipe.run.memory_per_task_mib * 2**20 else replace(job, plan=plan)


def _make(
    spark: SparkSession, job: Reconstruction, work: WorkFolder, missing: tuple[int, ...], progress: Progress
) -> tuple[str, ...]:
    """Write the missing slabs into the work folder; return the earlier stages that were there already."""
    corrections, kept = corrections_of(job), []

    def find_bad_pixels(uri: str) -> None:
        with spark_failures("the search for bad pixels"), watch_stages(spark, progress, ["bad pixels"]):
            write_pixel_flags(spark, corrections, uri)

    if not work.once(PIXEL_FLAGS_FOLDER, find_bad_pixels):
        kept.append("bad pixels")
    if len(missing) < job.plan.n_tasks:
        progress.note(f"{job.plan.n_tasks - len(missing)} of {job.plan.n_tasks} slabs are there already")
    if not missing:
        return tuple(kept)
    views = corrected_views(spark, job, corrections, work.pixel_flags_uri)
    views, offsets_kept = without_rings(spark, job, views, work, progress)
    if offsets_kept:
        kept.append("stripes")
    bands = filtered_bands(views, job, missing)
    names = _stage_names(job)
    if job.recipe.run.restart_point == "filtered":

        def keep_bands(uri: str) -> None:
            with spark_failures("filtering"), watch_stages(spark, progress, names[:-1]):
                write_table(bands, uri, row_group_bytes=FILTERED_ROW_GROUP_BYTES)

        if not work.once(FILTERED, keep_bands):
            kept.append("filter")
        bands, names = read_table(spark, work.table_uri(FILTERED), "bands", "task", "view", "pixels"), ["bands"]
        names += ["backproject"]
    with spark_failures("the reconstruction"), watch_stages(spark, progress, names):
        slabs = backprojected(spark, bands, job, missing)
        # A tile is a row group: a slice is one ranged read, and the footers know every tile's statistics.
        write_table(slabs, work.uri, row_group_bytes=2**27, row_group_rows=1, add=True)
    return tuple(kept)


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


def without_rings(
    spark: SparkSession, job: Reconstruction, views: Views, work: WorkFolder, progress: Progress
) -> tuple[Views, bool]:
    """Return the line integrals without the stripes that the recipe wants removed, and whether a search was spared."""
    stripes, n_bins = job.recipe.preprocess.stripes, len(job.plan.bins)
    by_angle, method = angular_stripes(stripes), sinogram_stripes(stripes)
    n_views, shape = len(job.plan.geometry), job.plan.geometry.detector_shape
    if by_angle is not None:
        stage = AngularStage(n_views, n_bins, shape, by_angle)

        def find_stripes(uri: str) -> None:
            with spark_failures("the search for stripes"), watch_stages(spark, progress, ["correct", "stripes"]):
                write_stripe_offsets(views, stage, uri)

        made = work.once(STRIPE_OFFSETS, find_stripes)
        return without_offsets(views, stage, work.table_uri(STRIPE_OFFSETS)), not made
    if method is not None:
        memory = job.recipe.run.memory_per_task_mib * 2**20
        bands = plan_row_bands(n_views, n_bins, shape, slots=task_slots(spark), memory_bytes=memory)
        return without_stripes(views, bands, method), False
    return views, False


def _stage_names(job: Reconstruction) -> list[str]:
    joined = joins_open_beams(job.frames.uri, job.camera.n_tiles, job.recipe.run)
    before = ["frames", "correct"] if joined else []
    if job.recipe.preprocess.stripes.mode == "sinogram":
        before = before or ["correct"]
        before.append("stripes")
    return [*before, "filter", "backproject"]


def filtered_bands(views: Views, job: Reconstruction, tasks: tuple[int, ...]) -> DataFrame:
    """Return the bands table of a scan: one row per view and backprojection task that is to be done."""
    stage, views_of = FilterStage(job.plan, job.recipe.filter, frozenset(tasks)), views.read

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from stage(views_of(batches))

    return views.data.mapInArrow(run, spark_schema("bands"))


def backprojected(spark: SparkSession, bands: DataFrame, job: Reconstruction, tasks: tuple[int, ...]) -> DataFrame:
    """Return the rows of the volume table that some tasks make: one partition, one whole slab, for each."""
    # Placement by number, since hashing would leave some partitions empty and others doubled.
    number = "task"
    if len(tasks) < job.plan.n_tasks:
        places = spark.createDataFrame(list(enumerate(tasks)), "place int, task int")
        bands, number = bands.join(F.broadcast(places), "task"), "place"
    placed = bands.repartitionById(len(tasks), number).sortWithinPartitions("view").select("task", "view", "pixels")
    stage = BackprojectionStage(job.plan, job.recipe.run.backend, tasks)
    profile = gpu_profile(spark, job.recipe.run.backend)
    return placed.mapInArrow(as_function(stage), spark_schema("volume"), False, profile)


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
        "results_version": marspipe.RESULTS_VERSION,
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
        "redundancy": {
            "name": plan.redundancy.name,
            "description": plan.redundancy.description,
            "field_of_view_mm": plan.redundancy.field_of_view_mm,
        },
        "filter": recipe.filter.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe.content_hash(),
        "frames_uri": storage.absolute(frames.uri),
        "frames_hash": frames.metadata["content_hash"],
        "content_hash": job.content_hash,
        "statistics": statistics,
        "camera_positions_mm": [list(position) for position in job.camera.positions_mm],
        "bad_pixels": bad_pixels,
        "files": files,
    }
