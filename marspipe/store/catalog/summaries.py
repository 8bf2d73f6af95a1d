"""From what a frames table or a volume says of itself to rows of the catalog."""

from __future__ import annotations

import json
import math
import os
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from marspipe.errors import ScanError
from marspipe.store import storage
from marspipe.store.commit import COMMIT_FILE
from marspipe.store.storage import absolute

VOLUME_FOLDER = "volume"


def out_uri_of(volume_uri: str) -> str:
    """Return the folder of the results that a volume, or a version of it, belongs to."""
    root, path = storage.split(absolute(volume_uri))
    above = posixpath.dirname(path)
    in_versions = posixpath.basename(path) != VOLUME_FOLDER and posixpath.basename(above) == VOLUME_FOLDER
    return root + (posixpath.dirname(above) if in_versions else above)


def moment(value: str | datetime | None) -> datetime | None:
    """Return a moment in UTC; text without a time zone counts as UTC, text that is no time as unknown."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if value is None:
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def plain(value: Any) -> Any:
    """Return something as JSON that every database takes: NumPy numbers as numbers, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {_escaped(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return _escaped(value.isoformat() if isinstance(value, datetime) else str(value))


def _escaped(text: str) -> str:
    return text.replace("\0", r"\x00").encode("utf-8", "backslashreplace").decode()


def scan_values(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what the metadata of frames or a volume say of the scan."""
    return {"description": metadata.get("description"), "acquired_at": moment(metadata.get("acquired_at"))}


def raw_uri_of(metadata: dict[str, Any]) -> str | None:
    """Return the manifest that frames were made from; None if it was named relative to a folder long forgotten."""
    source = metadata.get("source")
    if not source:
        return None
    root, path = storage.split(source)
    return absolute(source) if root or os.path.isabs(path) else None


def frames_values(uri: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a frames table.

    Raises
    ------
    ScanError
        If the metadata are not those of a frames table.
    """
    with _named(uri, metadata, "frames"):
        rows, cols = metadata["geometry"]["detector_shape"]
        return {
            "uri": absolute(uri),
            "scan_id": str(metadata["scan_id"]),
            "content_hash": str(metadata["content_hash"]),
            "fingerprint": metadata.get("fingerprint"),
            "version": metadata.get("version"),
            "n_views": len(metadata["geometry"]["angles_rad"]),
            "n_missing_views": len(metadata.get("missing_views", [])),
            "rows": int(rows),
            "cols": int(cols),
            "n_positions": len(metadata.get("camera_positions_mm", [None])),
            "counters": plain(metadata["counters"]),
            "n_frames": sum(int(group["frames"]) for group in metadata["groups"]),
            "pixel_bytes": int(metadata["pixel_bytes"]),
        }


def calibration_values(uri: str, metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a frames table's calibrations.

    Raises
    ------
    ScanError
        If the metadata are not those of a frames table.
    """
    with _named(uri, metadata, "frames"):
        return [
            {
                "frames_uri": absolute(uri),
                "frame_type": str(group["frame_type"]),
                "counter": int(group["counter"]),
                "n_frames": int(group["frames"]),
                "n_views": int(group["views"]),
                "n_untimed": int(group.get("untimed", 0)),
                "frames_hash": str(metadata["content_hash"]),
            }
            for group in metadata["groups"]
            if group["frame_type"] != "projection"
        ]


def recipe_values(uri: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the recipe that a volume was made by.

    Raises
    ------
    ScanError
        If the metadata are not those of a volume.
    """
    with _named(uri, metadata, "volume"):
        recipe = metadata["recipe"]
        return {
            "recipe_hash": str(metadata["recipe_hash"]),
            "name": str(recipe.get("name", "")),
            "content": plain(recipe),
        }


def volume_values(uri: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a version of a volume.

    Raises
    ------
    ScanError
        If the metadata are not those of a volume.
    """
    with _named(uri, metadata, "volume"):
        sizes = [file.get("bytes") for file in metadata.get("files", [])]
        results_version = metadata.get("results_version")
        return {
            "uri": absolute(uri),
            "out_uri": out_uri_of(uri),
            "scan_id": str(metadata["scan_id"]),
            "content_hash": str(metadata["content_hash"]),
            "recipe_hash": str(metadata["recipe_hash"]),
            "frames_hash": str(metadata["frames_hash"]),
            "version": str(metadata["version"]),
            "results_version": None if results_version is None else int(results_version),
            "created_at": moment(metadata.get("created_at")),
            "bins": plain(metadata["bins"]),
            "shape": [int(n) for n in metadata["grid"]["shape"]],
            "voxel_mm": [float(size) for size in metadata["grid"]["voxel_mm"]],
            "n_bytes": sum(map(int, sizes)) if sizes and None not in sizes else None,
            "run_id": metadata.get("run_id"),
        }


@contextmanager
def _named(uri: str, metadata: dict[str, Any], kind: str) -> Iterator[None]:
    """Let every fault of the metadata be a ScanError that names their file."""
    place = storage.join(uri, COMMIT_FILE)
    if metadata.get("kind") != kind:
        raise ScanError(f"{place}: kind must be {kind!r}, got {json.dumps(metadata.get('kind'), default=str)}")
    try:
        yield
    except KeyError as error:
        raise ScanError(f"{place}: key {error.args[0]!r} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ScanError(f"{place} is damaged: {error}") from error
