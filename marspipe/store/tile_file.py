"""One Parquet file of a volume: where its tiles lie, and their pixels by ranged reads, checked.

A row group is a tile and a file is a slab, so the place of a slice follows from its number: one look at the footer,
then one ranged read per slice. Nothing that is read is believed: what Parquet does not protect, the checksum and the
place that a tile says it has do.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from marspipe.errors import RunError
from marspipe.store import storage
from marspipe.store.blobs import checksum, pixels_of
from marspipe.store.schema import table_schema

_COLUMNS = ["bin", "z", "tile", "y_first", "rows", "cols", "pixels", "checksum"]
# Read with the first look at a file; the footer of a slab of 500 slices takes twice this.
_TAIL_BYTES = 256 << 10
_MARK = b"PAR1"
_PLACE = ("bin", "z", "tile", "y_first", "rows", "cols")
_END_BYTES = 8  # the footer's length and Parquet's mark
# Neighboring tiles are fetched together up to this size.
_FETCH_BYTES = 16 << 20
# Handles of a parent process: those of HDFS have threads that did not come along, and dropping them can hang.
_inherited: list[Any] = []
_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class Tile:
    """Some rows of a slice.

    Attributes
    ----------
    z : int
        Slice, counted from the first one of the volume.
    y_first : int
        First row.
    pixels : ndarray, shape (rows, nx), float32, read-only
        Attenuation, 1/mm.
    """

    z: int
    y_first: int
    pixels: NDArray[np.float32]


class TileFile:
    """A slab of one bin in a file; several threads, and processes forked meanwhile, may read from it.

    Parameters
    ----------
    uri : str
        The file.
    bin, z_first, z_last : int
        What it holds, as the volume's metadata says.
    slice_shape : tuple of int
        Shape (y, x) of a slice.
    """

    def __init__(self, uri: str, bin: int, z_first: int, z_last: int, slice_shape: tuple[int, int]) -> None:
        self.uri, self.bin, self.z_first, self.z_last = uri, bin, z_first, z_last
        self._shape = slice_shape
        self._layout: _Layout | None = None
        self._handles = _Handles(uri)

    def tiles(self, z_first: int, z_stop: int, y_first: int, y_stop: int) -> Iterator[Tile]:
        """Read the tiles that hold rows ``[y_first, y_stop)`` of slices ``[z_first, z_stop)``, in order.

        Raises
        ------
        RunError
            If the file is missing or damaged; the message names the file and the tile.
        """
        layout = self._footer()
        edges = layout.edges
        wanted = [n for n in range(layout.per_slice) if edges[n] < y_stop and edges[n + 1] > y_first]
        groups = [(z - self.z_first) * layout.per_slice + n for z in range(z_first, z_stop) for n in wanted]
        while groups:
            start, stop = layout.places[groups[0]]
            n = 1
            while n < len(groups) and groups[n] == groups[n - 1] + 1 and layout.places[groups[n]][0] == stop:
                if layout.places[groups[n]][1] - start > _FETCH_BYTES:
                    break
                stop = layout.places[groups[n]][1]
                n += 1
            window = _Window(self._fetch(start, stop - start), start, layout.size)
            yield from self._decoded(layout, groups[:n], window)
            groups = groups[n:]

    def _decoded(self, layout: _Layout, groups: list[int], window: _Window) -> Iterator[Tile]:
        """Return the tiles of some row groups whose bytes have been fetched."""
        first, last = (self.z_first + groups[k] // layout.per_slice for k in (0, -1))
        where = f"bin {self.bin}, slice{f' {first}' if first == last else f's {first} to {last}'}"
        with self._damage(f"the tiles of {where} cannot be decoded"):
            file = pq.ParquetFile(pa.PythonFile(window, mode="r"), metadata=layout.footer)
            table = file.read_row_groups(groups, columns=_COLUMNS, use_threads=False)
            rows = [
                (
                    batch.column("pixels"),
                    k,
                    {name: batch.column(name)[k].as_py() for name in _COLUMNS if name != "pixels"},
                )
                for batch in table.select(_COLUMNS).to_batches()
                for k in range(batch.num_rows)
            ]
        if len(rows) != len(groups):
            raise RunError(
                f"{self.uri}: {len(rows)} tiles found in {where}, expected {len(groups)}; the file is damaged"
            )
        for group, (column, k, row) in zip(groups, rows, strict=True):
            yield self._checked(layout, group, column, k, row)

    def _checked(self, layout: _Layout, group: int, column: pa.Array, k: int, row: dict[str, int]) -> Tile:
        """Return a tile, if it is the one that belongs there and its pixels are those that were written."""
        step, number = divmod(group, layout.per_slice)
        z, first = self.z_first + step, layout.edges[number]
        shape = layout.edges[number + 1] - first, self._shape[1]
        name = f"bin {self.bin}, slice {z}, tile {number}"
        expected = dict(zip(_PLACE, (self.bin, z, number, first, *shape), strict=True))
        found = {key: row[key] for key in _PLACE}
        if found != expected:
            wrong = next(key for key in _PLACE if found[key] != expected[key])
            raise RunError(
                f"{self.uri}: {name} has {wrong} = {found[wrong]}, expected {expected[wrong]}; the file is damaged"
            )
        size = len(column[k].as_buffer())
        if size != 4 * shape[0] * shape[1]:
            raise RunError(f"{self.uri}: {name} has {size} bytes of pixels, expected {4 * shape[0] * shape[1]}")
        pixels = pixels_of(column, k, "<f4", shape)
        if checksum(pixels) != row["checksum"]:
            raise RunError(f"{self.uri}: the checksum of {name} does not match its pixels; the file is damaged")
        return Tile(z, first, pixels)

    def _footer(self) -> _Layout:
        """Return where the tiles lie; read once, by whoever comes first (another at the same moment reads it too)."""
        if self._layout is None:
            with self._missing():
                size = self._handles.size()
            tail = min(size, _TAIL_BYTES)
            content = self._fetch(size - tail, tail)
            needed = int.from_bytes(content[-_END_BYTES:-4], "little") + _END_BYTES
            if size < 2 * _END_BYTES or content[-4:] != _MARK or needed > size:
                raise RunError(f"{self.uri}: this is no whole Parquet file of {size} bytes; the file is damaged")
            if needed > tail:
                content, tail = self._fetch(size - needed, needed - tail) + content, needed
            with self._damage("its footer cannot be decoded"):
                footer = pq.read_metadata(pa.PythonFile(_Window(content, size - tail, size), mode="r"))
                self._layout = _Layout.of(footer, size, self.z_last - self.z_first + 1, self._shape[0])
        return self._layout

    def _fetch(self, offset: int, length: int) -> bytearray:
        with self._missing():
            return self._handles.read(offset, length)

    @contextmanager
    def _missing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise RunError(
                f"{self.uri} is missing; open the volume again, it may have been replaced by a newer version"
            ) from error
        except EOFError as error:
            raise RunError(f"{self.uri}: {error}; the file is damaged") from error

    @contextmanager
    def _damage(self, what: str) -> Iterator[None]:
        """Let everything that broken bytes make pyarrow raise be a RunError that names the file."""
        try:
            yield
        except _DAMAGE as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RunError(f"{self.uri}: {what} ({said}); the file is damaged") from error


@dataclass(frozen=True)
class _Layout:
    """Where the tiles of a file lie.

    Attributes
    ----------
    footer : pyarrow.parquet.FileMetaData
        As read.
    size : int
        Of the file, bytes.
    places : list of (int, int)
        Begin and end of every tile in the file, bytes.
    edges : list of int
        First row of every tile of a slice, and the number of rows of a slice.
    """

    footer: pq.FileMetaData
    size: int
    places: list[tuple[int, int]]
    edges: list[int]

    @classmethod
    def of(cls, footer: pq.FileMetaData, size: int, n_slices: int, ny: int) -> _Layout:
        """Read a footer, or raise ValueError if it is not one of a slab."""
        names = list(table_schema("volume").names)
        if footer.schema.names != names:
            raise ValueError(f"columns {footer.schema.names}, expected {names}")
        per_slice, rest = divmod(footer.num_row_groups, n_slices)
        if rest or not per_slice or footer.num_rows != footer.num_row_groups:
            raise ValueError(
                f"{footer.num_row_groups} row groups and {footer.num_rows} rows for {n_slices} slices, "
                "expected one row group for each tile"
            )
        places = []
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            chunks = [group.column(c) for c in (0, group.num_columns - 1)]
            start = chunks[0].data_page_offset
            stop = chunks[-1].data_page_offset + chunks[-1].total_compressed_size
            if not len(_MARK) <= start < stop <= size:
                raise ValueError(f"row group {number} lies at bytes {start} to {stop} of {size}")
            places.append((start, stop))
        y = names.index("y_first")
        found = [footer.row_group(number).column(y).statistics for number in range(per_slice)]
        if any(s is None or not s.has_min_max for s in found):
            raise ValueError("it lacks the statistics of y_first")
        edges = [*(int(s.min) for s in found), ny]
        if edges[0] != 0 or any(a >= b for a, b in pairwise(edges)):
            raise ValueError(f"the tiles of a slice begin at rows {edges[:-1]} of {ny}")
        return cls(footer, size, places, edges)

    @property
    def per_slice(self) -> int:
        """Tiles of a slice."""
        return len(self.edges) - 1


class _Window(io.RawIOBase):
    """Bytes of a file that have been fetched, at their place in it; there is nothing else to read."""

    def __init__(self, content: bytearray, offset: int, size: int) -> None:
        self._content, self._offset, self._size, self._position = memoryview(content), offset, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        self._position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence] + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return bytes from the window."""
        begin = self._position - self._offset
        end = len(self._content) if size < 0 else begin + size
        if begin < 0 or end > len(self._content):
            raise OSError(f"bytes {self._position} to {self._offset + end} lie outside of the tile")
        self._position = self._offset + end
        return bytes(self._content[begin:end])


