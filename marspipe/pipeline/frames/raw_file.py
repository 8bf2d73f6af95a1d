"""A raw file of a scan, or many numbered ones of one exposure each, as far as the first header and the size tell."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO, cast

from marspipe.readers.manifest import FileEntry, resolve_uri
from marspipe.store import storage


@dataclass(frozen=True)
class CameraFacts:
    """What the header of a first frame says of the camera, in the orientation of the frames table.

    Attributes
    ----------
    counter_depth_bits : int or None
        Depth of its counters.
    edge_rows, edge_columns : tuple of int
        Rows and columns at the borders between chips.
    acquired_at : str or None
        When that frame was taken, ISO 8601 in UTC.
    """

    counter_depth_bits: int | None = None
    edge_rows: tuple[int, ...] = ()
    edge_columns: tuple[int, ...] = ()
    acquired_at: str | None = None


@dataclass(frozen=True)
class RawFile:
    """Exposures of one raw file that follow each other, or of many numbered ones.

    Attributes
    ----------
    uri : str
        The file; the pattern of numbered files.
    entry : FileEntry
        What the manifest says of it.
    n_exposures : int
        Whole exposures.
    exposure_bytes : int
        Pixels of an exposure, all counters, bytes.
    first_view : int
        View (number of the open beam, absorber or dark frame) of the first exposure.
    stored_bytes : int or None
        What an exposure takes in the file, headers too, bytes; None if the format has no equal records.
    layout : (int, int, str)
        Rows, columns and pixel type of the first frame, as stored.
    start : int
        Byte where the first exposure begins: exposures before a gap in the file are another RawFile.
    sequence : (int, int) or None
        Sequence number of the first exposure, and the step to the next exposure; None if the format has none.
    camera : CameraFacts
        What the first header says.
    origin : str
        The manifest; numbered files are named relative to it.
    """

    uri: str
    entry: FileEntry
    n_exposures: int
    exposure_bytes: int
    first_view: int
    stored_bytes: int | None
    layout: tuple[int, int, str]
    start: int = 0
    sequence: tuple[int, int] | None = None
    camera: CameraFacts = CameraFacts()
    origin: str = ""

    @property
    def tile(self) -> int:
        """Camera position."""
        return self.entry.tile

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels."""
        return self.n_exposures * self.exposure_bytes

    @property
    def is_numbered(self) -> bool:
        """Whether every exposure has a file of its own."""
        return self.entry.numbered is not None

    def uri_of(self, exposure: int) -> str:
        """Return the file that holds an exposure."""
        return resolve_uri(self.entry.name(exposure), self.origin) if self.is_numbered else self.uri

    def open(self, exposure: int = 0) -> BinaryIO:
        """Open the file (of an exposure, if they are numbered) without what is not part of these exposures."""
        raw = storage.open_input(self.uri_of(exposure))
        if self.stored_bytes is None or self.is_numbered:
            return raw
        return part_of(raw, self.start, self.n_exposures * self.stored_bytes, closes=True)


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
