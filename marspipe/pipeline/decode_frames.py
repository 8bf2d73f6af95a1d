"""Raw records to rows of the frames table; this runs in the tasks.

With a list for damage, an exposure that cannot be read is put on it and left out as a whole, so that a view has all its
counters or none; without one, the first fault ends the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from marspipe.errors import RawFormatError, ScanError
from marspipe.pipeline.quarantine import Damage
from marspipe.pipeline.raw_scan import RawFile, part_of
from marspipe.pipeline.session import ARROW_BATCH_BYTES
from marspipe.readers import READERS, orient
from marspipe.scan.energy import Counter
from marspipe.store.blobs import binary_column, checksum
from marspipe.store.schema import table_schema


@dataclass(frozen=True)
class Chunk:
    """Exposures ``first .. first + count`` of one raw file."""

    file: RawFile
    first: int
    count: int


@dataclass(frozen=True)
class Exposure:
    """All counter images of one exposure, and their rows of the frames table without the pixels."""

    rows: list[dict[str, Any]]
    frames: list[NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return sum(frame.nbytes for frame in self.frames)


@dataclass(frozen=True)
class Decode:
    """Reads the frames of chunks; travels to the executors."""

    chunks: list[Chunk]
    scan_id: str
    counters: tuple[Counter, ...]
    angles_rad: NDArray[np.float64]
    sample_z_mm: NDArray[np.float64]

    def frames(self, chunk: Chunk) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the frames table for one chunk."""
        held: list[Exposure] = []
        size = 0
        for exposure in self.exposures(chunk):
            held.append(exposure)
            size += exposure.nbytes
            if size >= ARROW_BATCH_BYTES:
                yield record_batch(held)
                held, size = [], 0
        if held:
            yield record_batch(held)

    def exposures(self, chunk: Chunk, damages: list[Damage] | None = None) -> Iterator[Exposure]:
        """Yield the exposures of one chunk.

        Parameters
        ----------
        chunk : Chunk
            What to read.
        damages : list of Damage, optional
            Where to put what cannot be read.

        Raises
        ------
        RawFormatError, ScanError
            If the file is damaged and there is no such list.
        """
        file = chunk.file
        try:
            raw = file.open()
        except FileNotFoundError as error:
            if damages is None:
                raise ScanError(f"{file.uri} does not exist any more") from error
            damages.append(self._damage(file, chunk.first, chunk.count, "the file does not exist any more"))
            return
        with raw:
            done = 0
            try:
                for exposure in self._read(raw, chunk):
                    yield exposure
                    done += 1
            except (RawFormatError, ScanError):
                if damages is None:
                    raise
            # Only what is left after a fault: one by one, to lose no more than what is damaged.
            for number in range(chunk.first + done, chunk.first + chunk.count):
                try:
                    yield self._rescue(raw, file, number)
                except (RawFormatError, ScanError) as error:
                    assert damages is not None
                    damages.append(self._damage(file, number, 1, str(error)))

    def _damage(self, file: RawFile, number: int, count: int, reason: str) -> Damage:
        offset = None if file.stored_bytes is None else number * file.stored_bytes
        return Damage(file.uri, offset, file.entry.frame_type, file.first_view + number, count, reason)

    def _rescue(self, raw: BinaryIO, file: RawFile, number: int) -> Exposure:
        try:
            return next(self._read(raw, Chunk(file, number, 1)))
        except RawFormatError:
            # A reader looks at the record before, too, for doubled records: that one may be the damaged one.
            if not number or file.stored_bytes is None or self._is_sound(raw, file, number - 1):
                raise
            return self._alone(raw, file, number)

    def _is_sound(self, raw: BinaryIO, file: RawFile, number: int) -> bool:
        try:
            self._alone(raw, file, number)
        except (RawFormatError, ScanError):
            return False
        return True

    def _alone(self, raw: BinaryIO, file: RawFile, number: int) -> Exposure:
        """Read an exposure as if it were all of its file."""
        assert file.stored_bytes is not None
        start = number * file.stored_bytes
        part = part_of(raw, start, file.stored_bytes)
        exposure = next(self._read(part, Chunk(file, 0, 1), number))
        for row in exposure.rows:
            row["source_offset"] += start
        return exposure

    def _read(self, raw: BinaryIO, chunk: Chunk, number: int | None = None) -> Iterator[Exposure]:
        """Yield the exposures of a chunk; ``number`` is the true number of its first one, if it differs."""
        file, entry, n = chunk.file, chunk.file.entry, len(self.counters)
        reader = READERS[entry.reader]
        begin = chunk.first if number is None else number
        index = reader.index(
            raw, file.uri, chunk.first * n, chunk.count * n, dataset=entry.dataset, frame_type=entry.frame_type
        )
        if len(index) != chunk.count * n:
            raise RawFormatError(f"{file.uri}: {len(index)} frames from frame {begin * n}, expected {chunk.count * n}")
        pixels = reader.read_many(raw, index)
        for place in range(chunk.count):
            rows, frames = [], []
            for expected, record in enumerate(index[place * n : (place + 1) * n]):
                if record.counter != expected:
                    raise ScanError(
                        f"{file.uri}: frame {(begin + place) * n + expected} is of counter {record.counter}, "
                        f"expected counter {expected} of exposure {begin + place}"
                    )
                if (record.rows, record.cols, record.dtype) != file.layout:
                    raise ScanError(
                        f"{file.uri}: frame {(begin + place) * n + expected} has {record.rows} x {record.cols} px of "
                        f"{record.dtype}, expected {file.layout[0]} x {file.layout[1]} px of {file.layout[2]}"
                    )
                frame = orient(next(pixels), entry.orientation)
                rows.append(self._row(file, begin + place, record, frame))
                frames.append(frame)
            yield Exposure(rows, frames)

    def _row(self, file: RawFile, number: int, record: Any, frame: NDArray[Any]) -> dict[str, Any]:
        entry, view = file.entry, file.first_view + number
        counter = self.counters[record.counter]
        projection = entry.frame_type == "projection"
        return {
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
            "source_uri": record.uri,
            "source_offset": record.offset,
            "source_length": record.length,
        }


def record_batch(exposures: list[Exposure]) -> pa.RecordBatch:
    """Return the rows of the frames table of some exposures; their pixels together stay below 2 GiB."""
    schema = table_schema("frames").arrow()
    rows = [row for exposure in exposures for row in exposure.rows]
    frames = [frame for exposure in exposures for frame in exposure.frames]
    raw = np.concatenate([f.astype(f.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8) for f in frames])
    pixels = binary_column(raw, [f.nbytes for f in frames])
    arrays = [
        pixels if field.name == "pixels" else pa.array([row[field.name] for row in rows], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
