"""Parametric Map Storage (PS3.3 A.75): the values of a map, or of an energy bin, as they are, in float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import ParametricMapStorage

from marspipe.dicom.codes import Elements
from marspipe.dicom.derivation import derivation_code, image_type
from marspipe.dicom.instance import new_instance
from marspipe.dicom.multi_frame import (
    MAX_INSTANCE_BYTES,
    InstanceFrames,
    MultiFrameFile,
    instance_files,
    instance_uid,
    instances,
    multi_frame_elements,
)
from marspipe.dicom.pixels import referenced_series
from marspipe.dicom.real_world import float_value_mapping
from marspipe.dicom.series import SeriesHeader, SourceVolume
from marspipe.errors import InputError

_BYTES_PER_PIXEL = 4
# Lowest float32: no value of a volume, and exact in every reader.
FLOAT_PADDING = float(np.finfo(np.float32).min)


def parametric_map_instances(
    header: SeriesHeader, max_instance_bytes: int = MAX_INSTANCE_BYTES
) -> list[InstanceFrames]:
    """Return which instances a series of parametric maps has; a task may write any of them.

    Raises
    ------
    InputError
        If not even one slice fits into an instance.
    """
    header.check_kind("parametric-map")
    return instances(header, _BYTES_PER_PIXEL, max_instance_bytes)


def parametric_map_files(
    volume: SourceVolume,
    header: SeriesHeader,
    numbers: Iterable[int] | None = None,
    *,
    max_instance_bytes: int = MAX_INSTANCE_BYTES,
) -> Iterator[MultiFrameFile]:
    """Yield the files of a series of parametric maps, or some of them, one at a time.

    Parameters
    ----------
    volume : SourceVolume
        The volume that the header was made from.
    header : SeriesHeader
        From :func:`~marspipe.dicom.series.series_header` with ``kind="parametric-map"``.
    numbers : iterable of int, optional
        Which of :func:`parametric_map_instances`; by default all.
    max_instance_bytes : int
        Size that no file exceeds. More than one file form a concatenation.

    Raises
    ------
    InputError
        If the scan has neither a time nor the identity a date, or a slice does not belong to the series or holds a
        value that is not finite.
    """
    parts = parametric_map_instances(header, max_instance_bytes)
    source = volume[header.bin]

    def frame(z: int) -> tuple[NDArray[np.float32], int]:
        return _values(header, z, source[z]), 0

    yield from instance_files(header, parts, numbers, _dataset, frame)


def _values(header: SeriesHeader, z: int, pixels: NDArray[np.floating]) -> NDArray[np.float32]:
    header.check_pixels(z, pixels)
    values = np.array(pixels, np.float32)
    outside = header.outside()
    if outside is not None:
        values[outside] = FLOAT_PADDING
    finite = np.isfinite(values)
    if not finite.all():
        count = int(values.size - np.count_nonzero(finite))
        raise InputError(f"slice {z} of bin {header.bin}: {count} of {values.size} pixels are NaN or infinite")
    return values


def _dataset(header: SeriesHeader, part: InstanceFrames) -> FileDataset:
    """Return all of an instance but its pixels."""
    common, kind = header.elements, image_type(header)
    label = header.elements["SeriesDescription"]
    shared: Elements = {
        "PixelValueTransformationSequence": [{"RescaleIntercept": "0", "RescaleSlope": "1", "RescaleType": "US"}],
        "ParametricMapFrameTypeSequence": [{"FrameType": kind}],
        "RealWorldValueMappingSequence": [float_value_mapping(*header.value_range, header.scale, header.map)],
    }
    image: Elements = {
        **multi_frame_elements(header, part, shared),
        "ImageType": kind,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": header.shape[1],
        "Columns": header.shape[2],
        "BitsAllocated": 32,
        "PresentationLUTShape": "IDENTITY",
        "RecognizableVisualFeatures": "NO",
        "ContentLabel": "MAP" if header.map is None else header.map.image_type,
        "ContentDescription": f"{derivation_code(header).meaning}: {label}"[:64],
        "ContentCreatorName": "marspipe^",
        "ContentQualification": "RESEARCH",
        "AcquisitionContextSequence": [],
        "DeviceSerialNumber": common.get("DeviceSerialNumber", "unknown"),
    }
    if header.padded_beyond_mm is not None:
        # A range of this one value: validators want both.
        image["FloatPixelPaddingValue"] = image["FloatPixelPaddingRangeLimit"] = FLOAT_PADDING
    if header.source_series:
        image["ReferencedSeriesSequence"] = referenced_series(header, part.frames)
    return new_instance(header, ParametricMapStorage, instance_uid(header, part), image, ("Laterality",))
