"""Reconstruct a scan: frames table -> filtered rows -> slabs -> committed volume.

The plan, in order: per view, counters to line integrals, weights and ramp filter, cut
into the row bands that each slab needs; shuffle so that the bands of (bin, slab) meet in the partition of that number,
sorted by view; backproject slab by slab; write; commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import marspipe
from marspipe.errors import ScanError
from marspipe.pipeline.backproject_slabs import BackprojectionStage
from marspipe.pipeline.failures import spark_failures
from marspipe.pipeline.filter_views import FRAME_COLUMNS, FilterStage
from marspipe.pipeline.plan import ReconstructionPlan, plan_reconstruction
from marspipe.pipeline.scan_frames import FramesTable
from marspipe.pipeline.session import configure, task_slots
from marspipe.pipeline.stock import take_stock
from marspipe.pipeline.watch import watch_stages
from marspipe.recipe import Recipe, content_hash
from marspipe.scan.energy import counter_bins
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.commit import claim_output, commit, committed
from marspipe.store.tables import read_table, spark_schema, write_table

# Input splits of the filter stage per task slot, unless that would make them too large. A Python task costs some 30 ms
# before its first row, so small scans are cut no finer than the slots need.
SPLITS_PER_SLOT = 1
LARGEST_SPLIT_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Reconstruction:
    """A scan, a recipe and the plan that follows from them."""

    frames: FramesTable
    recipe: Recipe
    plan: ReconstructionPlan

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
    return Reconstruction(frames, recipe, plan_reconstruction(frames.geometry, bins, recipe, slots))


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
    claim_output(volume_uri, overwrite=overwrite)
    configure(spark)
    with spark_failures("the reconstruction"), watch_stages(spark, progress, ["filter", "backproject"]):
        slabs = backprojected(filtered_bands(spark, job), job)
        # A tile is a row group: a slice is one ranged read, and the footers know every tile's statistics.
        write_table(slabs, volume_uri, row_group_bytes=2**27, row_group_rows=1)
    files, statistics = take_stock(volume_uri, job.plan)
    commit(volume_uri, _volume_metadata(job, files, statistics))
    return volume_uri


def filtered_bands(spark: SparkSession, job: Reconstruction) -> DataFrame:
    """Return the bands table of a scan: one row per view and backprojection task."""
    splits = SPLITS_PER_SLOT * task_slots(spark)
    split_bytes = max(2**20, min(LARGEST_SPLIT_BYTES, job.frames.pixel_bytes // splits))
    spark.conf.set("spark.sql.files.maxPartitionBytes", str(split_bytes))
    # Row groups hold whole views (see ingest), splits hold whole row groups: a view never meets two tasks.
    frames = read_table(spark, job.frames.uri, "frames", "frame_type", *FRAME_COLUMNS)
    projections = frames.where(F.col("frame_type") == "projection").drop("frame_type")
    stage = FilterStage(job.plan, job.recipe, job.frames.uri, str(uuid4()), len(job.frames.counters))
    return projections.mapInArrow(_as_function(stage), spark_schema("bands"))


def backprojected(bands: DataFrame, job: Reconstruction) -> DataFrame:
    """Return the volume table: partition number = task number, one whole slab each."""
    # Placement by number, since hashing would leave some partitions empty and others doubled.
    placed = bands.repartitionById(job.plan.n_tasks, "task").sortWithinPartitions("view")
    stage = BackprojectionStage(job.plan, job.recipe.run.backend)
    return placed.mapInArrow(_as_function(stage), spark_schema("volume"))


def _as_function(
    stage: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return a stage as the plain function that Spark wants."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from stage(batches)

    return run


def _volume_metadata(
    job: Reconstruction, files: list[dict[str, Any]], statistics: list[dict[str, float]]
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
        "files": files,
    }
