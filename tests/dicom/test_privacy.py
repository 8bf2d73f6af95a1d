"""Nothing private is told where it does not belong: logs, output, warnings, paths, representations, error texts."""

from __future__ import annotations

import io
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pydicom
import pytest

from marspipe.dicom.ct import series_files
from marspipe.dicom.deidentify import deidentified
from marspipe.dicom.enhanced import enhanced_files
from marspipe.dicom.identity import SeriesIdentity, load_identity
from marspipe.dicom.identity_dicom import identity_from_dicom
from marspipe.dicom.series import SeriesHeader, series_header
from marspipe.errors import MarspipeError
from tests.dicom.written import WRITERS, contents

LOUD = {
    "patient_name": "Zebrafink^Walburga",
    "patient_id": "PID-998877",
    "patient_birth_date": "19331122",
    "study_instance_uid": "1.2.3.44556677",
    "study_id": "ST-665544",
    "study_description": "Quokka study",
    "study_date": "20191203",
    "study_time": "173355",
    "accession_number": "ACC-554433",
    "referring_physician_name": "Okapi^Balthasar",
    "institution_name": "Narwhal clinic",
    "station_name": "AXOLOTL-1",
    "device_serial_number": "SN-443322",
    "manufacturer": "Pangolin scanners",
    "manufacturer_model_name": "Tapir 3",
}
PRIVATE = sorted(
    {part for value in LOUD.values() for part in (value, *value.split("^"))} | {"2019-12-03", "1933-11-22", "44556677"}
)
# The scan's name and description can be private too; only a de-identified export hides them.
SCAN = {"scan_id": "walburga-left-jaw", "description": "Dugong specimen", "acquired_at": "2019-12-03T17:44:55"}
HIDDEN = [*PRIVATE, *SCAN.values(), "174455", "walburga", "Dugong"]
KEY = b"0123456789abcdef"


def told(private: list[str], text: str) -> list[str]:
    return [value for value in private if value.lower() in text.lower()]


def every_header(volume: Any, maps: Any) -> Iterator[tuple[Any, SeriesHeader]]:
    identity = SeriesIdentity(**LOUD)
    for source in (volume, maps):
        for kind in WRITERS:
            # Of the maps only the monoenergetic image, which is the first, has Hounsfield units.
            water = 0.0206 if source is volume and kind == "enhanced-ct" else None
            yield source, series_header(source, 0, identity, kind=kind, water_attenuation_per_mm=water)


def test_an_export_tells_it_in_the_objects_only(
    volume: Any, maps: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for source, header in every_header(volume, maps):
            paths, written = zip(*contents(source, header), strict=True)
            assert all(b"Zebrafink^Walburga" in content for content in written)
            said += [*paths, repr(header), str(header), header.folder]
        said += [repr(SeriesIdentity(**LOUD)), str(SeriesIdentity(**LOUD))]
    printed = capfd.readouterr()
    said += [caplog.text, printed.out, printed.err, *(str(w.message) for w in warned)]
    # Who made the scanner is no secret of a patient.
    private = [value for value in PRIVATE if value not in (LOUD["manufacturer"], LOUD["manufacturer_model_name"])]
    assert told(private, "\n".join(said)) == []


def test_a_deidentified_export_tells_it_nowhere(volume: Any, maps: Any) -> None:
    volume.metadata |= SCAN
    maps.metadata |= SCAN
    for source, header in every_header(volume, maps):
        hidden = deidentified(header, KEY)
        uids = [header.study_uid, header.series_uid, header.frame_of_reference_uid, header.acquisition_uid]
        for path, content in contents(source, hidden):
            text = f"{path} {content.decode('latin-1')} {pydicom.dcmread(io.BytesIO(content))}"
            assert told([*HIDDEN, *uids], text) == []
        assert told([*HIDDEN, *uids], repr(hidden) + pickle.dumps(hidden).decode("latin-1")) == []


def test_errors_do_not_tell_it(volume: Any, caplog: pytest.LogCaptureFixture) -> None:
    header = series_header(volume, 0, SeriesIdentity(**LOUD))
    errors: list[BaseException] = []

    def attempt(work: Callable[[], Any]) -> None:
        with pytest.raises(MarspipeError) as raised:
            work()
        errors.append(raised.value)
        if raised.value.__cause__ is not None:
            errors.append(raised.value.__cause__)

    with caplog.at_level(logging.DEBUG):
        attempt(lambda: list(series_files(volume, header, [99])))
        attempt(lambda: list(enhanced_files(volume, header)))
        attempt(lambda: deidentified(header, b"weak"))
        volume.arrays[0][0, 0, 0] = 9.0
        attempt(lambda: list(series_files(volume, header)))
        for key, value in LOUD.items():
            attempt(lambda key=key, value=value: load_identity(f"{key}: {value}{70 * 'x'}\\", "patient.yaml"))
            attempt(lambda key=key, value=value: load_identity(f"{key}: [{value}", "patient.yaml"))
            attempt(lambda key=key, value=value: load_identity(f"{key}: [{value}]", "patient.yaml"))
        attempt(lambda: load_identity("patient_birth_date: 22.11.1933", "patient.yaml"))
        content = next(series_files(volume, series_header(volume, 0, SeriesIdentity(**LOUD)))).content
        broken = content.replace(b"1.2.3.44556677", b"1.2.0044556677")
        assert broken != content
        attempt(lambda: identity_from_dicom(broken, "raw.dcm"))
    assert len(errors) > 3 * len(LOUD)
    assert told(PRIVATE, "\n".join([caplog.text, *(str(e) + repr(e) for e in errors)])) == []
