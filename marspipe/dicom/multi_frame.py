"""Many slices in one object: what Enhanced CT images and parametric maps share (PS3.3 C.7.6.16, C.7.6.17).

An object whose pixels would exceed a size is cut into instances that together form a concatenation: each can be made
alone, by any task, without the others. Files are made in chunks, of which only a frame at a time holds pixels.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from marspipe.dicom.codes import Elements, body_region_code, code_item
from marspipe.dicom.compression import compressed
from marspipe.dicom.derivation import derivation_code
from marspipe.dicom.instance import file_bytes
from marspipe.dicom.pixels import source_images
from marspipe.dicom.placement import IMAGE_ORIENTATION
from marspipe.dicom.series import SeriesHeader
from marspipe.dicom.uid import derived_uid
from marspipe.errors import InputError

# Below 1 GiB: archives and viewers take such instances, and many nothing larger.
MAX_INSTANCE_BYTES = 2**30 - 2**20
# What an instance holds beside its frames, and a frame beside its pixels and for each source image; bounds from above.
_HEAD_BYTES = 1 << 16
_FRAME_BYTES = 512
_SOURCE_BYTES = 768
# Pure noise grows under compression: by 10 % as JPEG 2000 of 64 x 64 pixels, less in larger images.
_COMPRESSED = 1.1
_STACK = "1"

_UNDEFINED = 0xFFFFFFFF
_ITEM, _END_OF_SEQUENCE = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


@dataclass(frozen=True)
class InstanceFrames:
    """Which slices one instance of a series holds.

    Attributes
    ----------
    number : int
        Of the instance, from 0.
    total : int
        Instances of the series.
    frames : range
        Slices of the volume.
    """

    number: int
    total: int
    frames: range


class MultiFrameFile:
    """One instance as a file that is made while it is written.

    Attributes
    ----------
    path : str
        Relative path.
    frames : range
        Slices of the volume.
    clipped_voxels : int
        Voxels clipped to the stored range; known when all chunks have been made.
    """

    def __init__(
        self,
        path: str,
        frames: range,
        dataset: Callable[[], FileDataset],
        frame: Callable[[int], tuple[NDArray[np.generic], int]],
        transfer_syntax: str,
    ) -> None:
        self.path, self.frames, self.clipped_voxels = path, frames, 0
        self._dataset, self._frame, self._transfer_syntax = dataset, frame, transfer_syntax

    def __repr__(self) -> str:
        return f"<MultiFrameFile {self.path}: slices {self.frames.start} to {self.frames.stop - 1}>"

    def chunks(self) -> Iterator[bytes]:
        """Yield the file in pieces: all before the pixels, then frame by frame."""
        self.clipped_voxels = 0
        yield file_bytes(self._dataset())
        if self._transfer_syntax == "uncompressed":
            yield from self._native()
        else:
            yield from self._encapsulated()

    def content(self) -> bytes:
        """Return the whole file."""
        return b"".join(self.chunks())

    def _native(self) -> Iterator[bytes]:
        for count, (pixels, clipped) in enumerate(map(self._frame, self.frames)):
            self.clipped_voxels += clipped
            if count == 0:
                # PS3.5 7.1.2, A.2: Float Pixel Data or Pixel Data, explicit VR.
                element, vr = (0x0008, b"OF") if pixels.dtype.kind == "f" else (0x0010, b"OW")
                yield struct.pack("<HH2s2xI", 0x7FE0, element, vr, len(self.frames) * pixels.nbytes)
            yield np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes()
        if len(self.frames) * pixels.nbytes % 2:
            yield b"\0"

    def _encapsulated(self) -> Iterator[bytes]:
        # PS3.5 A.4: an empty offset table, since frames are compressed while the file is written; one item a frame.
        yield struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OB", _UNDEFINED) + struct.pack("<HHI", *_ITEM, 0)
        for pixels, clipped in map(self._frame, self.frames):
            self.clipped_voxels += clipped
            stream = compressed(pixels.astype(np.int16, copy=False), self._transfer_syntax)
            stream += bytes(len(stream) % 2)
            yield struct.pack("<HHI", *_ITEM, len(stream)) + stream
        yield struct.pack("<HHI", *_END_OF_SEQUENCE, 0)


def instances(
    header: SeriesHeader, bytes_per_pixel: int, max_instance_bytes: int = MAX_INSTANCE_BYTES
) -> list[InstanceFrames]:
    """Return how the slices of a series are cut into instances of about equal size.

    Parameters
    ----------
    header : SeriesHeader
        Of the series.
    bytes_per_pixel : int
        2 or 4.
    max_instance_bytes : int
        Size that no file of the series exceeds.

    Raises
    ------
    InputError
        If not even one slice fits.
    """
    nz, ny, nx = header.shape
    growth = 1.0 if header.transfer_syntax == "uncompressed" else _COMPRESSED
    frame = math.ceil(ny * nx * bytes_per_pixel * growth) + _FRAME_BYTES + _SOURCE_BYTES * len(header.source_series)
    # A length is 32-bit, and that of the pixels must not be the undefined one.
    most = (min(max_instance_bytes, _UNDEFINED - 1) - _HEAD_BYTES) // frame
    if most < 1:
        raise InputError(
            f"an instance of at most {max_instance_bytes} bytes cannot hold a slice of {ny} x {nx} pixels; at least "
            f"{frame + _HEAD_BYTES} are needed"
        )
    total = math.ceil(nz / most)
    bounds = [nz * number // total for number in range(total + 1)]
    return [InstanceFrames(number, total, range(*ends)) for number, ends in enumerate(pairwise(bounds))]


def instance_files(
    header: SeriesHeader,
    parts: Sequence[InstanceFrames],
    numbers: Iterable[int] | None,
    dataset: Callable[[SeriesHeader, InstanceFrames], FileDataset],
    frame: Callable[[int], tuple[NDArray[Any], int]],
) -> Iterator[MultiFrameFile]:
    """Yield the files of some instances of a series, or of all.

    Parameters
    ----------
    header : SeriesHeader
        Of the series.
    parts : sequence of InstanceFrames
        All its instances.
    numbers : iterable of int or None
        Which of them.
    dataset : callable
        Gives all of an instance but its pixels.
    frame : callable
        Gives the stored pixels of a slice, and how many of them were clipped.
    """
    for number in range(len(parts)) if numbers is None else numbers:
        part = parts[number]
        path = instance_path(header, part)
        yield MultiFrameFile(path, part.frames, partial(dataset, header, part), frame, header.transfer_syntax)


def instance_path(header: SeriesHeader, part: InstanceFrames) -> str:
    """Return the relative path of an instance's file, such as ``enhanced-bin-00/frames-0000.dcm``."""
    return f"{header.folder}/frames-{part.number:0{max(4, len(str(part.total - 1)))}d}.dcm"


