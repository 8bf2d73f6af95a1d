"""Whether an encoded data set is whole, and which instance it is, without a value of it in memory.

The elements are walked from one to the next, into sequences of undefined length too; values are passed over. So a
data set of many GiB or of a million nested items takes no more memory than a small one. What the values mean is not
looked at, apart from the four UIDs.

Source: DICOM PS3.5 chapter 7 and annex A.4, https://www.dicomstandard.org/current
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_UID_BYTES = 64
# No IOD comes near it; what nests deeper is made to do harm.
_MAX_DEPTH = 64


class BrokenDataSetError(Exception):
    """A data set that ends too early, or is not encoded as it should be; the message holds no value of it."""


@dataclass(frozen=True)
class InstanceUids:
    """Which instance a data set is; a UID that it does not have is empty."""

    sop_class: str
    sop_instance: str
    study: str
    series: str


def read_instance_uids(path: Path, start: int, transfer_syntax: str) -> InstanceUids:
    """Walk through a data set, and return which instance it is.

    Parameters
    ----------
    path : Path
        The file.
    start : int
        Where the data set begins in it; it goes to the end of the file.
    transfer_syntax : str
        Its transfer syntax UID, not the deflated one; encapsulated ones are explicit VR, little endian.

    Raises
    ------
    BrokenDataSetError
        If it is not whole.
    OSError
        If the file cannot be read.
    """
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        raise BrokenDataSetError("deflated data sets are not walked")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        order = ">" if transfer_syntax == ExplicitVRBigEndian else "<"
        found = _walk(data, start, order, implicit=transfer_syntax == ImplicitVRLittleEndian)
    return InstanceUids(*(found.get(tag, "") for tag in (SOP_CLASS, SOP_INSTANCE, STUDY, SERIES)))


def _walk(data: mmap.mmap, start: int, order: str, *, implicit: bool) -> dict[int, str]:
    """Return the UIDs of the topmost level, by tag."""
    found: dict[int, str] = {}
    position, size = start, len(data)
    head, long_length, short_length = (
        struct.Struct(f"{order}HHL"),
        struct.Struct(f"{order}L"),
        struct.Struct(f"{order}H"),
    )
    # Of every level that is open: whether it holds items or elements, and whether these are implicit VR. All but the
    # topmost end with a delimiter: what has a length is passed over.
    levels = [(False, implicit)]
    while position < size or len(levels) > 1:
        if position + 8 > size:
            raise BrokenDataSetError("it ends too early")
        of_items, is_implicit = levels[-1]
        group, element, length = head.unpack_from(data, position)
        tag = group << 16 | element
        value = position + 8
        if tag in (_ITEM_END, _SEQUENCE_END):
            if len(levels) == 1 or of_items != (tag == _SEQUENCE_END):
                raise BrokenDataSetError("a delimiter is out of place")
            levels.pop()
            position = value
            continue
        if of_items != (tag == _ITEM):
            raise BrokenDataSetError("an item is out of place")
        if not of_items and not is_implicit:
            vr = data[position + 4 : position + 6]
            if vr in _LONG:
                if position + 12 > size:
                    raise BrokenDataSetError("it ends too early")
                value = position + 12
                (length,) = long_length.unpack_from(data, position + 8)
                # Of UN the inside is implicit VR: PS3.5 6.2.2.
                is_implicit = vr == b"UN"
            elif vr.isalpha() and vr.isupper():
                (length,) = short_length.unpack_from(data, position + 6)
            elif len(levels) == 1:
                raise BrokenDataSetError("an element has no value representation")
            # Some writers leave explicit VR inside sequences: the length is then the one that was read first.
        if length == _UNDEFINED:
            if len(levels) == _MAX_DEPTH:
                raise BrokenDataSetError("its sequences are nested too deep")
            levels.append((not of_items, is_implicit))
            position = value
            continue
        if value + length > size:
            raise BrokenDataSetError("it ends inside a value")
        if len(levels) == 1 and tag in (SOP_CLASS, SOP_INSTANCE, STUDY, SERIES):
            found[tag] = _uid(data[value : value + min(length, _UID_BYTES + 2)])
        position = value + length
    return found


def _uid(content: bytes) -> str:
    """Return a UID without its padding; PS3.5 9.1 wants a null, some write spaces."""
    return content.decode("latin-1").rstrip("\0 ")
