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
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit

from marspipe.errors import InputError
from marspipe.store import hdfs
from marspipe.store.hdfs import named_errors

HDFS_SCHEMES = ("hdfs", "viewfs")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_WRITE_CHUNK_BYTES = 8 << 20
# Large enough for HDF5's small reads, small enough that reading only the headers of a raw file stays cheap.
_BUFFER_BYTES = 16 << 10


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


def absolute(uri: str) -> str:
    """Return the one form of a URI by which two can be compared: absolute, without ``file:`` and a last slash.

    Examples
    --------
    >>> absolute("hdfs://namenode:9000/scans/../raw/")
    'hdfs://namenode:9000/raw'
    """
    root, path = split(uri)
    if root:
        return root + (posixpath.normpath("/" + path.lstrip("/")) if path.strip("/") else "/")
    return os.path.abspath(path)


def open_input(uri: str) -> BinaryIO:
    """Open a file for reading: a seekable binary file, on HDFS with ranged reads behind a small buffer.

    Raises
    ------
    OSError
        If it is missing, a folder, or may not be read.
    """
    root, path = split(uri)
    with named_errors(uri):
        if not root:
            return Path(path).open("rb")
        client = hdfs.client(root)
        if client.get_file_info(path).isdir:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return cast(BinaryIO, io.BufferedReader(hdfs.RangedFile(client.read(path), uri, open_input), _BUFFER_BYTES))


def read_bytes(uri: str, offset: int = 0, length: int | None = None) -> bytes:
    """Return a file's bytes, or those from ``offset``, at most ``length``; fewer only at its end.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with open_input(uri) as file, named_errors(uri):
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
    content = memoryview(data).cast("B")
    starts = range(0, len(content), _WRITE_CHUNK_BYTES)
    write_chunks(uri, lambda: (content[i : i + _WRITE_CHUNK_BYTES] for i in starts), overwrite)


def write_chunks(uri: str, chunks: Callable[[], Iterable[bytes | memoryview]], overwrite: bool = False) -> None:
    """Write a file that is made while it is written, like :func:`write_bytes`.

    Parameters
    ----------
    uri : str
        The file.
    chunks : callable
        Gives its content, piece by piece; called again if a write to HDFS has to be repeated.
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
    with named_errors(uri):
        if root:
            hdfs.write(root, path, temporary, chunks, overwrite)
        else:
            _write_local(path, temporary, chunks, overwrite)


def upload(local_path: str | os.PathLike[str], uri: str, by_folder: str | None = None) -> None:
    """Copy a file of the local disk to HDFS, as a whole or not at all; what is there is kept.

    Parameters
    ----------
    local_path : path
        The file.
    uri : str
        Where it goes.
    by_folder : str, optional
        Where it lies until it is whole, on the same HDFS; by default beside ``uri``, under a hidden name.

    Raises
    ------
    FileExistsError
        If there is a file.
    OSError
        If it cannot be read or written.
    """
    root, path = split(uri)
    if not root:
        raise InputError(f"{uri}: a file is sent to HDFS only")
    folder, name = posixpath.split(path)
    if by_folder is not None:
        folder = split(by_folder)[1]

    def chunks() -> Iterator[bytes]:
        with Path(local_path).open("rb") as file:
            while chunk := file.read(_WRITE_CHUNK_BYTES):
                yield chunk

    with named_errors(uri):
        hdfs.write(root, path, posixpath.join(folder, f".{name}.{uuid.uuid4().hex}.tmp"), chunks, overwrite=False)


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
    with named_errors(uri):
        return int(hdfs.client(root).get_file_info(path).length) if root else os.stat(path).st_size


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
    with named_errors(uri):
        if not root:
            return sorted(os.listdir(path))
        client = hdfs.client(root)
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
    with named_errors(uri):
        if root:
            hdfs.client(root).mkdirs(path, create_parent=True)
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
    with named_errors(uri):
        if not root:
            os.remove(path)
            return
        client = hdfs.client(root)
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
    with named_errors(uri):
        if root:
            with suppress(FileNotFoundError):
                hdfs.client(root).delete(path, recursive=True)
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
    with named_errors(source):
        if root:
            hdfs.client(root).rename(path, target_path)
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
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(hdfs.fsspec_filesystem(root))), path


def _is(uri: str, folder: bool | None) -> bool:
    root, path = split(uri)
    with named_errors(uri):
        if not root:
            return os.path.exists(path) if folder is None else os.path.isdir(path)
        status = hdfs.status(root, path)
        return status is not None and (folder is None or bool(status.isdir))


def _write_local(
    path: str, temporary: str, chunks: Callable[[], Iterable[bytes | memoryview]], overwrite: bool
) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError as error:  # which would read as if the target were there
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
    try:
        with Path(temporary).open("xb") as file:
            for chunk in chunks():
                file.write(chunk)
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
