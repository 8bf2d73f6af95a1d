"""Files of a DICOM folder that cannot be read: they are told of, and the others are looked at."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from marspipe.errors import InputError
from marspipe.pipeline.inspection.dicom_series import DicomLook, Unread
from marspipe.store import storage
from tests.dicom.foreign.slices import STORED, as_bytes, ct_dataset

GONE = "cannot be read: No such file or directory"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        (tmp_path / f"{number}.dcm").write_bytes(as_bytes(ct_dataset(STORED, (0, 0, number))))
    return tmp_path


def test_a_file_that_has_vanished(folder: Path) -> None:
    """A link that leads nowhere is listed, and is not there."""
    (folder / "1.dcm").unlink()
    (folder / "1.dcm").symlink_to(folder / "nowhere")
    look = DicomLook.of(str(folder))
    assert look.unread == [Unread("1.dcm", GONE)] and look.others == 0
    assert [len(series.instances) for series in look.series] == [2]
    assert ("unread", f"1.dcm: {GONE}") in look.report()


def test_a_file_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only the look at its mark says so."""
    read_bytes = storage.read_bytes

    def refuse(uri: str, *where: int) -> bytes:
        if uri.endswith("note"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), uri)
        return read_bytes(uri, *where)

    (folder / "note").write_text("no DICOM")
    monkeypatch.setattr(storage, "read_bytes", refuse)
    assert DicomLook.of(str(folder)).unread == [Unread("note", "cannot be read: Permission denied")]


def test_nothing_but_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").symlink_to(tmp_path / "nowhere")
    assert DicomLook.of(str(tmp_path)).unread == [Unread("1.dcm", GONE)]
    (tmp_path / "1.dcm").unlink()
    with pytest.raises(InputError, match="there is no DICOM file"):
        DicomLook.of(str(tmp_path))


def test_pixels_that_have_vanished_since(folder: Path) -> None:
    look = DicomLook.of(str(folder))
    (folder / "1.dcm").unlink()
    assert ("values", GONE) in look.report()
