"""Fill a catalog from the stores: the frames tables and volumes below some folders, by their ``_marspipe.json`` alone.

Only folders are walked; no file is opened but ``_marspipe.json``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from marspipe.errors import InputError, MarspipeError
from marspipe.store import hdfs, storage
from marspipe.store.catalog.catalog import Catalog
from marspipe.store.catalog.summaries import moment
from marspipe.store.commit import COMMIT_FILE, committed
from marspipe.store.storage import absolute

DEPTH = 8


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild found and did.

    Attributes
    ----------
    frames, volumes : list of str
        URIs that the catalog has now.
    dropped : list of str
        URIs that it had and that are gone.
    faults : list of str
        A sentence for each thing that could not be read; nothing below it was dropped.
    """

    frames: list[str]
    volumes: list[str]
    dropped: list[str]
    faults: list[str]


@dataclass
class _Found:
    frames: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    volumes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def rebuild(
    catalog: Catalog, roots: Sequence[str], *, depth: int = DEPTH, say: Callable[[str], None] = lambda folder: None
) -> Rebuilt:
    """Bring scans, frames, calibrations, recipes and volumes in line with what lies below some folders.

    Runs and publications stay, and so does everything outside of these folders. Doing it twice changes nothing more.

    Parameters
    ----------
    catalog : Catalog
        The catalog.
    roots : sequence of str
        Folders, local or on HDFS.
    depth : int
        How many folders deep to look.
    say : callable
        Gets every folder that is looked at.

    Raises
    ------
    InputError
        If one of the folders is not there; then nothing is changed.
    """
    tops = [absolute(root) for root in roots]
    for top in tops:
        try:
            there = storage.is_dir(top)
        except OSError as error:
            raise InputError(f"{top} cannot be read: {error}") from error
        if not there:
            raise InputError(f"{top}: there is no such folder")
    found, seen = _Found(), set[str]()
    for top in tops:
        _walk(top, depth, found, seen, say)
    frames = _put_frames(catalog, found)
    volumes = _put_volumes(catalog, found)
    return Rebuilt(frames, volumes, _drop(catalog, tops, frames, volumes, found), found.faults)


def _walk(uri: str, depth: int, found: _Found, seen: set[str], say: Callable[[str], None]) -> None:
    place = uri if "://" in uri else os.path.realpath(uri)  # links may go round in circles
    if place in seen:
        return
    seen.add(place)
    say(uri)
    metadata: Any = None
    try:
        metadata = committed(uri)
        if metadata is not None and not isinstance(metadata, dict):
            raise ValueError("it holds no mapping")
    except (MarspipeError, OSError, ValueError) as error:
        # What lies below, the versions of a volume say, may be all right.
        found.unread.append(uri)
        found.faults.append(_fault(uri, error))
        metadata = None
    kind = (metadata or {}).get("kind")
    of_versions = kind == "volume" and "data" in metadata
    if kind == "frames":
        found.frames.append((uri, metadata))
    elif kind == "volume" and not of_versions:
        found.volumes.append((uri, metadata))
    if depth == 0 or (kind in ("frames", "volume") and not of_versions):
        return
    try:
        names = _folders(uri)
    except OSError as error:
        found.unread.append(uri)
        found.faults.append(_fault(uri, error))
        return
    for name in names:
        _walk(storage.join(uri, name), depth - 1, found, seen, say)


def _folders(uri: str) -> list[str]:
    """Return the names of the folders in a folder, without those that are hidden or marspipe's own."""
    root, path = storage.split(uri)
    with hdfs.named_errors(uri):
        if root:
            entries = [(s.path.rstrip("/").rsplit("/", 1)[1], s.isdir) for s in hdfs.client(root).list_status(path)]
        else:
            with os.scandir(path) as scanned:
                entries = [(entry.name, entry.is_dir()) for entry in scanned]
    return sorted(name for name, folder in entries if folder and name[0] not in "._")


def _put_frames(catalog: Catalog, found: _Found) -> list[str]:
    # Of several tables of a scan the one stays that the scan has; of a scan that is new here, the last by name.
    chosen = {scan.scan_id: scan.frames_uri for scan in catalog.scans()}
    there = {uri for uri, _ in found.frames}
    done = []
    for uri, metadata in sorted(found.frames, key=lambda item: item[0]):
        try:
            catalog.put_frames(uri, metadata)
        except InputError as error:
            found.faults.append(str(error))
            found.unread.append(uri)
            continue
        done.append(uri)
        before = chosen.get(str(metadata.get("scan_id")))
        if before in there and before != uri:
            catalog.put_scan(str(metadata["scan_id"]), frames_uri=before)
    return done


def _put_volumes(catalog: Catalog, found: _Found) -> list[str]:
    """Put the volumes in the order in which they were made, as they came when the work was done."""
    done = []
    for uri, metadata in sorted(found.volumes, key=lambda item: (_made(item[1]), item[0])):
        try:
            catalog.put_volume(uri, metadata)
        except InputError as error:
            found.faults.append(str(error))
            found.unread.append(uri)
            continue
        done.append(uri)
    return done


def _made(metadata: dict[str, Any]) -> float:
    made = moment(metadata.get("created_at") if isinstance(metadata.get("created_at"), str) else None)
    return 0.0 if made is None else made.timestamp()


def _drop(catalog: Catalog, tops: list[str], frames: list[str], volumes: list[str], found: _Found) -> list[str]:
    """Drop what is gone for sure: not what could not be read, nor what a job has finished in the meantime."""
    dropped = []
    known: list[tuple[str, Callable[[str], None]]] = [(row.uri, catalog.drop_frames) for row in catalog.frames()]
    known += [(row.uri, catalog.drop_volume) for row in catalog.volumes()]
    kept = {*frames, *volumes}
    for uri, drop in known:
        if uri in kept or not _below(uri, tops) or _below(uri, found.unread):
            continue
        try:
            gone = not storage.exists(storage.join(uri, COMMIT_FILE))
        except OSError as error:
            found.faults.append(_fault(uri, error))
            continue
        if gone:
            drop(uri)
            dropped.append(uri)
    return sorted(dropped)


def _below(uri: str, folders: list[str]) -> bool:
    return any(uri == folder or uri.startswith(folder.rstrip("/") + "/") for folder in folders)


def _fault(uri: str, error: Exception) -> str:
    if isinstance(error, MarspipeError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or uri} cannot be read: {error.strerror or error}"
    return f"{storage.join(uri, COMMIT_FILE)} is damaged: {error}"
