from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from marspipe.dicom.deidentify import Pseudonyms, deidentified
from marspipe.dicom.identity import SeriesIdentity
from marspipe.dicom.series import SeriesHeader, series_header
from marspipe.errors import InputError
from tests.dicom.written import contents, read_all

KEY = bytes(range(32))
JANE = SeriesIdentity(
    patient_name="Doe^Jane",
    patient_id="P-4711",
    patient_birth_date="1980-01-02",
    patient_sex="F",
    study_date="20240506",
    study_time="091011",
    body_part_examined="JAW",
)


def clean(volume: Any, bin: int = 0, identity: SeriesIdentity = JANE, key: bytes = KEY, **options: Any) -> SeriesHeader:
    return deidentified(series_header(volume, bin, identity, **options), key)


def test_the_profile_is_declared(volume: Any) -> None:
    dataset = read_all(volume, clean(volume))[0]
    assert dataset.PatientIdentityRemoved == "YES"
    assert dataset.LongitudinalTemporalInformationModified == "MODIFIED"
    assert [c.CodeValue for c in dataset.DeidentificationMethodCodeSequence] == ["113100", "113105", "113107"]
    for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName"):
        assert not dataset[keyword].value
    for keyword in ("StudyDescription", "InstitutionName", "StationName", "ContributingEquipmentSequence"):
        assert keyword not in dataset
    assert dataset.SeriesDescription == "20-33 keV, attenuation 1/mm"
    assert len(dataset.PatientID) == 16
    assert dataset.PatientID != dataset.StudyID != ""


def test_pixels_and_places_stay(volume: Any) -> None:
    plain, hidden = series_header(volume, 0, JANE), clean(volume)
    for before, after in zip(read_all(volume, plain), read_all(volume, hidden), strict=True):
        assert after.PixelData == before.PixelData
        assert after.ImagePositionPatient == before.ImagePositionPatient
    assert [path for path, _ in contents(volume, hidden)] == [path for path, _ in contents(volume, plain)]


def test_a_study_fits_together_and_stays_so(volume: Any, maps: Any) -> None:
    sources = [series_header(volume, bin, JANE) for bin in range(2)]
    hidden = [clean(volume, bin) for bin in range(2)]
    of_map = clean(maps, 1, sources=sources)
    assert len({header.study_uid for header in (*hidden, of_map)}) == 1
    assert len({header.frame_of_reference_uid for header in (*hidden, of_map)}) == 1
    assert of_map.source_series == tuple(header.series_uid for header in hidden)
    assert clean(volume).series_uid == hidden[0].series_uid
    assert list(contents(volume, clean(volume))) == list(contents(volume, hidden[0]))
    (dataset,) = read_all(maps, clean(maps, 0, kind="enhanced-ct", sources=sources))
    evidence = dataset.SourceImageEvidenceSequence[0]
    assert evidence.StudyInstanceUID == hidden[0].study_uid
    assert evidence.ReferencedSeriesSequence[1].ReferencedSOPSequence[6].ReferencedSOPInstanceUID == hidden[
        1
    ].instance_uid(6)


def test_without_the_key_nothing_can_be_guessed(volume: Any) -> None:
    plain, mine, other = series_header(volume, 0), clean(volume), clean(volume, key=bytes(32))
    for name in ("study_uid", "series_uid", "frame_of_reference_uid", "acquisition_uid"):
        assert len({getattr(header, name) for header in (plain, mine, other)}) == 3
    assert mine.elements["PatientID"] != other.elements["PatientID"]
    assert mine.elements["StudyDate"] != other.elements["StudyDate"]


def test_the_scan_id_is_hidden_where_it_is_all_that_is_known(volume: Any) -> None:
    volume.metadata["scan_id"] = "doe-jane-left-jaw"
    hidden = clean(volume, identity=SeriesIdentity())
    path, content = next(contents(volume, hidden))
    text = content.decode("latin-1") + path
    assert "doe" not in text.lower()
    assert "kidney" not in text  # the description
    assert "doe" not in repr(hidden)


def test_dates_move_together_and_keep_their_distances(volume: Any, maps: Any) -> None:
    dataset = read_all(volume, clean(volume))[0]
    format_ = "%Y%m%d%H%M%S"
    study = datetime.strptime(dataset.StudyDate + dataset.StudyTime, format_)
    acquired = datetime.strptime(dataset.AcquisitionDate + dataset.AcquisitionTime[:6], format_)
    moved = datetime(2024, 5, 6, 9, 10, 11) - study
    assert timedelta(days=365) <= moved <= timedelta(days=3653)
    assert acquired - study == datetime(2024, 5, 6, 7, 8, 7) - datetime(2024, 5, 6, 9, 10, 11)
    assert dataset.AcquisitionTime.endswith(".125000")
    assert "TimezoneOffsetFromUTC" not in dataset
    source = read_all(maps, clean(maps, 0))[0].MultienergyCTAcquisitionSequence[0].MultienergyCTXRaySourceSequence[0]
    assert source.SourceStartDateTime == dataset.AcquisitionDate + dataset.AcquisitionTime
    volume.metadata["acquired_at"] = "2025-05-06T09:08:07.125+02:00"
    later = read_all(volume, clean(volume))[0]
    assert datetime.strptime(later.AcquisitionDate, "%Y%m%d") - datetime.strptime(
        dataset.AcquisitionDate, "%Y%m%d"
    ) == timedelta(days=365)
    another = read_all(volume, clean(volume, identity=JANE.model_copy(update={"patient_id": "P-4712"})))[0]
    assert another.StudyDate != later.StudyDate


def test_moments_keep_their_precision() -> None:
    pseudonyms = Pseudonyms(KEY, "somebody")
    days, minutes = pseudonyms._shift()
    assert minutes > timedelta()
    day = datetime(2024, 3, 1) - days
    assert pseudonyms.date_and_time("20240301", "") == (f"{day:%Y%m%d}", "")
    moment = datetime(2024, 3, 1, 4, 5) - days - minutes
    assert pseudonyms.date_and_time("20240301", "0405") == (f"{moment:%Y%m%d}", f"{moment:%H%M%S}")
    assert pseudonyms.date_and_time("", "040500.25")[1] == f"{datetime(2000, 1, 1, 4, 5) - minutes:%H%M%S}.25"
    assert pseudonyms.date_time("20240301040500.25+0100") == f"{moment:%Y%m%d%H%M%S}.25"
    assert pseudonyms.date_time("20240301") == f"{day:%Y%m%d}"
    assert pseudonyms.date_time("2024") == f"{datetime(2024, 1, 1) - days:%Y%m%d}"
    assert pseudonyms.date_time("202402") == f"{datetime(2024, 2, 1) - days:%Y%m%d}"
    assert pseudonyms.date_and_time("20241399", "") == ("", "")
    assert pseudonyms.date_and_time("00010101", "") == ("", "")
    assert pseudonyms.date_time("in spring") == ""


def test_weak_keys_and_doubled_work_are_refused(volume: Any) -> None:
    with pytest.raises(InputError, match="has 8 bytes; at least 16"):
        clean(volume, key=b"password")
    with pytest.raises(InputError, match="de-identified already"):
        deidentified(clean(volume), KEY)
    assert repr(Pseudonyms(KEY, "Jane")) == "<Pseudonyms>"
