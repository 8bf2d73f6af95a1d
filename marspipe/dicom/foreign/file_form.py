"""How a DICOM file is written: where its data set begins, in which transfer syntax; also where the file does not say.

Source: DICOM PS3.10 7.1 (preamble and file meta), PS3.5 10 and annex A (transfer syntaxes).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from marspipe.dicom.foreign.attributes import Attributes
from marspipe.dicom.foreign.codestream import sniff_syntax
from marspipe.dicom.foreign.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    PIXEL_GROUP,
    Element,
    Encoding,
    StructureError,
    Window,
    element_at,
    header_at,
    is_plausible,
    items_of,
    tag_name,
    uid_of,
)
from marspipe.errors import RawFormatError

EXPLICIT_LITTLE_UID = UID("1.2.840.10008.1.2.1")

_ENCODINGS = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG)
_NAMES = {
    EXPLICIT_LITTLE: "Explicit VR Little Endian",
    IMPLICIT_LITTLE: "Implicit VR Little Endian",
    EXPLICIT_BIG: "Explicit VR Big Endian",
}
_SEARCHED_BYTES = 512  # for the first element of a file without its mark
_RUN = 6  # elements in a row that tell data from chance
_FEW = 3
_MOST_INFLATION, _ALWAYS_INFLATED_BYTES = 64, 64 << 20
_MOST_SEARCHED_BYTES, _MOST_TRIES = 1 << 20, 200  # for the end of a broken sequence
_FIRST_TAG = 0x00020000


@dataclass(frozen=True)
class FileForm:
    """A file's data set.

    Attributes
    ----------
    attributes : Attributes
        All up to the pixels.
    pixels : Element or None
        The element that holds the pixels.
    syntax : UID
        Transfer syntax: as stated, or as guessed.
    repairs : tuple of str
        What was not as the standard wants it, in words.
    inflated : bool
        Whether the file was deflated; the attributes then hold what was inflated, with the pixels.
    """

    attributes: Attributes
    pixels: Element | None
    syntax: UID
    repairs: tuple[str, ...]
    inflated: bool


def read_form(window: Window, origin: str) -> FileForm:
    """Return the data set of a file.

    Parameters
    ----------
    window : Window
        The file.
    origin : str
        Its name, for messages.

    Raises
    ------
    RawFormatError
        If it is not a DICOM file, or ends or breaks before its pixels.
    """
    repairs: list[str] = []
    start, encoding = _beginning(window, origin, repairs)
    meta, start = _meta(window, start, encoding, origin)
    stated = meta.text("TransferSyntaxUID")
    inflated = stated == DeflatedExplicitVRLittleEndian
    if inflated:
        window, start = _inflated(window, start, origin), 0
    found = _found_encoding(window, start, stated)
    if found is None:
        raise RawFormatError(f"{origin}: not a DICOM file, or damaged: no data elements follow at byte {start}")
    if not stated:
        repairs.append(f"no transfer syntax is stated: read as {_NAMES[found]}")
    elif found != _stated_encoding(stated):
        name = uid_of(stated).name
        repairs.append(f"the transfer syntax is stated as {name}, but the elements are in {_NAMES[found]}")
    held, pixels = _top_level(window, start, found, origin, repairs)
    syntax = uid_of(stated) if stated else EXPLICIT_LITTLE_UID
    if pixels is not None:
        syntax = _pixel_syntax(window, pixels, stated, found, repairs)
    return FileForm(Attributes(window, held, origin), pixels, syntax, tuple(repairs), inflated)


def _beginning(window: Window, origin: str, repairs: list[str]) -> tuple[int, Encoding]:
    """Return where the first element stands, of the file meta or of the data set."""
    if window.read(128, 4) == b"DICM":
        return 132, EXPLICIT_LITTLE
    for start in (4, 0) if window.read(0, 4) == b"DICM" else range(min(_SEARCHED_BYTES, window.size)):
        for encoding in _ENCODINGS:
            if is_plausible(window, start, encoding, _FIRST_TAG - 1, _RUN):
                repairs.append("no preamble" if start in (0, 4) else f"no preamble, and {start} stray bytes before it")
                return start, encoding
    raise RawFormatError(f"{origin}: not a DICOM file: {window.size} bytes without its mark or data elements")


def _meta(window: Window, start: int, encoding: Encoding, origin: str) -> tuple[Attributes, int]:
    held: dict[int, Element] = {}
    position = start
    try:
        # The group first: what follows may be in another encoding, or deflated.
        while window.read(position, 2) == (b"\0\x02" if encoding.big_endian else b"\x02\0"):
            element = header_at(window, position, window.size, encoding)
            held[element.tag], position = element, element.end
    except StructureError as error:
        raise RawFormatError(f"{origin}: truncated or damaged in its file meta: {error}") from error
    if position >= window.size:
        raise RawFormatError(f"{origin}: truncated: the file ends with its file meta, after {window.size} bytes")
    return Attributes(window, held, origin), position


def _inflated(window: Window, start: int, origin: str) -> Window:
    """Return the inflated data set, if it is of a credible size."""
    packed = window.read(start, window.size - start)
    most = max(_ALWAYS_INFLATED_BYTES, _MOST_INFLATION * len(packed))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(packed, most)
    except zlib.error as error:
        raise RawFormatError(f"{origin}: the deflated data set is damaged: {error}") from error
    if inflater.unconsumed_tail:
        raise RawFormatError(
            f"{origin}: {len(packed)} deflated bytes inflate to more than {most}, which is not credible"
        )
    return Window(content)


def _stated_encoding(stated: str) -> Encoding:
    return {ImplicitVRLittleEndian: IMPLICIT_LITTLE, ExplicitVRBigEndian: EXPLICIT_BIG}.get(
        uid_of(stated), EXPLICIT_LITTLE
    )


def _found_encoding(window: Window, start: int, stated: str) -> Encoding | None:
    """Return how the elements are written: as stated if they can be read so, else as they can be read."""
    first = _stated_encoding(stated)
    candidates = [first, *(e for e in _ENCODINGS if e != first)]
    for least in (_RUN, _FEW, 1):
        for encoding in candidates:
            if is_plausible(window, start, encoding, _FIRST_TAG - 1, least):
                return encoding
    try:  # nothing ascends; what is stated may still be readable
        header_at(window, start, window.size, first)
    except StructureError:
        return None
    return first if stated else None


def _top_level(
    window: Window, position: int, encoding: Encoding, origin: str, repairs: list[str]
) -> tuple[dict[int, Element], Element | None]:
    """Return the elements up to the pixels, without broken sequences, and that of the pixels."""
    held: dict[int, Element] = {}
    while position < window.size:
        try:
            head = header_at(window, position, window.size, encoding)
        except StructureError as error:
            broken = _oversized(window, position, encoding)
            if broken is None or (after := _resumed(window, broken, encoding)) is None:
                what = f"truncated or damaged, the file of {window.size} bytes: {error}"
                raise RawFormatError(f"{origin}: {what}") from error
            repairs.append(f"sequence {tag_name(broken.tag)} is malformed and was skipped")
            position = after
            continue
        if head.tag >> 16 == PIXEL_GROUP:
            if head.tag in _PIXEL_TAGS:
                return held, head
            if head.undefined:
                return held, None
        element, position = _followed(window, position, head, encoding, origin, repairs)
        if element is not None:
            held[element.tag] = element
    return held, None


_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)


def _followed(
    window: Window, position: int, head: Element, encoding: Encoding, origin: str, repairs: list[str]
) -> tuple[Element | None, int]:
    """Return an element, None for a broken sequence, and the position after it."""
    try:
        element = element_at(window, position, window.size, encoding)
        if element.is_sequence:
            for _ in items_of(window, element):
                pass
        return element, element.end
    except StructureError as error:
        # A broken sequence of known length is stepped over, if something credible follows there.
        if not head.undefined and is_plausible(window, head.end, encoding, head.tag, _FEW):
            after: int | None = head.end
        else:
            after = _resumed(window, head, encoding)
        if after is None:
            raise RawFormatError(f"{origin}: truncated or damaged in {tag_name(head.tag)}: {error}") from error
        repairs.append(f"sequence {tag_name(head.tag)} is malformed and was skipped")
        return None, after


def _oversized(window: Window, position: int, encoding: Encoding) -> Element | None:
    """Return the header of a sequence that claims more bytes than there are."""
    try:
        head = header_at(window, position, 1 << 62, encoding)
    except StructureError:
        return None
    return head if head.is_sequence else None


def _resumed(window: Window, broken: Element, encoding: Encoding) -> int | None:
    """Return where, after a broken sequence, elements of the data set go on up to the pixels."""
    tries = 0
    for position in range(broken.offset, min(window.size - 8, broken.offset + _MOST_SEARCHED_BYTES), 2):
        head = window.read(position, 4)
        group = int.from_bytes(head[:2], "big" if encoding.big_endian else "little")
        if broken.tag >> 16 <= group <= PIXEL_GROUP and is_plausible(window, position, encoding, broken.tag, _FEW):
            if _reaches_pixels(window, position, broken.tag, encoding):
                return position
            tries += 1
            if tries > _MOST_TRIES:
                return None
    return None


def _reaches_pixels(window: Window, position: int, after: int, encoding: Encoding) -> bool:
    while is_plausible(window, position, encoding, after, 1):
        element = element_at(window, position, window.size, encoding)
        if element.tag in _PIXEL_TAGS:
            return True
        after, position = element.tag, element.end
    return False


def _pixel_syntax(window: Window, pixels: Element, stated: str, found: Encoding, repairs: list[str]) -> UID:
    """Return the syntax that the pixels are in, by what is stated and by what they look like."""
    plain = {EXPLICIT_LITTLE: EXPLICIT_LITTLE_UID, IMPLICIT_LITTLE: ImplicitVRLittleEndian}.get(
        found, ExplicitVRBigEndian
    )
    syntax = uid_of(stated) if stated else plain
    if syntax == DeflatedExplicitVRLittleEndian:
        return EXPLICIT_LITTLE_UID
    known = not syntax.is_private and syntax.is_transfer_syntax
    if not known or syntax.is_compressed == pixels.undefined:
        # The encoding of the elements was found out; the pixels follow it.
        return plain if known and not pixels.undefined else syntax
    if not pixels.undefined:
        repairs.append(f"the transfer syntax is stated as {syntax.name}, but the pixels are not compressed")
        return plain
    guessed = sniff_syntax(window, pixels)
    if guessed is None:
        return syntax
    repairs.append(f"the pixels are compressed: read as {guessed.name}")
    return guessed
