"""What stands between the HDF5 library and a file: reads that are whole, and heaps that cannot send it in circles.

The library trusts parts of a file. The length of an object in a global heap, where text of variable length lies, is
added up unchecked: a damaged one lets it read the same object forever. So does the list of free places of a local
heap, where the names in a group lie, if it leads back to itself. No time limit of Python's can stop either, so every
heap is checked here as it is read. The library also takes what a short read leaves in its buffer for data.

What remains: a damaged length of a text of variable length lets the library take up to 4 GiB before it sees that the
heap does not hold so much, and names the damage.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from marspipe.errors import RawFormatError
from marspipe.readers.frames import file_size

_GLOBAL_HEAP, _LOCAL_HEAP = b"GCOL", b"HEAP"
_HEADER_BYTES = _OBJECT_BYTES = 16
_LARGEST_HEAP_BYTES = 64 << 20
_SUPERBLOCK_BYTES = 16
# Where the superblock of a version tells the size of lengths; that of offsets stands before it.
_LENGTH_AT = {0: 14, 1: 14, 2: 10, 3: 10}
_NO_MORE_FREE = 1


class GuardedFile(io.RawIOBase):
    """A file for h5py that reads what it is asked for or raises, and refuses a damaged heap.

    Parameters
    ----------
    file : seekable binary file
        Stays open when this one is closed.
    uri : str
        Its name, for messages.

    Notes
    -----
    HDF5 reads a heap on its own, without the metadata before it, so a read that begins with a heap's mark is one.
    Source: HDF5 File Format Specification 3.0, III.D and III.E, https://support.hdfgroup.org/documentation/hdf5/latest/
    """

    def __init__(self, file: BinaryIO, uri: str) -> None:
        self._file, self._uri = file, uri
        self._size = file_size(file)
        self._position = 0
        self._offset_bytes, self._length_bytes = self._sizes()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        self._position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes and return how many.

        Raises
        ------
        RawFormatError
            If the file ends before, or a damaged heap begins here.
        """
        view = memoryview(buffer).cast("B")
        start = self._position
        self._fill(view, start)
        self._position += len(view)
        mark = bytes(view[:4])
        if mark == _GLOBAL_HEAP and len(view) >= _HEADER_BYTES:
            self._require_sound_objects(view, start)
        elif mark == _LOCAL_HEAP and len(view) >= 2 * _HEADER_BYTES:
            self._require_sound_free_places(view, start)
        return len(view)

    def _fill(self, view: memoryview, start: int) -> None:
        if start + len(view) > self._size:
            raise RawFormatError(
                f"{self._uri}: the file ends at byte {self._size}, expected {len(view)} bytes at {start}"
            )
        self._file.seek(start)
        filled = 0
        while filled < len(view):
            part = self._file.read(len(view) - filled)
            if not part:
                raise RawFormatError(
                    f"{self._uri}: the file ends at byte {start + filled}, expected {self._size} bytes"
                )
            view[filled : filled + len(part)] = part
            filled += len(part)

    def _require_sound_objects(self, beginning: memoryview, start: int) -> None:
        where = f"{self._uri}: the global heap at byte {start}"
        size = self._length(beginning, 8)
        if not _HEADER_BYTES <= size <= min(_LARGEST_HEAP_BYTES, self._size - start):
            raise RawFormatError(f"{where} has {size} bytes, the file {self._size}")
        heap: memoryview | bytearray = beginning
        if size > len(beginning):
            heap = bytearray(size)
            self._fill(memoryview(heap), start)
        place = _HEADER_BYTES
        while place + _OBJECT_BYTES <= size:
            length = self._length(heap, place + 8)
            free = not any(heap[place : place + 2])  # its length counts its header, that of others does not
            step = length if free else _OBJECT_BYTES + -(-length // 8) * 8
            if step < _OBJECT_BYTES or place + step > size:
                raise RawFormatError(f"{where} is damaged: an object of {length} bytes at {place} of {size}")
            place += step

    def _require_sound_free_places(self, header: memoryview, start: int) -> None:
        where = f"{self._uri}: the local heap at byte {start}"
        size, free = self._length(header, 8), self._length(header, 8 + self._length_bytes)
        place = 8 + 2 * self._length_bytes
        data = int.from_bytes(header[place : place + self._offset_bytes], "little")
        entry = bytearray(2 * self._length_bytes)
        seen: set[int] = set()
        # All bits set mean that there is no list at all.
        while free not in (_NO_MORE_FREE, (1 << 8 * self._length_bytes) - 1):
            if free in seen or free + len(entry) > size:
                raise RawFormatError(f"{where} is damaged: a free place at {free} of {size} bytes")
            seen.add(free)
            self._fill(memoryview(entry), data + free)
            free = self._length(entry, 0)

    def _length(self, raw: memoryview | bytearray, place: int) -> int:
        return int.from_bytes(raw[place : place + self._length_bytes], "little")

    def _sizes(self) -> tuple[int, int]:
        """Return the sizes of offsets and lengths in the file, bytes."""
        self._file.seek(0)
        beginning = self._file.read(_SUPERBLOCK_BYTES)
        if len(beginning) < _SUPERBLOCK_BYTES:
            raise RawFormatError(f"{self._uri}: an HDF5 file of {self._size} bytes is truncated")
        version = beginning[8]
        place = _LENGTH_AT.get(version)
        if place is None:
            raise RawFormatError(f"{self._uri}: an HDF5 superblock of version {version} is not read, only 0 to 3")
        offset, length = beginning[place - 1], beginning[place]
        if offset not in (4, 8) or length not in (4, 8):
            raise RawFormatError(
                f"{self._uri}: the HDF5 superblock has offsets of {offset}, lengths of {length} bytes, expected 4 or 8"
            )
        return offset, length
