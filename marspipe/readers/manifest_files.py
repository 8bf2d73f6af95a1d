"""The raw files that a scan manifest lists: format, kind of frames, angles, orientation of the camera."""

from __future__ import annotations

import difflib
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from marspipe.errors import ScanError
from marspipe.readers import data_exchange, dicom_frames, nxtomo, tiff
from marspipe.readers.frames import FrameType
from marspipe.readers.manifest_names import Numbered, name_of, require_pattern
from marspipe.readers.manifest_values import (
    ANGLE_UNITS,
    LENGTH_UNITS,
    MM_PER_UNIT,
    AngleDataset,
    AngleRange,
    Angles,
    HeightDataset,
    HeightRange,
    Heights,
)
from marspipe.strict import StrictModel

_READERS = ("merlin", "data_exchange", "nxtomo", "tiff", "dicom")
_DATASET_READERS = ("data_exchange", "nxtomo", "dicom")
_ANGLE_READERS = ("data_exchange", "nxtomo", "tiff", "dicom")
_LARGEST_GROUP = 1_000_000


class Orientation(StrictModel):
    """How the camera was mounted: first `transpose`, then the flips, turn its frames into [row v, column u]."""

    transpose: bool = Field(False, description="Exchange rows and columns.")
    flip_rows: bool = Field(False, description="Reverse the rows.")
    flip_columns: bool = Field(False, description="Reverse the columns.")


