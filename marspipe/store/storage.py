"""One small door to files on the local disk and on HDFS, by URI.

A URI is a plain local path, ``file:///...`` (percent-encoded, as Path.as_uri writes it) or ``hdfs://host:port/...``
(names taken literally, as Hadoop takes them). HDFS is read and written without a JVM, through hdfs-native; its client
is made inside the process that uses it, because its threads do not survive a fork.

Every error is an OSError of the usual kind (FileNotFoundError, FileExistsError, PermissionError, ...) with the URI.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit

from marspipe.errors import InputError

HDFS_SCHEMES = ("hdfs", "viewfs")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
# Large enough for HDF5's small reads, small enough that reading only the headers of a raw file stays cheap.
_BUFFER_BYTES = 16 << 10
_WRITE_CHUNK_BYTES = 8 << 20
_WRITE_ATTEMPTS = 3

_clients: dict[tuple[int, str], Any] = {}
_clients_lock = threading.Lock()


def split(uri: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the file system and the path of a URI: ``("", path)`` on the local disk, else ``("hdfs://host", path)``.

    Raises
    ------
    InputError
        If the scheme is unknown.

    Examples
    --------
    >>> split("hdfs://namenode:9000/scans/a b")
    ('hdfs://namenode:9000', '/scans/a b')
    >>> split("file:///scans/a%20b")
    ('', '/scans/a b')
    """
    text = os.fspath(uri)
    match = _SCHEME.match(text)
    if match is None:
        return "", text
    scheme = match[1].lower()
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise InputError(f"{text}: a file URI must be on this machine, got host {parts.netloc!r}")
        return "", unquote(parts.path)
    if scheme not in HDFS_SCHEMES or "://" not in text:
        raise InputError(f"{text}: expected a local path, file:// or {'://, '.join(HDFS_SCHEMES)}://, got {scheme}:")
    host, slash, path = text.partition("://")[2].partition("/")
    return f"{scheme}://{host}", slash + path or "/"


def join(uri: str, *parts: str) -> str:
    """Return the URI of something below a folder.

    Examples
    --------
    >>> join("hdfs://namenode:9000/scans", "42", "scan.yaml")
    'hdfs://namenode:9000/scans/42/scan.yaml'
    """
    tail = "/".join(part.strip("/") for part in parts)
    if uri.startswith("file:"):
        tail = quote(tail)
    return f"{uri.rstrip('/')}/{tail}"


def open_input(uri: str) -> BinaryIO:
    """Open a file for reading: a seekable binary file, on HDFS with ranged reads behind a small buffer.

    Raises
    ------
    OSError
        If it is missing, a folder, or may not be read.
    """
    root, path = split(uri)
    with _named(uri):
        if not root:
            return Path(path).open("rb")
        client = _client(root)
        if client.get_file_info(path).isdir:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return cast(BinaryIO, io.BufferedReader(_RangedFile(client.read(path), uri), _BUFFER_BYTES))


def read_bytes(uri: str, offset: int = 0, length: int | None = None) -> bytes:
    """Return a file's bytes, or those from ``offset``, at most ``length``; fewer only at its end.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with open_input(uri) as file, _named(uri):
        file.seek(offset)
        return file.read(-1 if length is None else length)


def write_bytes(uri: str, data: bytes | bytearray | memoryview, overwrite: bool = False) -> None:
    """Write a file as a whole or not at all: under a temporary name, then renamed. Parent folders are made.

    Parameters
    ----------
    uri : str
        The file.
    data : bytes
        Its content.
    overwrite : bool
        Whether an existing file is replaced.

    Raises
    ------
    FileExistsError
        If it exists and ``overwrite`` is off.
    OSError
        If it cannot be written.
    """
    root, path = split(uri)
    folder, name = posixpath.split(path)
    temporary = posixpath.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    with _named(uri):
        if root:
            _write_hdfs(root, path, temporary, data, overwrite)
        else:
            _write_local(path, temporary, data, overwrite)


def exists(uri: str) -> bool:
    """Return whether there is a file or folder."""
    return _is(uri, folder=None)


def is_dir(uri: str) -> bool:
    """Return whether there is a folder."""
    return _is(uri, folder=True)


def size(uri: str) -> int:
    """Return the size of a file in bytes.

    Raises
    ------
    OSError
        If it is missing.
    """
    root, path = split(uri)
    with _named(uri):
        return int(_client(root).get_file_info(path).length) if root else os.stat(path).st_size


def list_dir(uri: str) -> list[str]:
    """Return the names in a folder, sorted.

    Raises
    ------
    FileNotFoundError
        If the folder is missing.
    NotADirectoryError
        If it is a file.
    """
    root, path = split(uri)
    with _named(uri):
        if not root:
            return sorted(os.listdir(path))
        client = _client(root)
        if not client.get_file_info(path).isdir:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return sorted(posixpath.basename(status.path) for status in client.list_status(path))


def make_dirs(uri: str) -> None:
    """Make a folder and its parents; nothing happens if it is there.

    Raises
    ------
    OSError
        If it cannot be made, or a file is in the way.
    """
    root, path = split(uri)
    with _named(uri):
        if root:
            _client(root).mkdirs(path, create_parent=True)
        else:
            os.makedirs(path, exist_ok=True)


def remove(uri: str) -> None:
    """Remove a file.

    Raises
    ------
    OSError
        If it is missing or a folder.
    """
    root, path = split(uri)
    with _named(uri):
        if not root:
            os.remove(path)
            return
        client = _client(root)
        if client.get_file_info(path).isdir:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        client.delete(path)


def remove_tree(uri: str) -> None:
    """Remove a folder with all that is in it, or a file; nothing happens if it is missing.

    Raises
    ------
    InputError
        If it is the root of the file system.
    OSError
        If it cannot be removed.
    """
    root, path = split(uri)
    if not path.strip("/"):
        raise InputError(f"{uri}: the root of a file system is not removed")
    with _named(uri):
        if root:
            with suppress(FileNotFoundError):
                _client(root).delete(path, recursive=True)
        elif os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with suppress(FileNotFoundError):
                os.remove(path)


def rename(source: str, target: str) -> None:
    """Move a file or folder inside one file system; the target must be free.

    Raises
    ------
    FileExistsError
        If the target exists.
    OSError
        If the source is missing, or the two are on different file systems.
    """
    (root, path), (other, target_path) = split(source), split(target)
    if root != other:
        raise OSError(errno.EXDEV, f"cannot rename to another file system: {target}", source)
    if exists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    with _named(source):
        if root:
            _client(root).rename(path, target_path)
        else:
            os.rename(path, target_path)


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a URI and the path in it.

    Returns
    -------
    filesystem : pyarrow.fs.FileSystem
        Local, or HDFS through hdfs-native.
    path : str
        Absolute path.
    """
    import pyarrow.fs

    root, path = split(uri)
    if not root:
        return pyarrow.fs.LocalFileSystem(), os.path.abspath(path)
    from hdfs_native.fsspec import HdfsFileSystem, ViewfsFileSystem

    class LiteralHdfs(HdfsFileSystem):
        """The file system without its habit of cutting names at ``#``, ``?`` and ``;``."""

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return split(path)[1]

    scheme, _, authority = root.partition("://")
    host, _, port = authority.partition(":")
    kind = LiteralHdfs if scheme == "hdfs" else ViewfsFileSystem
    filesystem = kind(host=host or None, port=int(port) if port else None)
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path


