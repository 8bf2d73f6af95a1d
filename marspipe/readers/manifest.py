"""The scan manifest ``scan.yaml``: which raw file holds which frames, and how the scan was measured.

It lies beside the raw files. The raw formats know neither the geometry nor the angles (Merlin) nor what a counter
means, so the manifest says all that; where a file does know, the manifest can refer to it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from marspipe.errors import GeometryError, ScanError
from marspipe.readers.manifest_files import FileEntry, Orientation, resolve_angles, resolve_heights
from marspipe.readers.manifest_names import Numbered
from marspipe.readers.manifest_values import AngleDataset, AngleRange, HeightDataset, HeightRange
from marspipe.scan.energy import Counter
from marspipe.scan.geometry import ScanGeometry
from marspipe.strict import StrictModel, load_yaml, validate

__all__ = [
    "FILE_NAME",
    "AngleDataset",
    "AngleRange",
    "CircularGeometry",
    "CounterEntry",
    "FileEntry",
    "HeightDataset",
    "HeightRange",
    "Numbered",
    "Orientation",
    "ParallelGeometry",
    "ScanManifest",
    "Tube",
    "load_manifest",
    "manifest_json_schema",
    "resolve_angles",
    "resolve_heights",
    "resolve_uri",
    "scan_geometry",
]

FILE_NAME = "scan.yaml"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
Pair = tuple[float, float]

# Angles and heights of one view in the files of several camera positions may differ as much, as encoders do.
SAME_ANGLE_RAD = 1e-4
SAME_HEIGHT_MM = 1e-3


class CircularGeometry(StrictModel):
    """A circular orbit around z; see ScanGeometry.circular."""

    kind: Literal["circular"]
    source_to_isocenter_mm: float = Field(gt=0, description="Source to rotation axis, mm.")
    source_to_detector_mm: float = Field(gt=0, description="Source to detector, mm.")
    detector_shape: tuple[int, int] = Field(description="Detector (rows, columns), after `orientation`.")
    pixel_pitch_mm: Pair = Field(description="Pixel pitch (v, u), mm.")
    principal_point_px: Pair | None = Field(
        None, description="Detector position (row, column) of the ray through the isocenter; by default the middle."
    )


class ParallelGeometry(StrictModel):
    """A parallel beam; see ScanGeometry.parallel."""

    kind: Literal["parallel"]
    detector_shape: tuple[int, int] = Field(description="Detector (rows, columns), after `orientation`.")
    pixel_pitch_mm: Pair = Field(description="Pixel pitch (v, u), mm.")
    principal_point_px: Pair | None = Field(
        None, description="(row, column) on the detector; the column is that of the rotation axis."
    )


class Tube(StrictModel):
    """The X-ray tube."""

    voltage_kvp: float = Field(gt=0, description="Peak voltage, kV.")
    current_ua: float | None = Field(None, gt=0, description="Current, uA.")
    filters: dict[str, Annotated[float, Field(ge=0)]] = Field({}, description="Material: thickness in mm.")


class CounterEntry(StrictModel):
    """What one counter of the camera counts."""

    counter: int = Field(ge=0, description="Number of the counter in the frames, from 0.")
    mode: Literal["SPM", "CSM"] = Field("SPM", description="Single-pixel or charge-summing mode.")
    threshold_kev: float = Field(0.0, ge=0, description="Photons above this energy are counted, keV.")


def _kind_of_geometry(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return f"<{kind}>" if isinstance(kind, str) else None


Geometry = Annotated[
    Annotated[CircularGeometry, Tag("<circular>")] | Annotated[ParallelGeometry, Tag("<parallel>")],
    Discriminator(
        _kind_of_geometry,
        custom_error_type="geometry_kind",
        custom_error_message="geometry needs kind: circular or kind: parallel",
    ),
]


class ScanManifest(StrictModel):
    """A whole scan manifest."""

    marspipe_scan: Literal[1] = Field(description="Version of the manifest format.")
    scan_id: str = Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=128, description="Name of the scan.")
    description: str = Field("", description="Free text.")
    geometry: Geometry
    tube: Tube | None = None
    counters: tuple[CounterEntry, ...] = Field(
        (CounterEntry(counter=0),), min_length=1, description="The camera's counters, numbered from 0."
    )
    camera_positions_mm: tuple[Pair, ...] = Field(
        ((0.0, 0.0),),
        min_length=1,
        description="Every position [v, u] of the camera: how far it was moved along v and u, mm. `geometry` is that "
        "of the camera at [0, 0].",
    )
    files: tuple[FileEntry, ...] = Field(min_length=1, description="The raw files.")

    @field_validator("camera_positions_mm")
    @classmethod
    def _distinct(cls, positions: tuple[Pair, ...]) -> tuple[Pair, ...]:
        seen: dict[Pair, int] = {}
        for tile, position in enumerate(positions):
            if seen.setdefault(position, tile) != tile:
                raise ValueError(f"camera positions {seen[position]} and {tile} are both at {list(position)} mm (v, u)")
        return positions

    @field_validator("counters")
    @classmethod
    def _ladder(cls, counters: tuple[CounterEntry, ...]) -> tuple[CounterEntry, ...]:
        numbers = [c.counter for c in counters]
        if numbers != list(range(len(numbers))):
            raise ValueError(f"counters must be numbered 0 to {len(numbers) - 1} in order, got {numbers}")
        below: dict[str, CounterEntry] = {}
        for entry in counters:
            lower = below.get(entry.mode)
            if lower is not None and entry.threshold_kev <= lower.threshold_kev:
                raise ValueError(
                    f"thresholds of mode {entry.mode} must ascend, but counter {lower.counter} is at "
                    f"{lower.threshold_kev:g} keV and counter {entry.counter} at {entry.threshold_kev:g} keV"
                )
            below[entry.mode] = entry
        return counters

    @model_validator(mode="after")
    def _sound(self) -> ScanManifest:
        if not self.projection_files:
            raise ValueError("files: at least one file must have frame_type: projection")
        try:
            ScanGeometry.from_dict({**self.geometry.model_dump(), "angles_rad": [0.0]})
        except GeometryError as error:
            raise ValueError(f"geometry: {error}") from error
        tiles = len(self.camera_positions_mm)
        for file in self.files:
            if file.tile >= tiles:
                raise ValueError(
                    f"files: {file.path!r} is of tile {file.tile}, but camera_positions_mm lists {tiles} "
                    f"position{'s' if tiles > 1 else ''}, numbered from 0"
                )
        _refuse_doubled_views([(f, n) for f in self.projection_files if (n := f.literal_count()) is not None], "files")
        return self

    @property
    def projection_files(self) -> tuple[FileEntry, ...]:
        """The files that hold projections, in the order of the manifest."""
        return tuple(f for f in self.files if f.frame_type == "projection")

    def camera_counters(self) -> list[Counter]:
        """Return the counters as :class:`marspipe.scan.energy.Counter` values."""
        return [Counter(c.counter, c.mode, c.threshold_kev) for c in self.counters]

    def projection_angles(self, resolved: Sequence[NDArray[np.float64]] | None = None) -> NDArray[np.float64]:
        """Return the angle of every view of the scan, in the order of the views.

        Parameters
        ----------
        resolved : sequence of ndarray, rad, optional
            Angles of each projection file, in the order of :attr:`projection_files`, from :func:`resolve_angles`.
            Needed only if a file keeps its angles in a dataset.

        Returns
        -------
        ndarray, shape (n_views,), float64, rad

        Raises
        ------
        ScanError
            If a view is missing or doubled, or angles have to be resolved first.
        """
        files = self.projection_files
        parts = [f.literal_angles() for f in files] if resolved is None else list(resolved)
        return self._of_views(parts, "angle", "rad", SAME_ANGLE_RAD)

    def sample_heights_mm(self, heights: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return how far the sample had moved towards +z in every view, shape (n_views,), float64, mm.

        Parameters
        ----------
        heights : sequence of ndarray, mm
            Those of each projection file, in the order of :attr:`projection_files`, from :func:`resolve_heights`.
        """
        return self._of_views(list(heights), "sample_z_mm", "mm", SAME_HEIGHT_MM)

    def _of_views(
        self, parts: Sequence[NDArray[np.float64] | None], noun: str, unit: str, tolerance: float
    ) -> NDArray[np.float64]:
        """Return one value per view from those of each projection file; of several camera positions, the lowest."""
        files = self.projection_files
        if len(parts) != len(files):
            raise ScanError(f"scan {self.scan_id}: angles of {len(parts)} files given, expected {len(files)}")
        sized = []
        for file, part in zip(files, parts, strict=True):
            if part is None:
                raise ScanError(f"scan {self.scan_id}: the angles of {file.path} lie in the file; resolve them first")
            sized.append((file, part))
        try:
            _refuse_doubled_views([(file, part.size) for file, part in sized], f"scan {self.scan_id}")
        except ValueError as error:
            raise ScanError(str(error)) from error
        views = max(f.first_view + part.size for f, part in sized)
        values = np.full(views, np.nan)
        for tile in range(len(self.camera_positions_mm)):
            of_tile = np.full(views, np.nan)
            for file, part in sized:
                if file.tile == tile:
                    of_tile[file.first_view : file.first_view + part.size] = part
            self._require_all_views(of_tile, tile)
            values = of_tile if tile == 0 else values
            differing = np.flatnonzero(np.abs(of_tile - values) > tolerance)
            if differing.size:
                view = differing[0]
                raise ScanError(
                    f"scan {self.scan_id}: {noun} of view {view} is {values[view]:.9g} {unit} at camera position 0 "
                    f"and {of_tile[view]:.9g} {unit} at camera position {tile}"
                )
        return values

    def _require_all_views(self, values: NDArray[np.float64], tile: int) -> None:
        missing = np.flatnonzero(np.isnan(values))
        if missing.size:
            place = f" of camera position {tile}" if len(self.camera_positions_mm) > 1 else ""
            raise ScanError(
                f"scan {self.scan_id}: view {missing[0]} is in no projection file{place} "
                f"({missing.size} of {values.size} views are missing)"
            )

    def to_yaml(self) -> str:
        """Return the manifest as YAML; :func:`load_manifest` restores it exactly."""
        content = self.model_dump(mode="json", exclude_none=True)
        if self.camera_positions_mm == ((0.0, 0.0),):
            del content["camera_positions_mm"]
        for file in content["files"]:
            if not any(file["orientation"].values()):
                del file["orientation"]
            if not file["tile"]:
                del file["tile"]
            for values in (file.get("angles_rad"), file.get("sample_z_mm"), file.get("numbered")):
                if isinstance(values, dict):
                    for key, default in (("hold", 1), ("downwards", False)):
                        if values.get(key, None) == default:
                            del values[key]
        return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))


