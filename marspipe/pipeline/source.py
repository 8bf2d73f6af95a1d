"""What a job begins with: raw files, or a frames table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marspipe.pipeline.corrections.camera import Camera
from marspipe.pipeline.frames.raw_scan import RawScan, open_scan
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.scan.energy import Counter
from marspipe.scan.geometry import ScanGeometry
from marspipe.store.commit import committed


def open_source(uri: str) -> RawScan | FramesTable:
    """Open what ``--raw`` names: a frames table, a scan manifest, or a folder that holds either."""
    if (committed(uri) or {}).get("kind") == "frames":
        return FramesTable.open(uri)
    return open_scan(uri)


@dataclass(frozen=True)
class Measured:
    """What was measured, whatever it lies in.

    Attributes
    ----------
    camera : Camera
        The camera and its positions.
    geometry : ScanGeometry
        Of the wide detector that all camera positions make.
    counters : tuple of Counter
        Counters of the camera.
    frame_types : frozenset of str
        What kinds of frames there are.
    """

    camera: Camera
    geometry: ScanGeometry
    counters: tuple[Counter, ...]
    frame_types: frozenset[str]

    @classmethod
    def by(cls, source: RawScan | FramesTable) -> Measured:
        """Return what a source holds."""
        if isinstance(source, FramesTable):
            camera, counters = Camera.of_table(source.geometry, source.metadata), source.counters
            kinds = frozenset(group["frame_type"] for group in source.metadata["groups"])
        else:
            counters = tuple(source.manifest.camera_counters())
            camera = Camera.of(source.geometry, len(counters), source.manifest.camera_positions_mm)
            kinds = frozenset(entry.frame_type for entry in source.manifest.files)
        return cls(camera, camera.wide(source.geometry), counters, kinds)


def tube_of(source: RawScan | FramesTable) -> dict[str, Any] | None:
    """Return what a source says of its tube: ``voltage_kvp``, ``current_ua``, ``filters``; None if nothing."""
    if isinstance(source, FramesTable):
        tube: dict[str, Any] | None = source.metadata.get("tube")
        return tube
    return source.manifest.tube.model_dump(mode="json") if source.manifest.tube else None


def is_table(source: RawScan | FramesTable) -> bool:
    """Return whether a source is a frames table, and not raw files."""
    return isinstance(source, FramesTable)


def scan_id_of(source: RawScan | FramesTable) -> str:
    """Return the name of the scan."""
    return source.scan_id if isinstance(source, FramesTable) else source.manifest.scan_id