class _RangedFile(io.RawIOBase):
    """A file on HDFS of which only the bytes asked for are fetched."""

    def __init__(self, reader: Any, uri: str) -> None:
        self._reader, self._uri = reader, uri
        self._size, self._position = len(reader), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "seek before the beginning of the file", self._uri)
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._size - self._position))
        if length:
            with _named(self._uri):
                view[:length] = self._reader.read_range(self._position, length)
            self._position += length
        return length


def _client(root: str) -> Any:
    from hdfs_native import Client

    key = (os.getpid(), root)
    with _clients_lock:
        if key not in _clients:
            # A single namenode that does not answer is given up after half a minute instead of three; a name service,
            # which has no port, keeps its own patience for a failover.
            single = re.search(r":[0-9]+$", root) is not None
            _clients[key] = Client(root, {"dfs.client.failover.max.attempts": "5"} if single else None)
        return _clients[key]


def _is(uri: str, folder: bool | None) -> bool:
    root, path = split(uri)
    with _named(uri):
        if not root:
            return os.path.exists(path) if folder is None else os.path.isdir(path)
        try:
            status = _client(root).get_file_info(path)
        except FileNotFoundError:
            return False
        return folder is None or bool(status.isdir)


def _write_local(path: str, temporary: str, data: bytes | bytearray | memoryview, overwrite: bool) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    try:
        with Path(temporary).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _place_new(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place_new(temporary: str, path: str) -> None:
    try:
        os.link(temporary, path)  # atomic, and fails if the name is taken
    except FileExistsError:
        raise
    except OSError:
        # Some file systems have no hard links.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(temporary, path)


def _write_hdfs(root: str, path: str, temporary: str, data: bytes | bytearray | memoryview, overwrite: bool) -> None:
    from hdfs_native import WriteOptions

    client = _client(root)
    if not overwrite and _is(root + path, folder=None):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    content = memoryview(data).cast("B")
    try:
        for attempt in range(1, _WRITE_ATTEMPTS + 1):
            try:
                with client.create(temporary, WriteOptions(overwrite=True, create_parent=True)) as file:
                    for start in range(0, len(content), _WRITE_CHUNK_BYTES):
                        file.write(content[start : start + _WRITE_CHUNK_BYTES])
                break
            except (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError):
                raise
            except OSError:
                # A datanode that dies while writing is not replaced by the client: write the whole file again.
                if attempt == _WRITE_ATTEMPTS:
                    raise
        client.rename(temporary, path, overwrite=overwrite)
    except BaseException:
        with suppress(OSError):
            client.delete(temporary)
        raise


@contextmanager
def _named(uri: str) -> Iterator[None]:
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
        raise OSError(errno.EACCES if "AccessControlException" in text else errno.EIO, text, uri) from error


def _first_line(text: str) -> str:
    return text.replace("\\n", "\n").split("\n", 1)[0].strip()


_ERRNO = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    PermissionError: errno.EACCES,
    NotADirectoryError: errno.ENOTDIR,
    IsADirectoryError: errno.EISDIR,
}
