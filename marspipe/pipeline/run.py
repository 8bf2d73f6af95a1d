"""The main job: raw files or a frames table in, committed volume with its DICOM series and preview out."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import SparkSession

from marspipe.errors import OutputExistsError
from marspipe.pipeline.corrections import settings_for
from marspipe.pipeline.export import export_dicom, export_preview
from marspipe.pipeline.ingest import RawScan, fingerprint, ingest
from marspipe.pipeline.plan import ReconstructionPlan, plan_reconstruction
from marspipe.pipeline.reconstruct import prepare, reconstruct
from marspipe.pipeline.scan_frames import FramesTable
from marspipe.pipeline.session import task_slots
from marspipe.pipeline.source import Measured, tube_of
from marspipe.recipe import Recipe
from marspipe.scan.energy import counter_bins
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.commit import committed


@dataclass(frozen=True)
class Results:
    """Where the results of a run lie.

    Attributes
    ----------
    volume_uri : str
        The committed volume.
    dicom_uri, preview_uri : str or None
        DICOM series and preview, if the recipe asked for them.
    """

    volume_uri: str
    dicom_uri: str | None
    preview_uri: str | None


def plan(source: RawScan | FramesTable, recipe: Recipe, slots: int) -> ReconstructionPlan:
    """Validate a recipe against a scan and cut the work, without Spark and without reading pixels."""
    measured = Measured.by(source)
    settings_for(recipe, tube_of(source), measured)
    return plan_reconstruction(
        measured.geometry, tuple(counter_bins(measured.counters, recipe.bins.kind)), recipe, slots
    )


def run(
    spark: SparkSession,
    source: RawScan | FramesTable,
    out_uri: str,
    recipe: Recipe,
    *,
    progress: Progress,
    overwrite: bool = False,
    resume: bool = False,
) -> Results:
    """Reconstruct a scan.

    Parameters
    ----------
    spark : SparkSession
        The session.
    source : RawScan or FramesTable
        From :func:`marspipe.pipeline.source.open_source`; raw files are ingested into ``out_uri/frames`` first.
    out_uri : str
        Folder of the results: ``frames``, ``volume``, ``dicom``, ``preview.png``.
    recipe : Recipe
        What to do.
    progress : Progress
        Where to report.
    overwrite : bool
        Replace a committed volume.
    resume : bool
        Keep what is already there and was made from the same input by the same recipe and code.

    Raises
    ------
    MarspipeError
        Of the class that tells who has to act; nothing is committed then.
    """
    volume_uri = storage.join(out_uri, "volume")
    existing = committed(volume_uri)
    if existing is not None and not overwrite and not resume:
        raise OutputExistsError(
            f"{volume_uri} already holds a committed volume (recipe {existing.get('recipe_hash')}); choose another "
            "folder, pass --overwrite to replace it, or --resume to keep it if nothing has changed"
        )
    if isinstance(source, RawScan):
        frames_uri = storage.join(out_uri, "frames")
        kept = (committed(frames_uri) or {}).get("fingerprint") if resume else None
        if kept != fingerprint(source):
            ingest(spark, source, frames_uri, progress=progress, overwrite=True)
    else:
        frames_uri = source.uri
    job = prepare(frames_uri, recipe, task_slots(spark))
    reconstruct(spark, job, out_uri, progress=progress, overwrite=overwrite, resume=resume)
    dicom_uri = preview_uri = None
    if recipe.output.dicom:
        dicom_uri = storage.join(out_uri, "dicom")
        export_dicom(spark, volume_uri, dicom_uri, progress=progress)
    if recipe.output.preview:
        preview_uri = storage.join(out_uri, "preview.png")
        export_preview(spark, volume_uri, preview_uri, progress=progress)
    return Results(volume_uri, dicom_uri, preview_uri)
