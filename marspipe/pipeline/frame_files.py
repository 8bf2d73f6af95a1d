"""Files of the frames table, written by the tasks themselves and not through the JVM.

A task writes into the staging folder under a name of its own and answers with that name. What a repeated or
speculative attempt leaves there is never named, so that it never becomes part of the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from marspipe.pipeline.decode_frames import Chunk, Decode, Exposure, record_batch
from marspipe.pipeline.quarantine import Damage
from marspipe.store import storage
from marspipe.store.schema import table_schema

_ATTEMPTS = 3  # of a file on HDFS, as in marspipe.store.hdfs
_TYPES = ("projection", "open_beam", "dark")


def frame_keys(frame_type: Any, view: Any, counter: Any) -> NDArray[np.int64]:
    """Return one number per frame that says which frame it is.

    Parameters
    ----------
    frame_type : sequence of str
        Types.
    view, counter : array_like of int
        Views below 2**40 and counters below 2**16.
    """
    kind = np.array([_TYPES.index(name) for name in frame_type], dtype=np.int64)
    return kind << 56 | np.asarray(view, np.int64) << 16 | np.asarray(counter, np.int64)


@dataclass(frozen=True, eq=False)
class StoredFrames:
    """Which frames a table holds already, with their checksums; keys ascend."""

    keys: NDArray[np.int64]
    checksums: NDArray[np.int64]

    def compare(self, exposure: Exposure) -> tuple[bool, list[dict[str, Any]]]:
        """Return whether an exposure is stored, and the rows of its frames that differ from what is stored."""
        rows = exposure.rows
        keys = frame_keys([r["frame_type"] for r in rows], [r["view"] for r in rows], [r["counter"] for r in rows])
        places = np.searchsorted(self.keys, keys)
        there = places < self.keys.size
        there[there] = self.keys[places[there]] == keys[there]
        differing = [
            row
            for row, known, place in zip(rows, there, places, strict=True)
            if known and self.checksums[place] != row["checksum"]
        ]
        return bool(there.any()), differing


@dataclass
class Written:
    """What a task did."""

    name: str | None = None
    frames: int = 0
    calibrating: bool = False
    damages: list[Damage] = field(default_factory=list)
    differing: list[dict[str, Any]] = field(default_factory=list)


class FrameWriter:
    """Writes exposures into one Parquet file, which is made with the first of them.

    Parameters
    ----------
    folder : str
        Where.
    row_group_bytes : int
        A row group is closed before its pixels pass this, and holds at least one whole exposure.
    """

    def __init__(self, folder: str, row_group_bytes: int) -> None:
        self.name = f"part-{uuid4().hex}.parquet"
        self.empty = True
        self._uri = storage.join(folder, self.name)
        self._row_group_bytes = row_group_bytes
        self._held: list[Exposure] = []
        self._size = 0
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> FrameWriter:
        return self

    def add(self, exposure: Exposure) -> None:
        """Write an exposure."""
        if self._held and self._size + exposure.nbytes > self._row_group_bytes:
            self._flush()
        self._held.append(exposure)
        self._size += exposure.nbytes

    def write(self, batch: pa.RecordBatch) -> None:
        """Write rows as one row group."""
        self.empty = False
        if self._file is None:
            filesystem, path = storage.arrow_filesystem(self._uri)
            self._file = pq.ParquetWriter(
                path,
                table_schema("frames").arrow(),
                filesystem=filesystem,
                compression="none",  # photon noise does not compress
                use_dictionary=False,
                write_statistics=[name for name in table_schema("frames").names if name != "pixels"],
                write_batch_size=1,  # looks at the page size after every frame, not after a thousand
                store_schema=False,
            )
        self._file.write_table(pa.Table.from_batches([batch]), row_group_size=batch.num_rows)

    def _flush(self) -> None:
        held, self._held, self._size = self._held, [], 0
        self.write(record_batch(held))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._held:
            self._flush()
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True)
class WriteFrames:
    """The work of one task: decodes its chunks and writes what is new into one file; travels to the executors."""

    decode: Decode
    folder: str
    row_group_bytes: int
    stored: Any  # broadcast StoredFrames, or None
    tolerant: bool
    replace: bool
    counted: tuple[Any, Any]  # accumulators of bytes and frames

    def __call__(self, chunks: list[Chunk]) -> Written:
        """Write the exposures of some chunks."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                written, size = self._write(chunks)
            except OSError:
                # The HDFS client does not replace a datanode that dies while it writes; the disk has no such excuse.
                if attempt == _ATTEMPTS or not storage.split(self.folder)[0]:
                    raise
            else:
                for total, share in zip(self.counted, (size, written.frames), strict=True):
                    total.add(share)
                return written
        raise AssertionError("unreachable")

    def _write(self, chunks: list[Chunk]) -> tuple[Written, int]:
        done, size = Written(), 0
        stored: StoredFrames | None = None if self.stored is None else self.stored.value
        damages = done.damages if self.tolerant else None
        with FrameWriter(self.folder, self.row_group_bytes) as writer:
            for chunk in chunks:
                for exposure in self.decode.exposures(chunk, damages):
                    size += exposure.nbytes
                    if stored is not None:
                        known, differing = stored.compare(exposure)
                        done.differing += differing
                        if known and not (differing and self.replace):
                            continue
                    writer.add(exposure)
                    done.frames += len(exposure.frames)
                    done.calibrating |= chunk.file.entry.frame_type != "projection"
        if not writer.empty:
            done.name = writer.name
        return done, size


def rewrite_without(uri: str, folder: str, dropped: NDArray[np.int64]) -> str | None:
    """Copy a file of the table without some frames.

    Parameters
    ----------
    uri : str
        The file.
    folder : str
        Where the copy goes.
    dropped : ndarray of int64
        :func:`frame_keys` of the frames that are left out.

    Returns
    -------
    str or None
        Name of the copy; None if nothing is left.
    """
    filesystem, path = storage.arrow_filesystem(uri)
    with FrameWriter(folder, 0) as writer, pq.ParquetFile(path, filesystem=filesystem) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group).cast(table_schema("frames").arrow())
            keys = frame_keys(*(table.column(c).to_pylist() for c in ("frame_type", "view", "counter")))
            rest = table.filter(pa.array(~np.isin(keys, dropped)))
            if rest.num_rows:
                writer.write(rest.combine_chunks().to_batches()[0])
    return None if writer.empty else writer.name


def names_of(results: Iterable[Written]) -> list[str]:
    """Return the files that tasks wrote."""
    return sorted(r.name for r in results if r.name is not None)
