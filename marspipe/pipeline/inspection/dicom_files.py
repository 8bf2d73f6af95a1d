"""Where DICOM files lie, told by names and first bytes alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from marspipe.errors import InputError
from marspipe.store import storage

_SUFFIXES = (".dcm", ".dicom", ".ima")
_FIRST_FILES = 20
_MOST_DEEP = 8


def is_dicom(uri: str) -> bool:
    """Return whether a file is DICOM, or a folder without a manifest has a DICOM file among its first ones."""
    try:
        if not storage.is_dir(uri):
            return storage.exists(uri) and looks_dicom(uri)
        if storage.exists(storage.join(uri, "scan.yaml")):
            return False
        return any(looks_dicom(file) for _, file in islice(files_below(uri), _FIRST_FILES))
    except OSError:
        return False  # whoever opens it then says why


def files_below(uri: str, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield name and URI of every file below a folder in the order of names, or of the file itself."""
    if not storage.is_dir(uri):
        yield name or uri.rstrip("/").rpartition("/")[2], uri
        return
    if depth > _MOST_DEEP:
        raise InputError(f"{uri}: folders are nested more than {_MOST_DEEP} deep")
    for child in storage.list_dir(uri):
        if not child.startswith((".", "_")):
            yield from files_below(storage.join(uri, child), f"{name}/{child}" if name else child, depth + 1)


def looks_dicom(uri: str) -> bool:
    """Return whether a file's name or its mark says that it is DICOM."""
    return uri.lower().endswith(_SUFFIXES) or storage.read_bytes(uri, 128, 4) == b"DICM"
