"""A scan in its raw files: opened, and checked against its manifest, by the first header of every file."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.errors import ScanError
from marspipe.pipeline.frames.look_at_files import Look, Stretch, look_at_all
from marspipe.pipeline.frames.merlin_sets import with_sets
from marspipe.pipeline.frames.quarantine import Damage
from marspipe.pipeline.frames.raw_file import CameraFacts, RawFile
from marspipe.readers.manifest import FILE_NAME, FileEntry, ScanManifest, load_manifest, scan_geometry
from marspipe.recipe import content_hash
from marspipe.scan.geometry import ScanGeometry
from marspipe.store import storage

_GAP = "records are missing here: the camera's sequence numbers jump"


@dataclass(frozen=True)
class RawScan:
    """A scan in its raw files, validated against its manifest but not yet read."""

    manifest_uri: str
    manifest: ScanManifest
    angles_rad: NDArray[np.float64]
    sample_z_mm: NDArray[np.float64]
    files: tuple[RawFile, ...]
    damages: tuple[Damage, ...] = ()

    @property
    def geometry(self) -> ScanGeometry:
        """Where source and detector stood, as the manifest says."""
        return scan_geometry(self.manifest, self.angles_rad, self.sample_z_mm)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all frames."""
        return sum(f.pixel_bytes for f in self.files)


def open_scan(uri: str, spark: SparkSession | None = None, *, tolerant: bool = False) -> RawScan:
    """Read a scan's manifest and the first header of each of its files.

    Parameters
    ----------
    uri : str
        The manifest, or the folder that holds it as ``scan.yaml``.
    spark : SparkSession, optional
        The session whose executors look at the files, if there are many.
    tolerant : bool
        Whether a damaged or missing file is listed in ``damages`` instead of being an error.

    Raises
    ------
    ScanError, RawFormatError
        If the manifest is wrong, a file is missing or damaged, or a file does not hold what the manifest says.
    """
    manifest, manifest_uri = read_manifest(uri)
    manifest = with_sets(manifest, manifest_uri, tolerant=tolerant)
    files: list[RawFile] = []
    angles: list[NDArray[np.float64]] = []
    heights: list[NDArray[np.float64]] = []
    damages: list[Damage] = []
    numbers: dict[tuple[str, int], int] = defaultdict(int)
    for entry, look in zip(manifest.files, look_at_all(manifest, manifest_uri, spark, tolerant), strict=True):
        base, expected = numbers[entry.frame_type, entry.tile], None
        if entry.frame_type == "projection":
            base, expected = entry.first_view, _values_of_views(look, angles, heights)
        stretches, lost = _checked(entry, look, expected, manifest_uri, len(manifest.counters), tolerant)
        # A lost exposure keeps its number, so that those behind it have the same when the file is repaired.
        damages += [replace(d, first_view=base + (d.first_view or 0)) for d in lost]
        end = max([s.exposure + s.count for s in stretches] + [(d.first_view or 0) + (d.exposures or 0) for d in lost])
        numbers[entry.frame_type, entry.tile] += end
        # Angles and heights stay here: the files travel to the executors many times.
        light = entry.model_copy(update={"angles_rad": None, "sample_z_mm": 0.0})
        for part in stretches:
            step = look.sequence_step
            files.append(
                RawFile(
                    look.uri,
                    light,
                    part.count,
                    look.exposure_bytes,
                    base + part.exposure,
                    look.stored_bytes,
                    look.layout,
                    part.start,
                    None if step is None or part.sequence is None else (part.sequence, step),
                    look.camera,
                    manifest_uri,
                )
            )
    return RawScan(
        manifest_uri,
        manifest,
        manifest.projection_angles(angles),
        manifest.sample_heights_mm(heights),
        tuple(files),
        tuple(damages),
    )


def _values_of_views(look: Look, angles: list[NDArray[np.float64]], heights: list[NDArray[np.float64]]) -> int:
    """Add the angles and heights of a file of projections; return how many exposures it should hold."""
    if look.angles_rad is None or look.heights_mm is None:
        noun = "angles" if look.angles_rad is None else "heights"
        reason = look.damages[0].reason if look.damages else ""
        raise ScanError(f"{look.uri} cannot be read, and the {noun} of its views lie in it: {reason}")
    angles.append(look.angles_rad)
    heights.append(look.heights_mm)
    return int(look.angles_rad.size)


def _checked(
    entry: FileEntry, look: Look, expected: int | None, manifest_uri: str, n_counters: int, tolerant: bool
) -> tuple[list[Stretch], list[Damage]]:
    """Return the exposures of a file, and what it lacks; numbers count from its first exposure."""
    found = [s for s in look.stretches if s.count]
    end = found[-1].exposure + found[-1].count if found else 0
    if expected is not None and (end > expected or (end < expected and not tolerant)):
        raise ScanError(
            f"{look.uri} holds {end} exposures of {n_counters} counters, but {manifest_uri} gives {expected} angles "
            "for it"
        )
    lost, after = [], 0
    for part in found:
        if part.exposure > after:
            lost.append(Damage(look.uri, part.start, entry.frame_type, after, part.exposure - after, _GAP))
        after = part.exposure + part.count
    rest = None if expected is None else expected - end
    if look.damages:
        lost += [replace(d, first_view=end, exposures=d.exposures if rest is None else rest) for d in look.damages]
    elif rest:
        offset = None
        if look.stored_bytes is not None and found:
            offset = found[-1].start + found[-1].count * look.stored_bytes
        reason = f"the file ends after {end} of {expected} exposures"
        lost.append(Damage(look.uri, offset, entry.frame_type, end, rest, reason))
    return found, lost


def read_manifest(uri: str) -> tuple[ScanManifest, str]:
    """Return a scan's manifest and where it lies, given that or the folder that holds it as ``scan.yaml``.

    Raises
    ------
    ScanError
        If there is none, or it is wrong.
    """
    manifest_uri = uri if uri.endswith((".yaml", ".yml")) else storage.join(uri, FILE_NAME)
    try:
        text = storage.read_bytes(manifest_uri).decode("utf-8")
    except FileNotFoundError as error:
        raise ScanError(f"{manifest_uri}: there is no scan manifest") from error
    except UnicodeDecodeError as error:
        raise ScanError(f"{manifest_uri}: not a text file") from error
    return load_manifest(text, manifest_uri), manifest_uri


def fingerprint(scan: RawScan) -> str:
    """Return a hash of the manifest and of the names and sizes of the raw files, without reading pixels.

    It stays the same where a scan is moved as a whole, and however its path is written.
    """
    folder = posixpath.dirname(storage.absolute(scan.manifest_uri))

    def name(uri: str) -> str:
        return posixpath.relpath(storage.absolute(uri), folder)

    files = [[name(f.uri), f.n_exposures, f.exposure_bytes, f.start] for f in scan.files]
    return content_hash([scan.manifest.model_dump(mode="json"), scan.angles_rad.tolist(), files])


def camera_facts(scan: RawScan) -> CameraFacts:
    """Return what the header of the first projection says of the camera."""
    of_sample = [f for f in scan.files if f.entry.frame_type == "projection"]
    return min(of_sample, key=lambda f: (f.first_view, f.tile)).camera if of_sample else CameraFacts()
