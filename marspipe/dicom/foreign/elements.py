"""The data elements of a DICOM file, found by their headers alone.

pydicom reads what the standard describes; where a file breaks it, pydicom's lenient mode stops early, or reads on in
the wrong place, without a word. So the structure is walked here with every length held against the bytes that are
there, and a value is read when it is asked for.

Source: DICOM PS3.5 7.1 (data elements), 7.5 (nesting), 6.2.2 (sequences in VR UN are Implicit VR Little Endian).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.uid import UID

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_GROUP = 0x7FE0
UNDEFINED = 0xFFFFFFFF

_LONG_VRS = frozenset(vr.encode("ascii") for vr in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS = frozenset(
    vr.encode("ascii") for vr in "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)
_BLOCK_BYTES = 1 << 16
_MOST_NESTED = 32


class Encoding(NamedTuple):
    """How elements are written."""

    implicit_vr: bool
    big_endian: bool

    @property
    def order(self) -> str:
        """``"<"`` or ``">"``."""
        return ">" if self.big_endian else "<"


IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG = Encoding(True, False), Encoding(False, False), Encoding(False, True)


class StructureError(Exception):
    """Elements that cannot be followed any further."""


class Window:
    """Ranged reads of a file or of bytes; never more is asked for than there is.

    Parameters
    ----------
    source : bytes or seekable binary file
    """

    def __init__(self, source: bytes | BinaryIO) -> None:
        self._bytes = source if isinstance(source, bytes) else None
        self._file = None if isinstance(source, bytes) else source
        self._block, self._at = b"", 0
        self.size = len(source) if isinstance(source, bytes) else source.seek(0, 2)

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes from an offset, fewer only at the end."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        if self._file is None:
            assert self._bytes is not None
            return self._bytes[offset : offset + count]
        if count > _BLOCK_BYTES:
            self._file.seek(offset)
            return self._file.read(count)
        if not self._at <= offset <= offset + count <= self._at + len(self._block):
            self._file.seek(offset)
            self._at, self._block = offset, self._file.read(min(_BLOCK_BYTES, self.size - offset))
        return self._block[offset - self._at : offset - self._at + count]


class Element(NamedTuple):
    """One element: where its value lies, and how it is written.

    Attributes
    ----------
    tag : int
    vr : str
        Empty if the file does not tell.
    offset, length : int
        Of the value, bytes; without the delimiter where the length is undefined.
    end : int
        Offset of what follows.
    undefined : bool
        Whether the file leaves the length open.
    encoding : Encoding
        That of the value, and of the items in it.
    """

    tag: int
    vr: str
    offset: int
    length: int
    end: int
    undefined: bool
    encoding: Encoding

    @property
    def is_sequence(self) -> bool:
        """Whether it holds items, by its VR or else by the dictionary."""
        return self.vr == "SQ" or (self.vr in ("", "UN") and known_vr(self.tag) == "SQ")


def uid_of(text: str) -> UID:
    """Return a UID as it stands in the file, valid or not."""
    return UID(text, validation_mode=IGNORE)


def known_vr(tag: int) -> str:
    """Return the VR of a tag in the dictionary, ``""`` if it has none."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""


def tag_name(tag: int) -> str:
    """Return a tag as ``(0028,0010)``."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def header_at(window: Window, position: int, end: int, encoding: Encoding) -> Element:
    """Return the element at a position; an undefined length is left at 0.

    Raises
    ------
    StructureError
        If it does not fit before ``end``.
    """
    head = window.read(position, 12)
    if position + 8 > end or len(head) < 8:
        raise StructureError(f"ends within an element at byte {position}")
    order = encoding.order
    group, number = struct.unpack(order + "HH", head[:4])
    tag, vr, offset = group << 16 | number, "", position + 8
    # An invalid VR in explicit data: some writers fall back to implicit VR, mostly within sequences.
    if encoding.implicit_vr or group == 0xFFFE or not (head[4:6].isalpha() and head[4:6].isupper()):
        (length,) = struct.unpack(order + "I", head[4:8])
    elif head[4:6] in _LONG_VRS:
        if len(head) < 12:
            raise StructureError(f"ends within an element at byte {position}")
        vr, offset = head[4:6].decode("ascii"), position + 12
        (length,) = struct.unpack(order + "I", head[8:12])
    else:
        vr = head[4:6].decode("ascii")
        (length,) = struct.unpack(order + "H", head[6:8])
    undefined = length == UNDEFINED
    length = 0 if undefined else length
    if offset + length > end:
        raise StructureError(f"{tag_name(tag)} at byte {position} has {end - offset} of its {length} bytes")
    within = IMPLICIT_LITTLE if vr == "UN" else encoding
    return Element(tag, vr, offset, length, offset + length, undefined, within)


def element_at(window: Window, position: int, end: int, encoding: Encoding, depth: int = 0) -> Element:
    """Return the element at a position; one of undefined length is followed to its end.

    Raises
    ------
    StructureError
        If it does not fit before ``end``, or its items are broken.
    """
    element = header_at(window, position, end, encoding)
    if not element.undefined or element.tag >> 16 == PIXEL_GROUP:
        return element
    stop, after = _end_of_items(window, element.offset, end, element.encoding, depth + 1)
    return element._replace(length=stop - element.offset, end=after)


def items_of(window: Window, element: Element, depth: int = 0) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the content of each item of a sequence.

    Raises
    ------
    StructureError
        If the items do not fill the sequence exactly.
    """
    position, end = element.offset, element.offset + element.length
    while position < end:
        begin, stop, position = _item(window, position, end, element.encoding, depth)
        yield begin, stop


