"""A scan in its raw files: opened, and checked against its manifest, by the first header of every file.

Many files are looked at by the executors, not one by one by the driver.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.errors import RawFormatError, ScanError
from marspipe.pipeline.failures import spark_failures
from marspipe.pipeline.quarantine import Damage
from marspipe.readers import READERS
from marspipe.readers.frames import file_size, read_range
from marspipe.readers.manifest import (
    FILE_NAME,
    FileEntry,
    ScanManifest,
    load_manifest,
    resolve_angles,
    resolve_uri,
    scan_geometry,
)
from marspipe.readers.merlin_header import PREFIX_BYTES, header_length, parse_header
from marspipe.recipe import content_hash
from marspipe.scan.geometry import ScanGeometry
from marspipe.store import storage

# Below this many files the driver is done before the executors have begun.
FILES_ON_DRIVER = 256
_FILES_PER_TASK = 256


@dataclass(frozen=True)
class RawFile:
    """One raw file of a scan, as far as its first header and its size tell.

    Attributes
    ----------
    uri : str
        The file.
    entry : FileEntry
        What the manifest says of it.
    n_exposures : int
        Whole exposures in it.
    exposure_bytes : int
        Pixels of an exposure, all counters, bytes.
    first_view : int
        View (number of the open beam or dark frame) of its first exposure.
    stored_bytes : int or None
        What an exposure takes in the file, headers too, bytes; None if the format has no equal records.
    layout : (int, int, str)
        Rows, columns and pixel type of its first frame, as stored.
    """

    uri: str
    entry: FileEntry
    n_exposures: int
    exposure_bytes: int
    first_view: int
    stored_bytes: int | None
    layout: tuple[int, int, str]

    def open(self) -> BinaryIO:
        """Open the file, without a record at its end that is not whole."""
        raw = storage.open_input(self.uri)
        if self.stored_bytes is None:
            return raw
        return part_of(raw, 0, self.n_exposures * self.stored_bytes, closes=True)


@dataclass(frozen=True)
class RawScan:
    """A scan in its raw files, validated against its manifest but not yet read."""

    manifest_uri: str
    manifest: ScanManifest
    angles_rad: NDArray[np.float64]
    sample_z_mm: NDArray[np.float64]
    files: tuple[RawFile, ...]
    damages: tuple[Damage, ...] = ()

    @property
    def geometry(self) -> ScanGeometry:
        """Where source and detector stood, as the manifest says."""
        return scan_geometry(self.manifest, self.angles_rad, self.sample_z_mm)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all frames."""
        return sum(f.n_exposures * f.exposure_bytes for f in self.files)


