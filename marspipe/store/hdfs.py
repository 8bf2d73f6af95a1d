"""HDFS without a JVM, through hdfs-native: what :mod:`marspipe.store.storage` does with ``hdfs://`` URIs.

Clients are made inside the process that uses them, because their threads do not survive a fork, and are kept: dropping
an inherited one in the child can hang.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

# The client neither replaces a datanode that dies while it writes nor avoids one that is dead, which the namenode goes
# on offering for minutes. Later attempts therefore want one replica first, which is most likely on a living datanode,
# and ask for the others when it is there.
_WRITE_ATTEMPTS = 12
_RENAME_ATTEMPTS = 4

_clients: dict[tuple[int, str], Any] = {}
_filesystems: dict[tuple[int, str], Any] = {}
_lock = threading.Lock()

_FINAL = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)


def client(root: str) -> Any:
    """Return this process's hdfs-native Client of a file system ``hdfs://host:port``."""
    from hdfs_native import Client

    key = (os.getpid(), root)
    with _lock:
        if key not in _clients:
            # A single namenode that does not answer is given up after half a minute instead of three; a name service,
            # which has no port, keeps its own patience for a failover.
            single = re.search(r":[0-9]+$", root) is not None
            _clients[key] = Client(root, {"dfs.client.failover.max.attempts": "5"} if single else None)
        return _clients[key]


def fsspec_filesystem(root: str) -> Any:
    """Return this process's fsspec file system of ``hdfs://host:port``, for pyarrow."""
    from hdfs_native.fsspec import HdfsFileSystem

    class LiteralHdfs(HdfsFileSystem):
        """The file system without its habit of cutting names at ``#``, ``?`` and ``;``."""

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix(root) or "/"

    key = (os.getpid(), root)
    with _lock:
        if key not in _filesystems:
            scheme, _, authority = root.partition("://")
            host, _, port = authority.partition(":")
            LiteralHdfs.protocol = scheme
            _filesystems[key] = LiteralHdfs(host=host or None, port=int(port) if port else None)
        return _filesystems[key]


def write(
    root: str, path: str, temporary: str, chunks: Callable[[], Iterable[bytes | memoryview]], overwrite: bool
) -> None:
    """Write a file under a temporary name and rename it; a failed attempt is repeated as a whole.

    The temporary name may be in another folder. ``chunks`` gives the content from its beginning, as often as it is
    called.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is off.
    IsADirectoryError
        If ``path`` is a folder.
    OSError, RuntimeError
        As hdfs-native raises them.
    """
    from hdfs_native import WriteOptions

    hdfs = client(root)
    there = status(root, path)
    if there is not None and not overwrite:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    if there is not None and there.isdir:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    usual_replicas = 0
    for attempt in range(1, _WRITE_ATTEMPTS + 1):
        name = f"{temporary}{attempt}"
        try:
            replicas = 1 if usual_replicas > 1 else None
            # Not closed after a failure: the client would try for 16 s to complete what cannot be completed.
            file = hdfs.create(name, WriteOptions(create_parent=True, replication=replicas))
            for chunk in chunks():
                file.write(chunk)
            file.close()
            _rename(hdfs, name, path, overwrite)
            if replicas is not None:
                hdfs.set_replication(path, usual_replicas)
            return
        except BaseException as error:
            with suppress(OSError, RuntimeError):
                usual_replicas = usual_replicas or hdfs.get_file_info(name).replication or 0
                hdfs.delete(name)
            # What the namenode refuses stays refused.
            if (
                attempt == _WRITE_ATTEMPTS
                or isinstance(error, _FINAL)
                or not isinstance(error, (OSError, RuntimeError))
            ):
                raise
            if "RPCError" in str(error):
                raise


def _rename(hdfs: Any, name: str, path: str, overwrite: bool) -> None:
    """Rename; the folder is made if it is missing, and again if whoever clears there has just removed it."""
    for attempt in range(1, _RENAME_ATTEMPTS + 1):
        try:
            hdfs.rename(name, path, overwrite=overwrite)
            return
        except FileNotFoundError:
            if attempt == _RENAME_ATTEMPTS:
                raise
            hdfs.get_file_info(name)  # or the file itself is gone
            hdfs.mkdirs(posixpath.dirname(path), create_parent=True)


def visible_bytes(root: str, path: str) -> int:
    """Return what lies in a folder, B, without what is hidden right below it.

    Raises
    ------
    OSError, RuntimeError
        As hdfs-native raises them.
    """
    hdfs, hidden_bytes = client(root), 0
    # First of all: what moves out of a hidden folder meanwhile is not counted, rather than twice.
    for child in hdfs.list_status(path):
        if posixpath.basename(child.path).startswith("."):
            with suppress(FileNotFoundError):
                hidden_bytes += int(hdfs.get_content_summary(child.path).length)
    return max(0, int(hdfs.get_content_summary(path).length) - hidden_bytes)


def status(root: str, path: str) -> Any:
    """Return hdfs-native's FileStatus of a path, None if there is nothing."""
    try:
        return client(root).get_file_info(path)
    except FileNotFoundError:
        return None


class RangedFile(io.RawIOBase):
    """A file on HDFS of which only the bytes asked for are fetched.

    ``open_other`` opens a file beside it, for formats that link to others.
    """

    def __init__(self, reader: Any, uri: str, open_other: Callable[[str], BinaryIO] | None = None) -> None:
        self._reader, self._uri = reader, uri
        self.name, self.open_other = uri, open_other
        self._size, self._position = len(reader), 0

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
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "seek before the beginning of the file", self._uri)
        self._position = start + offset
        return self._position

    def readall(self) -> bytes:
        """Fetch the rest of the file at once, and not in the small pieces of the base class."""
        content = bytearray(max(0, self._size - self._position))
        return bytes(content[: self.readinto(content)])

    def readinto(self, buffer: Any) -> int:
        """Fetch the next bytes into a buffer and return how many."""
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._size - self._position))
        if length:
            with named_errors(self._uri):
                view[:length] = self._reader.read_range(self._position, length)
            self._position += length
        return length


@contextmanager
def named_errors(uri: str) -> Iterator[None]:
    """Let every failure inside be an OSError of the matching kind that carries the URI as its file name."""
    try:
        yield
    except OSError as error:
        code = error.errno or next((n for kind, n in _ERRNO.items() if isinstance(error, kind)), errno.EIO)
        text = os.strerror(code) if code in _ERRNO.values() else _first_line(error.strerror or str(error))
        # Called with a number and a text, OSError picks the matching subclass itself.
        raise OSError(code, text, uri) from error
    except RuntimeError as error:
        # hdfs-native's way to pass on what the namenode refused
        text = _first_line(str(error))
        code = next((n for name, n in _REFUSALS.items() if name in text), errno.EIO)
        raise OSError(code, text, uri) from error


def _first_line(text: str) -> str:
    return text.replace("\\n", "\n").split("\n", 1)[0].strip()


_REFUSALS = {"AccessControlException": errno.EACCES, "ParentNotDirectoryException": errno.ENOTDIR}
_ERRNO = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    PermissionError: errno.EACCES,
    NotADirectoryError: errno.ENOTDIR,
    IsADirectoryError: errno.EISDIR,
}
