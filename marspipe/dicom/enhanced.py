"""Enhanced CT Image Storage (PS3.3 A.38): the slices of an energy bin or a map as few multi-frame instances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import EnhancedCTImageStorage

from marspipe.dicom.codes import Elements
from marspipe.dicom.derivation import image_type
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
from marspipe.dicom.pixels import pixel_elements, source_evidence, stored_pixels
from marspipe.dicom.real_world import real_world_value_mapping
from marspipe.dicom.series import SeriesHeader, SourceVolume

_BYTES_PER_PIXEL = 2
# Frame Laterality and Acquisition DateTime stand for them.
_NOT_IN_FRAMES = ("Laterality", "AcquisitionDate", "AcquisitionTime")
# PS3.3 C.8.16.2, the same for the image and each of its frames.
_DESCRIPTION: Elements = {
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
}


def enhanced_instances(header: SeriesHeader, max_instance_bytes: int = MAX_INSTANCE_BYTES) -> list[InstanceFrames]:
    """Return which instances an Enhanced CT series has; a task may write any of them.

    Raises
    ------
    InputError
        If not even one slice fits into an instance.
    """
    header.check_kind("enhanced-ct")
    return instances(header, _BYTES_PER_PIXEL, max_instance_bytes)


def enhanced_files(
    volume: SourceVolume,
    header: SeriesHeader,
    numbers: Iterable[int] | None = None,
    *,
    max_instance_bytes: int = MAX_INSTANCE_BYTES,
) -> Iterator[MultiFrameFile]:
    """Yield the files of an Enhanced CT series, or some of them, one at a time.

    Parameters
    ----------
    volume : SourceVolume
        The volume that the header was made from.
    header : SeriesHeader
        From :func:`~marspipe.dicom.series.series_header` with ``kind="enhanced-ct"``.
    numbers : iterable of int, optional
        Which of :func:`enhanced_instances`; by default all.
    max_instance_bytes : int
        Size that no file exceeds. More than one file form a concatenation.

    Raises
    ------
    InputError
        While chunks are made: if the scan has neither a time nor the identity a date, a slice does not belong to the
        series, or a value is not finite.
    """
    parts = enhanced_instances(header, max_instance_bytes)
    source = volume[header.bin]

    def frame(z: int) -> tuple[NDArray[np.int16], int]:
        return stored_pixels(header, z, source[z])

    yield from instance_files(header, parts, numbers, _dataset, frame)


def _dataset(header: SeriesHeader, part: InstanceFrames) -> FileDataset:
    """Return all of an instance but its pixels."""
    common, kind = header.elements, image_type(header)
    image: Elements = {
        **multi_frame_elements(header, part, _shared(header, kind)),
        **pixel_elements(header),
        **_DESCRIPTION,
        "ImageType": kind,
        "PresentationLUTShape": "IDENTITY",
        "ContentQualification": "RESEARCH",
        "AcquisitionContextSequence": [],
        "DeviceSerialNumber": common.get("DeviceSerialNumber", "unknown"),
    }
    if "AcquisitionDate" in common:
        image["AcquisitionDateTime"] = common["AcquisitionDate"] + common["AcquisitionTime"]
    if header.map is not None:
        made = header.multi_energy["MultienergyCTAcquisitionSequence"][0]
        image["MultienergyCTAcquisition"] = "YES"
        for keyword in (
            "MultienergyCTXRaySourceSequence",
            "MultienergyCTXRayDetectorSequence",
            "MultienergyCTPathSequence",
        ):
            image[keyword] = made[keyword]
    if header.source_series:
        image["SourceImageEvidenceSequence"] = source_evidence(header, part.frames)
    return new_instance(header, EnhancedCTImageStorage, instance_uid(header, part), image, _NOT_IN_FRAMES)


def _shared(header: SeriesHeader, kind: list[str]) -> Elements:
    groups: Elements = {
        "IrradiationEventIdentificationSequence": [{"IrradiationEventUID": header.acquisition_uid}],
        "CTImageFrameTypeSequence": [{"FrameType": kind, **_DESCRIPTION}],
        "PixelValueTransformationSequence": [
            {
                "RescaleIntercept": header.scale.intercept_text,
                "RescaleSlope": header.scale.slope_text,
                "RescaleType": header.scale.rescale_type,
            }
        ],
        "RealWorldValueMappingSequence": [real_world_value_mapping(header.scale, header.map)],
        **header.acquisition,
    }
    for keyword in ("MultienergyCTCharacteristicsSequence", "MultienergyCTProcessingSequence"):
        if keyword in header.multi_energy:
            groups[keyword] = header.multi_energy[keyword]
    return groups
