"""Other files beside a raw file: targets of links, members of a series; and what size of a frame is credible."""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from marspipe.errors import MarspipeError, RawFormatError

MAX_PIXELS = 1 << 27
MAX_FRAMES = 10_000_000

_ROOT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://[^/]*)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """Where a raw file lies, and what else may be opened from there.

    Attributes
    ----------
    uri : str
        The file itself.
    folder : str
        Nothing outside this folder is opened.
    opener : callable, optional
        Opens a URI on the file's own file system; by default files are on the local disk.
    """

    uri: str
    folder: str
    opener: Callable[[str], BinaryIO] | None = None

    def resolve(self, name: str) -> str | None:
        """Return the path or URI of a file named relative to this one; None if it lies outside :attr:`folder`."""
        root, path = _split(self.uri)
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        folder = posixpath.normpath(_split(self.folder)[1])
        inside = target.startswith(folder.rstrip("/") + "/")
        if folder == ".":
            inside = not target.startswith(("/", "../")) and target != ".."
        if not inside or "\0" in name:
            return None
        if not root:
            try:
                if not Path(target).resolve().is_relative_to(Path(folder).resolve()):
                    return None  # through a symbolic link
            except (OSError, RuntimeError):  # symbolic links in circles
                return None
        return root + target

    def open(self, name: str, where: str) -> tuple[BinaryIO, Place]:
        """Open a file named relative to this one.

        Parameters
        ----------
        name : str
            Relative, or absolute if it is inside the folder.
        where : str
            Who names it, for messages: ``"scan.nxs: /entry/data links to"``.

        Raises
        ------
        RawFormatError
            If it lies outside the folder, or does not exist.
        """
        target = self.resolve(name)
        if target is None:
            raise RawFormatError(f"{where} {name!r}, outside the folder of the file, which is not followed")
        try:
            if self.opener is not None:
                file = self.opener(target)
            elif _split(target)[0]:
                raise RawFormatError(f"{where} {name!r}, which cannot be opened from here")
            elif Path(target).exists() and not Path(target).is_file():
                raise IsADirectoryError  # a pipe would be waited for
            else:
                file = Path(target).open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise RawFormatError(f"{where} {name!r}, but there is no file {printable(target)}") from error
        except OSError as error:
            if self.opener is not None:
                raise  # of the other file system, perhaps for a moment only
            raise RawFormatError(f"{where} {name!r}, which cannot be opened: {error.strerror}") from error
        return file, Place(target, self.folder, self.opener)


def place_of(file: BinaryIO, uri: str) -> Place:
    """Return where an open file lies.

    A local file tells its path as ``file.name``. A ranged reader of another file system tells its URI as ``name``, and
    opens others by ``open_other(uri)``; the two may be those of the raw file below a buffer.
    """
    name = getattr(file, "name", None)
    location = name if isinstance(name, str) and name else uri
    opener = getattr(getattr(file, "raw", file), "open_other", None)
    root, path = _split(location)
    return Place(location, root + (posixpath.dirname(path) or "."), opener)


def require_credible(rows: int, cols: int, frames: int, where: str) -> None:
    """Refuse sizes that no camera has, before memory is taken for them.

    Raises
    ------
    RawFormatError
        If a frame has more than :data:`MAX_PIXELS` pixels or none, or a stack more than :data:`MAX_FRAMES` frames.
    """
    if rows < 1 or cols < 1 or rows * cols > MAX_PIXELS:
        raise RawFormatError(
            f"{where}: a frame of {rows} x {cols} pixels is not credible, expected 1 to {MAX_PIXELS} pixels"
        )
    if frames > MAX_FRAMES:
        raise RawFormatError(f"{where}: {frames} frames are not credible, expected at most {MAX_FRAMES}")


def printable(name: str) -> str:
    """Return a name whose bytes are no valid text, as file systems and HDF5 allow, in a form that can be written."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


class Clamped(io.RawIOBase):
    """A file of which no more is asked for than there is: a length in a damaged file is no reason to take memory.

    Parameters
    ----------
    file : seekable binary file
        Stays open when this one is closed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, fewer only at the end of the file."""
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes and return how many."""
        view = memoryview(buffer).cast("B")
        part = self.read(len(view))
        view[: len(part)] = part
        return len(part)


@contextmanager
def guard(where: str) -> Iterator[None]:
    """Let whatever a library makes of a damaged file be a RawFormatError that names the place.

    Errors of marspipe's own and those of a file system, which carry a file name, pass as they are.
    """
    try:
        yield
    except MarspipeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        lines = str(error).splitlines() or [type(error).__name__]
        raise RawFormatError(printable(f"{where} is damaged or cannot be decoded: {lines[0]}")) from error


def _split(uri: str) -> tuple[str, str]:
    match = _ROOT.fullmatch(uri)
    return (match[1], match[2]) if match else ("", uri)
