"""Patient, study, series and equipment: the attributes that every object of a series has, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marspipe import __version__
from marspipe.dicom.acquisition import acquisition_time, kernel_name
from marspipe.dicom.codes import ACQUISITION_EQUIPMENT, PROCESSING_EQUIPMENT, Elements, code_item
from marspipe.dicom.identity import DEFAULT_MANUFACTURER, SeriesIdentity
from marspipe.dicom.scale import ValueScale
from marspipe.errors import InputError


def patient_and_study(identity: SeriesIdentity, metadata: Mapping[str, Any], scan_id: str) -> Elements:
    """Return patient and study, and when the scan was made.

    Raises
    ------
    InputError
        If the scan id would be the patient ID and is too long for one.
    """
    if identity.patient_id is None and len(scan_id) > 64:
        raise InputError(f"the scan id has {len(scan_id)} characters, a DICOM patient ID at most 64: give patient_id")
    date, time, offset = acquisition_time(metadata)
    elements: Elements = {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": identity.patient_name,
        "PatientID": identity.patient_id or scan_id,
        "PatientBirthDate": identity.patient_birth_date or "",
        "PatientSex": identity.patient_sex or "",
        "StudyDate": identity.study_date or date,
        "StudyTime": identity.study_time or ("" if identity.study_date else time),
        "StudyID": identity.study_id or scan_id[:16],
        "StudyDescription": identity.study_description or one_line(metadata.get("description"), 64) or None,
        "AccessionNumber": identity.accession_number or "",
        "ReferringPhysicianName": identity.referring_physician_name or "",
        "AcquisitionDate": date or None,
        "AcquisitionTime": time or None,
        "ContentDate": date,
        "ContentTime": time,
        "TimezoneOffsetFromUTC": offset or None,
        "InstitutionName": identity.institution_name,
        "StationName": identity.station_name,
        "DeviceSerialNumber": identity.device_serial_number,
        "BodyPartExamined": identity.body_part_examined,
        # Without a body part nobody can say whether it is a paired one: PS3.3 C.7.3.1 has the empty value for that.
        "Laterality": identity.laterality or (None if identity.body_part_examined else ""),
    }
    return {keyword: value for keyword, value in elements.items() if value is not None}


def series_and_equipment(
    identity: SeriesIdentity,
    metadata: Mapping[str, Any],
    label: str,
    scale: ValueScale,
    number: int,
    remark: str = "",
) -> Elements:
    """Return series and equipment.

    Parameters
    ----------
    identity : SeriesIdentity
        Whose scan it is.
    metadata : mapping
        Of the volume; must hold ``recipe_hash``.
    label : str
        The energy bin or the map in words.
    scale : ValueScale
        How values are stored.
    number : int
        Series Number.
    remark : str
        Added to Image Comments.
    """
    version = str(metadata.get("version") or __version__)
    return {
        "Modality": "CT",
        "Manufacturer": identity.manufacturer,
        "ManufacturerModelName": identity.manufacturer_model_name or "marspipe",
        "SoftwareVersions": f"marspipe {version}",
        "SeriesNumber": number,
        "SeriesDescription": f"{label}, {scale.quantity}"[:64],
        "PatientPosition": "HFS",
        "PositionReferenceIndicator": "",
        "AcquisitionNumber": 1,
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
        "ImageComments": " ".join([*_comments(metadata, label, scale), *([remark] if remark else [])]),
        "ContributingEquipmentSequence": _contributing_equipment(identity, metadata, version),
    }


def _comments(metadata: Mapping[str, Any], label: str, scale: ValueScale) -> list[str]:
    comment = [f"{scale.quantity}, {label}."]
    if scale.units == "HU":
        comment.append(f"Water {scale.water_attenuation_per_mm:g} 1/mm is 0 HU.")
    else:
        comment.append("Not Hounsfield units.")
    current = (metadata.get("tube") or {}).get("current_ua")
    if current is not None:
        comment.append(f"Tube current {current:g} uA.")  # the CT image has whole mA only
    kernel = kernel_name(metadata)
    if kernel:
        comment.append(f"Kernel {kernel}.")  # the Enhanced CT image has it only in a group with others
    comment.append(f"Recipe {metadata['recipe_hash']}.")
    return comment


def _contributing_equipment(identity: SeriesIdentity, metadata: Mapping[str, Any], version: str) -> list[Elements]:
    """Return who contributed to the pixels: the scanner, if somebody named its maker, and the software."""
    software: Elements = {
        "Manufacturer": "marspipe",
        "ManufacturerModelName": "marspipe",
        "SoftwareVersions": f"marspipe {version}",
        "ContributionDescription": f"Reconstruction, recipe {metadata['recipe_hash']}",
        "PurposeOfReferenceCodeSequence": [code_item(PROCESSING_EQUIPMENT)],
    }
    if identity.manufacturer == DEFAULT_MANUFACTURER:
        return [software]
    scanner: Elements = {
        "Manufacturer": identity.manufacturer,
        "InstitutionName": identity.institution_name,
        "StationName": identity.station_name,
        "ManufacturerModelName": identity.manufacturer_model_name,
        "DeviceSerialNumber": identity.device_serial_number,
        "PurposeOfReferenceCodeSequence": [code_item(ACQUISITION_EQUIPMENT)],
    }
    return [{keyword: value for keyword, value in scanner.items() if value is not None}, software]


def one_line(text: object, limit: int) -> str:
    """Return free text as one line without backslashes, which DICOM takes as separators, cut to a length."""
    return " ".join(str(text or "").replace("\\", "/").split())[:limit].strip()
