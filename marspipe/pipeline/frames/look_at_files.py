"""A look at every raw file of a manifest: its first header and its size, by the executors if there are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.errors import RawFormatError, ScanError
from marspipe.pipeline.frames.quarantine import Damage
from marspipe.pipeline.frames.raw_file import CameraFacts, part_of
from marspipe.pipeline.spark.failures import spark_failures
from marspipe.readers import READERS, FrameEntry, merlin_gaps
from marspipe.readers.frames import file_size
from marspipe.readers.manifest import (
    FileEntry,
    HeightDataset,
    ScanManifest,
    resolve_angles,
    resolve_heights,
    resolve_uri,
)
from marspipe.readers.merlin_assembly import Spans
from marspipe.readers.merlin_header import chip_edges
from marspipe.store import storage

# Below this many files the driver is done before the executors have begun.
FILES_ON_DRIVER = 256
_FILES_PER_TASK = 256
# Of numbered files the first that can be read tells how all of them are; so many are tried.
_NUMBERED_TRIED = 16


@dataclass(frozen=True)
class Stretch:
    """Exposures that follow each other in a file: number of the first, its byte, how many, its sequence number."""

    exposure: int
    start: int
    count: int
    sequence: int | None = None


@dataclass(frozen=True)
class Look:
    """What the first header and the size of a file tell; no exposures if it cannot be read."""

    uri: str
    exposure_bytes: int = 0
    stored_bytes: int | None = None
    layout: tuple[int, int, str] = (0, 0, "")
    angles_rad: NDArray[np.float64] | None = None
    heights_mm: NDArray[np.float64] | None = None
    damages: tuple[Damage, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    sequence_step: int | None = None
    camera: CameraFacts = field(default_factory=CameraFacts)


@dataclass(frozen=True)
class LookAt:
    """Looks at one file; travels to the executors."""

    manifest_uri: str
    n_counters: int
    tolerant: bool

    def __call__(self, entry: FileEntry) -> Look:
        """Return what a file tells, or the first that can be read of numbered ones."""
        uri = resolve_uri(entry.path, self.manifest_uri)
        if entry.numbered is None:
            return self._look(entry, uri, uri)
        tried = min(_NUMBERED_TRIED, entry.numbered.count) if self.tolerant else 1
        for number in range(tried):
            look = self._look(entry, uri, resolve_uri(entry.name(number), self.manifest_uri))
            if look.stretches:
                break
        return look

    def _look(self, entry: FileEntry, uri: str, file_uri: str) -> Look:
        try:
            raw = storage.open_input(file_uri)
        except FileNotFoundError as error:
            if not self.tolerant:
                raise ScanError(f"{self.manifest_uri}: {entry.frame_type} file {file_uri} does not exist") from error
            return _unreadable(entry, uri, f"{'the file' if uri == file_uri else file_uri} does not exist")
        with raw:
            try:
                return self._readable(entry, uri, file_uri, raw)
            except RawFormatError as error:
                if not self.tolerant:
                    raise RawFormatError(str(error)) from error  # by this name Spark's message of it is understood
                return _unreadable(entry, uri, str(error))

    def _readable(self, entry: FileEntry, uri: str, file_uri: str, raw: BinaryIO) -> Look:
        reader, n = READERS[entry.reader], self.n_counters
        kept: list[Damage] = []
        stored = exposure_bytes_in_file(raw, entry, n)
        whole = raw
        try:
            frames = reader.count(raw, file_uri, dataset=entry.dataset, frame_type=entry.frame_type)
        except RawFormatError as error:
            length = 0 if stored is None or not self.tolerant else file_size(raw) // stored * stored
            if not length or entry.numbered is not None:
                raise
            # The last record is incomplete; those before it are not.
            kept.append(Damage(uri, length, entry.frame_type, None, 1, str(error)))
            whole = part_of(raw, 0, length)
            frames = reader.count(whole, file_uri, dataset=entry.dataset, frame_type=entry.frame_type)
        first = reader.index(whole, file_uri, 0, 1, dataset=entry.dataset, frame_type=entry.frame_type)
        angles = resolve_angles(entry, raw, uri) if entry.frame_type == "projection" else None
        heights = None if angles is None else resolve_heights(entry, angles.size, raw, uri)
        if not first:
            return Look(uri, angles_rad=angles, heights_mm=heights, damages=tuple(kept))
        stretches: tuple[Stretch, ...] = (Stretch(0, 0, frames // n, first[0].sequence),)
        rest = frames % n
        step = None if stored is None or entry.numbered is not None else merlin_gaps.gapless_step(raw, n)
        if self.tolerant and stored is not None and entry.numbered is None and step is None:
            runs, step = merlin_gaps.runs_of(raw, uri, n)
            stretches = tuple(
                Stretch(r.exposure, r.record * (stored // n), r.count, first[0].sequence + r.exposure * step)
                for r in runs
            )
            rest = 0
            if file_size(raw) % (stored // n) == 0:
                kept.clear()  # nothing is cut: the gaps are what is missing
        if rest:
            raise ScanError(
                f"{uri} holds {frames} frames, which is no multiple of the {n} counters of {self.manifest_uri}"
            )
        if entry.numbered is not None:
            if frames != n:
                raise ScanError(
                    f"{file_uri} holds {frames} frames, but a numbered file must hold one exposure of {n} counters"
                )
            stretches = (Stretch(0, 0, entry.numbered.count),)
        layout = first[0].rows, first[0].cols, first[0].dtype
        return Look(
            uri,
            n * layout[0] * layout[1] * np.dtype(layout[2]).itemsize,
            stored,
            layout,
            angles,
            heights,
            tuple(kept),
            stretches,
            step,
            _facts(entry, raw, first[0]),
        )


def look_at_all(
    manifest: ScanManifest, manifest_uri: str, spark: SparkSession | None, tolerant: bool
) -> Sequence[Look]:
    """Return what every file of a manifest tells, in its order."""
    look = LookAt(manifest_uri, len(manifest.counters), tolerant)
    if spark is None or len(manifest.files) <= FILES_ON_DRIVER:
        return [look(entry) for entry in manifest.files]
    context = spark.sparkContext
    parts = max(context.defaultParallelism, len(manifest.files) // _FILES_PER_TASK)
    with spark_failures(f"looking at the raw files of {manifest_uri}"):
        return context.parallelize(manifest.files, parts).map(look).collect()


def exposure_bytes_in_file(raw: BinaryIO, entry: FileEntry, n_counters: int) -> int | None:
    """Return what an exposure takes in a file of equal records (Merlin), bytes; None for other formats."""
    if entry.reader != "merlin":
        return None
    return n_counters * merlin_gaps.first_record(raw, f"{entry.path}: record 0").record_bytes


def _unreadable(entry: FileEntry, uri: str, reason: str) -> Look:
    damage = Damage(uri, 0, entry.frame_type, None, None, reason)
    angles = entry.literal_angles()
    heights = None
    if angles is not None and not isinstance(entry.sample_z_mm, HeightDataset):
        heights = entry.heights_mm(angles.size)
    return Look(uri, angles_rad=angles, heights_mm=heights, damages=(damage,))


def _facts(entry: FileEntry, raw: BinaryIO, frame: FrameEntry) -> CameraFacts:
    lines: list[tuple[int, ...]] = [(), ()]
    if entry.reader == "merlin":
        edges = chip_edges(merlin_gaps.first_record(raw, f"{entry.path}: record 0"))
        lines = [_seams(edges.row_spans), _seams(edges.column_spans)]
    shape = frame.rows, frame.cols
    how = entry.orientation
    if how.transpose:
        lines, shape = lines[::-1], shape[::-1]
    for axis, flipped in enumerate((how.flip_rows, how.flip_columns)):
        if flipped:
            lines[axis] = tuple(shape[axis] - 1 - line for line in reversed(lines[axis]))
    return CameraFacts(frame.counter_depth_bits, lines[0], lines[1], frame.acquired_at)


def _seams(spans: Spans) -> tuple[int, ...]:
    """Return the last line of a chip, the first of the next one, and the gap between them."""
    return tuple(line for (_, end), (begin, _) in pairwise(spans) for line in range(end - 1, begin + 1))
