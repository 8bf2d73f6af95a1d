from __future__ import annotations

import io
import logging
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from marspipe.dicom.identity import SeriesIdentity
from marspipe.dicom.identity_dicom import identity_from_dicom
from marspipe.errors import InputError

ORIGIN = "raw/frame-0.dcm"


@pytest.fixture(params=["WARN", "RAISE"], autouse=True)
def _validation(request: pytest.FixtureRequest) -> None:
    pydicom.config.settings.reading_validation_mode = getattr(pydicom.config, request.param)


def raw_frame(**values: Any) -> bytes:
    """Return a raw frame with attributes that need not be valid."""
    dataset = Dataset()
    with pydicom.config.disable_value_validation():
        dataset.SpecificCharacterSet = "ISO_IR 192"
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.Rows = dataset.Columns = 2
        dataset.PixelData = bytes(8)
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7.3"
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        before = pydicom.config.settings.writing_validation_mode
        pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        pydicom.config.settings.writing_validation_mode = before
    return buffer.getvalue()


def test_patient_and_study_are_taken_over() -> None:
    content = raw_frame(
        PatientName="Müller^Änne",
        PatientID="007",
        PatientBirthDate="19800102",
        PatientSex="F",
        StudyInstanceUID="1.2.3.4",
        StudyID="S1",
        StudyDate="20240506",
        StudyTime="091011.25",
        AccessionNumber="A9",
        BodyPartExamined="JAW",
        InstitutionName="A hospital",
        Manufacturer="MARS",
    )
    expected = SeriesIdentity(
        patient_name="Müller^Änne",
        patient_id="007",
        patient_birth_date="19800102",
        patient_sex="F",
        study_instance_uid="1.2.3.4",
        study_id="S1",
        study_date="20240506",
        study_time="091011",
        accession_number="A9",
        body_part_examined="JAW",
        institution_name="A hospital",
        manufacturer="MARS",
    )
    assert identity_from_dicom(content, ORIGIN) == expected
    assert identity_from_dicom(io.BytesIO(content), ORIGIN) == expected


def test_sloppy_values_are_read_as_far_as_they_go() -> None:
    identity = identity_from_dicom(
        raw_frame(
            PatientID="x" * 70,
            PatientName="Doe^Jane\\Other^Name",
            PatientBirthDate="1980.01.02",
            PatientSex="female",
            StudyDate="06. May",
            StudyTime="9 o'clock",
            StudyID="a study id that is too long",
            BodyPartExamined="left knee",
            Laterality="left",
            StudyDescription="two\nlines\\and more",
        ),
        ORIGIN,
    )
    assert identity.patient_id == "x" * 64
    assert identity.patient_name == "Doe^Jane Other^Name"
    assert (identity.patient_birth_date, identity.patient_sex) == ("19800102", "F")
    assert (identity.study_date, identity.study_time) == (None, None)
    assert identity.study_id == "a study id that"
    assert identity.body_part_examined == "LEFT KNEE"
    assert identity.laterality is None
    assert identity.study_description == "two lines and more"


def test_an_empty_frame_is_nobody() -> None:
    assert identity_from_dicom(raw_frame(PatientID="", PatientName=""), ORIGIN) == SeriesIdentity()


@pytest.mark.parametrize("content", [b"", b"not DICOM at all", bytes(200)])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"raw/frame-0\.dcm: not a DICOM file"):
        identity_from_dicom(content, ORIGIN)


def test_a_study_that_cannot_be_named_is_an_error_that_does_not_tell_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(InputError, match="StudyInstanceUID is not valid") as caught:
        identity_from_dicom(raw_frame(StudyInstanceUID="1.02.4711", PatientName="Mustermann^Erika"), ORIGIN)
    assert caught.value.__cause__ is None
    for text in (str(caught.value), repr(caught.value), caplog.text):
        assert "4711" not in text
        assert "Mustermann" not in text
