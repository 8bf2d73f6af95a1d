"""What a job begins with, in numbers: of a raw scan, of a frames table, or of a subject that nobody has scanned yet."""

from __future__ import annotations

import math
from collections import Counter as Tally
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from marspipe.errors import InputError
from marspipe.pipeline.corrections.camera import Camera
from marspipe.pipeline.frames.raw_scan import RawScan
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.source import Measured
from marspipe.scan.energy import Counter
from marspipe.scan.geometry import ScanGeometry
from marspipe.strict import StrictModel, load_yaml, validate

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Workload:
    """A scan in numbers.

    Attributes
    ----------
    name : str
        For people.
    camera : Camera
        The camera and its positions.
    geometry : ScanGeometry
        Of the wide detector.
    counters : tuple of Counter
        Counters of the camera.
    frame_bytes : int
        Pixels of one counter image, bytes.
    projections, others : int
        Counter images of the sample, and of open beams, absorbers and darks.
    raw : bool
        Whether the frames table has still to be made.
    repeats : int
        How many such scans make the whole subject.
    groups : int
        Groups of open beams, absorbers and darks: before, after, behind each plate.
    """

    name: str
    camera: Camera
    geometry: ScanGeometry
    counters: tuple[Counter, ...]
    frame_bytes: int
    projections: int
    others: int
    raw: bool
    repeats: int = 1
    groups: int = 2

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all frames of one scan."""
        return self.frame_bytes * (self.projections + self.others)

    @classmethod
    def of(cls, source: RawScan | FramesTable) -> Workload:
        """Return what a source holds, without reading pixels."""
        measured = Measured.by(source)
        n_counters = len(measured.counters)
        if isinstance(source, FramesTable):
            frames: Tally[str] = Tally()
            for group in source.metadata["groups"]:
                frames[group["frame_type"]] += group["frames"]
            name, pixel_bytes, groups = source.scan_id, source.pixel_bytes, 2
        else:
            frames = Tally()
            for file in source.files:
                frames[file.entry.frame_type] += file.n_exposures * n_counters
            name, pixel_bytes = source.manifest.scan_id, source.pixel_bytes
            entries = [f.entry for f in source.files if f.entry.frame_type != "projection"]
            groups = len({(e.frame_type, e.absorber_mm, e.group_number) for e in entries})
        total = max(1, frames.total())
        projections = frames["projection"]
        return cls(
            name,
            measured.camera,
            measured.geometry,
            measured.counters,
            math.ceil(pixel_bytes / total),
            projections,
            total - projections,
            isinstance(source, RawScan),
            groups=max(1, groups),
        )


class SubjectCounter(StrictModel):
    """One counter image of an exposure."""

    mode: str
    threshold_kev: Positive


class Subject(StrictModel):
    """A subject and how it would be scanned: circles one above the other, each of them a scan and a job."""

    marspipe_subject: Annotated[int, Field(ge=1, le=1)] = Field(1, description="Version of the format.")
    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="Name of the preset.")
    description: str = Field("", description="What it is, and what is known of it.")
    raw_bytes: Positive = Field(description="What its raw data are said to be, bytes.")
    size_mm: tuple[Positive, Positive, Positive] = Field(description="Height, depth and width, mm.")
    voxel_mm: Positive = Field(description="Voxels, mm.")
    views: Count = Field(description="Angles of a circle.")
    circles: Count = Field(description="Circles one above the other.")
    source_to_isocenter_mm: Positive
    source_to_detector_mm: Positive
    camera_px: tuple[Count, Count] = Field(description="Rows and columns of the camera.")
    pixel_mm: Positive = Field(description="Pixels of the camera, mm.")
    bytes_per_pixel: Annotated[int, Field(ge=1, le=4)] = Field(2, description="As stored.")
    positions: tuple[Count, Count] = Field(description="Camera positions of a circle: one above, one beside the other.")
    step_mm: tuple[Positive, Positive] = Field(description="Between neighboring positions, mm.")
    open_beams_per_view: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Open beams per projection of a camera position."
    )
    counters: tuple[SubjectCounter, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _around_the_subject(self) -> Subject:
        reach = math.hypot(*self.size_mm[1:]) / 2
        if self.source_to_isocenter_mm <= reach:
            raise ValueError(f"source_to_isocenter_mm must be beyond the subject's {reach:.4g} mm")
        return self

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of the whole subject."""
        z, y, x = (max(1, round(size / self.voxel_mm)) for size in self.size_mm)
        return z, y, x

    @property
    def circle_slices(self) -> int:
        """Slices of one circle."""
        return math.ceil(self.grid_shape[0] / self.circles)

    def overrides(self) -> tuple[str, ...]:
        """Return the recipe's values that the subject decides."""
        _, ny, nx = self.grid_shape
        voxel = [self.voxel_mm] * 3
        return f"grid.shape={[self.circle_slices, ny, nx]}", f"grid.voxel_mm={voxel}"

    def workload(self) -> Workload:
        """Return the scan of one circle."""
        n_v, n_u = self.positions
        positions = [
            ((i - (n_v - 1) / 2) * self.step_mm[0], (j - (n_u - 1) / 2) * self.step_mm[1])
            for i in range(n_v)
            for j in range(n_u)
        ]
        geometry = ScanGeometry.circular(
            source_to_isocenter_mm=self.source_to_isocenter_mm,
            source_to_detector_mm=self.source_to_detector_mm,
            detector_shape=self.camera_px,
            pixel_pitch_mm=(self.pixel_mm, self.pixel_mm),
            angles_rad=np.linspace(0, 2 * np.pi, self.views, endpoint=False),
        )
        counters = tuple(Counter(i, c.mode, c.threshold_kev) for i, c in enumerate(self.counters))
        camera = Camera.of(geometry, len(counters), positions)
        exposures = self.views * len(positions)
        return Workload(
            self.name,
            camera,
            camera.wide(geometry),
            counters,
            math.prod(self.camera_px) * self.bytes_per_pixel,
            exposures * len(counters),
            round(exposures * self.open_beams_per_view) * len(counters),
            True,
            self.circles,
        )


def parse_subject(text: str, origin: str) -> Subject:
    """Return the subject written in YAML.

    Raises
    ------
    InputError
        Naming the origin, the key and the value.
    """
    return validate(load_yaml(text, origin, InputError, "subject"), origin, Subject, InputError)
