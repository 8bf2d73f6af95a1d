"""De-identification of what marspipe writes (PS3.15 annex E, basic profile).

Everything follows from a secret key: the same patient gets the same pseudonym, the same UID the same new one, and the
dates of a patient move by the same time, in every export with that key; so a study fits together, and stays so when it
is exported again or continued. Without the key nothing can be guessed: not even who knows all scan ids can find
the one that belongs to a UID. The key is as private as what it hides.

Options of the profile that are used, and declared in the data sets: dates and times stay, shifted, so that their
distances are true (113107); descriptions stay where marspipe itself made them of numbers, as ``20-33 keV, attenuation
1/mm`` (113105).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.sr.codedict import codes

from marspipe.dicom.codes import Elements, code_item
from marspipe.dicom.series import SeriesHeader
from marspipe.dicom.uid import uuid_uid
from marspipe.errors import InputError

LEAST_KEY_BYTES = 16
# Dates move back by up to ten years, and not by less than one.
_LEAST_DAYS, _SPAN_DAYS = 365, 3287
_DATE_TIME = re.compile(r"(\d{4}(?:\d\d){0,5})(\.\d{1,6})?(?:[+-]\d{4})?")
_METHOD = "marspipe: PS3.15 annex E, basic profile"
# PS3.15 table E.1-1: action Z, an empty value, and action X, removed.
_EMPTY = ("PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName")
_REMOVED = (
    "StudyDescription",
    "TimezoneOffsetFromUTC",
    "InstitutionName",
    "StationName",
    "DeviceSerialNumber",
    "ContributingEquipmentSequence",
    "DecompositionDescription",
)
# Whoever named the scanner may have named the owner.
_SOFTWARE = {"Manufacturer": "marspipe", "ManufacturerModelName": "marspipe"}


class Pseudonyms:
    """New names, UIDs and dates for the old ones of one patient, by a secret key.

    Parameters
    ----------
    key : bytes
        At least 16 bytes, random, and kept.
    patient : str
        What identifies the patient: the patient ID.

    Raises
    ------
    InputError
        If the key is shorter.
    """

    def __init__(self, key: bytes, patient: str) -> None:
        if len(key) < LEAST_KEY_BYTES:
            raise InputError(f"the key for pseudonyms has {len(key)} bytes; at least {LEAST_KEY_BYTES} are needed")
        self._key, self._patient = bytes(key), patient

    def __repr__(self) -> str:
        return "<Pseudonyms>"

    def _digest(self, purpose: str, value: str) -> bytes:
        message = purpose.encode("utf-8") + b"\0" + value.encode("utf-8")
        return hmac.new(self._key, message, hashlib.sha256).digest()

    def name(self) -> str:
        """Return the patient's pseudonym, used as name and ID: 16 hexadecimal digits."""
        return self._digest("patient", self._patient)[:8].hex().upper()

    def uid(self, uid: str) -> str:
        """Return the UID that replaces another."""
        return uuid_uid(self._digest("uid", uid))

    def study_id(self, study_uid: str) -> str:
        """Return the Study ID that belongs to a study: 16 hexadecimal digits."""
        return self._digest("study", study_uid)[:8].hex().upper()

    def _shift(self) -> tuple[timedelta, timedelta]:
        """Return how far the patient's dates and times move: whole days, one to ten years, and minutes of a day."""
        number = int.from_bytes(self._digest("dates", self._patient)[:8], "big")
        return timedelta(days=_LEAST_DAYS + number % _SPAN_DAYS), timedelta(minutes=number // _SPAN_DAYS % 1440)

    def date_and_time(self, date: str, time: str) -> tuple[str, str]:
        """Return a date (DA) and a time of day (TM) moved together.

        Either may be empty and stays so: a date alone moves by whole days, a time alone by the time of day. What is no
        date or no time becomes empty.
        """
        days, minutes = self._shift()
        whole, dot, fraction = time.partition(".")
        try:
            moment = datetime.strptime((date or "20000101") + whole.ljust(6, "0"), "%Y%m%d%H%M%S")
            moved = moment - days - (minutes if time else timedelta())
        except (ValueError, OverflowError):
            return "", ""
        return (f"{moved:%Y%m%d}" if date else ""), (f"{moved:%H%M%S}{dot}{fraction}" if time else "")

    def date_time(self, value: str) -> str:
        """Return a moment (DT) moved; an offset from UTC is dropped, and what is no moment becomes empty."""
        match = _DATE_TIME.fullmatch(value.strip())
        if match is None:
            return ""
        whole, fraction = match[1], match[2] or ""
        time = whole[8:] + fraction
        date, time = self.date_and_time(whole[:8] + "0101"[len(whole[:8]) - 4 :] if len(whole) < 8 else whole[:8], time)
        return date + time


def deidentified(header: SeriesHeader, key: bytes) -> SeriesHeader:
    """Return the header of the same series without whatever tells whose it is.

    All instances written with it follow: their UIDs, the references between maps and bins, concatenations, paths.

    Parameters
    ----------
    header : SeriesHeader
        From :func:`marspipe.dicom.series.series_header`.
    key : bytes
        A secret of at least 16 bytes; see the module.

    Raises
    ------
    InputError
        If the key is shorter, or the series is de-identified already.
    """
    common = header.elements
    if common.get("PatientIdentityRemoved") == "YES":
        raise InputError("the series is de-identified already")
    pseudonyms = Pseudonyms(key, str(common["PatientID"]))
    clean = {**_moved(common, pseudonyms), **dict.fromkeys(_EMPTY, ""), **_SOFTWARE}
    clean = {keyword: value for keyword, value in clean.items() if keyword not in _REMOVED}
    name = pseudonyms.name()
    clean |= {
        "PatientName": f"{name}^",
        "PatientID": name,
        "StudyID": pseudonyms.study_id(header.study_uid),
        **deidentification_elements(),
    }
    return replace(
        header,
        study_uid=pseudonyms.uid(header.study_uid),
        series_uid=pseudonyms.uid(header.series_uid),
        frame_of_reference_uid=pseudonyms.uid(header.frame_of_reference_uid),
        acquisition_uid=pseudonyms.uid(header.acquisition_uid),
        source_series=tuple(pseudonyms.uid(uid) for uid in header.source_series),
        elements=clean,
        acquisition=_moved(header.acquisition, pseudonyms),
        multi_energy=_moved(header.multi_energy, pseudonyms),
    )


def deidentification_elements() -> Elements:
    """Return the attributes that say that, and how, a data set was de-identified."""
    options = (
        codes.cid7050.BasicApplicationConfidentialityProfile,
        codes.cid7050.CleanDescriptorsOption,
        codes.cid7050.RetainLongitudinalTemporalInformationModifiedDatesOption,
    )
    return {
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": _METHOD,
        "DeidentificationMethodCodeSequence": [code_item(option) for option in options],
        "LongitudinalTemporalInformationModified": "MODIFIED",
    }


def _moved(elements: Mapping[str, Any], pseudonyms: Pseudonyms) -> Elements:
    """Return attributes with their dates and times moved, UIDs replaced and free text gone, in sequences too."""
    moved: Elements = {}
    for keyword, value in elements.items():
        if keyword in _REMOVED:
            continue
        tag = tag_for_keyword(keyword)
        vr = dictionary_VR(tag) if tag is not None else ""
        if vr == "SQ":
            value = [_moved(item, pseudonyms) for item in value]
        elif vr == "UI" and not keyword.endswith("SOPClassUID"):
            value = pseudonyms.uid(str(value))
        elif vr == "DT":
            value = pseudonyms.date_time(str(value))
        elif vr == "DA":
            value = pseudonyms.date_and_time(value, elements.get(keyword.removesuffix("Date") + "Time") or "")[0]
        elif vr == "TM":
            value = pseudonyms.date_and_time(elements.get(keyword.removesuffix("Time") + "Date") or "", value)[1]
        moved[keyword] = value
    return moved
