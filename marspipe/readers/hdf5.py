"""What the HDF5 formats share: opening through a ranged reader, links, checks of a stack of frames, its pixels.

Links are followed here and not by the HDF5 library, which would open the target of an external link by itself. Soft
links are followed; links to other files only inside the folder of the file that is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from marspipe.errors import RawFormatError
from marspipe.readers.files import MAX_FRAMES, Place, guard, place_of, printable, require_credible
from marspipe.readers.frames import Frame, FrameEntry, dtype_name, file_size, native
from marspipe.readers.hdf5_guard import GuardedFile

PIXEL_TYPES = ("uint8", "uint16", "uint32", "float32")

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# HDF5 decodes whole chunks. Where a chunk holds several frames, those of one frame stay in memory for the next.
_CHUNK_CACHE_BYTES = 256 << 20
_LARGEST_CHUNK_BYTES = 1 << 30
_LINK_DEPTH = 16


class Container:
    """An open HDF5 file and those that it links to.

    Attributes
    ----------
    uri : str
        Name of the file, for messages.
    root : h5py.File
        The file.
    """

    def __init__(self, file: BinaryIO, uri: str, place: Place, files: ExitStack) -> None:
        self.uri, self.root = uri, _open(file, uri)
        self._place, self._files = place, files
        self._linked: dict[str, Container] = {}
        files.callback(self.root.close)

    def find(self, path: str) -> Any:
        """Return the object at a path, links followed; None if a name on the way is missing.

        Raises
        ------
        RawFormatError
            If a link leads nowhere, outside the file's folder, or round in circles, or the file is damaged.
        """
        return self._walk(path, self.root, path, 0)[1]

    def group(self, path: str) -> Any:
        """Return the group at a path; RawFormatError if there is none."""
        found = self.find(path)
        if not isinstance(found, h5py.Group):
            kind = "is missing" if found is None else "is a dataset, expected a group"
            raise RawFormatError(f"{self.uri}: {path} {kind}; the file has {self.contents()}")
        return found

    def dataset(self, path: str) -> Any:
        """Return the dataset at a path; RawFormatError if there is none or its values lie in other files."""
        found = self.find(path)
        if found is None:
            raise RawFormatError(f"{self.uri}: dataset {path} is missing; the file has {self.contents()}")
        if not isinstance(found, h5py.Dataset):
            raise RawFormatError(f"{self.uri}: {path} is a group, expected a dataset")
        with guard(f"{self.uri}: {path}"):
            elsewhere = found.is_virtual or found.external
        if elsewhere:
            # HDF5 returns fill values, not an error, where the files behind it are missing.
            raise RawFormatError(f"{self.uri}: {path} keeps its values in other files, which are not followed")
        return found

    def stack(self, path: str) -> Any:
        """Return a dataset of frames [frame, v, u]; RawFormatError if it is none that can be read."""
        found = self.dataset(path)
        where = f"{self.uri}: {path}"
        with guard(where):
            shape, dtype, chunks = found.shape, found.dtype, found.chunks
        if shape is None or len(shape) != 3:
            raise RawFormatError(f"{where} must have rank 3 (theta, v, u), got shape {shape}")
        if 0 in shape:
            raise RawFormatError(f"{where} is empty: shape {shape}")
        if dtype.kind not in "uf" or dtype_name(dtype) not in PIXEL_TYPES:
            raise RawFormatError(f"{where} has pixels of {dtype}, expected one of {', '.join(PIXEL_TYPES)}")
        require_credible(int(shape[1]), int(shape[2]), int(shape[0]), where)
        if chunks is not None and math.prod(chunks) * dtype.itemsize > _LARGEST_CHUNK_BYTES:
            raise RawFormatError(
                f"{where} has chunks of {chunks} pixels, expected at most {_LARGEST_CHUNK_BYTES >> 20} MiB in a chunk"
            )
        return found

    def numbers(self, path: str, *, scalar: bool = False) -> tuple[NDArray[np.float64], str | None]:
        """Return a one-dimensional dataset (or, with ``scalar``, a single number) and its ``units`` attribute."""
        found = self.dataset(path)
        where = f"{self.uri}: {path}"
        with guard(where):
            shape, dtype = found.shape, found.dtype
        allowed = (0, 1) if scalar else (1,)
        if shape is None or len(shape) not in allowed or dtype.kind not in "iuf" or math.prod(shape) > MAX_FRAMES:
            raise RawFormatError(f"{where} must be a one-dimensional array of numbers, got shape {shape} of {dtype}")
        with guard(where):
            return np.atleast_1d(np.asarray(found[()], dtype=np.float64)), attribute(found, "units")

    def contents(self) -> str:
        """Return the first names in the file, for messages."""
        names: list[str] = []
        with guard(self.uri):
            self.root.visit(lambda name: names.append(printable(f"/{name}")) if len(names) < 12 else True)
        return ", ".join(names) or "nothing in it"

    def _walk(self, path: str, start: Any, asked: str, depth: int) -> tuple[Container, Any]:
        """Return the object at a path and the container that holds it."""
        where = f"{self.uri}: {asked}"
        if depth > _LINK_DEPTH:
            raise RawFormatError(f"{where} is reached by more than {_LINK_DEPTH} links, one to the next")
        owner, found = self, self.root if path.startswith("/") else start
        for name in filter(None, path.split("/")):
            if name == ".":
                continue
            if not isinstance(found, h5py.Group):
                return owner, None
            with guard(where):
                link = found.get(name, getlink=True)
            if link is None:
                return owner, None
            if isinstance(link, h5py.ExternalLink):
                other = owner._other(link.filename, asked)
                owner, found = other._walk("/" + link.path, other.root, asked, depth + 1)
                if found is None:
                    raise RawFormatError(f"{where} links to {link.path} in {link.filename!r}, which is not there")
            elif isinstance(link, h5py.SoftLink):
                owner, found = owner._walk(link.path, found, asked, depth + 1)
                if found is None:
                    raise RawFormatError(f"{where} links to {link.path}, which is not there")
            else:
                with guard(where):
                    found = found[name]
        return owner, found

    def _other(self, name: str, asked: str) -> Container:
        if name not in self._linked:
            file, place = self._place.open(name, f"{self.uri}: {asked} links to")
            self._files.callback(file.close)
            self._linked[name] = Container(file, printable(f"{self.uri} -> {name}"), place, self._files)
        return self._linked[name]


@contextmanager
def opened(file: BinaryIO, uri: str) -> Iterator[Container]:
    """Open an HDF5 file behind any seekable file object; it and all it links to are closed at the end.

    Raises
    ------
    RawFormatError
        If it is not HDF5, or truncated.
    """
    with ExitStack() as files:
        yield Container(file, uri, place_of(file, uri), files)


def read_many(file: BinaryIO, entries: Iterable[FrameEntry]) -> Iterator[Frame]:
    """Yield the frames of many entries of one file, in their order; every file is opened once.

    Raises
    ------
    RawFormatError
        If a frame cannot be read, or was never written.
    """
    entries = list(entries)
    if not entries:
        return
    uri = entries[0].uri
    with opened(file, uri) as container:
        stacks: dict[str, Any] = {}
        for entry in entries:
            if entry.dataset not in stacks:
                stacks[entry.dataset] = _cached(container.stack(entry.dataset))
            stack = stacks[entry.dataset]
            if stack.shape[1:] != (entry.rows, entry.cols) or not 0 <= entry.offset < stack.shape[0]:
                raise RawFormatError(
                    f"{uri}: {entry.dataset} has shape {stack.shape}, expected frame {entry.offset} of "
                    f"{entry.rows} x {entry.cols} pixels"
                )
            yield _frame(stack, entry)


def attribute(found: Any, name: str) -> str | None:
    """Return the text of an attribute; None if there is none, or it is no text.

    Nothing but text is read: what damage turns into sequences of variable length would crash the library.
    """
    if not h5py.h5a.exists(found.id, name.encode()):
        return None
    stored = h5py.h5a.open(found.id, name.encode())
    if not isinstance(stored.get_type(), h5py.h5t.TypeStringID) or stored.get_space().get_simple_extent_npoints() != 1:
        return None
    value: Any = np.asarray(found.attrs[name]).flat[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else printable(str(value))


def _frame(stack: Any, entry: FrameEntry) -> Frame:
    where = f"{entry.uri}: frame {entry.offset} of {entry.dataset}"
    with guard(where):
        # HDF5 returns fill values for what an interrupted scan has not written.
        if stack.chunks is None:
            written = stack.id.get_storage_size() > 0
        else:
            written = stack.id.get_chunk_info_by_coord((entry.offset, 0, 0)).byte_offset is not None
        if not written:
            raise RawFormatError(f"{where} was never written")
        pixels: Frame = stack[entry.offset]
        return native(pixels)


def _open(file: BinaryIO, uri: str) -> Any:
    size = file_size(file)
    file.seek(0)
    beginning = file.read(len(_SIGNATURE))
    if beginning != _SIGNATURE:
        raise RawFormatError(f"{uri}: not an HDF5 file: its {size} bytes begin with {beginning!r}")
    guarded = GuardedFile(file, uri)
    try:
        return h5py.File(guarded, "r")
    except RawFormatError:
        raise
    except Exception as error:  # of many kinds, depending on what is damaged
        raise RawFormatError(f"{uri}: not a whole HDF5 file: {error}") from error


def _cached(stack: Any) -> Any:
    """Reopen a dataset whose chunks hold several frames with room for all chunks of one frame."""
    if stack.chunks is None or stack.chunks[0] == 1:
        return stack
    per_chunk = math.prod(stack.chunks) * stack.dtype.itemsize
    across = math.prod(-(-n // c) for n, c in zip(stack.shape[1:], stack.chunks[1:], strict=True))
    wanted = min(per_chunk * across, _CHUNK_CACHE_BYTES)
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    slots = 10 * across + 1
    access.set_chunk_cache(slots, wanted, 1.0)
    name, home = stack.name.encode(), stack.file.id
    stack.id.close()  # an open dataset shares its cache with whoever opens it again
    return h5py.Dataset(h5py.h5d.open(home, name, access))
