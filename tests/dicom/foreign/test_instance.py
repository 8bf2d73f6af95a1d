"""Files with faults: what is repaired is said, the rest is refused by name, and nothing private is told."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from marspipe.dicom.foreign import ForeignDicomWarning
from marspipe.dicom.foreign.instance import read_instance
from marspipe.errors import InputError, RawFormatError
from tests.dicom.foreign.slices import PRIVATE, STORED, after_meta, as_bytes, bare, ct, ct_dataset, meta_bytes, quiet

COUNTS = (np.arange(48 * 64).reshape(48, 64) * 7).astype(np.uint16)


# --- how a file is written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_without_preamble_and_meta(implicit: bool, little: bool) -> None:
    image = quiet(bare(ct_dataset(COUNTS), implicit=implicit, little=little))
    np.testing.assert_array_equal(image.stored(), COUNTS)
    assert image.repairs[0] == "no preamble"
    assert "no transfer syntax is stated" in image.repairs[1]


def test_meta_without_preamble() -> None:
    content = as_bytes(ct_dataset(STORED))
    for head, said in ((content[132:], "no preamble"), (content[128:], "no preamble")):
        image = quiet(head)
        np.testing.assert_array_equal(image.stored(), STORED)
        assert image.repairs == (said,)


@pytest.mark.parametrize(
    ("stated", "implicit", "little", "said"),
    [
        (ExplicitVRLittleEndian, True, True, "Implicit VR Little Endian"),
        (ImplicitVRLittleEndian, False, True, "Explicit VR Little Endian"),
        (ExplicitVRLittleEndian, False, False, "Explicit VR Big Endian"),
        (ExplicitVRBigEndian, True, True, "Implicit VR Little Endian"),
    ],
)
def test_elements_in_another_encoding_than_stated(stated: str, implicit: bool, little: bool, said: str) -> None:
    image = quiet(meta_bytes(stated) + bare(ct_dataset(COUNTS), implicit=implicit, little=little))
    np.testing.assert_array_equal(image.stored(), COUNTS)
    assert any(f"but the elements are in {said}" in repair for repair in image.repairs)


def test_big_endian_and_deflated() -> None:
    plain = bare(ct_dataset(STORED), implicit=False)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = packer.compress(plain) + packer.flush()
    big = bare(ct_dataset(STORED), implicit=False, little=False)
    for content in (meta_bytes(DeflatedExplicitVRLittleEndian) + deflated, meta_bytes(ExplicitVRBigEndian) + big):
        image = quiet(content)
        np.testing.assert_array_equal(image.stored(), STORED)
        assert image.repairs == ()


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("stated", ["right", "none", "native"])
def test_compressed(syntax: Any, stated: str) -> None:
    dataset = ct_dataset(STORED if syntax != JPEGLSLossless else COUNTS)
    dataset.compress(syntax)
    content = as_bytes(dataset)
    if stated == "native":
        content = meta_bytes(ExplicitVRLittleEndian) + after_meta(content)
    elif stated == "none":
        content = after_meta(content)
    image = quiet(content)
    assert image.layout is not None
    assert image.layout.syntax == syntax
    assert image.layout.refusal == ""
    np.testing.assert_array_equal(image.stored(), STORED if syntax != JPEGLSLossless else COUNTS)
    assert any("compressed: read as" in repair for repair in image.repairs) == (stated != "right")


def test_plain_pixels_under_a_compressed_syntax() -> None:
    image = quiet(meta_bytes(JPEG2000Lossless) + bare(ct_dataset(STORED), implicit=False))
    np.testing.assert_array_equal(image.stored(), STORED)
    assert image.repairs == ("the transfer syntax is stated as JPEG 2000 Image Compression (Lossless Only), but the "
                             "pixels are not compressed",)  # fmt: skip


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile"),
        ("1.3.6.1.4.1.5962.9.9", r"1\.3\.6\.1\.4\.1\.5962\.9\.9 \(unknown\)"),
    ],
)
def test_syntaxes_without_decoder_are_refused_by_name(syntax: str, name: str) -> None:
    dataset = ct_dataset(STORED)
    dataset.compress(RLELossless)
    image = quiet(meta_bytes(syntax) + after_meta(as_bytes(dataset)))
    assert image.shape == STORED.shape
    with pytest.raises(InputError, match=f"^a.dcm: the pixels are .*{name}"):
        image.pixels()


@pytest.mark.parametrize("content", [b"", b"\0", b"%PDF-1.7 no image at all", bytes(4096), b"\xff" * 4096])
def test_what_is_not_dicom(content: bytes) -> None:
    with pytest.raises(RawFormatError, match="not a DICOM file"):
        quiet(content)


# --- attributes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Rows": None}, r"Rows \(0028,0010\) is missing"),
        ({"BitsAllocated": None, "BitsStored": None}, r"BitsAllocated \(0028,0100\) is missing"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "PhotometricInterpretation .* MONOCHROME1"),
        ({"HighBit": 11}, r"HighBit \(0028,0102\) = 11"),
        ({"RescaleSlope": "0"}, r"RescaleSlope \(0028,1053\) is 0"),
        ({"PixelSpacing": ["1", "-1"]}, r"PixelSpacing \(0028,0030\) must be positive"),
        ({"PixelSpacing": ["1"]}, r"PixelSpacing \(0028,0030\) must hold 2 finite numbers"),
        ({"PixelRepresentation": 7}, r"PixelRepresentation \(0028,0103\) must be 0 or 1, got 7"),
    ],
)
def test_wrong_attributes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^a.dcm: {message}"):
        quiet(as_bytes(ct_dataset(STORED, **changes)))


def test_a_number_that_is_none_is_named(small: bytes) -> None:
    at = small.index(b"\x28\0\x30\0DS")
    broken = small[: at + 8] + b"Doe" + small[at + 11 :]
    with pytest.raises(RawFormatError, match=r"^a.dcm: PixelSpacing \(0028,0030\) does not hold numbers$"):
        quiet(broken)


@pytest.mark.parametrize(
    ("changes", "units"),
    [
        ({}, "HU"),
        ({"RescaleType": "HU"}, "HU"),
        ({"RescaleType": "US"}, "unspecified"),
        ({"RescaleType": "MGML"}, "mg/mL"),
        ({"SOPClassUID": pydicom.uid.MRImageStorage}, "unspecified"),
    ],
)
def test_units(changes: dict[str, Any], units: str) -> None:
    image = ct(STORED, RescaleSlope="0.5", **changes)
    assert image.units == units
    np.testing.assert_array_equal(image.pixels(), STORED * 0.5 - 1024)


def test_without_rescale_values_are_as_stored() -> None:
    with pytest.warns(ForeignDicomWarning, match="RescaleSlope and RescaleIntercept are missing: values are as stored"):
        image = ct(STORED, RescaleSlope=None, RescaleIntercept=None)
    assert image.units == "unspecified"
    np.testing.assert_array_equal(image.pixels(), STORED)


def test_padding_of_either_sign_and_range() -> None:
    dataset = ct_dataset(STORED)
    dataset.add_new("PixelPaddingValue", "SS", -300)
    dataset.add_new("PixelPaddingRangeLimit", "SS", -286)
    mask = (STORED >= -300) & (STORED <= -286)
    assert mask.sum() == 3
    np.testing.assert_array_equal(np.isnan(quiet(as_bytes(dataset)).pixels()), mask)
    dataset = ct_dataset(STORED)
    dataset.add_new("PixelPaddingValue", "US", 65536 - 300)  # the same bits, written as unsigned
    np.testing.assert_array_equal(np.isnan(quiet(as_bytes(dataset)).pixels()), STORED == -300)


def test_values_of_twelve_bits_have_their_sign() -> None:
    stored = np.array([[-2048, -1], [0, 2047]], dtype=np.int16)
    image = ct((stored & 0x0FFF).astype(np.uint16), PixelRepresentation=1, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(image.stored(), stored)


def test_frames_without_their_functional_groups_are_refused() -> None:
    dataset = ct_dataset(STORED, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=[Dataset()])
    dataset.PixelData = dataset.PixelData * 2
    with pytest.raises(RawFormatError, match=r"PerFrameFunctionalGroupsSequence .* describes 1 frames, NumberOfFrames"):
        quiet(as_bytes(dataset))


# --- what is told ----------------------------------------------------------------------------------------------------


def test_nothing_private_is_told(small: bytes) -> None:
    content = as_bytes(ct_dataset(STORED, SeriesDescription="knee of Doe"))
    image = quiet(content)
    assert image.has_patient_data
    told = [repr(image), str(image.frames), image.own_description]
    for place in range(200, 1200, 3):
        try:
            quiet(content[:place])
        except RawFormatError as error:
            told.append(str(error))
    assert len(told) > 100
    assert not any(value in text for text in told for value in [*PRIVATE.values(), "Doe"])


def test_no_patient_data() -> None:
    nobody = {"PatientName": "", "PatientID": "", "AccessionNumber": ""}
    assert not ct(STORED, **nobody).has_patient_data


def test_files_are_opened_when_pixels_are_asked_for_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(as_bytes(ct_dataset(STORED)))
    opened: list[io.BufferedReader] = []

    def open_it() -> io.BufferedReader:
        opened.append(path.open("rb"))
        return opened[-1]

    image = read_instance(open_it, "a.dcm")
    assert len(opened) == 1
    np.testing.assert_array_equal(image.stored(), STORED)
    assert len(opened) == 2
    assert all(file.closed for file in opened)
    with path.open("rb") as file:
        np.testing.assert_array_equal(read_instance(file, "a.dcm").stored(), STORED)


def test_an_object_without_image(tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file

    path = get_testdata_file("test-SR.dcm")
    assert isinstance(path, str)
    report = read_instance(Path(path).read_bytes(), "sr.dcm", warn=False)
    assert (report.modality, report.frames) == ("SR", ())
    with pytest.raises(InputError, match=r"sr.dcm: .* holds no image"):
        report.pixels()
