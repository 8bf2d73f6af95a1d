"""What the catalog answers with: plain, frozen records; times are UTC, URIs absolute."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Scan:
    """A scan.

    Attributes
    ----------
    scan_id, description : str
        As its manifest says.
    acquired_at : datetime or None
        First exposure.
    raw_uri, frames_uri, out_uri, recipe_uri : str or None
        Manifest; frames table; folder of the results; recipe that it is to be reconstructed by.
    priority : int
        Of reprocessing, higher = earlier.
    added_at : datetime
        When the catalog first heard of it; not compared, since a rebuilt catalog has heard of it later.
    """

    scan_id: str
    description: str | None
    acquired_at: datetime | None
    raw_uri: str | None
    frames_uri: str | None
    out_uri: str | None
    recipe_uri: str | None
    priority: int
    added_at: datetime = field(compare=False)


@dataclass(frozen=True)
class Frames:
    """A frames table.

    Attributes
    ----------
    uri, scan_id : str
        Folder; whose frames.
    content_hash : str
        Of all pixels and places.
    fingerprint : str or None
        Of the raw files it was made from.
    version : str or None
        marspipe's, when it was made.
    n_views, n_missing_views, rows, cols, n_positions : int
        Views; those that are not complete; detector size, px; camera positions.
    counters : list of dict
        Index, mode and threshold_kev of each counter.
    n_frames, pixel_bytes : int
        Frames of all types, and the bytes of their pixels.
    """

    uri: str
    scan_id: str
    content_hash: str
    fingerprint: str | None
    version: str | None
    n_views: int
    n_missing_views: int
    rows: int
    cols: int
    n_positions: int
    counters: list[dict[str, Any]]
    n_frames: int
    pixel_bytes: int


@dataclass(frozen=True)
class Calibration:
    """The open-beam, absorber or dark frames of a counter.

    Attributes
    ----------
    frames_uri : str
        The frames table that holds them.
    frame_type, counter
        Which.
    n_frames, n_views, n_untimed : int
        Frames; different exposures; frames without an acquisition time.
    frames_hash : str
        Content hash of the frames table: another one means that the calibration may have changed.
    """

    frames_uri: str
    frame_type: str
    counter: int
    n_frames: int
    n_views: int
    n_untimed: int
    frames_hash: str


@dataclass(frozen=True)
class RecipeRecord:
    """A recipe by the hash of what shapes the voxels; name and content are those of its latest use."""

    recipe_hash: str
    name: str
    content: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One attempt.

    Attributes
    ----------
    run_id, kind, scan_id, out_uri : str
        Which; ingest, reconstruct, reprocess, export or publish; of what; where to.
    state : str
        running, done, kept, failed or stopped; died if it was running on this machine and its process is gone.
    recipe_hash, content_hash : str or None
        Of the recipe, and of the volume that was to be made.
    started_at, ended_at : datetime
        The latter None while it runs, and if it died.
    error : str or None
        Why it failed.
    details : dict
        Counts and metrics.
    version, results_version
        marspipe's.
    application_id : str or None
        Spark's.
    host, pid, machine, process_started
        Where its driver ran; the last two tell a process from a later one of the same number.
    """

    run_id: str
    kind: str
    state: str
    scan_id: str
    out_uri: str
    recipe_hash: str | None
    content_hash: str | None
    started_at: datetime
    ended_at: datetime | None
    error: str | None
    details: dict[str, Any]
    version: str
    results_version: int | None
    application_id: str | None
    host: str
    pid: int
    machine: str = field(repr=False)
    process_started: str | None = field(repr=False)


@dataclass(frozen=True)
class VolumeRecord:
    """A version of a volume.

    Attributes
    ----------
    uri, out_uri, scan_id : str
        Its folder; the folder of the results it belongs to; of what it is.
    current : bool
        Whether it is the newest of its ``out_uri``.
    content_hash, recipe_hash, frames_hash, version, results_version
        What it was made from, and by which marspipe.
    created_at : datetime or None
        When it was finished.
    bins : list of dict
        ``low_kev``, ``high_kev``, ``label``, ``mode``.
    shape : list of int
        Voxels (z, y, x).
    voxel_mm : list of float
        (z, y, x), mm.
    n_bytes : int or None
        Of its files, where they are known.
    run_id : str or None
        The run that made it.
    """

    uri: str
    out_uri: str
    scan_id: str
    content_hash: str
    recipe_hash: str
    frames_hash: str
    version: str
    results_version: int | None
    created_at: datetime | None
    bins: list[dict[str, Any]]
    shape: list[int]
    voxel_mm: list[float]
    n_bytes: int | None
    run_id: str | None
    current: bool


@dataclass(frozen=True)
class Publication:
    """A volume sent somewhere: ``n_instances`` DICOM instances to ``destination``."""

    publication_id: int
    volume_uri: str
    destination: str
    state: str
    n_instances: int
    details: dict[str, Any]
    published_at: datetime


@dataclass(frozen=True)
class Overview:
    """A scan with what a list of scans shows beside it."""

    scan: Scan
    frames: Frames | None
    n_volumes: int
    last_run: Run | None


@dataclass(frozen=True)
class Match:
    """Where a text was found: in which ``field`` of which ``kind`` of thing, and of which scan that is."""

    kind: str
    id: str
    scan_id: str | None
    field: str
    text: str
