"""Ingest a scan: raw files -> the frames table, pixels bit for bit.

The scan is cut into parts of whole views, and as many parts as make a large file are one task. A view's frames, of all
camera positions and counters, stay together: in one task, one file, one row group. What the tasks wrote becomes part of
the table at once, or not at all (:func:`marspipe.store.commit.publish`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import marspipe
from marspipe.errors import ScanError
from marspipe.pipeline.corrections.calibrate import CALIBRATION_FOLDER, write_calibration
from marspipe.pipeline.frames.decode_frames import Decode
from marspipe.pipeline.frames.frame_files import WriteFrames, Written, names_of, rewrite_without
from marspipe.pipeline.frames.quarantine import Damage, write_quarantine
from marspipe.pipeline.frames.raw_file import RawFile
from marspipe.pipeline.frames.raw_scan import RawScan, camera_facts, fingerprint, open_scan
from marspipe.pipeline.frames.scan_frames import FrameGroup, Survey, many_rows, read_frames, survey
from marspipe.pipeline.frames.scan_parts import MIB, Chunk, Part, bundle, cut
from marspipe.pipeline.frames.stored_frames import KEY_COLUMNS, StoredFrames, frame_keys
from marspipe.pipeline.spark.failures import spark_failures
from marspipe.pipeline.spark.session import configure, task_slots
from marspipe.pipeline.spark.watch import watch_stages
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.commit import committed, publish, refuse_committed, require_committed, require_writable

__all__ = [
    "Chunk",
    "Decode",
    "Ingested",
    "Part",
    "RawFile",
    "RawScan",
    "bundle",
    "cut",
    "fingerprint",
    "ingest",
    "ingest_into",
    "open_scan",
]

LARGEST_ROW_GROUP_BYTES = 32 * MIB
SMALLEST_ROW_GROUP_BYTES = MIB
_STAGING = "_staging-"


@dataclass(frozen=True)
class Ingested:
    """What an ingest did.

    Attributes
    ----------
    groups : list of FrameGroup
        What the table holds now, per frame type and counter.
    added : int
        Frames written, those that replaced others too.
    damages : list of Damage
        What could not be read.
    missing_views : list of int
        Views that the table lacks.
    """

    groups: list[FrameGroup]
    added: int
    damages: list[Damage]
    missing_views: list[int]


def ingest(
    spark: SparkSession, scan: RawScan, out_uri: str, *, progress: Progress, overwrite: bool = False
) -> list[FrameGroup]:
    """Write the frames table of a whole, undamaged scan and commit it.

    Parameters
    ----------
    spark : SparkSession
        The session.
    scan : RawScan
        From :func:`open_scan`.
    out_uri : str
        Folder of the frames table.
    progress : Progress
        Where to report.
    overwrite : bool
        Replace a committed table, once the new one is complete.

    Returns
    -------
    list of FrameGroup
        What was ingested, per frame type and counter.

    Raises
    ------
    InputError
        If a file is damaged, or the frames are not a whole scan; then nothing is committed.
    """
    if not overwrite:
        refuse_committed(out_uri)
    return _Ingest(spark, scan, out_uri, progress, None, tolerant=False, replace=False).run().groups


def ingest_into(
    spark: SparkSession,
    scan: RawScan,
    out_uri: str,
    *,
    progress: Progress,
    replace: bool = False,
    overwrite: bool = False,
) -> Ingested:
    """Bring a frames table up to date with its raw scan: add what is new, and put aside what cannot be read.

    Parameters
    ----------
    spark : SparkSession
        The session.
    scan : RawScan
        From :func:`open_scan`, tolerant.
    out_uri : str
        Folder of the frames table; made if nothing is committed there.
    progress : Progress
        Where to report.
    replace : bool
        Replace stored frames that differ from the raw files.
    overwrite : bool
        Begin anew, whatever is committed there.

    Raises
    ------
    ScanError
        If the table is of another scan, or a stored frame differs and ``replace`` is false; then the table stays as
        it was.
    """
    existing = None if overwrite else committed(out_uri)
    if existing is not None:
        existing = require_committed(out_uri, "frames")
        _refuse_other_scan(scan, out_uri, existing)
    return _Ingest(spark, scan, out_uri, progress, existing, tolerant=True, replace=replace).run()


def _refuse_other_scan(scan: RawScan, uri: str, existing: dict[str, Any]) -> None:
    if existing["scan_id"] != scan.manifest.scan_id:
        raise ScanError(f"{uri} holds scan {existing['scan_id']}, but {scan.manifest_uri} is {scan.manifest.scan_id}")
    views = len(existing["geometry"]["angles_rad"])
    if len(scan.geometry) < views:
        raise ScanError(f"{uri} holds {views} views, but {scan.manifest_uri} lists only {len(scan.geometry)}")
    same_views = json.loads(json.dumps(scan.geometry[:views].to_dict()))
    for key, stored in existing["geometry"].items():
        if same_views.get(key) != stored:
            raise ScanError(
                f"{scan.manifest_uri} gives the {views} views in {uri} another geometry ({key}); pass --overwrite to "
                "ingest the scan anew"
            )
    positions = existing.get("camera_positions_mm", [[0.0, 0.0]])
    if positions != _positions(scan)[: len(positions)]:
        raise ScanError(
            f"{scan.manifest_uri} lists other camera positions than {uri} holds; pass --overwrite to ingest the scan "
            "anew"
        )
    if existing["counters"] != _counters(scan):
        raise ScanError(
            f"{scan.manifest_uri} lists other counters than {uri} holds; pass --overwrite to ingest the scan anew"
        )


def _counters(scan: RawScan) -> list[dict[str, Any]]:
    counters = scan.manifest.camera_counters()
    return [{"index": c.index, "mode": c.mode, "threshold_kev": c.threshold_kev} for c in counters]


def _positions(scan: RawScan) -> list[list[float]]:
    return [list(position) for position in scan.manifest.camera_positions_mm]


@dataclass
class _Ingest:
    """One run; ``existing`` is the metadata of the table that is added to."""

    spark: SparkSession
    scan: RawScan
    uri: str
    progress: Progress
    existing: dict[str, Any] | None
    tolerant: bool
    replace: bool

    def run(self) -> Ingested:
        require_writable(self.uri)
        configure(self.spark)
        staging = _STAGING + uuid4().hex
        try:
            return self._run(staging)
        finally:
            with suppress(OSError):
                storage.remove_tree(storage.join(self.uri, staging))

    def _run(self, staging: str) -> Ingested:
        scan, spark, folder = self.scan, self.spark, storage.join(self.uri, staging)
        storage.make_dirs(folder)
        before = [name for name in storage.list_dir(self.uri) if name.endswith(".parquet") and name[0] not in "._"]
        stored, places = self._stored(before) if self.existing else (None, [])
        results = self._write(folder, stored)
        damages = [*scan.damages, *(d for r in results for d in r.damages)]
        added, differing = sum(r.frames for r in results), [row for r in results for row in r.differing]
        if differing and not self.replace:
            self._refuse(differing)
        if self.tolerant:
            write_quarantine(self.uri, damages)
        kept = before if self.existing else []
        rewritten: list[str] = []
        superseded = np.array([key for r in results for key in r.superseded], np.int64)
        if superseded.size and stored is not None:
            kept, rewritten = self._rewrite(folder, kept, superseded, stored, places)
        new = [*names_of(results), *rewritten]
        paths = [storage.join(self.uri, n) for n in kept] + [storage.join(folder, n) for n in new]
        with spark_failures("checking the frames"):
            found = survey(
                spark,
                self.uri,
                paths,
                scan.geometry,
                tuple(scan.manifest.camera_counters()),
                n_tiles=len(scan.manifest.camera_positions_mm),
                incomplete=self.tolerant,
            )
        metadata = self._metadata(found)
        done = Ingested(found.groups, added, damages, found.missing_views)
        unchanged = ("geometry", "camera_positions_mm")
        if self.existing and not new and all(self.existing.get(key) == metadata[key] for key in unchanged):
            return done
        renamed = [(name, name) for name in new]
        calibrating = any(r.calibrating for r in results) or not self.existing
        if calibrating and any(group.frame_type == "open_beam" for group in found.groups):
            self._calibrate(paths, storage.join(folder, CALIBRATION_FOLDER))
            renamed.append((CALIBRATION_FOLDER, CALIBRATION_FOLDER))
        removed = [name for name in before if name not in kept]
        # What earlier runs left that died before they had published anything.
        removed += [n for n in storage.list_dir(self.uri) if n.startswith(_STAGING) and n != staging]
        if not self.existing and len(renamed) == len(new):
            removed.append(CALIBRATION_FOLDER)
        publish(self.uri, metadata, staging=staging, rename=renamed, remove=removed)
        return done

    def _calibrate(self, paths: list[str], uri: str) -> None:
        manifest = self.scan.manifest
        sums = len(manifest.camera_positions_mm) * len(manifest.counters)
        frames = read_frames(self.spark, paths).where(F.col("frame_type") != "projection")
        with spark_failures("averaging the open beams"), watch_stages(self.spark, self.progress, ["open beams"]):
            write_calibration(frames, uri, min(sums, 4 * task_slots(self.spark)))

    def _write(self, folder: str, stored: StoredFrames | None) -> list[Written]:
        scan, spark = self.scan, self.spark
        tasks = bundle(cut(scan, task_slots(spark)), task_slots(spark))
        if not tasks:
            return []
        context = spark.sparkContext
        counted = context.accumulator(0), context.accumulator(0)
        work = WriteFrames(
            Decode.of(scan),
            folder,
            min(LARGEST_ROW_GROUP_BYTES, max(SMALLEST_ROW_GROUP_BYTES, scan.pixel_bytes // 64)),
            None if stored is None else context.broadcast(stored),
            self.tolerant,
            self.replace,
            counted,
        )
        n_frames = len(scan.manifest.counters) * sum(file.n_exposures for file in scan.files)
        with (
            spark_failures(f"reading the raw files of {scan.manifest_uri}"),
            _reported(self.progress, "ingest", scan.pixel_bytes, "bytes", counted[0]),
            _reported(self.progress, "frames", n_frames, "frames", counted[1]),
        ):
            return context.parallelize(tasks, len(tasks)).map(work).collect()

    def _stored(self, names: list[str]) -> tuple[StoredFrames, list[str]]:
        """Return the frames in some files of the table, and for each of them the name of its file."""
        frames = read_frames(self.spark, [storage.join(self.uri, name) for name in names])
        with spark_failures("reading what is stored"), many_rows(self.spark):
            table = frames.select(*KEY_COLUMNS, "checksum", F.input_file_name().alias("file")).toArrow()
        keys = frame_keys(*(table.column(name).to_pylist() for name in KEY_COLUMNS))
        order = np.argsort(keys)
        checksums = table.column("checksum").to_numpy().astype(np.int64)
        places = table.column("file").to_pylist()
        files = [unquote(places[i].rsplit("/", 1)[1]) for i in order]
        return StoredFrames(keys[order], checksums[order]), files

    def _refuse(self, differing: list[dict[str, Any]]) -> None:
        first = min(differing, key=lambda row: tuple(row[name] for name in KEY_COLUMNS))
        place = f", camera position {first['tile']}" if len(self.scan.manifest.camera_positions_mm) > 1 else ""
        raise ScanError(
            f"{self.uri}: {first['frame_type']} view {first['view']}{place}, counter {first['counter']} differs from "
            f"{first['source_uri']} at byte {first['source_offset']} ({len(differing)} frames differ): pass --replace "
            "to take what the raw files hold now"
        )

    def _rewrite(
        self, folder: str, names: list[str], dropped: NDArray[np.int64], stored: StoredFrames, places: list[str]
    ) -> tuple[list[str], list[str]]:
        """Copy the files that hold frames which give way to others; return the files that stay, and the copies."""
        affected = sorted({places[i] for i in np.flatnonzero(np.isin(stored.keys, dropped))})
        uri = self.uri

        def copy(name: str) -> str | None:
            return rewrite_without(storage.join(uri, name), folder, dropped)

        with spark_failures("replacing frames"):
            copies = self.spark.sparkContext.parallelize(affected, len(affected)).map(copy).collect()
        return [name for name in names if name not in affected], [name for name in copies if name is not None]

    def _metadata(self, found: Survey) -> dict[str, Any]:
        scan, camera = self.scan, camera_facts(self.scan)
        return {
            "kind": "frames",
            "format": 1,
            "version": marspipe.__version__,
            "scan_id": scan.manifest.scan_id,
            "description": scan.manifest.description,
            "geometry": scan.geometry.to_dict(),
            "counters": _counters(scan),
            "camera_positions_mm": _positions(scan),
            "chip_edges": {"rows": list(camera.edge_rows), "columns": list(camera.edge_columns)},
            "counter_depth_bits": camera.counter_depth_bits,
            "tube": scan.manifest.tube.model_dump(mode="json") if scan.manifest.tube else None,
            "acquired_at": camera.acquired_at,
            "source": storage.absolute(scan.manifest_uri),
            "fingerprint": fingerprint(scan),
            "content_hash": found.content,
            "pixel_bytes": found.pixel_bytes,
            "missing_views": found.missing_views,
            "groups": [asdict(group) for group in found.groups],
        }


@contextmanager
def _reported(progress: Progress, name: str, total: int, unit: str, counted: Any) -> Iterator[None]:
    """Report what an accumulator has counted."""
    stop = threading.Event()
    with progress.stage(name, total=total, unit=unit) as stage:

        def follow() -> None:
            while not stop.wait(0.25):
                stage.update(counted.value)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            stage.update(counted.value)
