"""TIFF stacks: one page per frame in a file, or a series of files listed by a series file (see ``series``).

Pages of 8, 16 and 32-bit unsigned integers and 32-bit floats in either byte order, classic and BigTIFF, in strips or
tiles, with whatever compression tifffile decodes. A TIFF knows neither angles nor exposure: the manifest says them, or
the series file.

Orientation: rows and columns are taken as they are stored; see ``orientation`` in the manifest.

Source: TIFF Revision 6.0 (Adobe, 1992).
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import numpy as np
import tifffile
from numpy.typing import NDArray

from marspipe.errors import RawFormatError
from marspipe.readers.files import MAX_FRAMES, Clamped, guard, require_credible
from marspipe.readers.frames import Frame, FrameEntry, FrameType, clip_range, dtype_name, file_size, native, read_range
from marspipe.readers.series import index_series, is_series, read_series, read_series_frames, series_angles

SUFFIXES = (".tif", ".tiff", ".tf8", ".btf")
PIXEL_TYPES = ("uint8", "uint16", "uint32", "float32")

_MIN_IS_BLACK = 1
_MOST_TAGS = 4096

# It reports damage there that is an error here.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def index(
    file: BinaryIO,
    uri: str,
    first: int = 0,
    count: int | None = None,
    *,
    dataset: str | None = None,
    frame_type: FrameType = "projection",
) -> list[FrameEntry]:
    """List the pages of a file, or the frames of a series; pixels are not read.

    Parameters
    ----------
    file : seekable binary file
        The TIFF file or the series file.
    uri : str
        Its name, for the entries and messages.
    first, count : int
        Range of frames; by default all.
    dataset : None
        A TIFF has none.
    frame_type : {"projection", "open_beam", "dark"}
        What the frames are; a TIFF does not tell.

    Raises
    ------
    RawFormatError
        If a file is not TIFF, truncated, or a page is not a frame that is read, or of another shape than the first.
    """
    _refuse_dataset(dataset, uri)
    if is_series(uri):
        return index_series(file, uri, read_series(file, uri), first, count, _index_pages)
    return _index_pages(file, uri, first, count)


def count(file: BinaryIO, uri: str, *, dataset: str | None = None, frame_type: FrameType = "projection") -> int:
    """Return the number of pages of a file or of frames of a series; parameters and errors as :func:`index`."""
    _refuse_dataset(dataset, uri)
    if is_series(uri):
        return read_series(file, uri).n_frames
    return _count_pages(file, uri)


def read(file: BinaryIO, entry: FrameEntry) -> Frame:
    """Return one frame ``[row v, column u]``, native byte order; RawFormatError if it cannot be read."""
    (frame,) = read_many(file, (entry,))
    return frame


def read_many(file: BinaryIO, entries: Iterable[FrameEntry]) -> Iterator[Frame]:
    """Yield the frames of many entries of one file or series, in their order.

    Raises
    ------
    RawFormatError
        If a page is truncated or cannot be decoded.
    """
    entries = list(entries)
    if entries and entries[0].dataset:
        yield from read_series_frames(file, series_uri(entries[0]), entries, _read_pages)
    else:
        yield from _read_pages(file, entries)


def read_angles(file: BinaryIO, uri: str, angles: str) -> tuple[NDArray[np.float64], str]:
    """Return the angles that a series file lists, and their unit; ``angles`` must be ``"angles"``.

    Raises
    ------
    RawFormatError
        If it is not a series file, or lists none.
    """
    if not is_series(uri):
        raise RawFormatError(f"{uri}: a TIFF file holds no angles; the manifest or a series file gives them")
    return series_angles(read_series(file, uri), uri, angles)


def series_uri(entry: FrameEntry) -> str:
    """Return the folder of the series file of an entry, as if it were a file in it."""
    return entry.uri.removesuffix(entry.dataset) + "series"


def _index_pages(file: BinaryIO, uri: str, first: int, count: int | None) -> list[FrameEntry]:
    pages = clip_range(first, count, _count_pages(file, uri))
    size = file_size(file)
    entries: list[FrameEntry] = []
    with _opened(file, uri) as tiff:
        for number in (0, *pages):
            where = f"{uri}: page {number}"
            with guard(where):
                page = tiff.pages[number]
                rows, cols, dtype = _frame_form(page, where)
                offset, length = _require_whole(page, rows * cols * dtype.itemsize, size, where)
            entry = FrameEntry(
                uri=uri,
                dataset="",
                offset=offset,
                length=length,
                sequence=number,
                exposure_index=number,
                counter=0,
                rows=rows,
                cols=cols,
                dtype=dtype_name(dtype),
            )
            entries.append(entry)
            if (rows, cols, entry.dtype) != (entries[0].rows, entries[0].cols, entries[0].dtype):
                raise RawFormatError(
                    f"{where} has {rows} x {cols} pixels of {entry.dtype}, expected {entries[0].rows} x "
                    f"{entries[0].cols} of {entries[0].dtype} as page 0"
                )
    return entries[1:]  # the first was page 0, for comparison


def _read_pages(file: BinaryIO, entries: Iterable[FrameEntry]) -> Iterator[Frame]:
    entries = list(entries)
    if not entries:
        return
    size = file_size(file)
    with _opened(file, entries[0].uri) as tiff:
        for entry in entries:
            where = f"{entry.uri}: page {entry.sequence}"
            with guard(where):
                page = tiff.pages[entry.sequence]
                rows, cols, dtype = _frame_form(page, where)
            if (rows, cols, dtype_name(dtype)) != (entry.rows, entry.cols, entry.dtype):
                raise RawFormatError(
                    f"{where} has {rows} x {cols} pixels of {dtype}, expected {entry.rows} x {entry.cols} of "
                    f"{entry.dtype}"
                )
            with guard(where):
                _require_whole(page, rows * cols * dtype.itemsize, size, where)
                frame: Frame = np.asarray(page.asarray(maxworkers=1)).reshape(entry.rows, entry.cols)
            yield native(frame)


@contextmanager
def _opened(file: BinaryIO, uri: str) -> Iterator[Any]:
    with guard(uri):
        tiff = tifffile.TiffFile(cast(BinaryIO, Clamped(file)))
    try:
        yield tiff
    finally:
        tiff.close()  # leaves a file that it did not open itself open


def _frame_form(page: Any, where: str) -> tuple[int, int, np.dtype[Any]]:
    """Return rows, columns and pixel type of a page; RawFormatError if it is not a frame that is read."""
    dtype = page.dtype
    whole = dtype is not None and page.bitspersample == 8 * np.dtype(dtype).itemsize  # not 12 bits of 16, packed
    if not whole or dtype_name(np.dtype(dtype)) not in PIXEL_TYPES:
        raise RawFormatError(
            f"{where} has pixels of {dtype} ({page.bitspersample} bit), expected one of {', '.join(PIXEL_TYPES)}"
        )
    if page.samplesperpixel != 1 or page.imagedepth != 1 or page.photometric != _MIN_IS_BLACK:
        raise RawFormatError(
            f"{where} has {page.samplesperpixel} samples per pixel, depth {page.imagedepth}, photometric "
            f"interpretation {int(page.photometric)}; expected one sample, depth 1, and 1 (black is zero)"
        )
    rows, cols = int(page.imagelength), int(page.imagewidth)
    require_credible(rows, cols, 1, where)
    if page.is_tiled:
        require_credible(int(page.tilelength), int(page.tilewidth), 1, f"{where}: a tile")
    return rows, cols, np.dtype(dtype)


def _require_whole(page: Any, nbytes: int, size: int, where: str) -> tuple[int, int]:
    """Return offset and stored bytes of a page whose strips or tiles all lie in the file."""
    offsets, lengths = page.dataoffsets, page.databytecounts
    if not offsets or len(offsets) != len(lengths) or len(offsets) < math.prod(page.chunked):
        raise RawFormatError(f"{where} lists {len(offsets)} offsets and {len(lengths)} lengths of strips or tiles")
    for number, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        if length < 1 or offset < 8 or offset + length > size:
            raise RawFormatError(
                f"{where} is truncated: strip or tile {number} has {length} bytes at offset {offset}, the file has "
                f"{size} bytes"
            )
    stored = int(sum(lengths))
    if page.compression == 1 and stored < nbytes:
        raise RawFormatError(f"{where} is truncated: its strips or tiles hold {stored} bytes, expected {nbytes}")
    return int(min(offsets)), stored


def _count_pages(file: BinaryIO, uri: str) -> int:
    """Count the pages along their chain, with every break in it an error."""
    size = file_size(file)
    head = read_range(file, 0, 16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) >= 8 else None
    if version == 42:
        (offset,) = struct.unpack(f"{order}I", head[4:8])
        number, tag_bytes, pointer = f"{order}H", 12, f"{order}I"
    elif version == 43 and len(head) == 16 and head[4:8] == struct.pack(f"{order}HH", 8, 0):
        (offset,) = struct.unpack(f"{order}Q", head[8:16])
        number, tag_bytes, pointer = f"{order}Q", 20, f"{order}Q"
    else:
        raise RawFormatError(f"{uri}: not a TIFF file: its {size} bytes begin with {head[:8]!r}")
    seen: set[int] = set()
    while offset:
        where = f"{uri}: page {len(seen)}"
        if offset in seen or len(seen) >= MAX_FRAMES:
            raise RawFormatError(f"{where} is at offset {offset}, where another page was: the pages go in circles")
        seen.add(offset)
        raw = read_range(file, offset, struct.calcsize(number)) if offset < size else b""
        tags = struct.unpack(number, raw)[0] if len(raw) == struct.calcsize(number) else 0
        if not 0 < tags <= _MOST_TAGS:
            raise RawFormatError(f"{where} has {tags} tags at offset {offset} of {size} bytes: truncated or damaged")
        raw = read_range(file, offset + len(raw) + tags * tag_bytes, struct.calcsize(pointer))
        if len(raw) != struct.calcsize(pointer):
            raise RawFormatError(f"{where} is truncated: its {tags} tags at offset {offset} leave the {size} bytes")
        (offset,) = struct.unpack(pointer, raw)
    if not seen:
        raise RawFormatError(f"{uri}: a TIFF file without pages")
    return len(seen)


def _refuse_dataset(dataset: str | None, uri: str) -> None:
    if dataset is not None:
        raise RawFormatError(f"{uri}: dataset {dataset!r} is for HDF5 and DICOM files; a TIFF stack has none")
