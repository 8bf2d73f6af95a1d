"""Real files of other scanners: every one of the cases, what it is and what its pixels say."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from marspipe.dicom.foreign import ForeignDicomWarning
from marspipe.dicom.foreign.instance import Instance, read_instance
from marspipe.dicom.foreign.series import check_series, series_geometry
from marspipe.dicom.foreign.volume import read_series
from tests.dicom.foreign.slices import DATA
from tests.lacking import require_cases


@pytest.fixture
def cases() -> Path:
    return require_cases("dicom_ct")


@pytest.fixture
def phantom(cases: Path) -> list[Path]:
    """By name: I10, I100, I110 .."""
    return sorted((cases / "philips_phantom_S21570_S2010").iterdir())


def read(path: Path, warn: bool = True) -> Instance:
    return read_instance(path.read_bytes(), path.name, warn=warn)


def test_small_ct() -> None:
    image = read(DATA / "CT_small.dcm")
    assert (image.shape, image.modality, image.units, len(image.frames)) == ((128, 128), "CT", "HU", 1)
    frame = image.frames[0]
    assert frame.position_mm == (-158.135803, -179.035797, -75.699997)
    assert frame.pixel_spacing_mm == (0.661468, 0.661468)
    pixels = image.pixels()
    expected = pydicom.dcmread(DATA / "CT_small.dcm").pixel_array
    np.testing.assert_array_equal(image.stored(), expected)
    np.testing.assert_array_equal(pixels, expected - 1024.0)
    assert pixels.dtype == np.float32
    assert float(pixels.mean(dtype=np.float64)) == pytest.approx(-119.0739, abs=1e-4)


def test_the_same_image_without_preamble_and_meta() -> None:
    with pytest.warns(ForeignDicomWarning) as told:
        image = read(DATA / "no_meta.dcm")
    assert [str(w.message) for w in told] == [
        "no_meta.dcm: no preamble, and 1 stray bytes before it",
        "no_meta.dcm: no transfer syntax is stated: read as Explicit VR Little Endian",
    ]
    np.testing.assert_array_equal(image.pixels(), read(DATA / "CT_small.dcm").pixels())


def test_codestream_of_another_sign_than_the_header() -> None:
    with pytest.warns(ForeignDicomWarning, match="codestream is unsigned, PixelRepresentation .* says signed: its 13"):
        image = read(DATA / "J2K_pixelrep_mismatch.dcm")
    stored = image.stored()
    assert stored.dtype == np.int16
    # pydicom's documentation of this file: outside the circle -2000, which plain decoding makes 6192.
    assert (stored[0, 0], stored.max()) == (-2000, 1896)
    assert image.frames[0].orientation == (1.0, 0.0, 0.0, 0.0, 0.9272, -0.3746)
    assert image.gantry_tilt_deg == -22.0


def test_explicit_file_with_elements_of_vr_un() -> None:
    image = read(DATA / "explicit_VR-UN.dcm")
    assert (image.modality, image.shape, image.units) == ("CT", (512, 512), "HU")
    assert image.has_patient_data
    np.testing.assert_array_equal(image.stored(), pydicom.dcmread(DATA / "explicit_VR-UN.dcm").pixel_array)
    assert check_series([image]) == ["it has one slice, and nothing says how thick it is"]


def test_implicit_vr_in_an_explicit_file_and_lossless_jpeg(tmp_path: Path, dicom_tool: Callable[[str], Path]) -> None:
    image = read(DATA / "bad_sequence.dcm")
    assert (image.shape, image.frames[0].position_mm) == ((512, 512), (-65.3564453125, -154.3564453125, 1687.5))
    assert -1024 <= image.pixels().min() < -900 < 1000 < image.pixels().max() < 3072  # air and bone of a neck
    assert check_series([image]) == []
    plain = tmp_path / "plain.dcm"
    subprocess.run([dicom_tool("dcmdjpeg"), DATA / "bad_sequence.dcm", plain], check=True, capture_output=True)
    np.testing.assert_array_equal(image.pixels(), read(plain).pixels())


def test_lossy_image_is_near_its_original(cases: Path) -> None:
    lossy = read(DATA / "693_J2KI.dcm")
    original = read(cases / "693_UNCR.dcm")
    assert lossy.frames[0].position_mm == original.frames[0].position_mm
    inside = np.isfinite(original.pixels())
    difference = np.abs(lossy.stored().astype(float) - original.stored())[inside]
    assert float(np.median(difference)) < 30  # 146 to 1
    assert np.corrcoef(lossy.stored()[inside], original.stored()[inside])[0, 1] > 0.98
    np.testing.assert_array_equal(lossy.stored(), pydicom.dcmread(DATA / "693_J2KI.dcm").pixel_array)


def test_padding_is_no_value(cases: Path) -> None:
    image = read(cases / "693_UNCR.dcm")
    expected = pydicom.dcmread(cases / "693_UNCR.dcm").pixel_array == -2000
    assert expected.any()
    np.testing.assert_array_equal(np.isnan(image.pixels()), expected)


def test_enhanced_image(cases: Path) -> None:
    path = cases / "eCT_Supplemental.dcm"
    image = read(path)
    assert [frame.position_mm for frame in image.frames] == [(99.5, -301.5, -159.0), (99.5, -301.5, -149.0)]
    assert image.units == "ml/100ml/s"  # by the real world values; its rescale type is unspecified
    assert image.frames[1].volume == ("acquisition 1", "stack 1")
    expected = pydicom.dcmread(path).pixel_array
    for number in range(2):
        np.testing.assert_array_equal(image.pixels(number), expected[number] - 1024.0)
    volume = read_series([image])
    assert volume.grid.voxel_mm == (10.0, 0.388672, 0.388672)
    np.testing.assert_array_equal(volume.values, expected[:, :, ::-1] - 1024.0)  # its columns run to the right, -x
    assert volume.grid.axis_mm("x")[-1] == pytest.approx(99.5)


def test_phantom_of_28_slices(phantom: list[Path]) -> None:
    instances = [read(path) for path in phantom]
    assert check_series(instances) == []
    geometry = series_geometry(instances)
    assert geometry.shape == (28, 512, 512)
    assert geometry.spacing_mm == pytest.approx((5.0, 0.451171875, 0.451171875))
    assert (geometry.plane, geometry.tilt_deg) == ("axial", 0.0)
    volume = read_series(instances)
    assert volume.units == "HU"
    assert volume.grid.axis_mm("z")[[0, -1]] == pytest.approx([696.21, 831.21])
    middle = volume.values[14]
    y, x = (volume.grid.axis_mm(axis) for axis in "yx")

    def mean(y_mm: float, x_mm: float) -> float:
        disk = np.hypot(y[:, None] - y_mm, x - x_mm) < 5.0
        return float(middle[disk].mean())

    inserts = [mean(106.0, -3.0), mean(86.0, 14.0), mean(140.0, 18.0), mean(82.0, -23.0)]
    assert inserts[:3] == pytest.approx([99.0] * 3, abs=3)
    assert inserts[3] == pytest.approx(60.0, abs=5)  # a sphere, whose shell is denser
    assert mean(60.0, 0.0) == pytest.approx(-995.5, abs=3)  # air in the skull
    assert float(middle.max()) > 500  # the skull


def test_phantom_with_a_slice_missing_and_one_twice(phantom: list[Path]) -> None:
    instances = sorted((read(path) for path in phantom), key=lambda i: i.frames[0].position_mm or ())
    assert check_series(instances[:13] + instances[14:]) == [
        "uneven slice spacing: between slices 12 and 13: 10 mm, elsewhere 5 mm (1 slice missing)"
    ]
    assert "the same object" in check_series([*instances, instances[5]])[0]
    whole = read_series(instances).values
    with pytest.warns(ForeignDicomWarning, match="27 unevenly spaced slices became 28, 5 mm apart"):
        mended = read_series(instances[:13] + instances[14:], resample=True).values
    np.testing.assert_array_equal(np.delete(mended, 13, axis=0), np.delete(whole, 13, axis=0))
    np.testing.assert_allclose(mended[13], 0.5 * (whole[12] + whole[14]), rtol=1e-6)
