"""Which DICOM attribute says what of a raw frame: a table per scanner, ``conf/scanners/*.yaml``.

Raw frames of photon-counting scanners come in DICOM files whose attributes differ by vendor. Nothing is assumed: the
table names a tag or keyword, a private one with its creator, for every quantity, with its unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from marspipe.errors import RawFormatError
from marspipe.readers.files import Place
from marspipe.resources import resource_path
from marspipe.strict import StrictModel, load_yaml, validate

_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),\s*([0-9A-Fa-f]{4})\)?")
_SHIPPED = re.compile(r"[A-Za-z0-9._-]+")
_LARGEST_BYTES = 1 << 20
_TYPES = {"FD": "<f8", "FL": "<f4", "US": "<u2", "UL": "<u4", "SS": "<i2", "SL": "<i4"}
# Factor to the unit that the package computes in: rad, mm, keV, s.
_UNITS: dict[str, dict[str, float]] = {
    "angle": {"deg": 0.017453292519943295, "rad": 1.0},
    "length": {"mm": 1.0, "cm": 10.0, "m": 1e3, "um": 1e-3},
    "energy": {"keV": 1.0, "eV": 1e-3},
    "time": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "number": {"1": 1.0},
}
_KIND = {
    "angle": "angle",
    "camera_u": "length",
    "camera_v": "length",
    "sample_z": "length",
    "thresholds": "energy",
    "counter": "number",
    "exposure": "time",
}


class Source(StrictModel):
    """Where one quantity stands: value = (stored * scale + offset) in ``unit``."""

    tag: str | None = Field(None, description="Such as '0018,1510'; of a private tag the last two digits count.")
    keyword: str | None = Field(None, description="DICOM keyword instead of the tag.")
    creator: str | None = Field(None, min_length=1, description="Private creator; needed for private tags.")
    vr: Literal["FD", "FL", "US", "UL", "SS", "SL"] | None = Field(
        None, description="Type of a private tag where the file does not tell it; by default text."
    )
    unit: str = Field("1", description="Unit of the scaled value.")
    scale: float = Field(1.0, description="Factor.")
    offset: float = Field(0.0, description="Added after the factor.")

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.tag is None) == (self.keyword is None):
            raise ValueError("give either tag or keyword")
        if self.keyword is not None and tag_for_keyword(self.keyword) is None:
            raise ValueError(f"{self.keyword!r} is no DICOM keyword")
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise ValueError(f"a tag is written as '0018,1510', got {self.tag!r}")
        private = self.tag is not None and self.numbers[0] % 2 == 1
        if private != (self.creator is not None):
            raise ValueError(f"a creator belongs to a private tag (odd group), and only to one; got {self.label}")
        return self

    @property
    def numbers(self) -> tuple[int, int]:
        """Group and element."""
        if self.keyword is not None:
            tag = Tag(self.keyword)
            return tag.group, tag.element
        match = _TAG.fullmatch(self.tag or "")
        if match is None:
            raise ValueError(f"{self.tag!r} is no tag")
        return int(match[1], 16), int(match[2], 16)

    @property
    def label(self) -> str:
        """The place in words, for messages."""
        group, element = self.numbers
        number = f"({group:04X},{element:04X})"
        if self.keyword is not None:
            return f"{self.keyword} {number}"
        return number if self.creator is None else f"{number} of {self.creator!r}"

    def find(self, dataset: Dataset) -> Any:
        """Return the element in a dataset, None if it is not there."""
        group, element = self.numbers
        if self.creator is None:
            return dataset.get(Tag(group, element))
        try:
            return dataset.private_block(group, self.creator)[element & 0xFF]
        except KeyError:
            return None


class ScannerMapping(StrictModel):
    """A mapping table; what is left out is not in the files."""

    marspipe_scanner: int = Field(1, ge=1, le=1, description="Version of the format.")
    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="Name of the scanner.")
    description: str = ""
    angle: Source | None = Field(None, description="Angle of the gantry; deg or rad.")
    camera_u: Source | None = Field(None, description="Camera position along the rows; mm, cm, m or um.")
    camera_v: Source | None = Field(None, description="Camera position along the columns.")
    sample_z: Source | None = Field(None, description="How far the sample had moved along the axis.")
    thresholds: Source | None = Field(None, description="All thresholds of the camera; keV or eV.")
    counter: Source | None = Field(None, description="Number of the counter, from 0.")
    exposure: Source | None = Field(None, description="Exposure time; s, ms or us.")

    @field_validator(*_KIND)
    @classmethod
    def _known_unit(cls, source: Source | None, info: Any) -> Source | None:
        units = _UNITS[_KIND[info.field_name]]
        if source is not None and source.unit not in units:
            raise ValueError(f"unit must be one of {', '.join(units)}, got {source.unit!r}")
        return source


@dataclass(frozen=True)
class FrameValues:
    """What the attributes say of one frame; None (thresholds: empty) where the table names no place.

    Attributes
    ----------
    angle_rad : float or None
    camera_u_mm, camera_v_mm, sample_z_mm : float or None
    thresholds_kev : tuple of float
    counter : int or None
    exposure_s : float or None
    """

    angle_rad: float | None = None
    camera_u_mm: float | None = None
    camera_v_mm: float | None = None
    sample_z_mm: float | None = None
    thresholds_kev: tuple[float, ...] = ()
    counter: int | None = None
    exposure_s: float | None = None


def load_mapping(name: str, place: Place) -> ScannerMapping:
    """Return a mapping table.

    Parameters
    ----------
    name : str
        Name of a shipped one (``conf/scanners/NAME.yaml``), or a YAML file (``.yaml``, ``.yml``) in the folder of the
        frames.
    place : Place
        Where the frames lie.

    Raises
    ------
    RawFormatError
        If there is none, or it is wrong; the message names key and value.
    """
    if name.lower().endswith((".yaml", ".yml")):
        file, found = place.open(name, f"{place.uri}: dataset names the scanner mapping")
        origin = found.uri
    else:
        try:
            if not _SHIPPED.fullmatch(name):
                raise FileNotFoundError(name)
            path = resource_path(f"conf/scanners/{name}.yaml")
        except FileNotFoundError as error:
            raise RawFormatError(
                f"{place.uri}: there is no scanner mapping {name!r}; dataset names a shipped one or a .yaml file "
                "beside the frames"
            ) from error
        file, origin = path.open("rb"), f"conf/scanners/{name}.yaml"
    with file:
        raw = file.read(_LARGEST_BYTES)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RawFormatError(f"{origin}: not a text file") from error
    content = load_yaml(text, origin, RawFormatError, "scanner mapping")
    return validate(content, origin, ScannerMapping, RawFormatError)


def frame_values(dataset: Dataset, mapping: ScannerMapping, frame: int, n_frames: int, uri: str) -> FrameValues:
    """Return what the attributes say of one frame.

    An attribute is looked for in the frame's own functional groups, then in those of all frames, then in the file's
    attributes, where it may have a value per frame.

    Raises
    ------
    RawFormatError
        Naming file, tag and value if an attribute of the table is missing or not a number.
    """

    def single(quantity: str) -> float | None:
        source: Source | None = getattr(mapping, quantity)
        if source is None:
            return None
        values = _values(dataset, source, quantity, frame, uri)
        if len(values) not in (1, n_frames):
            raise RawFormatError(
                f"{uri}: {source.label} ({quantity}) has {len(values)} values, expected 1 or one per frame ({n_frames})"
            )
        return values[frame] if len(values) > 1 else values[0]

    counter = single("counter")
    if counter is not None and (counter != int(counter) or counter < 0):
        label = mapping.counter.label if mapping.counter else ""
        raise RawFormatError(f"{uri}: {label} (counter) of frame {frame} must be 0, 1, ..., got {counter:g}")
    thresholds = mapping.thresholds
    return FrameValues(
        angle_rad=single("angle"),
        camera_u_mm=single("camera_u"),
        camera_v_mm=single("camera_v"),
        sample_z_mm=single("sample_z"),
        thresholds_kev=() if thresholds is None else _values(dataset, thresholds, "thresholds", frame, uri),
        counter=None if counter is None else int(counter),
        exposure_s=single("exposure"),
    )


def _values(dataset: Dataset, source: Source, quantity: str, frame: int, uri: str) -> tuple[float, ...]:
    """Return the values of an attribute in the package's unit."""
    element = None
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    if per_frame is not None and frame < len(per_frame):
        element = _deep(per_frame[frame], source)
    if element is None and shared:
        element = _deep(shared[0], source)
    if element is None:
        element = source.find(dataset)
    where = f"{uri}: {source.label} ({quantity})"
    if element is None:
        raise RawFormatError(f"{where} is missing, but the scanner mapping names it")
    stored = element.value
    if isinstance(stored, bytes) and source.vr is not None:
        dtype = np.dtype(_TYPES[source.vr])
        stored = np.frombuffer(stored[: len(stored) // dtype.itemsize * dtype.itemsize], dtype=dtype)
    elif isinstance(stored, bytes):  # a private tag of which the file does not tell the type
        stored = stored.rstrip(b"\0 ").decode("ascii", "replace").split("\\")
    elif isinstance(stored, str):
        stored = stored.split("\\")
    elif not hasattr(stored, "__iter__"):
        stored = [stored]
    unit = _UNITS[_KIND[quantity]][source.unit]
    try:
        values = tuple((float(value) * source.scale + source.offset) * unit for value in stored)
    except (TypeError, ValueError) as error:
        raise RawFormatError(f"{where} must be a number, got {str(element.value)[:60]!r}") from error
    if not values or any(value - value != 0.0 for value in values):
        raise RawFormatError(f"{where} must be a finite number, got {str(element.value)[:60]!r}")
    return values


def _deep(dataset: Dataset, source: Source, depth: int = 0) -> Any:
    found = source.find(dataset)
    if found is not None or depth > 4:
        return found
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                found = _deep(item, source, depth + 1)
                if found is not None:
                    return found
    return None
