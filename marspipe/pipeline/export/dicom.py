"""DICOM objects of a finished volume, written by tasks.

The folder appears as a whole: it is filled beside its place, and named when all is written. Same volume and options:
same bytes, on every run, so that a repeated or doubled task does no harm. ``_marspipe.json`` in it tells how many
instances each series has, and how many voxels were clipped.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession

from marspipe.dicom.ct import series_files
from marspipe.dicom.enhanced import enhanced_files, enhanced_instances
from marspipe.dicom.parametric_map import parametric_map_files, parametric_map_instances
from marspipe.dicom.series import SeriesHeader
from marspipe.errors import BusyError, OutputExistsError
from marspipe.pipeline.export.options import DicomOptions
from marspipe.pipeline.export.slices import Run, numbered, numbers, runs_of_slices
from marspipe.pipeline.export.stored_range import stored_ranges
from marspipe.pipeline.spark.failures import spark_failures
from marspipe.pipeline.spark.watch import watch_stages
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.commit import commit, committed
from marspipe.store.lock import Lock, held
from marspipe.store.volume import Volume, open_volume

_INSTANCES = {"enhanced-ct": enhanced_instances, "parametric-map": parametric_map_instances}
_FILES = {"enhanced-ct": enhanced_files, "parametric-map": parametric_map_files}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    uri : str
        The folder.
    n_instances : int
        Files.
    clipped_voxels : dict
        By bin, voxels beyond the stored range.
    """

    uri: str
    n_instances: int
    clipped_voxels: dict[int, int]


def export_dicom(
    spark: SparkSession,
    volume_uri: str,
    out_uri: str,
    options: DicomOptions | None = None,
    *,
    progress: Progress,
) -> Exported:
    """Write DICOM series of a finished volume, one for each energy bin.

    Parameters
    ----------
    spark : SparkSession
        The session.
    volume_uri : str
        A committed volume.
    out_uri : str
        Folder of the series; whatever lies there is replaced, see :func:`refuse_foreign`.
    options : DicomOptions, optional
        What to write; by default a CT image for each slice of every bin, nobody's.
    progress : Progress
        Where to report.

    Raises
    ------
    InputError
        If the volume lacks what the objects need, or an option does not fit it.
    BusyError
        If another export to the folder is running.
    RunError
        If the run failed; what was there before stays.
    """
    options, out_uri = options or DicomOptions(), storage.absolute(out_uri)
    folder_uri, name = posixpath.split(out_uri.rstrip("/"))
    with held(folder_uri, f"an export to {name}", name=f".{name}.lock.json") as lock:
        return _export(spark, volume_uri, out_uri, options, progress, lock)


def _export(
    spark: SparkSession, volume_uri: str, out_uri: str, options: DicomOptions, progress: Progress, lock: Lock
) -> Exported:
    volume = open_volume(volume_uri)
    planned = options.plan(volume)
    ranges = stored_ranges(spark, volume_uri, planned, progress=progress)
    planned = options.plan(volume, ranges)  # the range is part of what a series is
    work = _work(spark, volume, planned, options)
    part_uri = _beside(out_uri, "part")
    storage.remove_tree(part_uri)

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        source = open_volume(volume_uri)
        headers: dict[int, SeriesHeader] = {}
        for number in numbers(batches):
            bin_, first, stop = work[number]
            if bin_ not in headers:
                headers[bin_] = options.header(source, bin_, ranges.get(bin_))
            clipped = _write(source, headers[bin_], range(first, stop), part_uri, options)
            yield pa.RecordBatch.from_pydict({"bin": [bin_], "instances": [stop - first], "clipped": [clipped]})

    try:
        with spark_failures("writing the DICOM files"), watch_stages(spark, progress, ["dicom"]):
            written = numbered(spark, len(work)).mapInArrow(write, "bin long, instances long, clipped long").collect()
        series = {
            bin_: {
                "folder": header.folder,
                "series_uid": header.series_uid,
                "n_instances": sum(row.instances for row in written if row.bin == bin_),
                "clipped_voxels": sum(row.clipped for row in written if row.bin == bin_),
            }
            for bin_, header in planned.items()
        }
        commit(part_uri, _metadata(volume, options, series))
        lock.check()
        _put_in_place(part_uri, out_uri)
    except BusyError:
        raise  # what is being made there is another job's
    except BaseException:
        storage.remove_tree(part_uri)
        raise
    clipped_voxels = {bin_: int(found["clipped_voxels"]) for bin_, found in series.items()}
    return Exported(out_uri, sum(int(found["n_instances"]) for found in series.values()), clipped_voxels)


def refuse_foreign(out_uri: str, *, overwrite: bool) -> None:
    """Raise OutputExistsError if a folder holds anything but DICOM series of marspipe that may be replaced."""
    if not storage.exists(out_uri) or (storage.is_dir(out_uri) and not storage.list_dir(out_uri)):
        return
    if (committed(out_uri) or {}).get("kind") != "dicom":
        raise OutputExistsError(f"{out_uri} exists and was not made by marspipe export: choose another folder")
    if not overwrite:
        raise OutputExistsError(f"{out_uri} already holds DICOM series: choose another folder, or pass --overwrite")


def _work(spark: SparkSession, volume: Volume, planned: Mapping[int, SeriesHeader], options: DicomOptions) -> list[Run]:
    """Return what each task writes: a bin, and its first and last but one instance."""
    if options.kind == "ct-image":
        return runs_of_slices(spark, volume, tuple(planned))
    parts = {bin_: len(_INSTANCES[options.kind](h, options.max_instance_bytes)) for bin_, h in planned.items()}
    return [(bin_, n, n + 1) for bin_, total in parts.items() for n in range(total)]


def _write(source: Volume, header: SeriesHeader, which: range, out_uri: str, options: DicomOptions) -> int:
    """Write some instances of a series; return how many voxels were clipped."""
    clipped = 0
    if options.kind == "ct-image":
        for file in series_files(source, header, which):
            storage.write_bytes(storage.join(out_uri, file.path), file.content, overwrite=True)
            clipped += file.clipped_voxels
        return clipped
    for large in _FILES[options.kind](source, header, which, max_instance_bytes=options.max_instance_bytes):
        chunks: Callable[[], Iterator[bytes]] = partial(type(large).chunks, large)
        storage.write_chunks(storage.join(out_uri, large.path), chunks, overwrite=True)
        clipped += large.clipped_voxels
    return clipped


def _metadata(volume: Volume, options: DicomOptions, series: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    made_from = {key: volume.metadata.get(key) for key in ("content_hash", "recipe_hash")}
    private = options.deidentification_key is not None
    return {
        "kind": "dicom",
        "objects": options.kind,
        "transfer_syntax": options.transfer_syntax,
        "deidentified": private,
        "volume": None if private else made_from,
        "series": list(series.values()),
    }


def _put_in_place(part_uri: str, out_uri: str) -> None:
    """Let a folder take the place of another, which is removed when that is done and comes back if it fails."""
    old_uri = _beside(out_uri, "old")
    storage.remove_tree(old_uri)
    if storage.exists(out_uri):
        storage.rename(out_uri, old_uri)
    try:
        storage.rename(part_uri, out_uri)
    except BaseException:
        if storage.exists(old_uri) and not storage.exists(out_uri):
            storage.rename(old_uri, out_uri)
        raise
    storage.remove_tree(old_uri)


def _beside(uri: str, what: str) -> str:
    """Return the URI of a hidden folder beside another, in which it is made or kept meanwhile."""
    parent, name = posixpath.split(uri.rstrip("/"))
    return storage.join(parent, f".{name}.{what}")
