"""The main job: raw files or a frames table in, committed volume with its DICOM series and preview out."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import SparkSession

from marspipe.errors import OutputExistsError
from marspipe.pipeline.corrections.settings import settings_for
from marspipe.pipeline.export.dicom import export_dicom
from marspipe.pipeline.export.preview import export_preview
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.ingest import RawScan, fingerprint, ingest
from marspipe.pipeline.planning.plan import ReconstructionPlan, plan_reconstruction
from marspipe.pipeline.reconstruct import Reconstructed, prepare, reconstruct
from marspipe.pipeline.source import Measured, tube_of
from marspipe.pipeline.spark.gpu import require_gpus
from marspipe.pipeline.spark.session import task_slots
from marspipe.recipe import Recipe
from marspipe.scan.energy import counter_bins
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.commit import committed
from marspipe.store.lock import held


@dataclass(frozen=True)
class Results:
    """Where the results of a run lie.

    Attributes
    ----------
    volume_uri : str
        The committed volume.
    dicom_uri, preview_uri : str or None
        DICOM series and preview, if the recipe asked for them.
    reconstructed : Reconstructed
        What was made, and what was there already.
    """

    volume_uri: str
    dicom_uri: str | None
    preview_uri: str | None
    reconstructed: Reconstructed


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
    keep_versions: int = 1,
    run_id: str | None = None,
) -> Results:
    """Reconstruct a scan. One job at a time works on an output; slabs of an interrupted one are not made again.

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
        Make a new version of a committed volume, which stays until the new one is finished; without ``resume`` all of
        it is made anew.
    resume : bool
        Keep what is already there and was made from the same input by the same recipe and code.
    keep_versions : int
        Versions of the volume that stay, the new one among them.
    run_id : str, optional
        Name of the run, for the volume's metadata.

    Raises
    ------
    BusyError
        If another job works on this output.
    MarspipeError
        Of the class that tells who has to act; nothing is committed then.
    """
    _refuse_finished(out_uri, overwrite=overwrite, resume=resume)
    require_gpus(spark, recipe.run.backend)  # said before hours of work, not after them
    with held(out_uri, "marspipe reconstruct") as lock:
        # Another job may have finished just before this one got the lock.
        _refuse_finished(out_uri, overwrite=overwrite, resume=resume)
        if isinstance(source, RawScan):
            frames_uri = storage.join(out_uri, "frames")
            kept = (committed(frames_uri) or {}).get("fingerprint") if resume else None
            if kept != fingerprint(source):
                ingest(spark, source, frames_uri, progress=progress, overwrite=True)
        else:
            frames_uri = source.uri
        reconstructed = reconstruct(
            spark,
            prepare(frames_uri, recipe, task_slots(spark)),
            out_uri,
            progress=progress,
            overwrite=overwrite,
            resume=resume,
            keep_versions=keep_versions,
            run_id=run_id,
            before_commit=lock.check,
        )
        volume_uri = reconstructed.volume_uri
        dicom_uri = preview_uri = None
        if recipe.output.dicom:
            dicom_uri = storage.join(out_uri, "dicom")
            export_dicom(spark, volume_uri, dicom_uri, progress=progress)
        if recipe.output.preview:
            preview_uri = storage.join(out_uri, "preview.png")
            export_preview(spark, volume_uri, preview_uri, progress=progress)
    return Results(volume_uri, dicom_uri, preview_uri, reconstructed)


def _refuse_finished(out_uri: str, *, overwrite: bool, resume: bool) -> None:
    volume_uri = storage.join(out_uri, "volume")
    existing = None if overwrite or resume else committed(volume_uri)
    if existing is not None:
        raise OutputExistsError(
            f"{volume_uri} already holds a committed volume (recipe {existing.get('recipe_hash')}); choose another "
            "folder, pass --overwrite to replace it, or --resume to keep it if nothing has changed"
        )
