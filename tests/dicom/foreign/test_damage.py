"""Damaged, truncated and lying files: never more memory than the file can fill, never an image that is not there."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from marspipe.dicom.foreign.elements import EXPLICIT_LITTLE, Window, elements
from marspipe.dicom.foreign.instance import read_instance
from marspipe.errors import InputError, RawFormatError
from tests.dicom.foreign.slices import STORED, as_bytes, ct_dataset, meta_bytes, quiet

# --- broken sequences ------------------------------------------------------------------------------------------------


def _with_sequence(value: bytes, length: int | None = None) -> bytes:
    """A slice with a sequence (0008,1140) of given content and length before its image."""
    dataset = ct_dataset(STORED)
    dataset.Modality = "CT"
    content = as_bytes(dataset)
    at = content.index(b"\x10\0\x10\0PN")
    header = b"\x08\0\x40\x11SQ\0\0" + struct.pack("<I", len(value) if length is None else length)
    return content[:at] + header + value + content[at:]


_ITEM = b"\xfe\xff\x00\xe0"
_UID_ELEMENT = b"\x08\0\x50\x11UI\x06\0" + b"2.25.1"


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (_ITEM + struct.pack("<I", 14) + _UID_ELEMENT, 0xFFFFFFFF),  # no delimiter
        (_ITEM + struct.pack("<I", 0xFFFFFFFF) + _UID_ELEMENT, 0xFFFFFFFF),  # neither item nor sequence ends
        (_ITEM + struct.pack("<I", 500) + _UID_ELEMENT, None),  # an item beyond its sequence
        (b"\x01\x02\x03\x04garbage!", None),  # no item
        (b"\x01\x02\x03\x04garbage!", 0xFFFFFFFF),
        (_ITEM + struct.pack("<I", 14) + _UID_ELEMENT, 1 << 30),  # beyond the file
        (_ITEM + struct.pack("<I", 14) + _UID_ELEMENT, 300),  # into the elements that follow
    ],
)
def test_broken_sequences_are_skipped(value: bytes, length: int | None) -> None:
    image = quiet(_with_sequence(value, length))
    assert image.repairs == ("sequence (0008,1140) is malformed and was skipped",)
    np.testing.assert_array_equal(image.stored(), STORED)
    assert image.has_patient_data


def test_whole_sequences_are_kept() -> None:
    item = _ITEM + struct.pack("<I", 0xFFFFFFFF) + _UID_ELEMENT + b"\xfe\xff\x0d\xe0" + bytes(4)
    image = quiet(_with_sequence(item + b"\xfe\xff\xdd\xe0" + bytes(4), 0xFFFFFFFF))
    assert image.repairs == ()


def test_endless_nesting_is_refused() -> None:
    value = (_ITEM + struct.pack("<I", 0xFFFFFFFF) + b"\x08\0\x40\x11SQ\0\0" + struct.pack("<I", 0xFFFFFFFF)) * 5000
    with pytest.raises(RawFormatError, match=r"a.dcm: truncated or damaged"):
        quiet(_with_sequence(value, 0xFFFFFFFF)[: len(value)])


# --- truncation, lies about sizes ------------------------------------------------------------------------------------


def test_truncated_at_every_structural_place(small: bytes) -> None:
    window = Window(small)
    start = 144 + struct.unpack("<I", small[140:144])[0]
    places = [132, 140, start]
    for element in elements(window, start, len(small), EXPLICIT_LITTLE):
        header = element.offset - 4
        places += [header, element.offset, element.offset + element.length // 2, element.end - 1]
        if element.tag == 0x7FE00010:
            break
    assert len(places) > 500
    for place in places:
        with pytest.raises(RawFormatError, match=r"cut.dcm: "):
            quiet(small[:place], "cut.dcm")
        with pytest.raises(RawFormatError, match=r"cut.dcm: "):
            read_instance(io.BytesIO(small[:place]), "cut.dcm", warn=False)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_truncated_fragments(syntax: Any) -> None:
    dataset = ct_dataset(STORED)
    dataset.compress(syntax)
    content = as_bytes(dataset)
    at = content.index(b"\xe0\x7f\x10\0")
    for place in range(at + 1, len(content) - 8, 97):
        with pytest.raises(RawFormatError, match=r"a.dcm: "):
            quiet(content[:place])
    damaged = bytearray(content)
    damaged[at + 60 : len(content) - 8] = bytes(len(content) - 8 - at - 60)
    with pytest.raises(RawFormatError, match=r"frame 0 \(.*is damaged or cannot be decoded"):
        quiet(bytes(damaged)).pixels()


@pytest.mark.parametrize(
    "changes",
    [
        {"Rows": 60000},
        {"Columns": 60000},
        {"Rows": 60000, "Columns": 60000},
        {"NumberOfFrames": 2_000_000_000},
        {"NumberOfFrames": 0},
        {"NumberOfFrames": -1},
        {"Rows": 0},
        {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31},
    ],
)
def test_more_pixels_than_the_file_holds(changes: dict[str, Any]) -> None:
    with pytest.raises(RawFormatError, match=r"a.dcm: (PixelData has 6144 bytes|.*not credible)"):
        quiet(as_bytes(ct_dataset(STORED, **changes)))


def test_a_codestream_of_another_size_than_the_header() -> None:
    dataset = ct_dataset(STORED)
    dataset.compress(JPEG2000Lossless)
    dataset.Rows = 49
    with pytest.raises(RawFormatError, match=r"codestream has 48 x 64 pixels, but Rows .* are 49 x 64"):
        quiet(as_bytes(dataset))


def test_a_deflated_bomb_is_refused() -> None:
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(80)) + packer.flush()
    with pytest.raises(RawFormatError, match="inflate to more than 67108864, which is not credible"):
        quiet(meta_bytes(DeflatedExplicitVRLittleEndian) + packed)


def test_frames_of_several_fragments_go_by_the_table() -> None:
    dataset = ct_dataset(STORED, NumberOfFrames=2)
    options: dict[str, Any] = {
        "rows": dataset.Rows,
        "columns": dataset.Columns,
        "samples_per_pixel": 1,
        "bits_allocated": 16,
        "bits_stored": 16,
        "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2",
        "pixel_representation": 1,
    }
    frames = [get_encoder(RLELossless).encode(f.tobytes(), index=0, **options) for f in (STORED, STORED + 5)]
    dataset.PixelData = encapsulate(frames, fragments_per_frame=2)
    dataset["PixelData"].is_undefined_length = True
    image = quiet(_as_rle(dataset))
    np.testing.assert_array_equal(image.stored(0), STORED)
    np.testing.assert_array_equal(image.stored(1), STORED + 5)
    dataset.PixelData = encapsulate(frames, fragments_per_frame=2, has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(RawFormatError, match="4 fragments and no table"):
        quiet(_as_rle(dataset))


def test_runs_of_more_pixels_than_the_frame_has() -> None:
    """The decoder, which is written in Rust, panics at them: no Exception, which nobody would catch."""
    dataset = ct_dataset(STORED)
    runs = b"\x81\0" * (STORED.size // 128 + 1)
    dataset.PixelData = encapsulate([struct.pack("<16I", 2, 64, 64 + len(runs), *[0] * 13) + runs * 2])
    dataset["PixelData"].is_undefined_length = True
    image = quiet(_as_rle(dataset))
    with pytest.raises(RawFormatError, match=r"frame 0 \(RLE Lossless\) is damaged .*: index out of bounds"):
        image.pixels()


def _as_rle(dataset: FileDataset) -> bytes:
    dataset.file_meta.TransferSyntaxUID = RLELossless
    return as_bytes(dataset)


def test_every_damaged_byte_is_told_or_harmless(small: bytes, rng: np.random.Generator) -> None:
    """Whatever a byte of the header becomes: an image, or an error of ours."""
    end = small.index(b"\xe0\x7f\x10\0OW") + 12
    for place in rng.choice(end, 400, replace=False).tolist():
        damaged = bytearray(small)
        damaged[place] = rng.integers(256)
        try:
            quiet(bytes(damaged)).pixels()
        except InputError as error:
            assert str(error).startswith("a.dcm: ")