def _refuse_doubled_views(sized: Sequence[tuple[FileEntry, int]], where: str) -> None:
    ordered = sorted(sized, key=lambda item: (item[0].tile, item[0].first_view))
    for (one, n), (other, _) in pairwise(ordered):
        if other.tile == one.tile and other.first_view < one.first_view + n:
            place = f" at camera position {one.tile}" if one.tile else ""
            raise ValueError(
                f"{where}: view {other.first_view} is doubled{place}: {one.path!r} holds views {one.first_view} to "
                f"{one.first_view + n - 1}, and {other.path!r} begins at view {other.first_view}"
            )


def load_manifest(text: str, origin: str) -> ScanManifest:
    """Return the scan manifest written in YAML.

    Parameters
    ----------
    text : str
        The YAML text.
    origin : str
        Where it came from (its URI), for messages.

    Raises
    ------
    ScanError
        Naming the origin and, for every fault, key path, value and what was expected; for an unknown key the nearest
        valid one.
    """
    return validate(load_yaml(text, origin, ScanError, "scan manifest"), origin, ScanManifest, ScanError)


def manifest_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a scan manifest, as shipped in ``schemas/scan.schema.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ScanManifest.model_json_schema()}


def scan_geometry(
    manifest: ScanManifest, angles_rad: NDArray[np.float64], sample_z_mm: NDArray[np.float64] | None = None
) -> ScanGeometry:
    """Return the geometry of a scan, in the coordinates of the sample: where the sample moved, source and camera did.

    Parameters
    ----------
    manifest : ScanManifest
        The manifest.
    angles_rad : ndarray, shape (n_views,), rad
        Angle of every view, from :meth:`ScanManifest.projection_angles`.
    sample_z_mm : ndarray, shape (n_views,), mm, optional
        How far the sample had moved towards +z, from :meth:`ScanManifest.sample_heights_mm`. Seen from the sample,
        source and camera then stood at -z: ``source_z_mm = -sample_z_mm``.

    Raises
    ------
    GeometryError
        If the angles do not make sense.
    """
    heights = 0.0 if sample_z_mm is None else -np.asarray(sample_z_mm)
    return ScanGeometry.from_dict(
        {**manifest.geometry.model_dump(), "angles_rad": np.asarray(angles_rad), "source_z_mm": heights}
    )


