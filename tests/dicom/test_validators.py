"""dciodvfy and dcentvfy, the public validators of dicom3tools, on whole series."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from marspipe.dicom.ct import series_files, series_header
from marspipe.dicom.identity import SeriesIdentity

# Warnings that say what is meant, and why they stay.
# PS3.3 C.11.1.1.2 defines US; dciodvfy's table of the CT image knows only HU.
UNSPECIFIED_UNITS = "Unrecognized defined term <US> for value 1 of attribute <Rescale Type>"
# It is actually unknown: nobody named a body part.
UNKNOWN_SIDE = "is only permitted to be empty when actually unknown"
# Nobody said when the scan was made, and a date is not invented.
NO_DATE = "Missing attribute or value that would be needed to build DICOMDIR"

KNEE = SeriesIdentity(patient_name="Müller^Änne", patient_sex="F", body_part_examined="KNEE", laterality="L")
JAW = SeriesIdentity(body_part_examined="JAW", institution_name="A hospital", station_name="MARS 1")


def write_bins(volume: Any, folder: Path, **options: Any) -> list[Path]:
    paths = []
    for bin in range(len(volume.bins)):
        for file in series_files(volume, series_header(volume, bin, **options)):
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
            paths.append(path)
    return paths


def messages(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith(("Error", "Warning", "Abort"))]


@pytest.mark.parametrize(
    ("options", "explained"),
    [
        pytest.param({}, {UNSPECIFIED_UNITS, UNKNOWN_SIDE}, id="anonymous"),
        pytest.param({"water_attenuation_per_mm": 0.0206}, {UNKNOWN_SIDE}, id="hounsfield"),
        pytest.param({"identity": KNEE}, {UNSPECIFIED_UNITS}, id="knee"),
        pytest.param({"identity": JAW, "water_attenuation_per_mm": 0.0206}, set(), id="jaw-hounsfield"),
    ],
)
def test_every_slice_is_valid(
    volume: Any,
    tmp_path: Path,
    dicom_tool: Callable[[str], Path],
    options: dict[str, Any],
    explained: set[str],
) -> None:
    dciodvfy, dcentvfy = dicom_tool("dciodvfy"), dicom_tool("dcentvfy")
    paths = write_bins(volume, tmp_path, **options)
    assert len(paths) == 14
    for path in paths:
        run = subprocess.run([dciodvfy, path], capture_output=True, text=True, check=False)
        assert run.returncode == 0
        assert "CTImage" in run.stdout + run.stderr
        said = messages(run)
        assert [m for m in said if not any(e in m for e in explained)] == []
        assert len(said) == len(explained)
    whole = subprocess.run([dcentvfy, *paths], capture_output=True, text=True, check=False)
    assert (whole.returncode, messages(whole)) == (0, [])


def test_a_scan_of_which_little_is_known_is_valid(
    volume: Any, tmp_path: Path, dicom_tool: Callable[[str], Path]
) -> None:
    volume.metadata = {"scan_id": "s", "recipe_hash": "0"}
    for path in write_bins(volume, tmp_path)[:1]:
        run = subprocess.run([dicom_tool("dciodvfy"), path], capture_output=True, text=True, check=False)
        assert run.returncode == 0
        explained = (UNSPECIFIED_UNITS, UNKNOWN_SIDE, NO_DATE)
        assert [m for m in messages(run) if not any(e in m for e in explained)] == []


def test_the_validators_see_a_fault(volume: Any, tmp_path: Path, dicom_tool: Callable[[str], Path]) -> None:
    first, second = write_bins(volume, tmp_path)[:2]
    content = first.read_bytes()
    first.write_bytes(content.replace(b"DERIVED\\PRIMARY\\AXIAL", b"ORIGINAL\\PRIMARY\\AX  "[:21]))
    run = subprocess.run([dicom_tool("dciodvfy"), first], capture_output=True, text=True, check=False)
    assert any(m.startswith("Error") for m in messages(run))
    second.write_bytes(content)
    first.write_bytes(content)
    run = subprocess.run([dicom_tool("dcentvfy"), first, second], capture_output=True, text=True, check=False)
    assert any("Duplicate SOPInstanceUID" in m for m in messages(run))
