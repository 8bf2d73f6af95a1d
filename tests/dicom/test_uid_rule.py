"""What a UID is, by one rule wherever instances come in and go on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydicom import config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement

from marspipe.dicom.pacs.header import read_facts
from marspipe.dicom.uid import is_uid
from marspipe.errors import InputError
from marspipe.store.landing import LandingZone, check_uid
from tests.dicom.foreign.slices import STORED, as_bytes, ct_dataset

UIDS = ["1", "0", "1.2", "1.2.03", "00.1", "9.9", "2.25." + "9" * 39, "1." * 31 + "12"]
NO_UIDS = ["", ".", "1.", ".1", "1..2", "1.2\n", " 1.2", "1.2\0", "1.a", "1,2", "../1", "١.٢", "1.²", "1" * 65]


@pytest.mark.parametrize("text", UIDS)
def test_what_is_a_uid(text: str) -> None:
    assert is_uid(text) and check_uid(text) == text


@pytest.mark.parametrize("text", NO_UIDS)
def test_what_is_none(text: str) -> None:
    assert not is_uid(text)
    with pytest.raises(InputError, match="a UID is 1 to 64 digits"):
        check_uid(text)


def test_what_a_landing_zone_takes_can_be_sent_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in ("reading_validation_mode", "writing_validation_mode"):
        monkeypatch.setattr(config.settings, mode, config.IGNORE)
    uids = {"StudyInstanceUID": "1.2.03", "SeriesInstanceUID": "1.2.03.004", "SOPInstanceUID": "1.2.03.004.05"}
    dataset = ct_dataset(STORED)
    for keyword, value in uids.items():
        for place in (dataset, dataset.file_meta) if keyword == "SOPInstanceUID" else (dataset,):
            tag = tag_for_keyword(keyword if place is dataset else "MediaStorageSOPInstanceUID")
            assert tag is not None
            place[tag] = DataElement(tag, "UI", value, validation_mode=config.IGNORE)
    content = as_bytes(dataset)
    with LandingZone(str(tmp_path), min_free_bytes=0) as zone:
        uri = zone.put(*uids.values(), content)
    facts = read_facts(io.BytesIO(Path(uri).read_bytes()), "it")
    assert (facts.study_uid, facts.series_uid, facts.sop_uid) == tuple(uids.values())
