"""What makes a table folder finished: the file ``_marspipe.json``, written last.

A folder without it is not finished, whatever else lies in it. A finished table is changed by :func:`publish`: the
journal ``_marspipe_journal.json`` is written as a whole or not at all, and from then on the change is carried out by
whoever opens the table next, should its author die.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from marspipe.errors import OutputExistsError, ScanError
from marspipe.store import storage

COMMIT_FILE = "_marspipe.json"
JOURNAL_FILE = "_marspipe_journal.json"


def commit(uri: str, metadata: dict[str, Any]) -> None:
    """Commit a table folder by writing its ``_marspipe.json``."""
    storage.write_bytes(storage.join(uri, COMMIT_FILE), _json(metadata), overwrite=True)


def publish(
    uri: str, metadata: dict[str, Any], *, staging: str, rename: Sequence[tuple[str, str]], remove: Sequence[str]
) -> None:
    """Change and commit a table folder at once: a crash leaves the old table or the new one.

    Parameters
    ----------
    uri : str
        The folder.
    metadata : dict
        The new ``_marspipe.json``.
    staging : str
        Name of a folder in it, with the new files; it is removed at the end.
    rename : sequence of (str, str)
        Names in ``staging``, and the names they get in the folder; a file or folder of that name is replaced.
    remove : sequence of str
        Names in the folder that go.
    """
    journal = {"metadata": metadata, "staging": staging, "rename": [list(p) for p in rename], "remove": list(remove)}
    storage.write_bytes(storage.join(uri, JOURNAL_FILE), _json(journal), overwrite=True)
    _carry_out(uri, journal)


def _carry_out(uri: str, journal: dict[str, Any]) -> None:
    """Do what a journal says, whatever part of it has been done before."""
    for name in journal["remove"]:
        storage.remove_tree(storage.join(uri, name))
    for staged, name in journal["rename"]:
        source, target = storage.join(uri, journal["staging"], staged), storage.join(uri, name)
        if storage.exists(source):
            storage.remove_tree(target)
            storage.rename(source, target)
    commit(uri, journal["metadata"])
    with suppress(FileNotFoundError):
        storage.remove(storage.join(uri, JOURNAL_FILE))
    storage.remove_tree(storage.join(uri, journal["staging"]))


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def committed(uri: str) -> dict[str, Any] | None:
    """Return the metadata of a committed table folder, or None if nothing is committed there.

    A change that was published but interrupted is finished first.

    Raises
    ------
    ScanError
        If such a change is there and the folder cannot be written, or the file is damaged.
    """
    unfinished = storage.join(uri, JOURNAL_FILE)
    if storage.exists(unfinished):
        try:
            _carry_out(uri, json.loads(storage.read_bytes(unfinished)))
        except OSError as error:
            raise ScanError(
                f"{uri}: a change of this table was interrupted, and it cannot be finished here: {error}"
            ) from error
    path = storage.join(uri, COMMIT_FILE)
    if not storage.exists(path):
        return None
    try:
        metadata: dict[str, Any] = json.loads(storage.read_bytes(path))
    except ValueError as error:
        raise ScanError(f"{path} is damaged: {error}") from error
    return metadata


def require_committed(uri: str, kind: str) -> dict[str, Any]:
    """Return the metadata of a committed table of a kind, or raise ScanError naming the folder."""
    metadata = committed(uri)
    if metadata is None:
        raise ScanError(f"{uri} holds no finished {kind} table: it has no {COMMIT_FILE}")
    if metadata.get("kind") != kind:
        raise ScanError(f"{uri} must hold a {kind} table, but its {COMMIT_FILE} says kind {metadata.get('kind')!r}")
    return metadata


def refuse_committed(uri: str) -> None:
    """Raise OutputExistsError if a committed table lies in a folder."""
    existing = committed(uri)
    if existing is not None:
        raise OutputExistsError(
            f"{uri} already holds a committed {existing.get('kind', 'table')} "
            f"(recipe {existing.get('recipe_hash', 'unknown')}); choose another folder, or pass --overwrite"
        )


def require_writable(uri: str) -> None:
    """Make a folder if it is missing, and raise OutputExistsError if nothing can be written there."""
    try:
        storage.make_dirs(uri)
        probe = storage.join(uri, "_marspipe_probe")
        storage.write_bytes(probe, b"", overwrite=True)
        storage.remove(probe)
    except OSError as error:
        raise OutputExistsError(f"{uri} cannot be written: {error}") from error
