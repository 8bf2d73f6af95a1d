"""``marspipe inspect`` of DICOM files as a user meets it, without Spark."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from marspipe.cli import cli, run_command
from tests.cli.inspecting import inspect, refusal
from tests.dicom.foreign.slices import DATA, PRIVATE, as_bytes, ct_dataset
from tests.lacking import require_cases


def lines(text: str, name: str) -> list[str]:
    return [row[10:].strip() for row in text.splitlines() if row.startswith(f"{name} ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two series and more: one with a slice missing, one tilted, a report that is no DICOM, a damaged file."""
    rows, columns = np.indices((24, 32))
    stored = (40 * rows + columns).astype(np.int16)
    folder = tmp_path / "study"
    for number, z in enumerate([0.0, 2.0, 4.0, 8.0, 10.0]):
        place = folder / "a" / f"{(7 * number) % 5}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(as_bytes(ct_dataset(stored + number, (0, 0, z), SeriesNumber=1)))
    (folder / "b").mkdir()
    for number in range(4):
        tilted = ct_dataset(
            stored, (0, 0.5 * number, 2.0 * number), SeriesInstanceUID="2.25.7", SeriesNumber=2, Manufacturer="Maker"
        )
        (folder / "b" / f"{number}").write_bytes(as_bytes(tilted))
    (folder / "readme.txt").write_text("not an image")
    (folder / "cut.dcm").write_bytes(as_bytes(ct_dataset(stored))[:700])
    return folder


@pytest.fixture
def philips() -> Path:
    return require_cases("dicom_ct/philips_phantom_S21570_S2010")


def test_a_folder_of_series(folder: Path) -> None:
    text = inspect(folder)
    assert lines(text, "dicom") == [f"2 series in 9 files    {folder}"]
    assert lines(text, "patient") == ["patient data present: yes"]
    assert lines(text, "others") == ["1 files are not DICOM"]
    assert lines(text, "unread")[0].startswith("cut.dcm: truncated or damaged")
    assert lines(text, "series") == [
        "CT, CT Image Storage, 5 objects, series number 1",
        "CT, CT Image Storage, 4 objects, series number 2, Maker",
    ]
    assert lines(text, "slices")[0] == "5 of 24 x 32 px, 2 mm apart, pixels of 1 x 1 mm, 1 mm thick"
    assert lines(text, "values")[0] == "-1024 to -69, mean -546.5 HU"
    problems = lines(text, "problem")
    assert problems[0] == "uneven slice spacing: between slices 2 and 3: 4 mm, elsewhere 2 mm (1 slice missing)"
    assert problems[1].startswith("gantry tilt: the slices follow each other at 14.04 degrees")
    assert text.count("--resample makes it a regular volume") == 2


def test_nothing_private_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in ([folder], [folder, "--picture", str(folder / "p.png"), "--series", "0", "--resample"]):
        assert run_command(cli, ["inspect", *map(str, arguments)], "marspipe") == 0
    said = capfd.readouterr()
    assert "unevenly spaced slices became 6" in said.err
    for value in [*PRIVATE.values(), "Doe", "Jane"]:
        assert value not in said.out + said.err


def test_pictures_of_what_can_be_stacked_or_resampled(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = folder / "p.png"
    assert "uneven slice spacing" in refusal(capsys, folder, "--series", "0", "--picture", target)
    assert "gantry tilt" in refusal(capsys, folder, "--series", "1", "--picture", target)
    assert "holds 2 series: --series must be 0..1" in refusal(capsys, folder, "--picture", target)
    assert not target.exists()
    for series in ("0", "1"):
        with pytest.warns(UserWarning, match="resampled|unevenly"):
            text = inspect(folder, "--series", series, "--resample", "--picture", target)
        assert lines(text, "picture") == [str(target)]
        assert imread(target)[..., :3].std() > 0.01
        target.unlink()


def test_files_with_faults() -> None:
    text = inspect(DATA / "no_meta.dcm")
    assert lines(text, "repaired") == [
        "no preamble, and 1 stray bytes before it (1 of 1 files)",
        "no transfer syntax is stated: read as Explicit VR Little Endian (1 of 1 files)",
    ]
    assert lines(text, "values") == ["-896 to 1167, mean -119.074 HU"]
    text = inspect(DATA / "bad_sequence.dcm")
    assert lines(text, "values") == ["-1011 to 1243, mean -76.6256 HU"]
    text = inspect(DATA / "J2K_pixelrep_mismatch.dcm")
    assert "13 bits are read as signed" in lines(text, "repaired")[0]
    assert "-22 deg as stated" in lines(text, "planes")[0]


def test_a_folder_of_all_files() -> None:
    text = inspect(DATA)
    assert lines(text, "others") == ["3 files are not DICOM"]
    assert len(lines(text, "pixels")) == 5  # CT_small and no_meta are one series
    assert "the same object" in text


def test_no_patient_data(tmp_path: Path) -> None:
    nobody = ct_dataset(np.ones((4, 4), np.int16), PatientName="", PatientID="", AccessionNumber="")
    (tmp_path / "a.dcm").write_bytes(as_bytes(nobody))
    assert lines(inspect(tmp_path / "a.dcm"), "patient") == ["patient data present: no"]


def test_options_of_other_things_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--step is of scans and volumes" in refusal(capsys, folder, "--step", "zingers")
    assert "--series must be 0..1" in refusal(capsys, folder, "--series", "7")
    (tmp_path / "empty").mkdir()
    assert "holds no DICOM files: --series and --resample" in refusal(capsys, tmp_path / "empty", "--resample")
    shutil.copy(folder / "readme.txt", tmp_path / "a.dcm")
    assert "a.dcm: not a DICOM file" in inspect(tmp_path / "a.dcm")


def test_a_phantom(philips: Path, tmp_path: Path) -> None:
    text = inspect(philips, "--picture", tmp_path / "p.png")
    assert lines(text, "slices") == ["28 of 512 x 512 px, 5 mm apart, pixels of 0.451172 x 0.451172 mm, 5 mm thick"]
    assert lines(text, "planes")[0].startswith("axial; tilt 0 deg by their places, 0 deg as stated")
    assert lines(text, "problem") == []
    assert lines(text, "values")[0].startswith("-1024 to ")
    assert imread(tmp_path / "p.png").shape[1] > 1000
