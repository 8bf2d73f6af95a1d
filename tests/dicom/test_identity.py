from __future__ import annotations

import pytest
from pydantic import ValidationError

from marspipe.dicom.identity import SeriesIdentity, load_identity
from marspipe.errors import InputError


def test_yaml_values_stay_text() -> None:
    identity = load_identity(
        "patient_id: 007\npatient_name: Müller^Änne\npatient_birth_date: 1980-01-02\npatient_sex: F\n"
        "study_time: 09:08:07\naccession_number: 1e5\nbody_part_examined: KNEE\nlaterality: L\nstation_name: ~\n",
        "patient.yaml",
    )
    assert identity.patient_id == "007"
    assert identity.patient_name == "Müller^Änne"
    assert identity.patient_birth_date == "19800102"
    assert identity.study_time == "090807"
    assert identity.accession_number == "1e5"
    assert identity.laterality == "L"
    assert identity.station_name is None


def test_an_empty_file_is_nobody() -> None:
    assert load_identity("", "patient.yaml") == SeriesIdentity()
    assert SeriesIdentity().patient_id is None


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"patient\.yaml: unknown key 'pateint_id'; did you mean 'patient_id'\?"):
        load_identity("pateint_id: 5", "patient.yaml")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("patient_birth_date: 2.1.1980", "a date is written"),
        ("patient_birth_date: 1980-13-02", "a date is written"),
        ("study_time: 25:00", "a time is written"),
        ("study_instance_uid: 1.02.3", "a UID is"),
        ("study_instance_uid: 1." + "2" * 70, "a UID is"),
        ("patient_sex: female", "'M', 'F' or 'O'"),
        ("patient_id: " + "x" * 65, "at most 64 characters, got 65"),
        ("study_id: 12345678901234567", "at most 16 characters, got 17"),
        (r"patient_id: a\b", "backslashes"),
        ('patient_id: "a\\tb"', "control characters"),
        ("patient_name: a^b^c^d^e^f", "at most five parts"),
        ("patient_name: " + "x" * 65, "at most 64"),
        ("body_part_examined: knee", "a code is"),
        ("patient_id: [1, 2]", "valid string"),
        ("patient_id: [1, 2", "not valid YAML in line"),
        ("- patient_id", "expected a mapping"),
    ],
)
def test_wrong_values_are_refused_by_name(line: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_identity(line, "patient.yaml")
    assert "patient.yaml" in str(caught.value)


def test_private_values_stay_out_of_messages_and_repr() -> None:
    secret = "Mustermann^Erika^^^^^"
    with pytest.raises(InputError) as caught:
        load_identity(f"patient_name: {secret}", "patient.yaml")
    assert "Mustermann" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(ValidationError) as direct:
        SeriesIdentity(patient_name=secret)
    assert "Mustermann" not in str(direct.value)
    identity = SeriesIdentity(patient_name="Mustermann^Erika", patient_id="4711", patient_birth_date="19800102")
    assert not any(part in repr(identity) for part in ("Mustermann", "4711", "1980"))