class _Handles:
    """Open handles of a file, one for each thread that reads at the same moment; each process has its own."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._idle: dict[int, list[Any]] = {}  # by process

    def __del__(self) -> None:
        for process in list(self._idle):
            self._close(process)

    def size(self) -> int:
        """Return the size of the file, bytes."""
        with self._taken() as handle:
            return int(handle.seek(0, os.SEEK_END))

    def read(self, offset: int, length: int) -> bytearray:
        """Return bytes of the file by one ranged read; raise EOFError if it has fewer."""
        try:
            return self._read(offset, length)
        except FileNotFoundError:
            raise
        except OSError:
            # What an open handle knows, such as where the blocks are, may have become old.
            self._close(os.getpid())
            return self._read(offset, length)

    def _read(self, offset: int, length: int) -> bytearray:
        content = bytearray(length)
        done = 0
        with self._taken() as handle:
            handle.seek(offset)
            while done < length:
                got = handle.readinto(memoryview(content)[done:])
                if not got:
                    raise EOFError(f"the file ends after {offset + done} bytes, expected {offset + length}")
                done += got
        return content

    def _close(self, process: int) -> None:
        for handle in self._idle.pop(process, []):
            handle.close()
            if process != os.getpid():
                _inherited.append(handle)

    @contextmanager
    def _taken(self) -> Iterator[Any]:
        idle = self._idle.setdefault(os.getpid(), [])
        try:
            handle = idle.pop()
        except IndexError:
            # Past the buffer, which would fetch more than it is asked for.
            handle = cast(io.BufferedReader, storage.open_input(self.uri)).detach()
        try:
            yield handle
        except BaseException:
            handle.close()
            raise
        idle.append(handle)