def resolve_uri(path: str, manifest_uri: str) -> str:
    """Return where a file named in a manifest lies.

    Parameters
    ----------
    path : str
        A URI; a path relative to the manifest's folder; or an absolute path, which is on the manifest's file system.
    manifest_uri : str
        Path or URI of the manifest itself.

    Examples
    --------
    >>> resolve_uri("raw/a b.mib", "hdfs://nn:9000/scans/42/scan.yaml")
    'hdfs://nn:9000/scans/42/raw/a b.mib'
    >>> resolve_uri("/data/open.mib", "hdfs://nn:9000/scans/42/scan.yaml")
    'hdfs://nn:9000/data/open.mib'
    >>> resolve_uri("../open.mib", "/scans/42/scan.yaml")
    '/scans/open.mib'
    """
    if _SCHEME.match(path):
        return path
    root = ""
    if manifest_uri.startswith("file:"):
        # A file URI is percent-encoded and a plain path is not; the result is plain.
        manifest_uri = unquote(urlsplit(manifest_uri).path)
    elif "://" in manifest_uri:
        scheme, _, rest = manifest_uri.partition("://")
        host, slash, tail = rest.partition("/")
        root, manifest_uri = f"{scheme}://{host}", slash + tail
    return root + posixpath.normpath(posixpath.join(posixpath.dirname(manifest_uri), path))
