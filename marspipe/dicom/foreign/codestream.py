"""What the head of a compressed frame says: its kind, size, depth and sign.

Decoders take memory for the size that a codestream states, whatever the DICOM header says; so it is looked at first.

Source: ITU-T T.81 B.2 (JPEG), T.87 C.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000), DICOM PS3.5 G.5 (RLE).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from marspipe.dicom.foreign.elements import Element, Window

HEAD_BYTES = 1 << 14
_J2K_START, _JP2_START = b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


class Codestream(NamedTuple):
    """What a codestream states; :attr:`signed` is None where its kind has no sign.

    Attributes
    ----------
    syntax : UID
        The transfer syntax that the codestream is of; where several are possible, the lossy one.
    rows, columns : int
    precision_bits : int
    signed : bool or None
    """

    syntax: UID
    rows: int
    columns: int
    precision_bits: int
    signed: bool | None


def codestream(head: bytes) -> Codestream | None:
    """Return what the first bytes of a frame state, None if they are no JPEG, JPEG-LS or JPEG 2000."""
    if head.startswith(_JP2_START):
        head = head[max(0, head.find(_J2K_START)) :]
    if head.startswith(_J2K_START) and len(head) >= 43:
        right, bottom, left, top = struct.unpack(">IIII", head[8:24])
        depth = head[42]  # of the first component; the highest bit is its sign
        return Codestream(JPEG2000, bottom - top, right - left, (depth & 0x7F) + 1, bool(depth & 0x80))
    if not head.startswith(b"\xff\xd8"):
        return None
    return _jpeg(head)


def _jpeg(head: bytes) -> Codestream | None:
    position, frame, predictor, near = 2, None, 0, 0
    while position + 4 <= len(head) and head[position] == 0xFF:
        marker, (length,) = head[position + 1], struct.unpack(">H", head[position + 2 : position + 4])
        body = head[position + 4 : position + 2 + length]
        if marker in _FRAME_MARKERS and len(body) >= 5:
            precision, rows, columns = struct.unpack(">BHH", body[:5])
            frame = (marker, rows, columns, precision)
        if marker == 0xDA:
            # After the components: selection of the predictor (lossless JPEG), or the error bound (JPEG-LS).
            if body and len(body) > 1 + 2 * body[0]:
                predictor = near = body[1 + 2 * body[0]]
            break
        position += 2 + length
    if frame is None:
        return None
    marker, rows, columns, precision = frame
    syntax = {
        0xC0: JPEGBaseline8Bit,
        0xC3: JPEGLosslessSV1 if predictor == 1 else JPEGLossless,
        0xF7: JPEGLSNearLossless if near else JPEGLSLossless,
    }.get(marker, JPEGExtended12Bit)
    return Codestream(syntax, rows, columns, precision, None)


def sniff_syntax(window: Window, pixels: Element) -> UID | None:
    """Return the transfer syntax that encapsulated pixels look like, None if they look like nothing known."""
    position = pixels.offset
    for number in range(2):  # the table of offsets, the first fragment
        head = window.read(position, 8)
        if len(head) < 8 or head[:4] != b"\xfe\xff\x00\xe0":
            return None
        (length,) = struct.unpack("<I", head[4:])
        if number:
            break
        position += 8 + length
    content = window.read(position + 8, min(length, HEAD_BYTES))
    found = codestream(content)
    if found is not None:
        return JPEG2000Lossless if found.syntax == JPEG2000 and _is_reversible(content) else found.syntax
    if len(content) >= 64:
        segments, first = struct.unpack("<II", content[:8])
        if 1 <= segments <= 15 and first == 64:
            return RLELossless
    return None


def _is_reversible(content: bytes) -> bool:
    """Return whether JPEG 2000 uses the reversible wavelet: T.800 A.6.1, the last byte of COD's fixed part."""
    at = content.find(b"\xff\x52")
    return at >= 0 and len(content) > at + 13 and content[at + 13] == 1
