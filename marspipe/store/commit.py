"""What makes a table folder finished: the file ``_marspipe.json``, written last.

A folder without it is not finished, whatever else lies in it.
"""

from __future__ import annotations

import json
from typing import Any

from marspipe.errors import OutputExistsError, ScanError
from marspipe.store import storage

COMMIT_FILE = "_marspipe.json"


def commit(uri: str, metadata: dict[str, Any]) -> None:
    """Commit a table folder by writing its ``_marspipe.json``."""
    text = json.dumps(metadata, indent=2, sort_keys=True, allow_nan=False) + "\n"
    storage.write_bytes(storage.join(uri, COMMIT_FILE), text.encode(), overwrite=True)


def committed(uri: str) -> dict[str, Any] | None:
    """Return the metadata of a committed table folder, or None if nothing is committed there."""
    path = storage.join(uri, COMMIT_FILE)
    if not storage.exists(path):
        return None
    metadata: dict[str, Any] = json.loads(storage.read_bytes(path))
    return metadata


def require_committed(uri: str, kind: str) -> dict[str, Any]:
    """Return the metadata of a committed table of a kind, or raise ScanError naming the folder."""
    metadata = committed(uri)
    if metadata is None:
        raise ScanError(f"{uri} holds no finished {kind} table: it has no {COMMIT_FILE}")
    if metadata.get("kind") != kind:
        raise ScanError(f"{uri} must hold a {kind} table, but its {COMMIT_FILE} says kind {metadata.get('kind')!r}")
    return metadata


def claim_output(uri: str, *, overwrite: bool) -> None:
    """Make sure that an output folder is free and can be written.

    Raises
    ------
    OutputExistsError
        If a committed table lies there and ``overwrite`` is false.
    """
    existing = committed(uri)
    if existing is not None:
        if not overwrite:
            raise OutputExistsError(
                f"{uri} already holds a committed {existing.get('kind', 'table')} "
                f"(recipe {existing.get('recipe_hash', 'unknown')}); choose another folder, or pass --overwrite"
            )
        storage.remove(storage.join(uri, COMMIT_FILE))
    try:
        storage.make_dirs(uri)
        probe = storage.join(uri, "_marspipe_probe")
        storage.write_bytes(probe, b"", overwrite=True)
        storage.remove(probe)
    except OSError as error:
        raise OutputExistsError(f"{uri} cannot be written: {error}") from error