class _PartOfFile(io.RawIOBase):
    """Bytes ``start .. start + length`` of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, length: int, closes: bool) -> None:
        self._file, self._start, self._length, self._position = file, start, length, 0
        self._closes = closes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._length - self._position)
        self._file.seek(self._start + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data

    def close(self) -> None:
        if self._closes:
            self._file.close()
        super().close()


def part_of(file: BinaryIO, start: int, length: int, *, closes: bool = False) -> BinaryIO:
    """Return a part of a seekable file as a file of its own.

    Parameters
    ----------
    file : seekable binary file
        The whole.
    start, length : int
        The part, bytes.
    closes : bool
        Whether closing the part closes the file.
    """
    return cast(BinaryIO, _PartOfFile(file, start, length, closes))


@dataclass(frozen=True)
class _Look:
    """What the first header and the size of a file tell; no frames if it cannot be read."""

    uri: str
    frames: int
    frame_bytes: int
    stored_bytes: int | None
    layout: tuple[int, int, str]
    angles_rad: NDArray[np.float64] | None
    damage: Damage | None


def open_scan(uri: str, spark: SparkSession | None = None, *, tolerant: bool = False) -> RawScan:
    """Read a scan's manifest and the first header of each of its files.

    Parameters
    ----------
    uri : str
        The manifest, or the folder that holds it as ``scan.yaml``.
    spark : SparkSession, optional
        The session whose executors look at the files, if there are many.
    tolerant : bool
        Whether a damaged or missing file is listed in ``damages`` instead of being an error.

    Raises
    ------
    ScanError, RawFormatError
        If the manifest is wrong, a file is missing or damaged, or a file does not hold what the manifest says.
    """
    manifest, manifest_uri = read_manifest(uri)
    n_counters = len(manifest.counters)
    files: list[RawFile] = []
    angles: list[NDArray[np.float64]] = []
    damages: list[Damage] = []
    exposures: dict[str, int] = defaultdict(int)
    looks = _look_at_all(manifest, manifest_uri, spark, tolerant)
    for entry, look in zip(manifest.files, looks, strict=True):
        projection = entry.frame_type == "projection"
        n_exposures, rest = divmod(look.frames, n_counters)
        base = entry.first_view if projection else exposures[entry.frame_type]
        if rest:
            raise ScanError(
                f"{look.uri} holds {look.frames} frames, which is no multiple of the {n_counters} counters of "
                f"{manifest_uri}"
            )
        lost = None if look.damage is None else look.damage.exposures
        if projection:
            if look.angles_rad is None:
                raise ScanError(
                    f"{look.uri} cannot be read, and the angles of its views lie in it: "
                    f"{look.damage.reason if look.damage else ''}"
                )
            lost = len(look.angles_rad) - n_exposures
            if lost < 0 or (lost and not tolerant):
                raise ScanError(
                    f"{look.uri} holds {n_exposures} exposures of {n_counters} counters, but {manifest_uri} gives "
                    f"{len(look.angles_rad)} angles for it"
                )
            angles.append(look.angles_rad)
        damage = look.damage
        if damage is None and lost:
            offset = None if look.stored_bytes is None else n_exposures * look.stored_bytes
            reason = f"the file ends after {n_exposures} of {n_exposures + lost} exposures"
            damage = Damage(look.uri, offset, entry.frame_type, None, None, reason)
        if damage is not None:
            damages.append(
                Damage(damage.uri, damage.offset, damage.frame_type, base + n_exposures, lost, damage.reason)
            )
        # A lost exposure keeps its number, so that those behind it have the same when the file is repaired.
        exposures[entry.frame_type] += n_exposures + (lost or 0)
        if n_exposures:
            size = n_counters * look.frame_bytes
            files.append(RawFile(look.uri, entry, n_exposures, size, base, look.stored_bytes, look.layout))
    heights = manifest.sample_heights_mm([part.size for part in angles])
    return RawScan(manifest_uri, manifest, manifest.projection_angles(angles), heights, tuple(files), tuple(damages))


def read_manifest(uri: str) -> tuple[ScanManifest, str]:
    """Return a scan's manifest and where it lies, given that or the folder that holds it as ``scan.yaml``.

    Raises
    ------
    ScanError
        If there is none, or it is wrong.
    """
    manifest_uri = uri if uri.endswith((".yaml", ".yml")) else storage.join(uri, FILE_NAME)
    try:
        text = storage.read_bytes(manifest_uri).decode("utf-8")
    except FileNotFoundError as error:
        raise ScanError(f"{manifest_uri}: there is no scan manifest") from error
    except UnicodeDecodeError as error:
        raise ScanError(f"{manifest_uri}: not a text file") from error
    return load_manifest(text, manifest_uri), manifest_uri


def _look_at_all(manifest: ScanManifest, manifest_uri: str, spark: SparkSession | None, tolerant: bool) -> list[_Look]:
    n_counters = len(manifest.counters)
    named = [(entry, resolve_uri(entry.path, manifest_uri)) for entry in manifest.files]

    def look(item: tuple[FileEntry, str]) -> _Look:
        return _look_at(*item, manifest_uri, n_counters, tolerant)

    if spark is None or len(named) <= FILES_ON_DRIVER:
        return [look(item) for item in named]
    context = spark.sparkContext
    parts = max(context.defaultParallelism, len(named) // _FILES_PER_TASK)
    with spark_failures(f"looking at the raw files of {manifest_uri}"):
        return context.parallelize(named, parts).map(look).collect()


def _look_at(entry: FileEntry, uri: str, manifest_uri: str, n_counters: int, tolerant: bool) -> _Look:
    reader = READERS[entry.reader]
    damage: Damage | None = None
    try:
        raw = storage.open_input(uri)
    except FileNotFoundError as error:
        if not tolerant:
            raise ScanError(f"{manifest_uri}: {entry.frame_type} file {uri} does not exist") from error
        return _unreadable(entry, uri, "the file does not exist")
    with raw:
        try:
            try:
                frames = reader.count(raw, uri, dataset=entry.dataset, frame_type=entry.frame_type)
            except RawFormatError as error:
                stored = exposure_bytes_in_file(raw, entry, n_counters) if tolerant else None
                whole = 0 if stored is None else file_size(raw) // stored * stored
                if not whole:
                    raise
                # The last record is incomplete; those before it are not.
                damage = Damage(uri, whole, entry.frame_type, None, 1, str(error))
                raw = part_of(raw, 0, whole)
                frames = reader.count(raw, uri, dataset=entry.dataset, frame_type=entry.frame_type)
            first = reader.index(raw, uri, 0, 1, dataset=entry.dataset, frame_type=entry.frame_type)
            angles = resolve_angles(entry, raw, uri) if entry.frame_type == "projection" else None
            stored = exposure_bytes_in_file(raw, entry, n_counters)
        except RawFormatError as error:
            if not tolerant:
                raise
            return _unreadable(entry, uri, str(error))
    if not first:
        return _Look(uri, 0, 0, None, (0, 0, ""), angles, damage)
    layout = first[0].rows, first[0].cols, first[0].dtype
    frame_bytes = layout[0] * layout[1] * np.dtype(layout[2]).itemsize
    return _Look(uri, frames, frame_bytes, stored, layout, angles, damage)


def _unreadable(entry: FileEntry, uri: str, reason: str) -> _Look:
    damage = Damage(uri, 0, entry.frame_type, None, None, reason)
    return _Look(uri, 0, 0, None, (0, 0, ""), entry.literal_angles(), damage)


def exposure_bytes_in_file(raw: BinaryIO, entry: FileEntry, n_counters: int) -> int | None:
    """Return what an exposure takes in a file of equal records (Merlin), bytes; None for other formats."""
    if entry.reader != "merlin":
        return None
    where = f"{entry.path}: record 0"
    length = header_length(read_range(raw, 0, PREFIX_BYTES), where)
    return n_counters * parse_header(read_range(raw, 0, length), where).record_bytes


def fingerprint(scan: RawScan) -> str:
    """Return a hash of the manifest and of the names and sizes of the raw files, without reading pixels."""
    files = [[f.uri, f.n_exposures, f.exposure_bytes] for f in scan.files]
    return content_hash([scan.manifest.model_dump(mode="json"), scan.angles_rad.tolist(), files])


def first_exposure_at(scan: RawScan) -> str | None:
    """Return when the first projection was acquired, ISO 8601 in UTC, if the raw file tells."""
    of_sample = [f for f in scan.files if f.entry.frame_type == "projection"]
    if not of_sample:
        return None
    file = min(of_sample, key=lambda f: f.first_view)
    with file.open() as raw:
        first = READERS[file.entry.reader].index(raw, file.uri, 0, 1, dataset=file.entry.dataset)
    return first[0].acquired_at
