"""Whose scan it is: patient and study, from a small YAML file or safe defaults."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from marspipe.errors import InputError


def _text(limit: int) -> AfterValidator:
    def check(value: str) -> str:
        if len(value) > limit:
            raise ValueError(f"at most {limit} characters, got {len(value)}")
        if "\\" in value or any(ord(c) < 32 or ord(c) == 127 for c in value):
            raise ValueError("backslashes and control characters are not allowed")
        return value.strip()

    return AfterValidator(check)


def _person_name(value: str) -> str:
    if value.count("^") > 4 or value.count("=") > 2:
        raise ValueError("a DICOM name is Family^Given^Middle^Prefix^Suffix, at most five parts")
    if any(len(group) > 64 for group in value.split("=")):
        raise ValueError("at most 64 characters")
    return value


def _date(value: object) -> object:
    if not isinstance(value, str):
        return value
    digits = value.replace("-", "")
    if not re.fullmatch(r"\d{8}", digits) or not ("01" <= digits[4:6] <= "12" and "01" <= digits[6:] <= "31"):
        raise ValueError("a date is written YYYYMMDD or YYYY-MM-DD")
    return digits


def _time(value: object) -> object:
    if not isinstance(value, str):
        return value
    digits = value.replace(":", "")
    if not re.fullmatch(r"([01]\d|2[0-3])([0-5]\d){1,2}", digits):
        raise ValueError("a time is written HHMMSS or HH:MM:SS")
    return digits


def _uid(value: str) -> str:
    if len(value) > 64 or not re.fullmatch(r"[0-2](\.(0|[1-9]\d*))+", value):
        raise ValueError("a UID is at most 64 digits and points, such as 2.25.12345")
    return value


def _code(value: str) -> str:
    if not re.fullmatch(r"[A-Z0-9 _]{1,16}", value):
        raise ValueError("a code is at most 16 of A-Z, 0-9, space and underscore")
    return value


LongText = Annotated[str, _text(64)]
ShortText = Annotated[str, _text(16)]
PersonName = Annotated[str, _text(200), AfterValidator(_person_name)]
Date = Annotated[str, BeforeValidator(_date)]
Time = Annotated[str, BeforeValidator(_time)]


DEFAULT_MANUFACTURER = "marspipe"


class SeriesIdentity(BaseModel):
    """Patient, study and equipment of an exported scan.

    Everything has a safe default: nobody's name, and the scan id as patient ID. Fields follow DICOM's attributes of
    the same name; dates are YYYYMMDD, times HHMMSS.

    Attributes
    ----------
    patient_id, study_id : str, optional
        Default: the scan id (the study id cut to 16 characters).
    study_instance_uid : str, optional
        The study that a hospital's order already has; by default one derived from the scan id.
    study_date, study_time : str, optional
        Default: when the scan was acquired (UTC), or empty if that is not known.
    body_part_examined : str, optional
        A defined term of PS3.16 annex L, such as ``JAW`` or ``KNEE``.
    laterality : {"L", "R"}, optional
        Side, needed for a paired body part.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    patient_name: PersonName = Field(default="Anonymous^", repr=False)
    patient_id: LongText | None = Field(default=None, repr=False)
    patient_birth_date: Date | None = Field(default=None, repr=False)
    patient_sex: Literal["M", "F", "O"] | None = Field(default=None, repr=False)
    study_instance_uid: Annotated[str, AfterValidator(_uid)] | None = Field(default=None, repr=False)
    study_id: ShortText | None = Field(default=None, repr=False)
    study_description: LongText | None = Field(default=None, repr=False)
    study_date: Date | None = Field(default=None, repr=False)
    study_time: Time | None = Field(default=None, repr=False)
    accession_number: ShortText | None = Field(default=None, repr=False)
    referring_physician_name: PersonName | None = Field(default=None, repr=False)
    body_part_examined: Annotated[str, AfterValidator(_code)] | None = None
    laterality: Literal["L", "R"] | None = None
    institution_name: LongText | None = Field(default=None, repr=False)
    manufacturer: LongText = DEFAULT_MANUFACTURER
    manufacturer_model_name: LongText | None = None
    station_name: ShortText | None = Field(default=None, repr=False)
    device_serial_number: LongText | None = Field(default=None, repr=False)


def load_identity(text: str, origin: str) -> SeriesIdentity:
    """Read an identity from YAML.

    Parameters
    ----------
    text : str
        A mapping of :class:`SeriesIdentity`'s fields. All values are taken as text: a patient ID ``007`` stays so.
    origin : str
        Name of the file, for messages.

    Raises
    ------
    InputError
        If the YAML is broken, a key is unknown or a value is not valid. Values of private fields are not repeated in
        the message.
    """
    try:
        # The base loader leaves scalars as text: YAML would make 007 a number and 1980-01-02 a date.
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        # The cause would carry the line into a traceback.
        raise InputError(f"{origin}: not valid YAML{where}") from None
    if content is None or content == "":
        content = {}
    if not isinstance(content, dict):
        raise InputError(f"{origin}: expected a mapping such as 'patient_id: ...', got a {type(content).__name__}")
    known = list(SeriesIdentity.model_fields)
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise InputError(f"{origin}: unknown key {key!r}; did you mean {near!r}?")
    try:
        return SeriesIdentity.model_validate({k: v for k, v in content.items() if v not in ("", "~", "null")})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'][:1]))}: {e['msg']}" for e in error.errors())
        # The cause would carry the values into a traceback.
        raise InputError(f"{origin}: {problems}") from None
