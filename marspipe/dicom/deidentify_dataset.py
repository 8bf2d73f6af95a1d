"""De-identification of a data set that others wrote: PS3.15 annex E, by what attributes can hold rather than by a list.

The basic profile lists hundreds of attributes that may identify somebody. Here it is the other way round, which errs on
the safe side and needs no new list with every edition of the standard: names go, free text goes unless it is one of the
few technical attributes that readers need, UIDs are replaced, dates and times move, sequences about people,
institutions and orders go, private attributes go. Numbers and codes stay, but for those that describe the patient.
"""

from __future__ import annotations

import re

from pydicom.config import disable_value_validation
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from marspipe.dicom.deidentify import Pseudonyms, deidentification_elements
from marspipe.dicom.instance import put
from marspipe.errors import InputError

_WELL_KNOWN_UIDS = "1.2.840.10008."
_TEXT = {"AE", "AS", "LO", "LT", "SH", "ST", "UC", "UN", "UR", "UT"}
_BULK = {"OB", "OD", "OF", "OL", "OV", "OW"}
_KEPT_TEXT = {
    "CodeMeaning",
    "CodeValue",
    "CodingSchemeDesignator",
    "CodingSchemeVersion",
    "ConvolutionKernel",
    "DimensionDescriptionLabel",
    "FilterType",
    "LUTExplanation",
    "LUTLabel",
    "Manufacturer",
    "ManufacturerModelName",
    "ModalityLUTType",
    "RescaleType",
    "SoftwareVersions",
    "StackID",
}
_KEPT_BULK = re.compile(r".*(PixelData|LUTData|LookupTableData|OffsetTable|OffsetTableLengths|ICCProfile)")
_REMOVED_SEQUENCES = re.compile(
    r"(?!IrradiationEvent|DeidentificationMethod|FrameContent).*(Identification|Institution|Physician|Operator|Person|Patient|Request"
    r"|Observer|Insurance|OriginalAttributes|ContributingEquipment|AcquisitionContext|ContentSequence|ContentCreator"
    r"|ReferencedStudy|ReferencedVisit|ReferencedPerformed|ProcedureStep|ScheduledStep|DigitalSignatures|MAC|Encrypted"
    r"|ModifiedAttributes|Custodial|Verifying|Participant|Author|Responsible|Interpretation|Admitting|Allerg|Consent).*"
)
_PATIENT = re.compile(
    r"(Patient(Size|Weight|SexNeutered|BodyMassIndex|Age|BreedDescription|SpeciesDescription|State)|PregnancyStatus"
    r"|SmokingStatus|MeasuredAPDimension|MeasuredLateralDimension|EthnicGroup|LastMenstrualDate|PatientBirthTime|Issuer.*)"
)
# Attributes that an object must have, if empty.
_EMPTY = ("PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName")


def deidentify_dataset(dataset: Dataset, key: bytes) -> Dataset:
    """Return a copy of a data set without whatever tells whose it is.

    Pixels are not looked at: what is written into them stays, and faces can be recognized in the reconstruction of a
    head.

    Parameters
    ----------
    dataset : pydicom Dataset
        Any composite object; pixels are shared with the copy, not copied.
    key : bytes
        A secret of at least 16 bytes; with the key of :func:`~marspipe.dicom.deidentify.deidentified`, a patient gets
        the pseudonym, the dates and the UIDs that marspipe's own objects get.

    Raises
    ------
    InputError
        If the key is shorter, or the data set says itself that identity is burned into its pixels.
    """
    if dataset.get("BurnedInAnnotation") == "YES":
        raise InputError("the data set says that annotations are burned into its pixels: it cannot be de-identified")
    # What is wrong with a value must not be warned of: the warning would repeat it.
    with disable_value_validation():
        pseudonyms = Pseudonyms(key, str(dataset.get("PatientID") or dataset.get("StudyInstanceUID") or ""))
        clean = _cleaned(dataset, pseudonyms)
    name = pseudonyms.name()
    put(clean, dict.fromkeys(_EMPTY, ""))
    put(clean, {"PatientName": f"{name}^", "PatientID": name})
    put(clean, {"StudyID": pseudonyms.study_id(str(dataset.get("StudyInstanceUID") or ""))})
    put(clean, deidentification_elements())
    meta = getattr(dataset, "file_meta", None)
    if meta is not None:
        clean.file_meta = type(meta)()
        for keyword in ("MediaStorageSOPClassUID", "TransferSyntaxUID", "ImplementationClassUID"):
            if keyword in meta:
                setattr(clean.file_meta, keyword, meta[keyword].value)
        if "SOPInstanceUID" in clean:
            clean.file_meta.MediaStorageSOPInstanceUID = UID(str(clean.SOPInstanceUID))
    return clean


def _cleaned(dataset: Dataset, pseudonyms: Pseudonyms) -> Dataset:
    clean = Dataset()
    for element in dataset:
        kept = _kept(element, dataset, pseudonyms)
        if kept is not None:
            clean.add(kept)
    return clean


def _kept(element: DataElement, dataset: Dataset, pseudonyms: Pseudonyms) -> DataElement | None:
    """Return what becomes of an attribute, None if it goes."""
    keyword, vr, value = element.keyword, element.VR, element.value
    # Private attributes, and those no dictionary knows: overlays and curves of old among them.
    if element.tag.is_private or not keyword or keyword.startswith(("Overlay", "Curve")) or _PATIENT.fullmatch(keyword):
        return None
    if vr == "SQ":
        if _REMOVED_SEQUENCES.fullmatch(keyword):
            return None
        return DataElement(element.tag, vr, [_cleaned(item, pseudonyms) for item in value])
    if vr == "PN" or (vr in _TEXT and keyword not in _KEPT_TEXT) or (vr in _BULK and not _KEPT_BULK.fullmatch(keyword)):
        return None
    if vr == "UI":
        return DataElement(element.tag, vr, [_uid(str(uid), pseudonyms) for uid in _all(value)])
    if vr in ("DA", "TM", "DT"):
        return DataElement(element.tag, vr, _moved(element, dataset, pseudonyms))
    return element


def _all(value: object) -> list[object]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]


def _uid(uid: str, pseudonyms: Pseudonyms) -> str:
    return uid if uid.startswith(_WELL_KNOWN_UIDS) else pseudonyms.uid(uid)


def _moved(element: DataElement, dataset: Dataset, pseudonyms: Pseudonyms) -> str | list[str]:
    values = [str(value) for value in _all(element.value)]
    if element.VR == "DT":
        return [pseudonyms.date_time(value) for value in values]
    if len(values) != 1:
        return ""
    ending, other = ("Date", "Time") if element.VR == "DA" else ("Time", "Date")
    partner = str(dataset.get(element.keyword.removesuffix(ending) + other) or "")
    if element.VR == "DA":
        return pseudonyms.date_and_time(values[0], partner)[0]
    return pseudonyms.date_and_time(partner, values[0])[1]
