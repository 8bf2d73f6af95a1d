"""The landing zone: a folder where DICOM instances arrive, each whole or not there.

An instance is ``<root>/<study UID>/<series UID>/<SOP instance UID>.dcm``. A UID is checked before it becomes a name.
What is still arriving lies under :data:`INCOMING`, apart from what is there, and is put in place in one step when it is
whole; readers leave names that begin with a point alone. The first instance of a UID stays: the same data set again
changes nothing, another one under its UID is refused. A zone has a bound, so that a scanner cannot fill a disk.

On HDFS an instance arrives in a folder of the local disk first, and goes from there through :data:`INCOMING`.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from marspipe.errors import InputError, OutputExistsError, RunError
from marspipe.store import hdfs, storage
from marspipe.store.incoming import IncomingFolder, UploadFolder, folder_of_user

INCOMING = ".incoming"
DEFAULT_MIN_FREE_BYTES = 1 << 30

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH = 64
_CHUNK_BYTES = 1 << 20
# PS3.10 7.1: 128 bytes, DICM, and (0002,0000) UL with the length of the file meta information that follows.
_FILE_META = struct.Struct("<128x4sHH2sHL")
_META_LENGTH = (b"DICM", 0x0002, 0x0000, b"UL", 4)
_RECOUNT_AFTER_S = 10.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What does not become better by itself; a disk or namenode that is away does.
_NO_ZONE = (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_making_folders = threading.Lock()


class FullError(RunError):
    """The landing zone has reached its bound, or its disk is nearly full."""


class OtherInstanceError(RunError):
    """Another data set is stored under the same SOP instance UID."""


def check_uid(value: str) -> str:
    """Return a UID that may become a name; leading zeros, which PS3.5 9.1 forbids, are let through.

    Raises
    ------
    InputError
        If it is not 1 to 64 digits and single points between them. The value is not repeated: it may hold anything.
    """
    # The rule of marspipe.dicom.uid.is_uid, which this room must not know.
    if len(value) > _UID_LENGTH or not _UID.fullmatch(value):
        raise InputError(f"a UID is 1 to {_UID_LENGTH} digits with single points between them, which this is not")
    return value


class LandingZone:
    """A landing zone, for any number of threads; close it, or use it in a ``with`` statement.

    Parameters
    ----------
    root_uri : str
        A local folder or ``hdfs://``; it is made if it is missing.
    max_bytes : int, optional
        How much may lie there, together with what this object is writing. What was there is counted once, and again
        when the zone seems full, so that room that somebody has made is found.
    min_free_bytes : int
        What must stay free on the local disk, B: that of the zone, or for HDFS the one where instances arrive.

    Raises
    ------
    OutputExistsError
        If nothing can be written there.
    RunError
        If it cannot be reached now.
    """

    def __init__(
        self, root_uri: str, *, max_bytes: int | None = None, min_free_bytes: int = DEFAULT_MIN_FREE_BYTES
    ) -> None:
        self.root_uri = storage.absolute(root_uri)
        self.max_bytes, self.min_free_bytes = max_bytes, min_free_bytes
        self.is_local = not storage.split(self.root_uri)[0]
        self._lock = threading.Lock()
        self._arriving_bytes = 0
        try:
            storage.make_dirs(self.root_uri)
            self._incoming = IncomingFolder(Path(self.root_uri if self.is_local else folder_of_user(), INCOMING))
            self._placed_bytes, self._counted_s = self._count(), time.monotonic()
            self._uploads = None if self.is_local else UploadFolder(storage.join(self.root_uri, INCOMING))
        except OSError as error:
            kind = OutputExistsError if error.errno in _NO_ZONE else RunError
            raise kind(f"{root_uri}: no landing zone can be made there: {error}") from error

    def __enter__(self) -> LandingZone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what has not arrived whole."""
        self._incoming.close()  # first, so that no upload begins again
        if self._uploads is not None:
            self._uploads.close()

    def uri(self, study_uid: str, series_uid: str, sop_uid: str) -> str:
        """Return where an instance lies, or would; InputError if a UID is none."""
        study, series, sop = map(check_uid, (study_uid, series_uid, sop_uid))
        return storage.join(self.root_uri, study, series, f"{sop}.dcm")

    def holds(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        """Return whether an instance is there; InputError if a UID is none."""
        return storage.exists(self.uri(study_uid, series_uid, sop_uid))

    def put(self, study_uid: str, series_uid: str, sop_uid: str, content: bytes | memoryview) -> str:
        """Write a DICOM file as a whole or not at all, and return where it lies; see :meth:`Arrival.place`."""
        uri = self.uri(study_uid, series_uid, sop_uid)
        with self.arrive() as arrival:
            arrival.write(content)
            arrival.place(study_uid, series_uid, sop_uid)
        return uri

    def arrive(self) -> Arrival:
        """Return a file for an instance that comes in pieces.

        Raises
        ------
        FullError
            If there is no room.
        OSError
            If it cannot be made.
        """
        self.reserve(0)
        with self.full_disk_named():
            return Arrival(self, self._incoming.new_file())

    @property
    def used_bytes(self) -> int:
        """What lies there, with what is arriving; without a bound only what this object has written, B."""
        with self._lock:
            return self._placed_bytes + self._arriving_bytes

    def reserve(self, size_bytes: int) -> None:
        """Take room for more of an instance; FullError if there is none."""
        with self._lock:
            if self.max_bytes is not None and self._taken(size_bytes) > self.max_bytes:
                self._count_again()
                if self._taken(size_bytes) > self.max_bytes:
                    raise FullError(
                        f"the landing zone {self.root_uri} is full ({self.max_bytes / 2**30:.3g} GiB): remove what has "
                        "been read, or allow more"
                    )
            status = os.statvfs(self._incoming.path)
            if status.f_bavail * status.f_frsize - size_bytes < self.min_free_bytes:
                raise FullError(
                    f"the disk of {self._incoming.path.parent} has less than {self.min_free_bytes / 2**30:.3g} GiB "
                    "left: make room there"
                )
            self._arriving_bytes += size_bytes

    def release(self, size_bytes: int, *, placed: bool = False) -> None:
        """Give room back, or turn it into room of what is there."""
        with self._lock:
            self._arriving_bytes -= size_bytes
            if placed:
                self._placed_bytes += size_bytes

    def put_in_place(self, part: Path, target: str) -> None:
        """Give a whole file its name, for good; FileExistsError if the name is taken."""
        if self._uploads is None:
            _move(part, Path(target), Path(self.root_uri))
        else:
            storage.upload(part, target, self._uploads.uri)

    def _taken(self, more_bytes: int) -> int:
        return self._placed_bytes + self._arriving_bytes + more_bytes

    def _count_again(self) -> None:
        if time.monotonic() - self._counted_s >= _RECOUNT_AFTER_S:
            with suppress(OSError):
                self._placed_bytes = self._count()
            self._counted_s = time.monotonic()

    def _count(self) -> int:
        if self.max_bytes is None:
            return 0
        root, path = storage.split(self.root_uri)
        if root:
            with hdfs.named_errors(self.root_uri):
                return hdfs.visible_bytes(root, path)
        return sum(_sizes(path))

    @contextmanager
    def full_disk_named(self) -> Iterator[None]:
        """Let a disk that is full say so as a zone does."""
        try:
            yield
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise FullError(f"the disk of {self.root_uri} is full: make room there") from error
            raise


class Arrival:
    """An instance on its way; made by :meth:`LandingZone.arrive`. Left before it is placed, it is gone.

    Attributes
    ----------
    path : Path
        The local file that it arrives in.
    size_bytes : int
        What has arrived.
    """

    def __init__(self, zone: LandingZone, path: Path) -> None:
        self.path, self.size_bytes = path, 0
        self._zone = zone
        self._file: BinaryIO | None = path.open("xb")

    def __enter__(self) -> Arrival:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def write(self, data: bytes | memoryview) -> None:
        """Add to the file.

        Raises
        ------
        FullError
            If there is no room; what has arrived stays until :meth:`discard`.
        OSError
            If it cannot be written.
        """
        size_bytes = memoryview(data).nbytes
        self._zone.reserve(size_bytes)
        self.size_bytes += size_bytes
        with self._zone.full_disk_named():
            self._opened().write(data)

    def flush(self) -> None:
        """Let what has arrived be read by :attr:`path`."""
        with self._zone.full_disk_named():
            self._opened().flush()

    def place(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        """Put the whole file in place, for good: it survives a loss of power.

        Returns
        -------
        bool
            Whether it is new; the same data set, whatever its file meta information, is kept as it was.

        Raises
        ------
        InputError
            If a UID is none.
        OtherInstanceError
            If another data set lies there.
        FullError
            If the disk is full.
        OSError
            If it cannot be written.
        """
        target = self._zone.uri(study_uid, series_uid, sop_uid)
        with self._zone.full_disk_named():
            file = self._opened()
            file.flush()
            os.fsync(file.fileno())
            file.close()
            self._file = None
            try:
                self._zone.put_in_place(self.path, target)
            except FileExistsError:
                if _same_data_set(str(self.path), target):
                    if self._zone.is_local:  # whoever has put it there may not have synced it yet
                        _sync_folder(Path(target).parent)
                    self.discard()
                    return False
                raise OtherInstanceError(
                    f"another data set with the UID of {target} is stored already: it stays, this one is refused"
                ) from None
        self._zone.release(self.size_bytes, placed=True)
        self.size_bytes = 0
        self.path.unlink(missing_ok=True)
        return True

    def discard(self) -> None:
        """Drop what has arrived; nothing happens if it is placed or dropped."""
        if self._file is not None:
            with suppress(OSError):  # a full disk may refuse the rest of the buffer
                self._file.close()
            self._file = None
        self.path.unlink(missing_ok=True)
        self._zone.release(self.size_bytes)
        self.size_bytes = 0

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("the instance has been placed or dropped")
        return self._file


def _move(part: Path, target: Path, root: Path) -> None:
    """Move a file to a free name, which lasts when this returns; FileExistsError if the name is taken."""
    while True:
        _make_folders(target.parent, root)
        try:
            try:
                os.link(part, target)  # atomic, and fails if the name is taken
            except (FileExistsError, FileNotFoundError):
                raise
            except OSError:  # some file systems have no hard links
                storage.rename(str(part), str(target))
            break
        except FileNotFoundError:
            # Whoever clears the zone has just removed the empty folder; or the part itself is gone.
            if not part.exists():
                raise
    _sync_folder(target.parent)


def _make_folders(folder: Path, root: Path) -> None:
    # One thread at a time: a folder that is found here is synced, and lasts.
    with _making_folders:
        for missing in reversed([f for f in (folder, *folder.parents) if root in f.parents and not f.is_dir()]):
            missing.mkdir(exist_ok=True)
            try:
                _sync_folder(missing.parent)
            except OSError:
                missing.rmdir()  # the next thread would take it for synced
                raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _same_data_set(uri: str, other_uri: str) -> bool:
    with storage.open_input(uri) as one, storage.open_input(other_uri) as other:
        one.seek(_data_set_start(one))
        other.seek(_data_set_start(other))
        while True:
            chunk = one.read(_CHUNK_BYTES)
            if chunk != other.read(_CHUNK_BYTES):
                return False
            if not chunk:
                return True


def _data_set_start(file: BinaryIO) -> int:
    """Return where a DICOM file's data set begins; 0 for a file without file meta information."""
    head = file.read(_FILE_META.size)
    if len(head) < _FILE_META.size:
        return 0
    *fields, length = _FILE_META.unpack(head)
    return _FILE_META.size + length if tuple(fields) == _META_LENGTH else 0


def _sizes(folder: str) -> Iterator[int]:
    """Yield the sizes of the files below a folder, without hidden ones; what vanishes meanwhile is left out."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(entry.path)
            else:
                with suppress(FileNotFoundError):
                    yield entry.stat(follow_symlinks=False).st_size
