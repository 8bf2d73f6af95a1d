"""Four energy bins published to an Orthanc, and what it holds then."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from marspipe.dicom.pacs.peer import parse_peer
from marspipe.errors import InputError
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import publish
from marspipe.show.progress import Progress
from tests.pacs.conftest import BINS, N_INSTANCES, SLICES
from tests.pacs.servers import ORTHANC_AE, Orthanc, run, tool

UrlOf = Callable[[Orthanc], str]


def test_published_once_and_pixel_equal(
    pacs: Orthanc, url_of: UrlOf, dicom_folder: Path, progress: Progress, hasty: Patience
) -> None:
    peer = parse_peer(url_of(pacs))
    done = publish(str(dicom_folder), peer, progress=progress, patience=hasty)
    assert (done.error, done.state) == (None, "done")
    assert (done.n_series, done.n_instances) == (len(BINS), N_INSTANCES)
    assert (done.sent, done.kept, done.found) == (N_INSTANCES, 0, N_INSTANCES)
    there = pacs.held()
    assert len(there) == pacs.n_instances == N_INSTANCES
    for path in dicom_folder.rglob("*.dcm"):
        own = pydicom.dcmread(path)
        assert there[own.SOPInstanceUID] == own
        assert there[own.SOPInstanceUID].PixelData == own.PixelData
        assert there[own.SOPInstanceUID].file_meta.TransferSyntaxUID == own.file_meta.TransferSyntaxUID
    again = publish(str(dicom_folder), peer, progress=progress, patience=hasty)
    assert (again.error, again.state, again.sent, again.kept) == (None, "kept", 0, N_INSTANCES)
    assert pacs.n_instances == N_INSTANCES


def test_findscu_sees_every_instance(pacs: Orthanc, dicom_folder: Path, progress: Progress, hasty: Patience) -> None:
    done = publish(str(dicom_folder), parse_peer(pacs.dicom_url), progress=progress, patience=hasty)
    assert (done.error, done.sent) == (None, N_INSTANCES)
    one = pydicom.dcmread(next(dicom_folder.rglob("bin-02/*.dcm")))
    keys = [
        *("-k", "QueryRetrieveLevel=IMAGE", "-k", f"StudyInstanceUID={one.StudyInstanceUID}"),
        *("-k", f"SeriesInstanceUID={one.SeriesInstanceUID}", "-k", "SOPInstanceUID"),
    ]
    said = run([tool("findscu"), "-S", "-aec", ORTHANC_AE, "127.0.0.1", str(pacs.dicom_port), *keys])
    found = set(re.findall(r"\(0008,0018\) UI \[([0-9.]+)", said.stdout + said.stderr))
    assert found == {str(pydicom.dcmread(p).SOPInstanceUID) for p in (dicom_folder / "bin-02").iterdir()}


def test_what_is_lacking_is_sent(
    pacs: Orthanc, url_of: UrlOf, dicom_folder: Path, progress: Progress, hasty: Patience
) -> None:
    peer = parse_peer(url_of(pacs))
    part = publish(str(dicom_folder / "bin-01"), peer, progress=progress, patience=hasty)
    assert (part.error, part.sent, pacs.n_instances) == (None, SLICES, SLICES)
    done = publish(str(dicom_folder), peer, progress=progress, patience=hasty)
    assert (done.error, done.sent, done.kept) == (None, N_INSTANCES - SLICES, SLICES)
    assert pacs.n_instances == N_INSTANCES


def test_what_vanishes_after_it_was_taken_is_missed(
    pacs: Orthanc, url_of: UrlOf, dicom_folder: Path, hasty: Patience
) -> None:
    """The last instance is deleted between its C-STORE and the verification."""

    class Deleting(Progress):
        def stage(self, name: str, **keywords: object):  # type: ignore[no-untyped-def,override]
            if name == "verify":
                pacs.delete(f"/instances/{pacs.get('/instances')[0]}")
            return super().stage(name, **keywords)  # type: ignore[arg-type]

    done = publish(str(dicom_folder), parse_peer(url_of(pacs)), progress=Deleting(), patience=hasty)
    assert done.state == "failed"
    assert done.found == N_INSTANCES - 1
    assert done.error is not None
    assert f"1 of {N_INSTANCES} instances failed: 1 x taken, but not found afterwards" in done.error


def test_files_stay_as_they_are(pacs: Orthanc, dicom_folder: Path, progress: Progress, hasty: Patience) -> None:
    def digests() -> dict[Path, str]:
        return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(dicom_folder.rglob("*")) if p.is_file()}

    before = digests()
    done = publish(str(dicom_folder), parse_peer(pacs.dicom_url), progress=progress, patience=hasty)
    assert (done.error, done.sent, pacs.n_instances) == (None, N_INSTANCES, N_INSTANCES)
    assert digests() == before


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("no.dcm", b"no DICOM at all", "not a DICOM file"),
        ("short.dcm", b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\x04\0\xff\xff", "not a DICOM file|is missing"),
        ("note.txt", b"", r"no DICOM files \(\*\.dcm\)"),
    ],
)
def test_what_is_no_series_is_named(
    name: str, content: bytes, sentence: str, tmp_path: Path, progress: Progress
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        publish(str(tmp_path), parse_peer("dicom://NOBODY@127.0.0.1:1"), progress=progress)
    assert str(tmp_path) in str(caught.value)


def test_the_same_instance_twice_is_named(dicom_folder: Path, tmp_path: Path, progress: Progress) -> None:
    content = next(dicom_folder.rglob("*.dcm")).read_bytes()
    (tmp_path / "a.dcm").write_bytes(content)
    (tmp_path / "b.dcm").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.dcm and .*a\.dcm hold the same SOP instance"):
        publish(str(tmp_path), parse_peer("dicom://NOBODY@127.0.0.1:1"), progress=progress)
