"""Ingest a scan: raw files -> the frames table, pixels bit for bit.

The driver reads the manifest and the first header of every file, and cuts the files into chunks of whole exposures;
the executors read headers and pixels of their chunks. A view's frames stay together: in one task, one file, one row
group.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

import marspipe
from marspipe.errors import ScanError
from marspipe.pipeline.calibrate import write_calibration
from marspipe.pipeline.failures import spark_failures
from marspipe.pipeline.scan_frames import FrameGroup, survey
from marspipe.pipeline.session import ARROW_BATCH_BYTES, configure, task_slots
from marspipe.pipeline.watch import watch_stages
from marspipe.readers import READERS, orient
from marspipe.readers.manifest import (
    FILE_NAME,
    FileEntry,
    ScanManifest,
    load_manifest,
    resolve_angles,
    resolve_uri,
    scan_geometry,
)
from marspipe.recipe import content_hash
from marspipe.scan.energy import Counter
from marspipe.scan.geometry import ScanGeometry
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.blobs import binary_column, checksum
from marspipe.store.commit import claim_output, commit
from marspipe.store.schema import table_schema
from marspipe.store.tables import spark_schema, write_table

MIB = 2**20
LARGEST_CHUNK_BYTES = 128 * MIB
SMALLEST_CHUNK_BYTES = 4 * MIB
LARGEST_ROW_GROUP_BYTES = 32 * MIB
SMALLEST_ROW_GROUP_BYTES = MIB


@dataclass(frozen=True)
class RawFile:
    """One raw file of a scan, as far as its first header and its size tell."""

    uri: str
    entry: FileEntry
    n_exposures: int
    exposure_bytes: int
    first_view: int


@dataclass(frozen=True)
class Chunk:
    """Exposures ``first .. first + count`` of one raw file: the work of one task."""

    file: RawFile
    first: int
    count: int


@dataclass(frozen=True)
class RawScan:
    """A scan in its raw files, validated against its manifest but not yet read."""

    manifest_uri: str
    manifest: ScanManifest
    angles_rad: NDArray[np.float64]
    sample_z_mm: NDArray[np.float64]
    files: tuple[RawFile, ...]

    @property
    def geometry(self) -> ScanGeometry:
        """Where source and detector stood, as the manifest says."""
        return scan_geometry(self.manifest, self.angles_rad, self.sample_z_mm)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all frames."""
        return sum(f.n_exposures * f.exposure_bytes for f in self.files)


def open_scan(uri: str) -> RawScan:
    """Read a scan's manifest and the first header of each of its files.

    Parameters
    ----------
    uri : str
        The manifest, or the folder that holds it as ``scan.yaml``.

    Raises
    ------
    ScanError, RawFormatError
        If the manifest is wrong, a file is missing or damaged, or a file does not hold what the manifest says.
    """
    manifest_uri = uri if uri.endswith((".yaml", ".yml")) else storage.join(uri, FILE_NAME)
    try:
        text = storage.read_bytes(manifest_uri).decode("utf-8")
    except FileNotFoundError as error:
        raise ScanError(f"{manifest_uri}: there is no scan manifest") from error
    except UnicodeDecodeError as error:
        raise ScanError(f"{manifest_uri}: not a text file") from error
    manifest = load_manifest(text, manifest_uri)
    n_counters = len(manifest.counters)
    files: list[RawFile] = []
    angles: list[NDArray[np.float64]] = []
    exposures: dict[str, int] = defaultdict(int)
    for entry in manifest.files:
        file_uri = resolve_uri(entry.path, manifest_uri)
        reader = READERS[entry.reader]
        try:
            raw = storage.open_input(file_uri)
        except FileNotFoundError as error:
            raise ScanError(f"{manifest_uri}: {entry.frame_type} file {file_uri} does not exist") from error
        with raw:
            frames = reader.count(raw, file_uri, dataset=entry.dataset, frame_type=entry.frame_type)
            first = reader.index(raw, file_uri, 0, 1, dataset=entry.dataset, frame_type=entry.frame_type)
            if entry.frame_type == "projection":
                angles.append(resolve_angles(entry, raw))
        n_exposures, rest = divmod(frames, n_counters)
        if rest:
            raise ScanError(
                f"{file_uri} holds {frames} frames, which is no multiple of the {n_counters} counters of {manifest_uri}"
            )
        if entry.frame_type == "projection" and n_exposures != len(angles[-1]):
            raise ScanError(
                f"{file_uri} holds {n_exposures} exposures of {n_counters} counters, but {manifest_uri} gives "
                f"{len(angles[-1])} angles for it"
            )
        if not n_exposures:
            continue
        frame_bytes = first[0].rows * first[0].cols * np.dtype(first[0].dtype).itemsize
        base = entry.first_view if entry.frame_type == "projection" else exposures[entry.frame_type]
        exposures[entry.frame_type] += n_exposures
        files.append(RawFile(file_uri, entry, n_exposures, n_counters * frame_bytes, base))
    heights = manifest.sample_heights_mm([part.size for part in angles])
    return RawScan(manifest_uri, manifest, manifest.projection_angles(angles), heights, tuple(files))


