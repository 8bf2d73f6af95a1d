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
from marspipe.pipeline.frames.quarantine import Damage
from marspipe.pipeline.frames.raw_file import RawFile, part_of
from marspipe.pipeline.frames.raw_scan import RawScan
from marspipe.pipeline.frames.scan_parts import MIB, Chunk, Part
from marspipe.pipeline.spark.session import ARROW_BATCH_BYTES
from marspipe.readers import READERS, FrameEntry, orient
from marspipe.scan.energy import Counter
from marspipe.store.blobs import binary_column, checksum
from marspipe.store.schema import table_schema

# With several camera positions, so much is held to bring the frames into the order of the views.
BLOCK_BYTES = 32 * MIB


@dataclass(frozen=True)
class Exposure:
    """All counter images of one exposure, and their rows of the frames table without the pixels."""

    rows: list[dict[str, Any]]
    frames: list[NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return sum(frame.nbytes for frame in self.frames)

    @property
    def view(self) -> tuple[str, int]:
        """Frame type and view."""
        return self.rows[0]["frame_type"], self.rows[0]["view"]


@dataclass(frozen=True)
class Decode:
    """Reads the frames of parts of a scan; travels to the executors."""

    scan_id: str
    counters: tuple[Counter, ...]
    angles_rad: NDArray[np.float64]
    sample_z_mm: NDArray[np.float64]
    camera_positions_mm: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, scan: RawScan) -> Decode:
        """Return what reads the frames of a scan."""
        manifest = scan.manifest
        return cls(
            manifest.scan_id,
            tuple(manifest.camera_counters()),
            scan.angles_rad,
            scan.sample_z_mm,
            manifest.camera_positions_mm,
        )

    def frames(self, part: Part) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the frames table for a part of a scan, in the order of the table."""
        held: list[Exposure] = []
        size = 0
        for exposure in self.exposures(part):
            held.append(exposure)
            size += exposure.nbytes
            if size >= ARROW_BATCH_BYTES:
                yield record_batch(held)
                held, size = [], 0
        if held:
            yield record_batch(held)

    def exposures(self, part: Part, damages: list[Damage] | None = None) -> Iterator[Exposure]:
        """Yield the exposures of a part, view by view, and in a view in the order of the camera positions.

        Parameters
        ----------
        part : Part
            What to read.
        damages : list of Damage, optional
            Where to put what cannot be read.

        Raises
        ------
        RawFormatError, ScanError
            If a file is damaged and there is no such list.
        """
        for chunks in part.blocks(BLOCK_BYTES):
            found = (exposure for chunk in chunks for exposure in self._of_chunk(chunk, damages))
            if len({chunk.file.tile for chunk in chunks}) > 1:
                yield from sorted(found, key=lambda exposure: (exposure.view, exposure.rows[0]["tile"]))
            else:
                yield from found

    def _of_chunk(self, chunk: Chunk, damages: list[Damage] | None) -> Iterator[Exposure]:
        if not chunk.file.is_numbered:
            yield from self._of_file(chunk, 0, damages)
            return
        for number in range(chunk.first, chunk.first + chunk.count):
            yield from self._of_file(Chunk(chunk.file, number, 1), number, damages)

    def _of_file(self, chunk: Chunk, exposure: int, damages: list[Damage] | None) -> Iterator[Exposure]:
        file = chunk.file
        try:
            raw = file.open(exposure)
        except FileNotFoundError as error:
            if damages is None:
                raise ScanError(f"{file.uri_of(exposure)} does not exist") from error
            damages.append(self._damage(file, chunk.first, chunk.count, "the file does not exist"))
            return
        with raw:
            yield from self._readable(raw, chunk, damages)

    def _readable(self, raw: BinaryIO, chunk: Chunk, damages: list[Damage] | None) -> Iterator[Exposure]:
        """Yield what can be read; after a fault in halves, to lose no more than what is damaged."""
        done = 0
        try:
            for exposure in self._read(raw, chunk):
                yield exposure
                done += 1
        except (RawFormatError, ScanError) as error:
            if damages is None:
                if isinstance(error, RawFormatError):
                    raise RawFormatError(str(error)) from error  # by this name Spark's message of it is understood
                raise
            if chunk.count == 1:
                try:
                    yield self._despite_its_neighbor(raw, chunk, error)
                except (RawFormatError, ScanError) as final:
                    damages.append(self._damage(chunk.file, chunk.first, 1, str(final)))
                return
        first, rest = chunk.first + done, chunk.count - done
        for start, count in ((first, (rest + 1) // 2), (first + (rest + 1) // 2, rest // 2)):
            if count:
                yield from self._readable(raw, Chunk(chunk.file, start, count), damages)

    def _damage(self, file: RawFile, number: int, count: int, reason: str) -> Damage:
        offset = None
        if file.stored_bytes is not None:
            offset = 0 if file.is_numbered else file.start + number * file.stored_bytes
        return Damage(file.uri_of(number), offset, file.entry.frame_type, file.first_view + number, count, reason)

    def _despite_its_neighbor(self, raw: BinaryIO, chunk: Chunk, error: Exception) -> Exposure:
        """Read an exposure by itself if the one before it is damaged: a reader looks at that, too, for doubles."""
        file, number = chunk.file, chunk.first
        if not number or file.stored_bytes is None or file.is_numbered or self._is_sound(raw, file, number - 1):
            raise error
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
        reader, begin = READERS[entry.reader], chunk.first if number is None else number
        uri, first, count = file.uri_of(begin), chunk.first * n, chunk.count * n
        if file.is_numbered:  # all of the file, to see that it holds no more
            index = reader.index(raw, uri, dataset=entry.dataset, frame_type=entry.frame_type)
        else:
            index = reader.index(raw, uri, first, count, dataset=entry.dataset, frame_type=entry.frame_type)
        if len(index) != count:
            raise RawFormatError(f"{uri}: {len(index)} frames from frame {begin * n}, expected {count}")
        if number is not None:
            self._require_sequence(file, index[0], number)
        pixels = reader.read_many(raw, index)
        for place in range(chunk.count):
            rows, frames = [], []
            for expected, record in enumerate(index[place * n : (place + 1) * n]):
                if record.counter != expected:
                    raise ScanError(
                        f"{uri}: frame {(begin + place) * n + expected} is of counter {record.counter}, "
                        f"expected counter {expected} of exposure {begin + place}"
                    )
                if (record.rows, record.cols, record.dtype) != file.layout:
                    raise ScanError(
                        f"{uri}: frame {(begin + place) * n + expected} has {record.rows} x {record.cols} px of "
                        f"{record.dtype}, expected {file.layout[0]} x {file.layout[1]} px of {file.layout[2]}"
                    )
                frame = orient(next(pixels), entry.orientation)
                rows.append(self._row(file, begin + place, record, frame))
                frames.append(frame)
            yield Exposure(rows, frames)

    def _require_sequence(self, file: RawFile, record: FrameEntry, number: int) -> None:
        """Raise if an exposure that is read by itself is not the one that its place says."""
        if file.sequence is not None and record.sequence != (wanted := file.sequence[0] + number * file.sequence[1]):
            raise RawFormatError(
                f"{file.uri}: exposure {number} has sequence number {record.sequence}, expected {wanted}"
            )

    def _row(self, file: RawFile, number: int, record: FrameEntry, frame: NDArray[Any]) -> dict[str, Any]:
        entry, view = file.entry, file.first_view + number
        counter = self.counters[record.counter]
        projection = entry.frame_type == "projection"
        tile_v_mm, tile_u_mm = self.camera_positions_mm[entry.tile]
        return {
            "scan_id": self.scan_id,
            "frame_type": entry.frame_type,
            "view": view,
            "angle_rad": float(self.angles_rad[view]) if projection else None,
            "tile": entry.tile,
            "tile_u_mm": tile_u_mm,
            "tile_v_mm": tile_v_mm,
            "sample_z_mm": float(self.sample_z_mm[view]) if projection else 0.0,
            "group": entry.group_number,
            "absorber_mm": entry.absorber_mm or 0.0,
            "counter": counter.index,
            "mode": counter.mode,
            "threshold_kev": counter.threshold_kev,
            "exposure_s": entry.exposure_s if entry.exposure_s is not None else record.exposure_s,
            "acquired_at": record.acquired_at,
            "monitor": record.monitor,
            "rows": frame.shape[0],
            "cols": frame.shape[1],
            "dtype": frame.dtype.name,
            "checksum": checksum(frame),
            "source_uri": record.uri,
            "source_offset": record.offset + (0 if file.is_numbered or file.stored_bytes is None else file.start),
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
