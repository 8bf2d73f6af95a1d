"""dciodvfy and dcentvfy, the public validators of dicom3tools, on whole series of every kind of object."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from marspipe.dicom.deidentify import deidentified
from marspipe.dicom.identity import SeriesIdentity
from marspipe.dicom.series import series_header
from marspipe.scan.grid import VolumeGrid
from tests.dicom.written import write_all

# What the validators say that is meant so, and why it stays.
# PS3.3 C.11.1.1.2 defines US and MGML; dciodvfy's table of the CT image knows only HU.
UNSPECIFIED_UNITS = "Unrecognized defined term <US> for value 1 of attribute <Rescale Type>"
CONCENTRATION_UNITS = "Unrecognized defined term <MGML> for value 1 of attribute <Rescale Type>"
# It is actually unknown: nobody named a body part.
UNKNOWN_SIDE = "is only permitted to be empty when actually unknown"
# Nobody said when the scan was made, and a date is not invented.
NO_DATE = "Missing attribute or value that would be needed to build DICOMDIR"
# PS3.3 C.8.15.2.1.1.5 gives Enhanced CT images the multi-energy terms; dciodvfy knows them of the CT image.
ENERGY_TYPE = "Unrecognized defined term <VMI> for value 4 of attribute"
# PS3.3 C.8.32.2 and C.8.16.1.4: what a parametric map shows is a quantity; dciodvfy's table is older.
QUANTITY_TYPE = "Unrecognized defined term <QUANTITY> for value 4 of attribute"
# The standard has no codes for what was done here, nor for some materials; the scheme is identified in the object.
PRIVATE_CODE = "Unrecognized defined term <99MARSPIPE> for value 1 of attribute <Coding Scheme Designator>"
# The volume does not know it; the comment of the image says so.
NO_EXPOSURE = "Value is zero for value 1 of attribute"

KNEE = SeriesIdentity(patient_name="Müller^Änne", patient_sex="F", body_part_examined="KNEE", laterality="L")
JAW = SeriesIdentity(body_part_examined="JAW", institution_name="A hospital", station_name="MARS 1")
SCANNER = SeriesIdentity(body_part_examined="JAW", manufacturer="A maker", manufacturer_model_name="A scanner")
KEY = bytes(range(16))


def write_bins(
    volume: Any, folder: Path, *, hide: bool = False, max_instance_bytes: int | None = None, **options: Any
) -> list[Path]:
    """Write a series of each bin."""
    paths: list[Path] = []
    limit = {} if max_instance_bytes is None else {"max_instance_bytes": max_instance_bytes}
    for bin in range(len(volume.bins)):
        header = series_header(volume, bin, **options)
        if hide:
            header = deidentified(header, KEY)
        paths += write_all(volume, header, folder, **limit)
    return paths


def messages(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith(("Error", "Warning", "Abort"))]


def check(paths: list[Path], iod: str, explained: set[str], tool: Callable[[str], Path]) -> None:
    """Check every file by itself and the series together: what is said is explained, and what is explained is said."""
    said: list[str] = []
    for path in paths:
        run = subprocess.run([tool("dciodvfy"), path], capture_output=True, text=True, check=False)
        assert re.search(rf"\b{iod}\b", run.stdout + run.stderr)
        said += messages(run)
        assert run.returncode == 0
    assert sorted({m for m in said if not any(e in m for e in explained)}) == []
    assert sorted(e for e in explained if not any(e in m for m in said)) == []
    whole = subprocess.run([tool("dcentvfy"), *paths], capture_output=True, text=True, check=False)
    assert (whole.returncode, messages(whole)) == (0, [])


@pytest.fixture
def large(volume: Any) -> Any:
    """The volume on a grid that every compression takes."""
    volume.grid = VolumeGrid((2, 33, 40), (0.25, 0.11, 0.088))
    volume.arrays = [array.mean() + 0.0 * array[:1, :1, :1] + _ramp(volume.grid) for array in volume.arrays]
    return volume


def _ramp(grid: VolumeGrid) -> Any:
    return (1e-3 * (grid.axis_mm("y")[:, None] - grid.axis_mm("x")) + grid.axis_mm("z")[:, None, None]).astype(
        "float32"
    )


@pytest.mark.parametrize(
    ("options", "explained"),
    [
        pytest.param({}, {UNSPECIFIED_UNITS, UNKNOWN_SIDE}, id="anonymous"),
        pytest.param({"water_attenuation_per_mm": 0.0206}, {UNKNOWN_SIDE}, id="hounsfield"),
        pytest.param({"identity": KNEE}, {UNSPECIFIED_UNITS}, id="knee"),
        pytest.param({"identity": JAW, "water_attenuation_per_mm": 0.0206}, set(), id="jaw-hounsfield"),
        pytest.param({"identity": SCANNER, "water_attenuation_per_mm": 0.0206}, set(), id="scanner"),
        pytest.param({"identity": JAW, "value_range": (0.0, 0.03)}, {UNSPECIFIED_UNITS}, id="robust range"),
        pytest.param({"identity": JAW, "field_of_view_mm": 1.4}, {UNSPECIFIED_UNITS}, id="padding"),
        pytest.param({"identity": KNEE, "hide": True}, {UNSPECIFIED_UNITS}, id="de-identified"),
    ],
)
def test_ct_images(
    volume: Any, tmp_path: Path, dicom_tool: Callable[[str], Path], options: dict[str, Any], explained: set[str]
) -> None:
    paths = write_bins(volume, tmp_path, **options)
    assert len(paths) == 14
    check(paths, "CTImage", explained, dicom_tool)


@pytest.mark.parametrize(("kind", "iod", "files"), [("ct-image", "CTImage", 4), ("enhanced-ct", "EnhancedCTImage", 2)])
@pytest.mark.parametrize("syntax", ["jpeg-ls", "jpeg-2000", "rle"])
def test_compressed_images(
    large: Any, tmp_path: Path, dicom_tool: Callable[[str], Path], kind: str, iod: str, files: int, syntax: str
) -> None:
    options = {"water_attenuation_per_mm": 0.0206, "field_of_view_mm": 1.4, "identity": JAW}
    paths = write_bins(large, tmp_path, kind=kind, transfer_syntax=syntax, **options)
    assert len(paths) == files
    check(paths, iod, set(), dicom_tool)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="anonymous"),
        pytest.param({"identity": JAW}, id="jaw"),
        pytest.param({"identity": KNEE, "hide": True}, id="de-identified"),
    ],
)
@pytest.mark.parametrize("parts", [1, 3])
def test_enhanced_ct_images(
    volume: Any, tmp_path: Path, dicom_tool: Callable[[str], Path], options: dict[str, Any], parts: int
) -> None:
    options = {**options, "water_attenuation_per_mm": 0.0206, "field_of_view_mm": 1.4}
    limit = 65536 + 3 * (240 + 512) if parts == 3 else None
    paths = write_bins(volume, tmp_path, kind="enhanced-ct", max_instance_bytes=limit, **options)
    assert len(paths) == 2 * parts
    check(paths, "EnhancedCTImage", set(), dicom_tool)


def one_map(maps: Any, number: int) -> Any:
    """Return the maps of one bin alone."""
    maps.arrays, maps.bins = [maps.arrays[number]], maps.bins[:1]
    maps.metadata["bins"] = [maps.metadata["bins"][number]]
    return maps


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize(
    ("number", "kind", "iod", "explained"),
    [
        (0, "ct-image", "CTImage", {PRIVATE_CODE}),
        (1, "ct-image", "CTImage", {PRIVATE_CODE, CONCENTRATION_UNITS}),
        (2, "ct-image", "CTImage", {PRIVATE_CODE, CONCENTRATION_UNITS}),
        (0, "enhanced-ct", "EnhancedCTImage", {PRIVATE_CODE, ENERGY_TYPE}),
        (0, "parametric-map", "ParametricMap", {PRIVATE_CODE, QUANTITY_TYPE}),
        (2, "parametric-map", "ParametricMap", {PRIVATE_CODE, QUANTITY_TYPE}),
    ],
)
def test_maps(
    volume: Any,
    maps: Any,
    tmp_path: Path,
    dicom_tool: Callable[[str], Path],
    number: int,
    kind: str,
    iod: str,
    explained: set[str],
    hide: bool,
) -> None:
    maps.metadata["exposure_s"] = 36.0
    maps.metadata["tube"]["focal_spot_mm"] = 0.05
    options = {"identity": KNEE, "kind": kind, "hide": hide, "field_of_view_mm": 1.4}
    sources = [series_header(volume, bin, KNEE) for bin in range(2)]
    paths = write_bins(one_map(maps, number), tmp_path, sources=sources, **options)
    check(paths[:2], iod, explained, dicom_tool)


def test_a_map_of_a_scan_whose_exposure_is_unknown_is_valid(
    maps: Any, tmp_path: Path, dicom_tool: Callable[[str], Path]
) -> None:
    maps.metadata["geometry"] = maps.metadata["filter"] = None
    maps.metadata["tube"] = {"voltage_kvp": 80.0}
    paths = write_bins(one_map(maps, 0), tmp_path, identity=JAW)
    check(paths[:1], "CTImage", {PRIVATE_CODE, NO_EXPOSURE}, dicom_tool)


def test_bins_and_maps_of_a_scan_agree(
    volume: Any, maps: Any, tmp_path: Path, dicom_tool: Callable[[str], Path]
) -> None:
    paths = write_bins(volume, tmp_path, identity=KNEE) + write_bins(maps, tmp_path, identity=KNEE)
    paths += write_bins(volume, tmp_path, identity=KNEE, kind="enhanced-ct", water_attenuation_per_mm=0.0206)
    paths += write_bins(maps, tmp_path, identity=KNEE, kind="parametric-map")
    paths += write_bins(one_map(maps, 0), tmp_path, identity=KNEE, kind="enhanced-ct")
    assert len(paths) == 7 * 5 + 2 + 3 + 1
    run = subprocess.run([dicom_tool("dcentvfy"), *paths], capture_output=True, text=True, check=False)
    assert (run.returncode, messages(run)) == (0, [])


def test_a_scan_of_which_little_is_known_is_valid(
    volume: Any, tmp_path: Path, dicom_tool: Callable[[str], Path]
) -> None:
    volume.metadata = {"scan_id": "s", "recipe_hash": "0"}
    check(write_bins(volume, tmp_path), "CTImage", {UNSPECIFIED_UNITS, UNKNOWN_SIDE, NO_DATE}, dicom_tool)


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
