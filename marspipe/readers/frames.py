"""What every reader delivers: one entry per stored counter image, and the fixed door to a format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[Any]
FrameType = Literal["projection", "open_beam", "dark", "absorber"]


@dataclass(frozen=True)
class FrameEntry:
    """Where one counter image lies and what its header says; made without reading pixels.

    Attributes
    ----------
    uri : str
        The file.
    dataset : str
        Path of the HDF5 dataset, or ``""``.
    offset : int
        Byte offset of the pixels in the file, or the frame index in the HDF5 dataset.
    length : int
        Stored size of the pixels in bytes.
    sequence : int
        The camera's own running number of the record; the frame index where the format has none.
    exposure_index : int
        Exposure inside the file, from 0. All counters of one exposure share it.
    counter : int
        Counter (or color) number, from 0.
    rows, cols : int
        Shape of the image as stored.
    dtype : str
        NumPy name of the pixel type that ``read`` delivers, native byte order.
    counter_depth_bits : int or None
        Depth of the camera's counter; a pixel at ``2**depth - 1`` is saturated.
    thresholds_kev : tuple of float
        All thresholds the header lists, in its order; empty if it lists none.
    exposure_s : float or None
        Shutter time in s.
    acquired_at : str or None
        Start of the exposure, ISO 8601 in UTC, if the file tells it with a time zone.
    monitor : float or None
        Counts of the beam monitor during the exposure.
    """

    uri: str
    dataset: str
    offset: int
    length: int
    sequence: int
    exposure_index: int
    counter: int
    rows: int
    cols: int
    dtype: str
    counter_depth_bits: int | None = None
    thresholds_kev: tuple[float, ...] = ()
    exposure_s: float | None = None
    acquired_at: str | None = None
    monitor: float | None = None


class IndexFunction(Protocol):
    """List the frames ``first .. first + count`` of a file; headers only, pixels are never read."""

    def __call__(
        self,
        file: BinaryIO,
        uri: str,
        first: int = 0,
        count: int | None = None,
        *,
        dataset: str | None = None,
        frame_type: FrameType = "projection",
    ) -> list[FrameEntry]:
        """Return the entries; raise RawFormatError naming ``uri``."""


class CountFunction(Protocol):
    """Count the frames (counter images) of a file, from its first header and its size."""

    def __call__(
        self, file: BinaryIO, uri: str, *, dataset: str | None = None, frame_type: FrameType = "projection"
    ) -> int:
        """Return the number; raise RawFormatError naming ``uri``."""


@dataclass(frozen=True)
class Reader:
    """The functions that make a raw format readable.

    Attributes
    ----------
    index : function
        ``index(file, uri, first=0, count=None, *, dataset=None, frame_type="projection") -> list[FrameEntry]``.
    count : function
        ``count(file, uri, *, dataset=None, frame_type="projection") -> int``, to split a file into ranges of frames.
    read : function
        ``read(file, entry) -> ndarray``: one frame ``[row v, column u]`` in marspipe's orientation.
    read_many : function
        ``read_many(file, entries) -> iterator of ndarray``: the same for many frames of one file, opened once.
    suffixes : tuple of str
        File name endings, lower case.

    Notes
    -----
    A file is any seekable binary file object: a local file or a ranged reader on HDFS.
    """

    index: IndexFunction
    count: CountFunction
    read: Callable[[BinaryIO, FrameEntry], Frame]
    read_many: Callable[[BinaryIO, Iterable[FrameEntry]], Iterator[Frame]]
    suffixes: tuple[str, ...]


def native(frame: Frame) -> Frame:
    """Return a frame in native byte order, without a copy if it already is."""
    return frame.astype(frame.dtype.newbyteorder("="), copy=False)


def clip_range(first: int, count: int | None, total: int) -> range:
    """Return the frame numbers ``first .. first + count`` that exist among ``total``.

    Raises
    ------
    ValueError
        If ``first`` or ``count`` is negative.
    """
    if first < 0 or (count is not None and count < 0):
        raise ValueError(f"a range of frames must not be negative, got first={first}, count={count}")
    stop = total if count is None else min(total, first + count)
    return range(min(first, stop), stop)


def file_size(file: BinaryIO) -> int:
    """Return the size of a seekable file in bytes."""
    return file.seek(0, 2)


def read_range(file: BinaryIO, offset: int, length: int) -> bytes:
    """Return ``length`` bytes from ``offset``; fewer only at the end of the file."""
    file.seek(offset)
    parts: list[bytes] = []
    missing = length
    while missing > 0:
        part = file.read(missing)
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the NumPy name of a type in native byte order, such as ``"uint16"``."""
    return dtype.newbyteorder("=").name
