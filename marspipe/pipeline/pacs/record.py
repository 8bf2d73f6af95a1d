"""What the catalog is told of a publication."""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from marspipe.errors import MarspipeError
from marspipe.pipeline.pacs.publish import Published
from marspipe.pipeline.recording import CatalogWarning, recorded
from marspipe.store import storage
from marspipe.store.catalog import Catalog
from marspipe.store.commit import committed, require_committed
from marspipe.store.versions import data_folder

VOLUME_FOLDER = "volume"


@dataclass
class PublicationRecord:
    """A publication that is being recorded; ``published`` is set when it is known."""

    published: Published | None = None


@dataclass(frozen=True)
class VolumeVersion:
    """The version of a volume that DICOM files were made from: its folder and its ``_marspipe.json``."""

    uri: str
    metadata: dict[str, Any]


def volume_of(dicom_uri: str, volume_uri: str | None = None) -> VolumeVersion | None:
    """Return the current version of the volume that a folder of DICOM files was exported from.

    Parameters
    ----------
    dicom_uri : str
        The folder: ``OUT/dicom``, beside ``OUT/volume``.
    volume_uri : str, optional
        The volume, or one version of it, if it lies elsewhere.

    Raises
    ------
    InputError
        If there is no volume at ``volume_uri``.
    """
    if volume_uri is not None:
        uri = storage.absolute(volume_uri)
        metadata: dict[str, Any] | None = require_committed(uri, "volume")
    else:
        root, path = storage.split(storage.absolute(dicom_uri))
        uri = root + posixpath.join(posixpath.dirname(path), VOLUME_FOLDER)
        metadata = None
        with suppress(MarspipeError, OSError):
            metadata = committed(uri)
    if metadata is None or metadata.get("kind") != "volume":
        return None
    return VolumeVersion(data_folder(uri, metadata), metadata)


@contextmanager
def recorded_publication(
    catalog: Catalog | None, volume: VolumeVersion | None, destination: str, out_uri: str
) -> Iterator[PublicationRecord]:
    """Record a run that publishes, and where its volume went; an exception inside ends both as failed.

    Parameters
    ----------
    catalog : Catalog or None
        Where; None for nowhere.
    volume : VolumeVersion or None
        What is published; None for what no volume is known of: then nothing is recorded.
    destination : str
        Where to, without secrets.
    out_uri : str
        The folder that is published.
    """
    record = PublicationRecord()
    if catalog is None or volume is None:
        yield record
        return
    scan_id = str(volume.metadata["scan_id"])
    if catalog.volume(volume.uri) is None:
        catalog.put_volume(volume.uri, volume.metadata)
    with recorded(catalog, "publish", scan_id, out_uri) as run:
        run.details["destination"] = destination
        try:
            yield record
        finally:
            done = record.published
            state = "failed" if done is None else done.state
            details = {} if done is None else done.details()
            run.details |= details
            run.state = "kept" if state == "kept" else "done"
            there = 0 if done is None else done.sent + done.kept
            try:
                catalog.put_publication(volume.uri, destination, state, there, {**details, "run_id": run.run_id})
            except MarspipeError as error:
                warnings.warn(f"the catalog was not told: {error}", CatalogWarning, stacklevel=2)
