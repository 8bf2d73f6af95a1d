"""Scientific Data Exchange HDF5: ``/exchange/data``, ``data_white`` and ``data_dark`` [theta, v, u], ``theta``.

Orientation: the format orders frames (v, u); rows are taken as they are stored. A file whose rows run downwards is
described by ``orientation`` in the scan manifest.

Source: F. De Carlo et al., J. Synchrotron Rad. 21 (2014) 1224-1230, doi:10.1107/S160057751401604X.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from marspipe.errors import RawFormatError
from marspipe.readers.frames import Frame, FrameEntry, FrameType, clip_range, dtype_name, file_size, native

SUFFIXES = (".h5", ".hdf5", ".hdf")
DATASETS: dict[FrameType, str] = {
    "projection": "/exchange/data",
    "open_beam": "/exchange/data_white",
    "dark": "/exchange/data_dark",
}
PIXEL_TYPES = ("uint8", "uint16", "uint32", "float32")

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# HDF5 decodes whole chunks. Where a chunk holds several frames, those of one frame stay in memory for the next.
_CHUNK_CACHE_BYTES = 256 << 20


def index(
    file: BinaryIO,
    uri: str,
    first: int = 0,
    count: int | None = None,
    *,
    dataset: str | None = None,
    frame_type: FrameType = "projection",
) -> list[FrameEntry]:
    """List the frames of one dataset; pixels are not read.

    Parameters
    ----------
    file : seekable binary file
        The file.
    uri : str
        Its name, for the entries and messages.
    first, count : int
        Range of frames; by default all.
    dataset : str, optional
        HDF5 path; by default the one of ``frame_type``, see :data:`DATASETS`.
    frame_type : {"projection", "open_beam", "dark"}
        What the frames are.

    Raises
    ------
    RawFormatError
        If the file is not HDF5, the dataset is missing, not of rank 3, empty, of a pixel type that is not read, or
        refers to other files. The message names file and dataset.
    """
    path = dataset or DATASETS[frame_type]
    with _opened(file, uri) as container:
        stack = _stack(container, path, uri)
        frames, rows, cols = (int(n) for n in stack.shape)
        itemsize, dtype = stack.dtype.itemsize, dtype_name(stack.dtype)
    return [
        FrameEntry(
            uri=uri,
            dataset=path,
            offset=i,
            length=rows * cols * itemsize,
            sequence=i,
            exposure_index=i,
            counter=0,
            rows=rows,
            cols=cols,
            dtype=dtype,
        )
        for i in clip_range(first, count, frames)
    ]


def count(file: BinaryIO, uri: str, *, dataset: str | None = None, frame_type: FrameType = "projection") -> int:
    """Return the number of frames of a dataset; parameters and errors as :func:`index`."""
    with _opened(file, uri) as container:
        return int(_stack(container, dataset or DATASETS[frame_type], uri).shape[0])


def read(file: BinaryIO, entry: FrameEntry) -> Frame:
    """Return one frame ``[row v, column u]``, native byte order.

    Raises
    ------
    RawFormatError
        If the frame cannot be read.
    """
    (frame,) = read_many(file, (entry,))
    return frame


def read_many(file: BinaryIO, entries: Iterable[FrameEntry]) -> Iterator[Frame]:
    """Yield the frames of many entries of one file, in their order; the file is opened once.

    Raises
    ------
    RawFormatError
        If a frame cannot be read.
    """
    entries = list(entries)
    if not entries:
        return
    uri = entries[0].uri
    with _opened(file, uri) as container:
        stacks: dict[str, Any] = {}
        for entry in entries:
            if entry.dataset not in stacks:
                stacks[entry.dataset] = _cached(_stack(container, entry.dataset, uri), container)
            stack = stacks[entry.dataset]
            if stack.shape[1:] != (entry.rows, entry.cols) or not 0 <= entry.offset < stack.shape[0]:
                raise RawFormatError(
                    f"{uri}: {entry.dataset} has shape {stack.shape}, expected frame {entry.offset} of "
                    f"{entry.rows} x {entry.cols} pixels"
                )
            try:
                frame: Frame = stack[entry.offset]
            except OSError as error:
                raise RawFormatError(f"{uri}: frame {entry.offset} of {entry.dataset} is damaged: {error}") from error
            yield native(frame)


def read_angles(file: BinaryIO, uri: str, dataset: str) -> tuple[NDArray[np.float64], str | None]:
    """Return a one-dimensional dataset of angles and the unit it claims.

    Parameters
    ----------
    file : seekable binary file
        The HDF5 file.
    uri : str
        Its name, for messages.
    dataset : str
        HDF5 path, such as ``/exchange/theta``.

    Returns
    -------
    angles : ndarray, float64
        In the unit of the file.
    unit : str or None
        The text of its ``units`` attribute.

    Raises
    ------
    RawFormatError
        If the dataset is missing, not one-dimensional or not of numbers.
    """
    with _opened(file, uri) as container:
        values = _dataset(container, dataset, uri)
        if values.ndim != 1 or values.dtype.kind not in "iuf":
            raise RawFormatError(
                f"{uri}: {dataset} must be a one-dimensional array of numbers, "
                f"got shape {values.shape} of {values.dtype}"
            )
        unit = values.attrs.get("units")
        if isinstance(unit, bytes):
            unit = unit.decode("utf-8", "replace")
        try:
            return np.asarray(values[:], dtype=np.float64), None if unit is None else str(unit)
        except OSError as error:
            raise RawFormatError(f"{uri}: {dataset} is damaged: {error}") from error


@contextmanager
def _opened(file: BinaryIO, uri: str) -> Iterator[Any]:
    size = file_size(file)
    file.seek(0)
    beginning = file.read(len(_SIGNATURE))
    if beginning != _SIGNATURE:
        raise RawFormatError(f"{uri}: not an HDF5 file: its {size} bytes begin with {beginning!r}")
    file.seek(0)
    try:
        container = h5py.File(file, "r")
    except (OSError, RuntimeError) as error:
        raise RawFormatError(f"{uri}: not a whole HDF5 file: {error}") from error
    with container:
        yield container


def _dataset(container: Any, path: str, uri: str) -> Any:
    found = container
    try:
        for name in filter(None, path.split("/")):
            link = found.get(name, getlink=True) if isinstance(found, h5py.Group) else None
            if isinstance(link, h5py.ExternalLink):
                raise RawFormatError(f"{uri}: {path} links to another file ({link.filename}), which is not followed")
            found = None if link is None else found.get(name)
            if found is None:
                break
    except (KeyError, OSError, RuntimeError) as error:
        raise RawFormatError(f"{uri}: {path} cannot be opened: {error}") from error
    if found is None:
        raise RawFormatError(f"{uri}: dataset {path} is missing; the file has {_contents(container)}")
    if not isinstance(found, h5py.Dataset):
        raise RawFormatError(f"{uri}: {path} is a group, expected a dataset")
    if found.is_virtual or found.external:
        # HDF5 returns fill values, not an error, where the files behind it are missing.
        raise RawFormatError(f"{uri}: {path} keeps its values in other files, which are not followed")
    return found


def _stack(container: Any, path: str, uri: str) -> Any:
    found = _dataset(container, path, uri)
    if found.ndim != 3:
        raise RawFormatError(f"{uri}: {path} must have rank 3 (theta, v, u), got shape {found.shape}")
    if 0 in found.shape:
        raise RawFormatError(f"{uri}: {path} is empty: shape {found.shape}")
    if found.dtype.kind not in "uf" or dtype_name(found.dtype) not in PIXEL_TYPES:
        raise RawFormatError(f"{uri}: {path} has pixels of {found.dtype}, expected one of {', '.join(PIXEL_TYPES)}")
    return found


def _cached(stack: Any, container: Any) -> Any:
    """Reopen a dataset whose chunks hold several frames with room for all chunks of one frame."""
    if stack.chunks is None or stack.chunks[0] == 1:
        return stack
    per_chunk = math.prod(stack.chunks) * stack.dtype.itemsize
    across = math.prod(-(-n // c) for n, c in zip(stack.shape[1:], stack.chunks[1:], strict=True))
    wanted = min(per_chunk * across, _CHUNK_CACHE_BYTES)
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    slots = 10 * across + 1
    access.set_chunk_cache(slots, wanted, 1.0)
    name = stack.name.encode()
    stack.id.close()  # an open dataset shares its cache with whoever opens it again
    return h5py.Dataset(h5py.h5d.open(container.id, name, access))


def _contents(container: Any) -> str:
    names: list[str] = []
    container.visit(lambda name: names.append(f"/{name}") if len(names) < 12 else True)
    return ", ".join(names) or "nothing in it"