def multi_frame_elements(header: SeriesHeader, part: InstanceFrames, shared: Elements) -> Elements:
    """Return the multi-frame modules of an instance: concatenation, dimensions and functional groups.

    Parameters
    ----------
    header : SeriesHeader
        Of the series.
    part : InstanceFrames
        The slices of the instance.
    shared : dict
        Functional groups that only this kind of object has, the same for all frames.

    Raises
    ------
    InputError
        If nobody knows a date and a time: multi-frame objects must have them.
    """
    organization = derived_uid("dimension organization", header.series_uid)
    elements: Elements = {
        **_content_time(header),
        "InstanceNumber": 1,  # the same in all parts of a concatenation, C.7.6.16
        "NumberOfFrames": len(part.frames),
        "DimensionOrganizationSequence": [{"DimensionOrganizationUID": organization}],
        "DimensionOrganizationType": "3D",
        "DimensionIndexSequence": [
            _dimension(organization, "StackID", (0x0020, 0x9056)),
            _dimension(organization, "InStackPositionNumber", (0x0020, 0x9057)),
        ],
        "SharedFunctionalGroupsSequence": [{**_shared_groups(header), **shared}],
        "PerFrameFunctionalGroupsSequence": [_frame_groups(header, z) for z in part.frames],
    }
    if part.total > 1:
        elements |= {
            "ConcatenationUID": derived_uid("concatenation", header.series_uid, part.total),
            "SOPInstanceUIDOfConcatenationSource": derived_uid("concatenation source", header.series_uid),
            "InConcatenationNumber": part.number + 1,
            "InConcatenationTotalNumber": part.total,
            "ConcatenationFrameOffsetNumber": part.frames.start,
        }
    return elements


def instance_uid(header: SeriesHeader, part: InstanceFrames) -> str:
    """Return the SOP Instance UID of an instance; the same slices cut otherwise are other instances."""
    return derived_uid("frames", header.series_uid, part.frames.start, part.frames.stop)


def _content_time(header: SeriesHeader) -> Elements:
    common = header.elements
    for date, time in (("ContentDate", "ContentTime"), ("StudyDate", "StudyTime")):
        if common.get(date) and common.get(time):
            return {"ContentDate": common[date], "ContentTime": common[time]}
    raise InputError(
        "a multi-frame object needs a date and a time, and the scan has no acquired_at: give study_date and study_time"
    )


def _dimension(organization: str, label: str, tag: tuple[int, int]) -> Elements:
    return {
        "DimensionOrganizationUID": organization,
        "DimensionIndexPointer": tag,
        "FunctionalGroupPointer": (0x0020, 0x9111),  # Frame Content Sequence
        "DimensionDescriptionLabel": label,
    }


def _shared_groups(header: SeriesHeader) -> Elements:
    thickness = header.placement.slice_thickness()
    common = header.elements
    return {
        "PixelMeasuresSequence": [
            {
                "PixelSpacing": header.placement.pixel_spacing(),
                "SliceThickness": thickness,
                "SpacingBetweenSlices": thickness,
            }
        ],
        "PlaneOrientationSequence": [{"ImageOrientationPatient": list(IMAGE_ORIENTATION)}],
        "FrameAnatomySequence": [
            {
                "FrameLaterality": common.get("Laterality") or "U",
                "AnatomicRegionSequence": [code_item(body_region_code(common.get("BodyPartExamined")))],
            }
        ],
        "FrameVOILUTSequence": [header.window],
    }


def _frame_groups(header: SeriesHeader, z: int) -> Elements:
    position = z + 1
    groups: Elements = {
        "FrameContentSequence": [
            {
                "StackID": _STACK,
                "InStackPositionNumber": position,
                "DimensionIndexValues": [1, position],
            }
        ],
        "PlanePositionSequence": [{"ImagePositionPatient": header.placement.position(z)}],
    }
    if header.source_series:
        groups["DerivationImageSequence"] = [
            {
                "DerivationDescription": derivation_code(header).meaning,
                "DerivationCodeSequence": [code_item(derivation_code(header))],
                "SourceImageSequence": source_images(header, z),
            }
        ]
    return groups