def elements(window: Window, position: int, end: int, encoding: Encoding, depth: int = 0) -> Iterator[Element]:
    """Yield the elements of an item, up to its end or its delimiter.

    Raises
    ------
    StructureError
        At the first element that cannot be followed.
    """
    while position < end:
        element = element_at(window, position, end, encoding, depth)
        if element.tag == ITEM_END:
            return
        yield element
        position = element.end


def _end_of_items(window: Window, position: int, end: int, encoding: Encoding, depth: int) -> tuple[int, int]:
    """Return where the items of a sequence of undefined length stop, and where its delimiter ends."""
    while True:
        head = window.read(position, 8)
        if position + 8 > end or len(head) < 8:
            raise StructureError(f"ends within a sequence at byte {position}")
        if _pair(head, encoding)[0] == SEQUENCE_END:
            return position, position + 8
        position = _item(window, position, end, encoding, depth)[2]


def _item(window: Window, position: int, end: int, encoding: Encoding, depth: int) -> tuple[int, int, int]:
    """Return begin and end of an item's content, and the position after the item."""
    if depth > _MOST_NESTED:
        raise StructureError(f"sequences are nested more than {_MOST_NESTED} deep at byte {position}")
    head = window.read(position, 8)
    if position + 8 > end or len(head) < 8:
        raise StructureError(f"ends within a sequence at byte {position}")
    tag, length = _pair(head, encoding)
    begin = position + 8
    if tag != ITEM:
        raise StructureError(f"{tag_name(tag)} at byte {position} stands where an item should begin")
    if length != UNDEFINED:
        if begin + length > end:
            raise StructureError(f"an item at byte {position} has {end - begin} of its {length} bytes")
        return begin, begin + length, begin + length
    stop = begin
    while stop < end:
        element = element_at(window, stop, end, encoding, depth)
        if element.tag == ITEM_END:
            return begin, stop, element.end
        stop = element.end
    raise StructureError(f"an item at byte {position} has no end")


def _pair(head: bytes, encoding: Encoding) -> tuple[int, int]:
    group, number, length = struct.unpack(encoding.order + "HHI", head)
    return group << 16 | number, length


def is_plausible(window: Window, position: int, encoding: Encoding, after: int, least: int) -> bool:
    """Return whether elements in ascending order stand at a position: ``least`` of them, or all up to the pixels.

    Every tag must be in the dictionary or private, every VR a known one and, in explicit VR, that of the dictionary
    unless it is UN: bytes that are something else do not pass.
    """
    count, found = 0, after
    while count < least:
        try:
            element = element_at(window, position, window.size, encoding)
        except StructureError:
            return False
        if element.tag <= found or not _credible(element, encoding):
            return False
        if element.tag >> 16 == PIXEL_GROUP or element.end >= window.size:
            return True
        found, position, count = element.tag, element.end, count + 1
    return True


def _credible(element: Element, encoding: Encoding) -> bool:
    group, known = element.tag >> 16, known_vr(element.tag)
    if group > PIXEL_GROUP or (group % 2 == 0 and not known and element.tag & 0xFFFF):
        return False
    if encoding.implicit_vr:
        return True
    vr = element.vr.encode("ascii")
    return vr in _LONG_VRS | _SHORT_VRS and (not known or element.vr == "UN" or element.vr in known.split(" or "))
