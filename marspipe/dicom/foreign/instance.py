"""One DICOM object of any origin: what it is, where its frames lie, its pixels in rescaled units.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.7.6.16 (functional groups of multi-frame images), C.8.2.1 (CT image).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

from marspipe.dicom.foreign import ForeignDicomWarning
from marspipe.dicom.foreign.attributes import Attributes
from marspipe.dicom.foreign.elements import Window, uid_of
from marspipe.dicom.foreign.energy import detector_bins_kev, image_kind, materials, monoenergetic_kev
from marspipe.dicom.foreign.file_form import FileForm, read_form
from marspipe.dicom.foreign.pixel_data import PixelLayout, pixel_layout, stored_pixels
from marspipe.dicom.foreign.values import Padding, ValueLine, padding, places, value_line
from marspipe.errors import InputError, RawFormatError

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)

# Of the patient's data only whether there are any is told.
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientAddress", "OtherPatientIDs", "AccessionNumber")

Source = bytes | BinaryIO | Callable[[], BinaryIO]


@dataclass(frozen=True)
class ImageFrame:
    """What is known of one frame without its pixels.

    Attributes
    ----------
    number : int
        Within its file, from 0.
    position_mm : (float, float, float) or None
        Center of the first pixel, patient (x, y, z).
    orientation : tuple of 6 floats or None
        Direction cosines of the rows, then of the columns: where the column index grows, then the row index.
    pixel_spacing_mm : (float, float) or None
        Between rows, between columns.
    thickness_mm, spacing_between_slices_mm : float or None
    line : ValueLine
        From stored values to values.
    window : (float, float) or None
        Center and width of the display window.
    volume : tuple of str
        What tells volumes at one place apart: acquisition, temporal position, echo, stack, energy.
    """

    number: int
    position_mm: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float, float, float] | None
    pixel_spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    spacing_between_slices_mm: float | None
    line: ValueLine
    window: tuple[float, float] | None
    volume: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Instance:
    """One DICOM object; pixels are read when they are asked for.

    Attributes
    ----------
    origin : str
        Name of the file, for messages.
    sop_class : UID
    sop_instance_uid, series_uid, study_uid, frame_of_reference_uid : str
        Empty where missing.
    modality, manufacturer : str
    image_type : tuple of str
    series_number : int or None
    layout : PixelLayout or None
        How pixels are stored; None if the object is no image.
    frames : tuple of ImageFrame
    padding : Padding or None
        Stored values that stand for no value.
    gantry_tilt_deg : float or None
        Gantry/Detector Tilt as stated; :func:`~marspipe.dicom.foreign.series.series_geometry` goes by positions.
    monoenergetic_kev : float or None
        Energy of a virtual monoenergetic image.
    multi_energy_kind : str
        Multi-energy kind of image in words, such as ``"material image"``; empty for others.
    materials : tuple of str
    detector_bins_kev : tuple of (float, float)
    own_description : str
        What the images show, where marspipe has written it. Others' free text may name the patient and is not read.
    has_patient_data : bool
        Whether there is a name, an id, a date of birth or an accession number.
    repairs : tuple of str
        What was not as the standard wants it, in words.
    """

    origin: str
    sop_class: UID
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    manufacturer: str
    image_type: tuple[str, ...]
    series_number: int | None
    layout: PixelLayout | None
    frames: tuple[ImageFrame, ...]
    padding: Padding | None
    gantry_tilt_deg: float | None
    monoenergetic_kev: float | None
    multi_energy_kind: str
    materials: tuple[str, ...]
    detector_bins_kev: tuple[tuple[float, float], ...]
    own_description: str
    has_patient_data: bool
    repairs: tuple[str, ...]
    _source: Source
    _inflated: Window | None

    def __repr__(self) -> str:
        return f"Instance({self.sop_class.name}, {len(self.frames)} frames, {self.origin!r})"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        layout = self._image()
        return layout.rows, layout.columns

    @property
    def is_ct(self) -> bool:
        """Whether it is a CT image of any class."""
        return self.sop_class in CT_CLASSES

    @property
    def units(self) -> str:
        """Unit of the values of the first frame."""
        return self.frames[0].line.units if self.frames else ""

    def stored(self, frame: int = 0) -> NDArray[np.generic]:
        """Return the stored values of a frame, [row, column]; errors as :meth:`pixels`."""
        layout = self._image()
        if not 0 <= frame < len(self.frames):
            raise InputError(f"{self.origin}: frames are 0 to {len(self.frames) - 1}, asked for {frame}")
        with _opened(self._source, self._inflated) as window:
            return stored_pixels(window, layout, frame, self.origin)

    def pixels(self, frame: int = 0) -> NDArray[np.float32]:
        """Return a frame in rescaled units.

        Returns
        -------
        ndarray, float32, shape (rows, columns)
            In the unit of its :class:`ImageFrame`; NaN where pixels are padding, which is no measured value.

        Raises
        ------
        InputError
            If the object is no image, or no installed decoder knows its transfer syntax, which is named.
        RawFormatError
            If the pixels are damaged.
        """
        stored = self.stored(frame)
        return self.frames[frame].line.values(stored, self.padding)

    def _image(self) -> PixelLayout:
        if self.layout is None:
            raise InputError(f"{self.origin}: {self.sop_class.name or 'the object'} holds no image")
        return self.layout


def read_instance(source: Source, origin: str, *, warn: bool = True) -> Instance:
    """Read what a DICOM file is, with tolerance; pixels stay where they are.

    Parameters
    ----------
    source : bytes, seekable binary file, or callable that opens one
        A file must stay open as long as pixels are wanted; what a callable opens is closed each time.
    origin : str
        Name of the file, for messages.
    warn : bool
        Whether repairs are told as :class:`~marspipe.dicom.foreign.ForeignDicomWarning`; they are in
        :attr:`Instance.repairs` anyway.

    Raises
    ------
    RawFormatError
        If it is not a DICOM file, or damaged, truncated or contradictory beyond repair: the message names the place.
    InputError
        If it is an image of a kind that is not read.
    """
    with _opened(source, None) as window:
        instance = _instance(source, read_form(window, origin), origin)
    if warn:
        for repair in instance.repairs:
            warnings.warn(f"{origin}: {repair}", ForeignDicomWarning, stacklevel=2)
    return instance


@contextmanager
def _opened(source: Source, inflated: Window | None) -> Iterator[Window]:
    """Open a source; of a deflated file what was inflated."""
    if inflated is not None:
        yield inflated
    elif callable(source):
        with source() as file:
            yield Window(file)
    else:
        yield Window(source)


def _instance(source: Source, form: FileForm, origin: str) -> Instance:
    top = form.attributes
    sop_class = uid_of(top.text("SOPClassUID"))
    repairs = list(form.repairs)
    layout: PixelLayout | None = None
    frames: tuple[ImageFrame, ...] = ()
    pad: Padding | None = None
    is_image = form.pixels is not None or sop_class in CT_CLASSES or "Image" in sop_class.name
    if is_image:
        layout, found = pixel_layout(form, origin)
        frames, missing = _frames(top, layout, is_ct=sop_class in CT_CLASSES, origin=origin)
        pad = padding(top, bits_allocated=layout.bits_allocated, signed=layout.signed, is_float=layout.is_float)
        repairs += [*found, *missing]
    groups = [*top.items("PerFrameFunctionalGroupsSequence")[:1], *top.items("SharedFunctionalGroupsSequence")[:1], top]
    image_type = tuple(top.texts("ImageType"))
    own = top.text("SoftwareVersions").startswith("marspipe")
    return Instance(
        origin=origin,
        sop_class=sop_class,
        sop_instance_uid=top.text("SOPInstanceUID"),
        series_uid=top.text("SeriesInstanceUID"),
        study_uid=top.text("StudyInstanceUID"),
        frame_of_reference_uid=top.text("FrameOfReferenceUID"),
        modality=top.text("Modality"),
        manufacturer=top.text("Manufacturer"),
        image_type=image_type,
        series_number=_tolerated(top, "SeriesNumber"),
        layout=layout,
        frames=frames,
        padding=pad,
        gantry_tilt_deg=top.number("GantryDetectorTilt"),
        monoenergetic_kev=monoenergetic_kev(groups),
        multi_energy_kind=image_kind(image_type),
        materials=materials(groups),
        detector_bins_kev=detector_bins_kev(groups),
        own_description=top.text("SeriesDescription") if own else "",
        has_patient_data=any(top.has(keyword) for keyword in _PATIENT),
        repairs=tuple(repairs),
        _source=source,
        _inflated=top.window if form.inflated else None,
    )


def _tolerated(top: Attributes, keyword: str) -> int | None:
    try:
        return top.whole(keyword)
    except RawFormatError:
        return None  # nothing hangs on it


def _frames(
    top: Attributes, layout: PixelLayout, *, is_ct: bool, origin: str
) -> tuple[tuple[ImageFrame, ...], tuple[str, ...]]:
    shared = top.items("SharedFunctionalGroupsSequence")[:1]
    per_frame = top.items("PerFrameFunctionalGroupsSequence")
    if per_frame and len(per_frame) != layout.n_frames:
        raise RawFormatError(
            f"{top.named('PerFrameFunctionalGroupsSequence')} describes {len(per_frame)} frames, NumberOfFrames "
            f"(0028,0008) is {layout.n_frames}"
        )
    frames, missing = [], dict[str, None]()
    for number in range(layout.n_frames):
        groups = [*per_frame[number : number + 1], *shared, top]
        line, lacks = value_line(groups, is_ct=is_ct, is_float=layout.is_float)
        missing |= dict.fromkeys(lacks)
        frames.append(_frame(number, groups, line))
    return tuple(frames), tuple(missing)


def _frame(number: int, groups: Sequence[Attributes], line: ValueLine) -> ImageFrame:
    position = _vector(places(groups, "PlanePositionSequence"), "ImagePositionPatient", 3)
    orientation = _vector(places(groups, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    measures = places(groups, "PixelMeasuresSequence")
    spacing = _vector(measures, "PixelSpacing", 2)
    window = next((g for g in places(groups, "FrameVOILUTSequence") if g.has("WindowWidth")), None)
    center, width = (None, None) if window is None else (window.number("WindowCenter"), window.number("WindowWidth"))
    if spacing is not None and min(spacing) <= 0:
        raise RawFormatError(f"{groups[-1].named('PixelSpacing')} must be positive, got {spacing} mm")
    return ImageFrame(
        number=number,
        position_mm=None if position is None else (position[0], position[1], position[2]),
        orientation=None if orientation is None else _six(orientation),
        pixel_spacing_mm=None if spacing is None else (spacing[0], spacing[1]),
        thickness_mm=_first(measures, "SliceThickness"),
        spacing_between_slices_mm=_first(measures, "SpacingBetweenSlices"),
        line=line,
        window=None if center is None or width is None else (center, width),
        volume=_volume(groups),
    )


def _vector(groups: Sequence[Attributes], keyword: str, count: int) -> list[float] | None:
    return next((v for g in groups if (v := g.numbers(keyword, count)) is not None), None)


def _first(groups: Sequence[Attributes], keyword: str) -> float | None:
    return next((v for g in groups if (v := g.number(keyword)) is not None), None)


def _six(values: Sequence[float]) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = values
    return a, b, c, d, e, f


def _volume(groups: Sequence[Attributes]) -> tuple[str, ...]:
    """Return what tells volumes at one place apart, such as ``"acquisition 2"``."""
    content = places(groups, "FrameContentSequence")
    named = [
        ("acquisition", "FrameAcquisitionNumber"),
        ("acquisition", "AcquisitionNumber"),
        ("temporal position", "TemporalPositionIndex"),
        ("temporal position", "TemporalPositionIdentifier"),
        ("echo", "EchoNumbers"),
    ]
    found: dict[str, str] = {}
    for name, keyword in named:
        value = _first(content, keyword)
        if value is not None:
            found.setdefault(name, f"{value:g}")
    stack = next((g.text("StackID") for g in content if g.has("StackID")), "")
    if stack:
        found["stack"] = stack
    energy = monoenergetic_kev(groups)
    if energy is not None:
        found["keV"] = f"{energy:g}"
    return tuple(f"{name} {value}" for name, value in found.items())
