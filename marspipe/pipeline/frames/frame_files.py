"""Files of the frames table, written by the tasks themselves and not through the JVM.

A task writes into the staging folder under a name of its own and answers with that name. What a repeated or
speculative attempt leaves there is never named, so that it never becomes part of the table.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from types import TracebackType
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from marspipe.pipeline.frames.decode_frames import Decode, Exposure, record_batch
from marspipe.pipeline.frames.quarantine import Damage
from marspipe.pipeline.frames.scan_parts import MIB, Part
from marspipe.pipeline.frames.stored_frames import KEY_COLUMNS, StoredFrames, frame_keys
from marspipe.store import storage
from marspipe.store.schema import table_schema

# A view larger than this is cut into several row groups of one file, so that no task holds more.
LARGEST_ROW_GROUP_BYTES = 256 * MIB


@dataclass
class Written:
    """What a task did."""

    name: str | None = None
    frames: int = 0
    calibrating: bool = False
    damages: list[Damage] = field(default_factory=list)
    differing: list[dict[str, Any]] = field(default_factory=list)
    superseded: list[int] = field(default_factory=list)


class FrameWriter:
    """Writes exposures into one Parquet file, which is made with the first of them.

    Parameters
    ----------
    folder : str
        Where.
    row_group_bytes : int
        A row group is closed with the view before it would pass this, and holds whole views.
    """

    def __init__(self, folder: str, row_group_bytes: int) -> None:
        self.name = f"part-{uuid4().hex}.parquet"
        self.empty = True
        self._uri = storage.join(folder, self.name)
        # For HDFS a file is put together on this machine first: sending it can be repeated, decoding need not be.
        self._local = _local_path(self.name) if storage.split(folder)[0] else None
        self._row_group_bytes = row_group_bytes
        self._held: list[Exposure] = []
        self._size = 0
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> FrameWriter:
        return self

    def add(self, exposure: Exposure) -> None:
        """Write an exposure; those of a view come one after the other."""
        if self._held and self._is_full(exposure):
            self._flush()
        self._held.append(exposure)
        self._size += exposure.nbytes

    def _is_full(self, exposure: Exposure) -> bool:
        limit = LARGEST_ROW_GROUP_BYTES if exposure.view == self._held[-1].view else self._row_group_bytes
        return self._size + exposure.nbytes > limit

    def write(self, batch: pa.RecordBatch) -> None:
        """Write rows as one row group."""
        self.empty = False
        if self._file is None:
            filesystem, path = storage.arrow_filesystem(self._local or self._uri)
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
        try:
            if kind is None and self._held:
                self._flush()
            if self._file is not None:
                self._file.close()
                if kind is None and self._local is not None:
                    storage.upload(self._local, self._uri)
        finally:
            if self._local is not None:
                shutil.rmtree(os.path.dirname(self._local))


def _local_path(name: str) -> str:
    """Return a place for a file in a new folder among Spark's local folders."""
    spark_folders = os.environ.get("SPARK_LOCAL_DIRS")
    return os.path.join(tempfile.mkdtemp(dir=spark_folders.split(",")[0] if spark_folders else None), name)


@dataclass(frozen=True)
class WriteFrames:
    """The work of one task: decodes its parts and writes what is new into one file; travels to the executors."""

    decode: Decode
    folder: str
    row_group_bytes: int
    stored: Any  # broadcast StoredFrames, or None
    tolerant: bool
    replace: bool
    counted: tuple[Any, Any]  # accumulators of the bytes and frames that were read

    def __call__(self, parts: list[Part]) -> Written:
        """Write the exposures of some parts."""
        written, read = self._write(parts)
        for total, share in zip(self.counted, read, strict=True):
            total.add(share)
        return written

    def _write(self, parts: list[Part]) -> tuple[Written, tuple[int, int]]:
        done, size, frames = Written(), 0, 0
        stored: StoredFrames | None = None if self.stored is None else self.stored.value
        damages = done.damages if self.tolerant else None
        with FrameWriter(self.folder, self.row_group_bytes) as writer:
            for part in parts:
                exposures = self.decode.exposures(part, damages)
                if stored is None:
                    for exposure in exposures:
                        size += exposure.nbytes
                        frames += len(exposure.frames)
                        writer.add(exposure)
                    done.frames = frames
                    done.calibrating |= part.frame_type != "projection"
                    continue
                for _, group in groupby(exposures, key=lambda exposure: exposure.view):
                    view = list(group)
                    size += sum(exposure.nbytes for exposure in view)
                    frames += sum(len(exposure.frames) for exposure in view)
                    to_do = stored.to_do(view, self.replace)
                    done.frames += to_do.added
                    done.differing += to_do.differing
                    done.superseded += to_do.superseded
                    done.calibrating |= bool(to_do.write) and part.frame_type != "projection"
                    for exposure in to_do.write:
                        writer.add(exposure)
        if not writer.empty:
            done.name = writer.name
        return done, (size, frames)


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
            keys = frame_keys(*(table.column(name).to_pylist() for name in KEY_COLUMNS))
            rest = table.filter(pa.array(~np.isin(keys, dropped)))
            if rest.num_rows:
                writer.write(rest.combine_chunks().to_batches()[0])
    return None if writer.empty else writer.name


def names_of(results: Iterable[Written]) -> list[str]:
    """Return the files that tasks wrote."""
    return sorted(r.name for r in results if r.name is not None)
