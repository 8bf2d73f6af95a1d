"""The DICOM files of a folder, on disk or HDFS, as instances to send."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from marspipe.dicom.pacs.client import Outgoing
from marspipe.dicom.pacs.header import read_facts
from marspipe.errors import InputError
from marspipe.show.progress import Progress
from marspipe.store import storage

SUFFIX = ".dcm"
_READERS = 8  # small reads, of which HDFS answers many at once


def instances_in(folder_uri: str, progress: Progress) -> list[Outgoing]:
    """Return the instances of all files ``*.dcm`` of a folder and those below it, in the order of their names.

    Parameters
    ----------
    folder_uri : str
        A local folder or ``hdfs://``.
    progress : Progress
        Where to report.

    Raises
    ------
    InputError
        If there are none, one cannot be read, or two files hold the same SOP instance.
    """
    try:
        uris = list(_files(folder_uri))
    except FileNotFoundError as error:
        raise InputError(f"{folder_uri}: there is no such folder") from error
    except NotADirectoryError as error:
        raise InputError(f"{folder_uri}: a folder of DICOM files is expected") from error
    except OSError as error:
        raise InputError(f"{folder_uri}: the folder cannot be read: {error}") from error
    if not uris:
        raise InputError(f"{folder_uri}: no DICOM files (*{SUFFIX}) lie there")
    found: dict[str, Outgoing] = {}
    with progress.stage("headers", total=len(uris), unit="files") as stage, ThreadPoolExecutor(_READERS) as pool:
        for number, instance in enumerate(pool.map(_instance, uris), 1):
            twin = found.setdefault(instance.facts.sop_uid, instance)
            if twin is not instance:
                raise InputError(f"{instance.name} and {twin.name} hold the same SOP instance")
            stage.update(number)
    return list(found.values())


def _files(folder_uri: str) -> Iterator[str]:
    for name in storage.list_dir(folder_uri):
        uri = storage.join(folder_uri, name)
        if name.startswith("."):
            continue  # on its way
        if name.lower().endswith(SUFFIX):
            yield uri
        elif storage.is_dir(uri):
            yield from _files(uri)


def _instance(uri: str) -> Outgoing:
    try:
        with storage.open_input(uri) as file:
            facts = read_facts(file, uri)
        root, path = storage.split(uri)
        opener = partial(storage.open_input, uri)
        return Outgoing(facts, uri, storage.size(uri), opener, None if root else Path(path))
    except OSError as error:
        raise InputError(f"{uri}: the file cannot be read: {error}") from error
