"""Versions of a volume: each in a folder of its own, one of them current.

``volume/<version>/`` holds the files of a version and its ``_marspipe.json``. ``volume/_marspipe.json`` is a copy of
the current one's with the name of its folder in ``data``: replacing that file replaces the volume, at once, and the
old version is whole until it is removed.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from marspipe.store import storage
from marspipe.store.commit import COMMIT_FILE, commit, committed

_NAME = re.compile(r"\d{8}T\d{6}\d*Z-[0-9a-f]{16}")


@dataclass(frozen=True)
class Version:
    """A finished version of a volume.

    Attributes
    ----------
    name : str
        Its folder: the time it was finished at (UTC) and the first digits of its content hash.
    uri : str
        That folder's URI; :func:`marspipe.open_volume` opens it like the volume itself.
    metadata : dict
        Its ``_marspipe.json``.
    current : bool
        Whether it is what the volume's own URI opens.
    """

    name: str
    uri: str
    metadata: dict[str, Any]
    current: bool


def data_folder(volume_uri: str, metadata: dict[str, Any]) -> str:
    """Return the folder that holds the files of a volume."""
    name = metadata.get("data")
    return storage.join(volume_uri, name) if name else volume_uri


def versions(volume_uri: str) -> list[Version]:
    """Return the finished versions of a volume, the newest first."""
    if not storage.is_dir(volume_uri):
        return []
    current = (committed(volume_uri) or {}).get("data")
    found = []
    for name in sorted(filter(_NAME.fullmatch, storage.list_dir(volume_uri)), reverse=True):
        uri = storage.join(volume_uri, name)
        metadata = committed(uri)
        if metadata is not None:
            found.append(Version(name, uri, metadata, name == current))
    return found


def add_version(volume_uri: str, made_in: str, metadata: dict[str, Any]) -> Version:
    """Make a folder beside a volume's versions the current version.

    Parameters
    ----------
    volume_uri : str
        The volume.
    made_in : str
        Name of the folder in it that holds the files; it is renamed.
    metadata : dict
        Of the version; ``content_hash`` is part of its name, ``created_at`` is added.

    Returns
    -------
    Version
        The new version; a crash before this function returns leaves the volume as it was, or the new one.
    """
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%S%f}Z-{metadata['content_hash'][:16]}"
    metadata = {**metadata, "created_at": now.isoformat(timespec="milliseconds")}
    uri = storage.join(volume_uri, name)
    storage.rename(storage.join(volume_uri, made_in), uri)
    commit(uri, metadata)
    commit(volume_uri, {**metadata, "data": name})
    return Version(name, uri, metadata, current=True)


def keep_newest(volume_uri: str, n: int) -> list[str]:
    """Remove all but the newest versions of a volume; the current one stays whatever its age.

    Parameters
    ----------
    volume_uri : str
        The volume.
    n : int
        How many to keep, at least 1.

    Returns
    -------
    list of str
        URIs of the versions that were removed.
    """
    removed = []
    for version in [v for v in versions(volume_uri)[n:] if not v.current]:
        # First what makes it a volume: nobody shall find half of one.
        storage.remove(storage.join(version.uri, COMMIT_FILE))
        storage.remove_tree(version.uri)
        removed.append(version.uri)
    return removed


def remove_unfinished(volume_uri: str) -> None:
    """Remove version folders that were never committed, or whose removal was interrupted."""
    for name in filter(_NAME.fullmatch, storage.list_dir(volume_uri)):
        uri = storage.join(volume_uri, name)
        if committed(uri) is None:
            with suppress(FileNotFoundError):
                storage.remove_tree(uri)
