"""Whether an encoded data set is whole: what pydicom writes is, and what is cut off or damaged is not."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom.dsutils import encode

from marspipe.dicom.pacs.data_set import BrokenDataSetError, InstanceUids, read_instance_uids

UIDS = InstanceUids("1.2.840.10008.5.1.4.1.1.66", "1.2.3.4", "1.2.3", "1.2.3.1")
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
START = 10


def dataset(syntax: str, *, undefined: bool) -> Dataset:
    """UIDs, sequences in sequences with other UIDs, private and long values, pixels."""
    inner = Dataset()
    inner.StudyInstanceUID, inner.CodeMeaning = UID("9.9.9"), "meaning"
    outer = Dataset()
    outer.SOPInstanceUID, outer.PurposeOfReferenceCodeSequence = UID("9.9"), Sequence([inner, Dataset(), inner])
    whole = Dataset()
    whole.SOPClassUID, whole.SOPInstanceUID = UID(UIDS.sop_class), UID(UIDS.sop_instance)
    whole.ReferencedImageSequence = Sequence([outer, outer])
    whole.SourceImageSequence = Sequence([])
    whole.StudyInstanceUID, whole.SeriesInstanceUID = UID(UIDS.study), UID(UIDS.series)
    block = whole.private_block(0x0009, "MARSPIPE TEST", create=True)
    block.add_new(1, "UT", "long text " * 10)
    block.add_new(2, "SQ", Sequence([inner]))
    whole.BitsAllocated = 16
    if UID(syntax).is_compressed:
        whole.add_new("PixelData", "OB", encapsulate([b"odd", b"\xfe\xff\x00\xe0 items look like this"]))
        whole["PixelData"].is_undefined_length = True
    else:
        whole.add_new("PixelData", "OW", bytes(range(200)))
    for sequence in (whole.ReferencedImageSequence, outer.PurposeOfReferenceCodeSequence, whole.SourceImageSequence):
        sequence.is_undefined_length = undefined
        for item in sequence:
            item.is_undefined_length_sequence_item = undefined
    for one in (whole, outer):
        for element in one:
            if element.VR == "SQ":
                element.is_undefined_length = undefined
    return whole


def encoded(syntax: str, *, undefined: bool) -> bytes:
    uid = UID(syntax)
    content = encode(dataset(syntax, undefined=undefined), uid.is_implicit_VR, uid.is_little_endian)
    assert content is not None
    return content


def uids_of(path: Path, content: bytes, syntax: str) -> InstanceUids:
    path.write_bytes(bytes(START) + content)
    return read_instance_uids(path, START, syntax)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_uids_of_the_topmost_level(tmp_path: Path, syntax: str, undefined: bool) -> None:
    content = encoded(syntax, undefined=undefined)
    delimiter = struct.pack("<HH" if UID(syntax).is_little_endian else ">HH", 0xFFFE, 0xE0DD)
    assert (delimiter in content) is (undefined or UID(syntax).is_compressed)
    assert uids_of(tmp_path / "x", content, syntax) == UIDS


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_whatever_is_cut_off_is_missed(tmp_path: Path, syntax: str) -> None:
    """Every length that is no end of a topmost element; of those there are as many as elements."""
    content = encoded(syntax, undefined=True)
    whole = [length for length in range(len(content)) if not _is_broken(tmp_path / "x", content[:length], syntax)]
    assert len(whole) == len(dataset(syntax, undefined=True))


def _is_broken(path: Path, content: bytes, syntax: str) -> bool:
    try:
        uids_of(path, content, syntax)
    except BrokenDataSetError:
        return True
    return False


def test_bytes_that_follow_are_missed(tmp_path: Path) -> None:
    content = encoded(ExplicitVRLittleEndian, undefined=False)
    for more in (b"\0", bytes(8), b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0", b"\xfe\xff\0\xe0\0\0\0\0"):
        assert _is_broken(tmp_path / "x", content + more, ExplicitVRLittleEndian)
    assert _is_broken(tmp_path / "x", encoded(ImplicitVRLittleEndian, undefined=False), ExplicitVRLittleEndian)


def test_damaged_bytes_end_in_an_answer(tmp_path: Path, rng: np.random.Generator) -> None:
    for syntax in SYNTAXES:
        content = encoded(syntax, undefined=True)
        for _ in range(200):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 4):
                damaged[place] = rng.integers(256)
            _is_broken(tmp_path / "x", bytes(damaged), syntax)
        _is_broken(tmp_path / "x", rng.bytes(1000), syntax)


def test_implicit_vr_inside_sequences_is_let_through(tmp_path: Path) -> None:
    """As some writers leave it: PS3.5 7.5 does not allow it, pydicom reads it."""
    item = struct.pack("<HHL", 0x0008, 0x0104, 4) + b"text"
    sequence = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff" + item
    sequence += b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    assert uids_of(tmp_path / "x", sequence, ExplicitVRLittleEndian) == InstanceUids("", "", "", "")


def test_un_of_undefined_length_is_implicit_inside(tmp_path: Path) -> None:
    item = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + struct.pack("<HHL", 0x0008, 0x0104, 6) + b"OBtext"
    content = b"\x09\0\x02\x10UN\0\0\xff\xff\xff\xff" + item
    content += b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    assert uids_of(tmp_path / "x", content, ExplicitVRLittleEndian) == InstanceUids("", "", "", "")


def test_padding_of_uids(tmp_path: Path) -> None:
    content = b"\x08\0\x18\0UI\x06\x001.2.3\0" + b"\x20\0\x0d\0UI\x06\x001.2.3 "
    assert uids_of(tmp_path / "x", content, ExplicitVRLittleEndian) == InstanceUids("", "1.2.3", "1.2.3", "")


def test_nested_without_end_takes_neither_memory_nor_the_stack(tmp_path: Path) -> None:
    level = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    flat = level[:12] + b"\xfe\xff\0\xe0\0\0\0\0" * 50_000 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    (tmp_path / "deep").write_bytes(level * 20_000)
    (tmp_path / "flat").write_bytes(flat)
    tracemalloc.start()
    try:
        with pytest.raises(BrokenDataSetError, match="nested too deep"):
            read_instance_uids(tmp_path / "deep", 0, ExplicitVRLittleEndian)
        read_instance_uids(tmp_path / "flat", 0, ExplicitVRLittleEndian)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
