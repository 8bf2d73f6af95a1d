from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from marspipe.dicom.ct import series_files
from marspipe.dicom.deidentify import deidentified
from marspipe.dicom.deidentify_dataset import deidentify_dataset
from marspipe.dicom.enhanced import enhanced_files
from marspipe.dicom.identity import SeriesIdentity
from marspipe.dicom.instance import put
from marspipe.dicom.series import series_header
from marspipe.errors import InputError

KEY = bytes(range(32))
SECRET = "Geheim"


def loud_dataset(volume: Any) -> pydicom.FileDataset:
    """Return a slice to which a hospital has added all it could."""
    identity = SeriesIdentity(
        patient_name=f"{SECRET}^Erika",
        patient_id=f"{SECRET}-1",
        institution_name=f"{SECRET} clinic",
        accession_number=SECRET,
        study_description=f"{SECRET} study",
        study_date="20240506",
        study_time="091011",
    )
    content = next(series_files(volume, series_header(volume, 0, identity))).content
    dataset = pydicom.dcmread(io.BytesIO(content))
    more: dict[str, Any] = {
        "OtherPatientIDs": SECRET,
        "PatientAddress": SECRET,
        "PatientComments": SECRET,
        "PatientAge": "044Y",
        "PatientWeight": "77",
        "OperatorsName": f"{SECRET}^Otto",
        "PerformingPhysicianName": SECRET,
        "ProtocolName": SECRET,
        "RequestedProcedureDescription": SECRET,
        "DeviceSerialNumber": SECRET,
        "IssuerOfPatientID": SECRET,
        "RequestAttributesSequence": [{"RequestedProcedureID": SECRET}],
        "InstitutionCodeSequence": [{"CodeValue": "1", "CodingSchemeDesignator": "99L", "CodeMeaning": SECRET}],
        "ReferencedStudySequence": [{"ReferencedSOPClassUID": "1.2.840.10008.3.1.2.3.1"}],
        "OverlayComments": SECRET,
    }
    more = {keyword: value for keyword, value in more.items() if keyword not in ("OtherPatientIDs", "OverlayComments")}
    put(dataset, more)
    dataset.add_new(Tag(0x0010, 0x1000), "LO", SECRET)  # a retired attribute
    dataset.add_new(Tag(0x6000, 0x4000), "LT", SECRET)  # comments of an overlay
    block = dataset.private_block(0x0029, f"{SECRET} private", create=True)
    block.add_new(1, "LO", SECRET)
    return dataset


def written(dataset: Dataset) -> str:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue().decode("latin-1")


def test_nothing_private_is_left_and_the_image_is(volume: Any) -> None:
    dataset = loud_dataset(volume)
    assert written(dataset).count(SECRET) > 15
    clean = deidentify_dataset(dataset, KEY)
    text = written(clean)
    for private in (SECRET, "044Y", "20240506", "091011", str(dataset.StudyInstanceUID), str(dataset.SOPInstanceUID)):
        assert private not in text
    assert "PatientWeight" not in clean
    again = pydicom.dcmread(io.BytesIO(text.encode("latin-1")))
    np.testing.assert_array_equal(again.pixel_array, dataset.pixel_array)
    for keyword in ("ImagePositionPatient", "PixelSpacing", "RescaleSlope", "RescaleType", "WindowCenter", "KVP"):
        assert again[keyword].value == dataset[keyword].value
    assert again.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "/mm"
    assert again.PatientIdentityRemoved == "YES"
    assert again.file_meta.MediaStorageSOPInstanceUID == again.SOPInstanceUID
    assert again.SOPClassUID == dataset.SOPClassUID


def test_the_pseudonyms_are_those_of_marspipe_s_own_series(volume: Any) -> None:
    dataset = loud_dataset(volume)
    clean = deidentify_dataset(dataset, KEY)
    identity = SeriesIdentity(patient_id=f"{SECRET}-1", study_date="20240506", study_time="091011")
    own = deidentified(series_header(volume, 0, identity), KEY)
    assert clean.PatientID == own.elements["PatientID"]
    assert (clean.StudyDate, clean.StudyTime) == (own.elements["StudyDate"], own.elements["StudyTime"])
    assert (clean.StudyInstanceUID, clean.StudyID) == (own.study_uid, own.elements["StudyID"])
    assert clean.FrameOfReferenceUID == own.frame_of_reference_uid


def test_multi_frame_objects_keep_their_functional_groups(maps: Any) -> None:
    (file,) = enhanced_files(maps, series_header(maps, 0, kind="enhanced-ct"))
    dataset = pydicom.dcmread(io.BytesIO(file.content()))
    clean = deidentify_dataset(dataset, KEY)
    before, after = (d.PerFrameFunctionalGroupsSequence[3] for d in (dataset, clean))
    assert after == before
    event = clean.SharedFunctionalGroupsSequence[0].IrradiationEventIdentificationSequence[0].IrradiationEventUID
    assert (
        event != dataset.SharedFunctionalGroupsSequence[0].IrradiationEventIdentificationSequence[0].IrradiationEventUID
    )
    pointers = [item.DimensionIndexPointer for item in clean.DimensionIndexSequence]
    assert pointers == [item.DimensionIndexPointer for item in dataset.DimensionIndexSequence]
    np.testing.assert_array_equal(clean.pixel_array, dataset.pixel_array)


def test_identity_in_the_pixels_is_refused(volume: Any) -> None:
    dataset = loud_dataset(volume)
    dataset.BurnedInAnnotation = "YES"
    with pytest.raises(InputError, match="burned into its pixels"):
        deidentify_dataset(dataset, KEY)


def test_sloppy_values_are_not_warned_of(volume: Any) -> None:
    pydicom.config.settings.reading_validation_mode = pydicom.config.WARN
    content = next(series_files(volume, series_header(volume, 0, SeriesIdentity(study_date="20240506")))).content
    sloppy = content.replace(b"20240506", b"6. May24")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean = deidentify_dataset(pydicom.dcmread(io.BytesIO(sloppy)), KEY)
    assert clean.StudyDate == ""