class FileEntry(StrictModel):
    """One raw file, one dataset of an HDF5 file, a series file that lists raw files, or many files."""

    path: str = Field(
        min_length=1,
        description="Relative to the manifest, or an absolute path or URI; with `numbered` a pattern such as "
        "view_{number:05d}_tile_{tile}.mib.",
    )
    numbered: Numbered | None = Field(
        None, description="The path is a pattern for files of one exposure each, with all its counters."
    )
    by_sequence: bool = Field(
        False,
        description="The path has a *, such as stone*.mib: Merlin files of one acquisition, which follow each other by "
        "the sequence numbers in their headers.",
    )
    reader: str = Field(
        description="Format: merlin, data_exchange, nxtomo, tiff or dicom.", json_schema_extra={"enum": list(_READERS)}
    )
    frame_type: FrameType = Field(description="What its frames are.")
    dataset: str | None = Field(
        None,
        min_length=1,
        description="HDF5 path (nxtomo: of an entry or detector), by default the usual one; dicom: scanner mapping.",
    )
    angles_rad: Angles | None = Field(None, description="Angles of the exposures, rad; projections only.")
    sample_z_mm: Heights = Field(
        0.0,
        description="How far the sample had moved towards +z along the rotation axis, mm: a number, one per exposure, "
        "a range, or a dataset of the file.",
    )
    first_view: int = Field(0, ge=0, description="View number of the first exposure; projections only.")
    exposure_s: float | None = Field(None, gt=0, description="Exposure time, s; overrides the file's header.")
    time: Literal["before", "after"] | None = Field(
        None, description="Open beam, absorber and dark: acquired before or after the projections."
    )
    tile: int = Field(0, ge=0, description="Camera position: place in `camera_positions_mm`.")
    group: int | None = Field(
        None,
        ge=0,
        le=_LARGEST_GROUP,
        description="Open beam, absorber and dark: frames taken together, numbered in time; by default 1 with "
        "`time: after`, else 0.",
    )
    absorber_mm: float | None = Field(None, gt=0, description="Thickness of the plate in the beam, mm; absorber only.")
    orientation: Orientation = Orientation()

    @field_validator("reader")
    @classmethod
    def _known_reader(cls, value: str) -> str:
        if value not in _READERS:
            near = difflib.get_close_matches(value, _READERS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"valid readers are {', '.join(_READERS)}"
            raise ValueError(f"unknown reader {value!r}; {hint}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> FileEntry:
        if self.frame_type == "projection":
            if self.angles_rad is None:
                raise ValueError(f"angles_rad is missing for the projections in {self.path!r}")
            if self.time is not None or self.group is not None:
                key = f"group: {self.group}" if self.time is None else f"time: {self.time}"
                raise ValueError(f"{key} is for open beams, absorbers and dark frames; {self.path!r} has projections")
        elif self.angles_rad is not None or self.first_view or self.sample_z_mm != 0.0:
            raise ValueError(
                f"angles_rad, first_view and sample_z_mm are for projections; {self.path!r} is {self.frame_type}"
            )
        if (self.frame_type == "absorber") != (self.absorber_mm is not None):
            raise ValueError(
                f"absorber_mm, the thickness of the plate, belongs to frame_type: absorber and only to it; "
                f"{self.path!r} is {self.frame_type} with absorber_mm: {self.absorber_mm}"
            )
        if self.reader not in _DATASET_READERS and self.dataset is not None:
            raise ValueError(f"dataset {self.dataset!r} needs an HDF5 reader or dicom; {self.path!r} is {self.reader}")
        if self.reader == "data_exchange" and self.frame_type == "absorber" and self.dataset is None:
            raise ValueError(f"{self.path!r}: the format has no place for absorbers; name the dataset that holds them")
        self._require_readable("angles_rad", self.angles_rad)
        self._require_readable("sample_z_mm", self.sample_z_mm)
        if self.numbered is not None:
            self._require_numbered(self.numbered)
        if self.by_sequence and (self.reader != "merlin" or "*" not in self.path.rpartition("/")[2] or self.numbered):
            raise ValueError(
                f"by_sequence is for Merlin files whose name, not folder, has a *, and not for numbered ones; "
                f"{self.path!r} is {self.reader}"
            )
        return self

    def _require_readable(self, key: str, values: object) -> None:
        if not isinstance(values, (AngleDataset, HeightDataset)):
            return
        if self.reader not in _ANGLE_READERS:
            raise ValueError(
                f"{key}.dataset {values.dataset!r} needs an HDF5 reader, tiff or dicom; {self.path!r} is {self.reader}"
            )
        if self.numbered is not None:
            raise ValueError(
                f"{key} of numbered files must be a range or a list, but {self.path!r} has dataset {values.dataset!r}"
            )

    def _require_numbered(self, numbered: Numbered) -> None:
        require_pattern(self.path)
        if self.frame_type == "projection" and self.literal_count() != numbered.count:
            raise ValueError(
                f"angles_rad gives {self.literal_count()} angles for the {numbered.count} numbered files {self.path!r} "
                "of one exposure each"
            )

    @property
    def group_number(self) -> int:
        """Group of the frames; 0 for projections."""
        return self.group if self.group is not None else int(self.time == "after")

    def name(self, number: int) -> str:
        """Return the path of a file, the ``number``-th from 0 of numbered files."""
        if self.numbered is None:
            return self.path
        return name_of(self.path, self.numbered.first + number * self.numbered.step, self.tile)

    def literal_count(self) -> int | None:
        """Return how many angles the manifest itself lists; None if the file has them."""
        angles = self.angles_rad
        if isinstance(angles, AngleRange):
            return angles.count
        return len(angles) if isinstance(angles, tuple) else None

    def literal_angles(self) -> NDArray[np.float64] | None:
        """Return the angles in rad that the manifest itself lists; None if the file has them."""
        angles = self.angles_rad
        if isinstance(angles, AngleRange):
            return angles.values(angles.start, angles.step, angles.count)
        return np.array(angles, dtype=np.float64) if isinstance(angles, tuple) else None

    def heights_mm(self, count: int) -> NDArray[np.float64]:
        """Return how far the sample had moved towards +z in each of ``count`` exposures, mm, as the manifest lists it.

        Raises
        ------
        ScanError
            If the manifest lists another number, or one that is not finite, or the file has them.
        """
        z = self.sample_z_mm
        if isinstance(z, HeightDataset):
            raise ScanError(f"{self.path}: the heights lie in {z.dataset}; the file is needed to read them")
        if isinstance(z, HeightRange):
            heights = z.values(z.start, z.step, count)
        else:
            if isinstance(z, tuple) and len(z) != count:
                raise ScanError(f"{self.path}: sample_z_mm lists {len(z)} heights for {count} exposures")
            heights = np.array(np.broadcast_to(np.asarray(z, np.float64), count))
        if not np.isfinite(heights).all():
            raise ScanError(f"{self.path}: sample_z_mm must be finite (mm), got {heights[~np.isfinite(heights)][0]}")
        return heights


def resolve_angles(
    entry: FileEntry, opened_file: BinaryIO | None = None, uri: str | None = None
) -> NDArray[np.float64]:
    """Return the angles of a projection file.

    Parameters
    ----------
    entry : FileEntry
        A projection file of the manifest.
    opened_file : seekable binary file, optional
        The raw file; needed only if the angles lie in it.
    uri : str, optional
        Where the file lies; by default the path in the manifest.

    Returns
    -------
    ndarray, shape (n_exposures,), float64, rad

    Raises
    ------
    RawFormatError
        If the dataset is missing or not one-dimensional.
    ScanError
        If the entry has no angles, an angle is not finite, or the file claims another unit than the manifest.
    """
    literal = entry.literal_angles()
    if literal is not None:
        return literal
    if not isinstance(entry.angles_rad, AngleDataset):
        raise ScanError(f"{entry.path}: angles_rad is missing")
    if opened_file is None:
        raise ScanError(f"{entry.path}: the angles lie in {entry.angles_rad.dataset}; the file is needed to read them")
    values = _read_finite(entry, opened_file, uri or entry.path, entry.angles_rad, ANGLE_UNITS, "angle")
    return np.deg2rad(values) if entry.angles_rad.unit == "deg" else values


def resolve_heights(
    entry: FileEntry, count: int, opened_file: BinaryIO | None = None, uri: str | None = None
) -> NDArray[np.float64]:
    """Return how far the sample had moved along the axis in every exposure of a projection file.

    The sign is that of the sample: it stood at +z where the height is positive, so that source and camera, seen from
    the sample, stood at -z.

    Parameters
    ----------
    entry : FileEntry
        A projection file of the manifest.
    count : int
        Exposures of the file.
    opened_file : seekable binary file, optional
        The raw file; needed only if the heights lie in it.
    uri : str, optional
        Where the file lies; by default the path in the manifest.

    Returns
    -------
    ndarray, shape (count,), float64, mm

    Raises
    ------
    RawFormatError
        If the dataset is missing or not one-dimensional.
    ScanError
        If there is another number of heights, one is not finite, or the file claims another unit than the manifest.
    """
    wanted = entry.sample_z_mm
    if not isinstance(wanted, HeightDataset) or opened_file is None:
        return entry.heights_mm(count)
    if entry.reader == "dicom" and wanted.dataset == "sample_z":
        values = _dicom_heights(entry, count, opened_file, uri or entry.path)
        return -values if wanted.downwards else values
    values = _read_finite(entry, opened_file, uri or entry.path, wanted, LENGTH_UNITS, "height")
    if values.size != count:
        raise ScanError(f"{entry.path}: {wanted.dataset} holds {values.size} heights for {count} exposures")
    return values * (-MM_PER_UNIT[wanted.unit] if wanted.downwards else MM_PER_UNIT[wanted.unit])


def _dicom_heights(entry: FileEntry, count: int, file: BinaryIO, uri: str) -> NDArray[np.float64]:
    """Return the heights that a scanner mapping tells, which are in mm whatever their unit in the file."""
    if entry.dataset is None:
        raise ScanError(f"{entry.path}: no scanner mapping says where the height is; name one as dataset")
    found = [value.sample_z_mm for value in dicom_frames.read_values(file, uri, entry.dataset)]
    if any(value is None for value in found):
        raise ScanError(f"{entry.path}: the scanner mapping {entry.dataset} does not say where sample_z is")
    heights = np.array(found, dtype=np.float64)
    if heights.size % count or np.ptp(heights.reshape(count, -1), axis=1).any():
        raise ScanError(f"{entry.path}: {heights.size} frames do not have one height for each of {count} exposures")
    return heights.reshape(count, -1)[:, 0]


def _read_finite(
    entry: FileEntry,
    file: BinaryIO,
    uri: str,
    wanted: AngleDataset | HeightDataset,
    units: dict[str, tuple[str, ...]],
    noun: str,
) -> NDArray[np.float64]:
    dataset, unit = wanted.dataset, wanted.unit
    values, stored_unit = _read_values(entry, file, uri, dataset)
    claimed = next((u for u, names in units.items() if (stored_unit or "").strip().lower() in names), unit)
    if claimed != unit:
        raise ScanError(f"{entry.path}: {dataset} is stored in {stored_unit!r}, but the manifest says unit: {unit}")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size or not values.size:
        found = f"{noun} {bad[0]} is {values[bad[0]]}" if bad.size else "it is empty"
        raise ScanError(f"{entry.path}: {dataset} must hold at least one {noun}, all finite, but {found}")
    return values


def _read_values(entry: FileEntry, file: BinaryIO, uri: str, name: str) -> tuple[NDArray[np.float64], str | None]:
    if entry.reader == "nxtomo":
        return nxtomo.read_angles(file, uri, name, entry.dataset)
    if entry.reader == "dicom":
        return dicom_frames.read_angles(file, uri, name, entry.dataset)
    if entry.reader == "tiff":
        return tiff.read_angles(file, uri, name)
    return data_exchange.read_angles(file, uri, name)