def ingest(
    spark: SparkSession, scan: RawScan, out_uri: str, *, progress: Progress, overwrite: bool = False
) -> list[FrameGroup]:
    """Write the frames table of a scan and commit it.

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
        Replace a committed table.

    Returns
    -------
    list of FrameGroup
        What was ingested, per frame type and counter.

    Raises
    ------
    InputError
        If a file is damaged, or the frames are not a whole scan; then nothing is committed.
    """
    geometry = scan.geometry
    counters = tuple(scan.manifest.camera_counters())
    claim_output(out_uri, overwrite=overwrite)
    configure(spark)
    chunks = cut(scan, task_slots(spark))
    decode = Decode(chunks, scan.manifest.scan_id, counters, scan.angles_rad, scan.sample_z_mm)
    exposure_bytes = max(f.exposure_bytes for f in scan.files)
    group_bytes = min(LARGEST_ROW_GROUP_BYTES, max(SMALLEST_ROW_GROUP_BYTES, scan.pixel_bytes // 64))
    with spark_failures(f"reading the raw files of {scan.manifest_uri}"), watch_stages(spark, progress, ["ingest"]):
        numbers = spark.range(0, len(chunks), 1, len(chunks))
        write_table(
            numbers.mapInArrow(decode.as_function(), spark_schema("frames")),
            out_uri,
            # Whole views per row group: the number of rows closes it, well before its size would.
            row_group_rows=max(1, group_bytes // exposure_bytes) * len(counters),
            row_group_bytes=2 * max(group_bytes, exposure_bytes) + MIB,
        )
    with spark_failures("checking the frames"):
        groups, content, pixel_bytes = survey(spark, out_uri, geometry, counters)
    if any(group.frame_type == "open_beam" for group in groups):
        with spark_failures("averaging the open beams"), watch_stages(spark, progress, ["open beams"]):
            write_calibration(spark, out_uri, len(counters))
    metadata: dict[str, Any] = {
        "kind": "frames",
        "format": 1,
        "version": marspipe.__version__,
        "scan_id": scan.manifest.scan_id,
        "description": scan.manifest.description,
        "geometry": geometry.to_dict(),
        "counters": [{"index": c.index, "mode": c.mode, "threshold_kev": c.threshold_kev} for c in counters],
        "tube": scan.manifest.tube.model_dump(mode="json") if scan.manifest.tube else None,
        "acquired_at": first_exposure_at(scan),
        "source": scan.manifest_uri,
        "fingerprint": fingerprint(scan),
        "content_hash": content,
        "pixel_bytes": pixel_bytes,
        "groups": [asdict(group) for group in groups],
    }
    commit(out_uri, metadata)
    return groups


def fingerprint(scan: RawScan) -> str:
    """Return a hash of the manifest and of the names and sizes of the raw files, without reading pixels."""
    files = [[f.uri, f.n_exposures, f.exposure_bytes] for f in scan.files]
    return content_hash([scan.manifest.model_dump(mode="json"), scan.angles_rad.tolist(), files])


def first_exposure_at(scan: RawScan) -> str | None:
    """Return when the first projection was acquired, ISO 8601 in UTC, if the raw file tells."""
    file = min((f for f in scan.files if f.entry.frame_type == "projection"), key=lambda f: f.first_view)
    with storage.open_input(file.uri) as raw:
        first = READERS[file.entry.reader].index(raw, file.uri, 0, 1, dataset=file.entry.dataset)
    return first[0].acquired_at


def cut(scan: RawScan, slots: int) -> list[Chunk]:
    """Cut the raw files into chunks of whole exposures, a few for every task slot, none too large or too small."""
    wanted = min(LARGEST_CHUNK_BYTES, max(SMALLEST_CHUNK_BYTES, scan.pixel_bytes // (4 * slots)))
    chunks = []
    for file in scan.files:
        # Equal chunks, as many as fill the slots: what reads the table later is cut along these files.
        count = math.ceil(file.n_exposures * file.exposure_bytes / wanted)
        count = count if count == 1 else math.ceil(count / slots) * slots
        step = math.ceil(file.n_exposures / count)
        for first in range(0, file.n_exposures, step):
            chunks.append(Chunk(file, first, min(step, file.n_exposures - first)))
    return chunks


@dataclass(frozen=True)
class Decode:
    """Reads the frames of chunks; travels to the executors."""

    chunks: list[Chunk]
    scan_id: str
    counters: tuple[Counter, ...]
    angles_rad: NDArray[np.float64]
    sample_z_mm: NDArray[np.float64]

    def as_function(self) -> Any:
        """Return the plain function from chunk numbers to frames that Spark wants."""

        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for number in batch.column("id").to_pylist():
                    yield from self.frames(self.chunks[number])

        return run

    def frames(self, chunk: Chunk) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the frames table for one chunk."""
        file, entry, n_counters = chunk.file, chunk.file.entry, len(self.counters)
        reader = READERS[entry.reader]
        with storage.open_input(file.uri) as raw:
            index = reader.index(
                raw,
                file.uri,
                chunk.first * n_counters,
                chunk.count * n_counters,
                dataset=entry.dataset,
                frame_type=entry.frame_type,
            )
            rows: list[dict[str, Any]] = []
            frames: list[NDArray[Any]] = []
            held = 0
            for place, (record, stored) in enumerate(zip(index, reader.read_many(raw, index), strict=True)):
                exposure, expected = divmod(place, n_counters)
                if record.counter != expected:
                    raise ScanError(
                        f"{file.uri}: frame {chunk.first * n_counters + place} is of counter {record.counter}, "
                        f"expected counter {expected} of exposure {chunk.first + exposure}"
                    )
                frame = orient(stored, entry.orientation)
                view = file.first_view + chunk.first + exposure
                counter = self.counters[record.counter]
                projection = entry.frame_type == "projection"
                rows.append(
                    {
                        "scan_id": self.scan_id,
                        "frame_type": entry.frame_type,
                        "view": view,
                        "angle_rad": float(self.angles_rad[view]) if projection else None,
                        "tile": 0,
                        "tile_u_mm": 0.0,
                        "tile_v_mm": 0.0,
                        "sample_z_mm": float(self.sample_z_mm[view]) if projection else 0.0,
                        "counter": counter.index,
                        "mode": counter.mode,
                        "threshold_kev": counter.threshold_kev,
                        "exposure_s": entry.exposure_s if entry.exposure_s is not None else record.exposure_s,
                        "acquired_at": record.acquired_at,
                        "rows": frame.shape[0],
                        "cols": frame.shape[1],
                        "dtype": frame.dtype.name,
                        "checksum": checksum(frame),
                        "source_uri": file.uri,
                        "source_offset": record.offset,
                        "source_length": record.length,
                    }
                )
                frames.append(frame)
                held += frame.nbytes
                if held >= ARROW_BATCH_BYTES:
                    yield _batch(rows, frames)
                    rows, frames, held = [], [], 0
            if rows:
                yield _batch(rows, frames)


def _batch(rows: list[dict[str, Any]], frames: list[NDArray[Any]]) -> pa.RecordBatch:
    schema = table_schema("frames").arrow()
    raw = np.concatenate([f.astype(f.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8) for f in frames])
    pixels = binary_column(raw, [f.nbytes for f in frames])
    arrays = [
        pixels if field.name == "pixels" else pa.array([row[field.name] for row in rows], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
