"""Folders for files that are not whole yet: of one process, and removed by a later one when that process has died."""

from __future__ import annotations

import errno
import fcntl
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from marspipe.store import hdfs, storage

_LOCK = "lock"
_ABANDONED_AFTER_MS = 24 * 3600 * 1000


class IncomingFolder:
    """A folder of this object alone, below one that several processes may share.

    Whether its process lives is known by a lock that the kernel gives back with the process, however it ends.

    Parameters
    ----------
    base : Path
        The common folder; it is made, for this user alone, if it is missing.

    Raises
    ------
    OSError
        If nothing can be written there.
    """

    def __init__(self, base: Path) -> None:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(base / _LOCK):
            for other in base.iterdir():
                if other.is_dir() and _is_abandoned(other):
                    shutil.rmtree(other, ignore_errors=True)
            self.path = base / uuid4().hex
            self.path.mkdir(mode=0o700)
            self._held = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._held, fcntl.LOCK_EX)

    def new_file(self) -> Path:
        """Return a free name in the folder."""
        return self.path / f"{uuid4().hex}.part"

    def close(self) -> None:
        """Remove the folder with what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            os.close(self._held)


class UploadFolder:
    """The same on HDFS, which has no lock that ends with a process: what is a day old there is nobody's any more.

    A folder that is removed although its process lives is made again by the next upload.

    Parameters
    ----------
    base_uri : str
        The common folder, on HDFS; it is made if it is missing.

    Attributes
    ----------
    uri : str
        The folder of this object alone.

    Raises
    ------
    OSError
        If nothing can be written there.
    """

    def __init__(self, base_uri: str) -> None:
        name = uuid4().hex
        self._base_uri, self.uri = base_uri, storage.join(base_uri, name)
        storage.make_dirs(self.uri)
        root, path = storage.split(base_uri)
        with hdfs.named_errors(base_uri):
            changed_ms = {posixpath.basename(s.path): s.modification_time for s in hdfs.client(root).list_status(path)}
        # By the time of our own folder: the clock is the namenode's for all of them.
        for other, last_ms in changed_ms.items():
            if last_ms < changed_ms[name] - _ABANDONED_AFTER_MS:
                with suppress(OSError):
                    storage.remove_tree(storage.join(base_uri, other))

    def close(self) -> None:
        """Remove the folder with what is in it, and the common one after the last."""
        root, path = storage.split(self._base_uri)
        with suppress(OSError), hdfs.named_errors(self._base_uri):
            storage.remove_tree(self.uri)
            hdfs.client(root).delete(path)  # refused while there is anything in it


def folder_of_user() -> Path:
    """Return a folder on the local disk that only this user can look into.

    Raises
    ------
    PermissionError
        If somebody else has taken its name.
    """
    folder = Path(tempfile.gettempdir(), f"marspipe-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(errno.EACCES, "not a folder of this user alone", str(folder))
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_abandoned(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
