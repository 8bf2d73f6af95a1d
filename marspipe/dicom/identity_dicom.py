"""Whose scan it is, from the attributes of a raw DICOM frame."""

from __future__ import annotations

import io
import re
import warnings
from typing import BinaryIO

from pydantic import ValidationError
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from marspipe.dicom.identity import SeriesIdentity
from marspipe.errors import InputError

# SeriesIdentity's field: the attribute, and characters that it may have.
_FIELDS: dict[str, tuple[str, int | None]] = {
    "patient_name": ("PatientName", None),
    "patient_id": ("PatientID", 64),
    "patient_birth_date": ("PatientBirthDate", None),
    "patient_sex": ("PatientSex", None),
    "study_instance_uid": ("StudyInstanceUID", None),
    "study_id": ("StudyID", 16),
    "study_description": ("StudyDescription", 64),
    "study_date": ("StudyDate", None),
    "study_time": ("StudyTime", None),
    "accession_number": ("AccessionNumber", 16),
    "referring_physician_name": ("ReferringPhysicianName", None),
    "body_part_examined": ("BodyPartExamined", 16),
    "laterality": ("Laterality", None),
    "institution_name": ("InstitutionName", 64),
    "manufacturer": ("Manufacturer", 64),
    "manufacturer_model_name": ("ManufacturerModelName", 64),
    "station_name": ("StationName", 16),
    "device_serial_number": ("DeviceSerialNumber", 64),
}
# Without these a series would belong to nobody, or to somebody else: a value that cannot be used is an error.
_NEEDED = ("patient_id", "study_instance_uid")


def identity_from_dicom(content: bytes | BinaryIO, origin: str) -> SeriesIdentity:
    """Return the patient and study of a raw DICOM frame.

    Real files are sloppy: a value that is not valid (a date such as ``2024.05.06`` that cannot be read as one, a sex
    spelled out) is left out, as if it were empty; one that is too long is cut.

    Parameters
    ----------
    content : bytes or binary file
        A DICOM file; pixels are not read.
    origin : str
        Name of the file, for messages.

    Returns
    -------
    SeriesIdentity
        With what the file says, and the defaults for the rest.

    Raises
    ------
    InputError
        If it is no DICOM file, or patient ID or Study Instance UID are not valid. Values are not repeated in messages.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    # What is wrong with a value must not be warned of: the warning would repeat it.
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(file, stop_before_pixels=True, specific_tags=[name for name, _ in _FIELDS.values()])
        except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, AttributeError):
            raise InputError(f"{origin}: not a DICOM file that can be read for its identity") from None
        texts = {field: _text(dataset, keyword, limit) for field, (keyword, limit) in _FIELDS.items()}
    found: dict[str, str] = {}
    for field, text in texts.items():
        if not text:
            continue
        value = _tidied(field, text)
        try:
            SeriesIdentity.model_validate({field: value})
        except ValidationError:
            if field in _NEEDED:
                # The cause would carry the value into a traceback.
                raise InputError(
                    f"{origin}: {_FIELDS[field][0]} is not valid; give {field} in an identity file"
                ) from None
            continue
        found[field] = value
    if found.get("study_time") and not found.get("study_date"):
        del found["study_time"]
    return SeriesIdentity.model_validate(found)


def _text(dataset: Dataset, keyword: str, limit: int | None) -> str:
    """Return an attribute as one line of text, ``""`` if it is missing or cannot be decoded."""
    try:
        value = dataset.get(keyword)
    except (ValueError, LookupError, AttributeError, NotImplementedError):
        return ""
    if value is None:
        return ""
    if isinstance(value, MultiValue):
        value = " ".join(str(part) for part in value)
    text = "".join(c if ord(c) >= 32 and ord(c) != 127 else " " for c in str(value).replace("\\", " "))
    return " ".join(text.split())[:limit].strip()


def _tidied(field: str, text: str) -> str:
    if field in ("patient_birth_date", "study_date"):
        return re.sub(r"[.:/-]", "", text)
    if field == "study_time":
        return text.partition(".")[0]
    if field == "patient_sex":
        return text.upper()[:1]
    if field in ("laterality", "body_part_examined"):
        return text.upper()
    return text
