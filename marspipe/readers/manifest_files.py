"""The raw files that a scan manifest lists: format, kind of frames, angles, orientation of the camera."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from marspipe.errors import ScanError
from marspipe.readers import data_exchange, dicom_frames, nxtomo, tiff
from marspipe.readers.frames import FrameType
from marspipe.strict import StrictModel

_READERS = ("merlin", "data_exchange", "nxtomo", "tiff", "dicom")
_DATASET_READERS = ("data_exchange", "nxtomo", "dicom")
_ANGLE_READERS = ("data_exchange", "nxtomo", "tiff", "dicom")
_UNITS = {"deg": ("deg", "degree", "degrees"), "rad": ("rad", "radian", "radians")}


class AngleRange(StrictModel):
    """Equidistant angles: start, start + step, ..."""

    start: float = Field(0.0, description="Angle of the first exposure, rad.")
    step: float = Field(description="From one exposure to the next, rad.")
    count: int = Field(ge=1, le=10_000_000, description="Number of exposures.")


class AngleDataset(StrictModel):
    """Angles stored in the file itself."""

    dataset: str = Field(
        description="HDF5 path, such as /exchange/theta; `angle` of a scanner mapping; `angles` of a series file."
    )
    unit: Literal["deg", "rad"] = Field(description="Unit of the stored angles.")


class HeightRange(StrictModel):
    """Equidistant heights: start, start + step, ..."""

    start: float = Field(0.0, description="At the first exposure, mm.")
    step: float = Field(description="From one exposure to the next, mm.")


class Orientation(StrictModel):
    """How the camera was mounted: first `transpose`, then the flips, turn its frames into [row v, column u]."""

    transpose: bool = Field(False, description="Exchange rows and columns.")
    flip_rows: bool = Field(False, description="Reverse the rows.")
    flip_columns: bool = Field(False, description="Reverse the columns.")


def _kind_of_angles(value: Any) -> str:
    if isinstance(value, AngleDataset) or (isinstance(value, dict) and "dataset" in value):
        return "<dataset>"
    return "<range>" if isinstance(value, (AngleRange, dict)) else "<list>"


Angles = Annotated[
    Annotated[AngleRange, Tag("<range>")]
    | Annotated[tuple[float, ...], Field(min_length=1), Tag("<list>")]
    | Annotated[AngleDataset, Tag("<dataset>")],
    Discriminator(_kind_of_angles),
]


class FileEntry(StrictModel):
    """One raw file, one dataset of an HDF5 file, or a series file that lists raw files."""

    path: str = Field(min_length=1, description="Relative to the manifest, or an absolute path or URI.")
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
    sample_z_mm: float | HeightRange | Annotated[tuple[float, ...], Field(min_length=1)] = Field(
        0.0,
        description="How far the sample had moved along the rotation axis, mm: a number, one per exposure, or a range.",
    )
    first_view: int = Field(0, ge=0, description="View number of the first exposure; projections only.")
    exposure_s: float | None = Field(None, gt=0, description="Exposure time, s; overrides the file's header.")
    time: Literal["before", "after"] | None = Field(
        None, description="Open beam and dark: acquired before or after the projections."
    )
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
            if self.time is not None:
                raise ValueError(f"time: {self.time} is for open beams and dark frames; {self.path!r} has projections")
        elif self.angles_rad is not None or self.first_view or self.sample_z_mm != 0.0:
            raise ValueError(
                f"angles_rad, first_view and sample_z_mm are for projections; {self.path!r} is {self.frame_type}"
            )
        if self.reader not in _DATASET_READERS and self.dataset is not None:
            raise ValueError(f"dataset {self.dataset!r} needs an HDF5 reader or dicom; {self.path!r} is {self.reader}")
        if self.reader not in _ANGLE_READERS and isinstance(self.angles_rad, AngleDataset):
            raise ValueError(
                f"angles_rad.dataset {self.angles_rad.dataset!r} needs an HDF5 reader, tiff or dicom; "
                f"{self.path!r} is {self.reader}"
            )
        return self

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
            return angles.start + angles.step * np.arange(angles.count, dtype=np.float64)
        return np.array(angles, dtype=np.float64) if isinstance(angles, tuple) else None

    def heights_mm(self, count: int) -> NDArray[np.float64]:
        """Return how far the sample had moved along the axis in each of ``count`` exposures, mm.

        Raises
        ------
        ScanError
            If the manifest lists another number, or one that is not finite.
        """
        z = self.sample_z_mm
        if isinstance(z, HeightRange):
            heights = z.start + z.step * np.arange(count, dtype=np.float64)
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
    dataset, unit = entry.angles_rad.dataset, entry.angles_rad.unit
    values, stored_unit = _read_angles(entry, opened_file, uri or entry.path, dataset)
    claimed = next((u for u, names in _UNITS.items() if (stored_unit or "").strip().lower() in names), unit)
    if claimed != unit:
        raise ScanError(f"{entry.path}: {dataset} is stored in {stored_unit!r}, but the manifest says unit: {unit}")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size or not values.size:
        found = f"angle {bad[0]} is {values[bad[0]]}" if bad.size else "it is empty"
        raise ScanError(f"{entry.path}: {dataset} must hold at least one angle, all finite, but {found}")
    return np.deg2rad(values) if unit == "deg" else values


def _read_angles(entry: FileEntry, file: BinaryIO, uri: str, name: str) -> tuple[NDArray[np.float64], str | None]:
    if entry.reader == "nxtomo":
        return nxtomo.read_angles(file, uri, name, entry.dataset)
    if entry.reader == "dicom":
        return dicom_frames.read_angles(file, uri, name, entry.dataset)
    if entry.reader == "tiff":
        return tiff.read_angles(file, uri, name)
    return data_exchange.read_angles(file, uri, name)
