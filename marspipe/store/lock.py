"""One job at a time in a folder: a lock file that its holder keeps alive, and that others take over when it dies.

The file is made only if it is not there, which the local disk and HDFS both do as one step. Its holder counts in it
every few seconds. Whoever meets it looks whether the holder's process still runs, if that is on the same machine, or
else whether the count goes on: no two clocks are compared.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from marspipe.errors import BusyError, OutputExistsError
from marspipe.store import storage

LOCK_FILE = "_marspipe_lock.json"
# A holder counts this often; a lock whose count has stood still for the longer time is abandoned.
BEAT_S = 5.0
ABANDONED_S = 60.0
_POLL_S = 0.5


class Lock:
    """A lock that this process holds."""

    def __init__(self, uri: str, content: dict[str, Any]) -> None:
        self.uri = uri
        self._content = content
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise BusyError if another job has taken the lock over, for instance while this machine was suspended.

        To be called before what the lock protects is changed for good.
        """
        holder = _read(self.uri)
        if holder is None or holder.get("token") != self._content["token"]:
            raise BusyError(f"{self.uri} was taken over by {_name(holder)} while this job stood still")

    def release(self) -> None:
        """Stop counting and remove the file, if it is still this lock's."""
        self._stop.set()
        self._thread.join()
        with suppress(BusyError, OSError):
            self.check()
            storage.remove(self.uri)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            with suppress(BusyError, OSError):  # a beat that fails is repeated; a lost lock is found by check()
                self.check()
                self._content = {**self._content, "count": self._content["count"] + 1}
                storage.write_bytes(self.uri, _bytes(self._content), overwrite=True)


@contextmanager
def held(folder_uri: str, doing: str, *, name: str = LOCK_FILE) -> Iterator[Lock]:
    """Hold a folder's lock while something is done in it.

    Parameters
    ----------
    folder_uri : str
        The folder; it is made if it is missing.
    doing : str
        What is being done, for the message that others get.
    name : str
        Name of the lock file.

    Raises
    ------
    BusyError
        If another job holds the lock; the message names it.
    OutputExistsError
        If nothing can be written there.
    """
    uri = storage.join(folder_uri, name)
    content = {"token": uuid4().hex, "count": 0, "doing": doing, "since": _now(), **this_process()}
    try:
        storage.make_dirs(folder_uri)
        while not _take(uri, content):
            holder = _read(uri)
            if holder is None:
                continue
            if not _is_abandoned(uri, holder):
                raise BusyError(
                    f"{folder_uri} is in use by {_name(holder)}: wait until that job has ended, or choose another "
                    "folder"
                )
            _clear(uri, holder)
    except OSError as error:
        raise OutputExistsError(f"{folder_uri} cannot be written: {error}") from error
    lock = Lock(uri, content)
    try:
        yield lock
    finally:
        lock.release()


def _take(uri: str, content: dict[str, Any]) -> bool:
    try:
        storage.write_bytes(uri, _bytes(content))
    except FileExistsError:
        return False
    return True


def _read(uri: str) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(storage.read_bytes(uri))
    except FileNotFoundError:
        return None
    return content


def _is_abandoned(uri: str, holder: dict[str, Any]) -> bool:
    """Return whether the holder has died; it takes up to a beat to find a living one, longer to give up a dead one."""
    here = this_process()
    if holder.get("machine") == here["machine"]:
        return bool(started(int(holder["pid"])) != holder["process_started"])
    give_up = time.monotonic() + ABANDONED_S
    while time.monotonic() < give_up:
        time.sleep(_POLL_S)
        if _read(uri) != holder:
            return False
    return True


def _clear(uri: str, holder: dict[str, Any]) -> None:
    """Put an abandoned lock away; of several jobs that try, one succeeds."""
    aside = f"{uri}.{uuid4().hex}"
    with suppress(FileNotFoundError):
        storage.rename(uri, aside)
        taken = _read(aside)
        if taken is not None and taken["token"] != holder["token"]:  # another job was quicker: its lock goes back
            with suppress(FileExistsError):
                storage.rename(aside, uri)
                return
        storage.remove(aside)


def this_process() -> dict[str, Any]:
    """Return what identifies this process: the machine since its last start, or the container, and the process."""
    machine = [socket.gethostname()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            machine.append(os.readlink(source) if source.endswith("pid") else Path(source).read_text().strip())
    pid = os.getpid()
    return {"host": machine[0], "machine": " ".join(machine), "pid": pid, "process_started": started(pid)}


def started(pid: int) -> str | None:
    """Return when a running process of this machine was started, in the kernel's ticks; None if there is none."""
    try:
        # The name in parentheses may hold anything; after it come the third field, the state, and so on.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _name(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "another job"
    return f"{holder['doing']} (process {holder['pid']} on {holder['host']}, since {holder['since']})"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
