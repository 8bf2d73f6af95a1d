"""From attributes to the bytes of a DICOM file; equal attributes give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID

from marspipe import __version__
from marspipe.dicom.codes import PRIVATE_SCHEME, Elements, private_scheme_item
from marspipe.dicom.compression import transfer_syntax_uid
from marspipe.dicom.series import SeriesHeader
from marspipe.dicom.uid import IMPLEMENTATION_CLASS_UID


def put(dataset: Dataset, elements: Mapping[str, Any]) -> Dataset:
    """Add attributes by keyword; a sequence is a list of such mappings. Returns the data set."""
    for keyword, value in elements.items():
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise KeyError(keyword)
        vr = dictionary_VR(tag)
        if vr == "SQ":
            value = [put(Dataset(), item) for item in value]
        # Stored values are signed in everything written here.
        dataset.add_new(tag, "SS" if vr == "US or SS" else vr, value)
    return dataset


def new_instance(
    header: SeriesHeader, sop_class: UID, instance_uid: str, image: Elements, without: Collection[str] = ()
) -> FileDataset:
    """Return a data set with its file meta information: what the series has in common, and the image.

    Parameters
    ----------
    header : SeriesHeader
        Of the series.
    sop_class : UID
        Kind of object.
    instance_uid : str
        SOP Instance UID.
    image : dict
        Attributes of the image by keyword.
    without : collection of str
        Attributes of the series that this kind of object does not have.
    """
    dataset = put(Dataset(), {keyword: v for keyword, v in header.elements.items() if keyword not in without})
    put(dataset, image)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = instance_uid
    dataset.StudyInstanceUID = header.study_uid
    dataset.SeriesInstanceUID = header.series_uid
    dataset.FrameOfReferenceUID = header.frame_of_reference_uid
    if has_private_codes(image):
        put(dataset, {"CodingSchemeIdentificationSequence": [private_scheme_item()]})
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = UID(instance_uid)
    meta.TransferSyntaxUID = transfer_syntax_uid(header.transfer_syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = f"MARSPIPE {__version__}"[:16]
    return FileDataset("", dataset, preamble=b"\0" * 128, file_meta=meta)


def has_private_codes(elements: Mapping[str, Any]) -> bool:
    """Return whether a code of the private coding scheme is among some attributes."""
    if elements.get("CodingSchemeDesignator") == PRIVATE_SCHEME:
        return True
    items = (item for value in elements.values() if isinstance(value, list) for item in value)
    return any(has_private_codes(item) for item in items if isinstance(item, dict))


def file_bytes(dataset: FileDataset) -> bytes:
    """Return a data set as the bytes of a DICOM file (PS3.10)."""
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
