"""The pixels of a file: where each frame lies, and its stored values.

Source: DICOM PS3.5 8 and annex A.4 (native and encapsulated pixels), PS3.3 C.7.6.3 (what describes them).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEG2000TransferSyntaxes

from marspipe.dicom.foreign.attributes import Attributes
from marspipe.dicom.foreign.codestream import HEAD_BYTES, Codestream, codestream
from marspipe.dicom.foreign.elements import UNDEFINED, Element, Window
from marspipe.dicom.foreign.file_form import FileForm
from marspipe.errors import InputError, RawFormatError, panics_are_errors

MAX_PIXELS = 1 << 27  # of a frame
_MOST_EXPANSION, _ALWAYS_EXPANDED_BYTES = 1000, 64 << 20

_FLOATS = {0x7FE00008: ("FloatPixelData", 32), 0x7FE00009: ("DoubleFloatPixelData", 64)}

Place = tuple[int, int]


@dataclass(frozen=True)
class PixelLayout:
    """How the pixels of a file are stored.

    Attributes
    ----------
    keyword : str
        The attribute that holds them.
    syntax : UID
        Transfer syntax.
    rows, columns, n_frames : int
    bits_allocated, bits_stored : int
    signed : bool
    places : tuple of tuple of (int, int)
        Offset and length of the pieces of every frame, bytes; empty if no decoder knows the syntax.
    """

    keyword: str
    syntax: UID
    rows: int
    columns: int
    n_frames: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    places: tuple[tuple[Place, ...], ...]

    @property
    def is_float(self) -> bool:
        """Whether pixels are stored as floating-point numbers."""
        return self.keyword != "PixelData"

    @property
    def refusal(self) -> str:
        """Why the pixels cannot be decoded; empty if they can."""
        name = f"{self.syntax.name} ({self.syntax})" if self.syntax.name != self.syntax else f"{self.syntax} (unknown)"
        try:
            decoder = get_decoder(self.syntax)
        except (NotImplementedError, ValueError):  # none, or no UID at all
            return f"the pixels are in transfer syntax {name}, which is not read: have the sender convert them"
        if decoder.is_available:
            return ""
        return (
            f"the pixels are compressed as {name}, for which no decoder is installed: decompress the file first, "
            "with dcmdjpeg or gdcmconv, or have the sender do it"
        )


def pixel_layout(form: FileForm, origin: str) -> tuple[PixelLayout, tuple[str, ...]]:
    """Return how the pixels of an image are stored, and what had to be repaired; only their heads are read.

    Raises
    ------
    RawFormatError
        If an attribute is missing or wrong, or the file has fewer pixels than it states: the message names which.
    InputError
        If the pixels are of a kind that is not read: color, bits that are not whole bytes.
    """
    attributes, pixels = form.attributes, form.pixels
    if pixels is None:
        raise RawFormatError(
            f"{origin}: PixelData (7FE0,0010) is missing: the file of {attributes.window.size} bytes is truncated, "
            "or no image"
        )
    rows, columns = _required(attributes, "Rows"), _required(attributes, "Columns")
    n_frames = attributes.whole("NumberOfFrames")
    n_frames = 1 if n_frames is None else n_frames
    if min(rows, columns, n_frames) < 1 or rows * columns > MAX_PIXELS:
        raise RawFormatError(
            f"{origin}: {n_frames} frames of {rows} x {columns} pixels are not credible, expected 1 to {MAX_PIXELS} "
            "pixels a frame"
        )
    _require_gray(attributes, origin)
    keyword, allocated = _FLOATS.get(pixels.tag, ("PixelData", 0))
    stored, signed = allocated, False
    repairs: list[str] = []
    if not allocated:
        allocated, stored, signed, repairs = _bits(attributes, origin)
    layout = PixelLayout(keyword, form.syntax, rows, columns, n_frames, allocated, stored, signed, ())
    if not pixels.undefined:
        places = _native(pixels, layout, origin)
    elif layout.refusal:
        places = ()
    else:
        places = _encapsulated(attributes.window, pixels, layout, origin)
        repairs += _checked(attributes.window, places[0], layout, origin)
    return PixelLayout(keyword, form.syntax, rows, columns, n_frames, allocated, stored, signed, places), tuple(repairs)


def stored_pixels(window: Window, layout: PixelLayout, frame: int, origin: str) -> NDArray[Any]:
    """Return the stored values of a frame, [row, column], of the type that the header states.

    Raises
    ------
    InputError
        If no installed decoder knows the transfer syntax; the sentence names it.
    RawFormatError
        If the pixels are damaged.
    """
    if layout.refusal:
        raise InputError(f"{origin}: {layout.refusal}")
    _checked(window, layout.places[frame], layout, origin)
    pieces = [window.read(*place) for place in layout.places[frame]]
    if layout.is_float:
        kind = "<f4" if layout.bits_allocated == 32 else "<f8"
        return np.frombuffer(pieces[0], kind).reshape(layout.rows, layout.columns)
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": 1,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2",
        "pixel_representation": int(layout.signed),
        "pixel_keyword": "PixelData",
    }
    native = not layout.syntax.is_encapsulated
    try:
        source = pieces[0] + b"\0" * (len(pieces[0]) % 2) if native else encapsulate([b"".join(pieces)], has_bot=False)
        with panics_are_errors():
            values, _ = get_decoder(layout.syntax).as_array(source, index=0, raw=True, **options)
        return values.reshape(layout.rows, layout.columns)
    except Exception as error:  # whatever a decoder makes of damaged bytes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RawFormatError(
            f"{origin}: frame {frame} ({layout.syntax.name}) is damaged or cannot be decoded: {reason}"
        ) from error


def _required(attributes: Attributes, keyword: str) -> int:
    value = attributes.whole(keyword)
    if value is None:
        raise RawFormatError(f"{attributes.named(keyword)} is missing")
    return value


def _require_gray(attributes: Attributes, origin: str) -> None:
    samples = attributes.whole("SamplesPerPixel")
    kind = attributes.text("PhotometricInterpretation")
    if samples not in (None, 1) or not kind.startswith("MONOCHROME"):
        raise InputError(
            f"{origin}: PhotometricInterpretation (0028,0004) with {samples} samples per pixel is not that of a CT "
            "image, expected MONOCHROME1 or MONOCHROME2 with one"
        )
    if attributes.items("ModalityLUTSequence"):
        raise InputError(f"{attributes.named('ModalityLUTSequence')} maps values by a table, which is not read")


def _bits(attributes: Attributes, origin: str) -> tuple[int, int, bool, list[str]]:
    """Return bits allocated and stored, whether values are signed, and repairs."""
    allocated = _required(attributes, "BitsAllocated")
    stored = attributes.whole("BitsStored")
    stored = allocated if stored is None else stored
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise InputError(
            f"{origin}: BitsAllocated (0028,0100) = {allocated}, BitsStored (0028,0101) = {stored}; expected 8, 16 or "
            "32 allocated, no more stored"
        )
    high = attributes.whole("HighBit")
    if high not in (None, stored - 1):
        raise InputError(f"{origin}: HighBit (0028,0102) = {high} is not read with {stored} bits stored")
    repairs = []
    signed = attributes.whole("PixelRepresentation")
    if signed not in (0, 1):
        if signed is not None:
            raise RawFormatError(f"{attributes.named('PixelRepresentation')} must be 0 or 1, got {signed}")
        repairs.append("PixelRepresentation is missing: pixels are read as unsigned")
    return allocated, stored, signed == 1, repairs


def _native(pixels: Element, layout: PixelLayout, origin: str) -> tuple[tuple[Place, ...], ...]:
    frame_bytes = layout.rows * layout.columns * layout.bits_allocated // 8
    if pixels.length < frame_bytes * layout.n_frames:
        raise RawFormatError(
            f"{origin}: {layout.keyword} has {pixels.length} bytes, expected {frame_bytes * layout.n_frames} for "
            f"{layout.n_frames} frames of {layout.rows} x {layout.columns} pixels of {layout.bits_allocated} bit"
        )
    return tuple(((pixels.offset + k * frame_bytes, frame_bytes),) for k in range(layout.n_frames))


def _encapsulated(window: Window, pixels: Element, layout: PixelLayout, origin: str) -> tuple[tuple[Place, ...], ...]:
    """Return the fragments of every frame: one each, or by the table of offsets."""
    fragments: list[Place] = []
    position, n_frames = pixels.offset, layout.n_frames
    while True:
        head = window.read(position, 8)
        tag = head[:4]
        length = struct.unpack("<I", head[4:])[0] if len(head) == 8 else 0
        if tag == b"\xfe\xff\xdd\xe0":
            break
        if tag != b"\xfe\xff\x00\xe0" or length == UNDEFINED or position + 8 + length > window.size:
            raise RawFormatError(
                f"{origin}: PixelData (7FE0,0010) is truncated or damaged at byte {position}, after "
                f"{max(0, len(fragments) - 1)} fragments of {n_frames} frames"
            )
        fragments.append((position + 8, length))
        position += 8 + length
    if not fragments:
        raise RawFormatError(f"{origin}: PixelData (7FE0,0010) holds no fragments, expected {n_frames} frames")
    table, *pieces = fragments
    if n_frames == 1 and pieces:
        return (tuple(pieces),)
    if len(pieces) == n_frames:
        return tuple((piece,) for piece in pieces)
    starts = np.frombuffer(window.read(table[0], table[1] // 4 * 4), "<u4").astype(np.int64)
    if starts.size != n_frames or len(pieces) < n_frames:
        raise RawFormatError(
            f"{origin}: PixelData (7FE0,0010) has {len(pieces)} fragments and no table that says how they make "
            f"{n_frames} frames"
        )
    first = pieces[0][0] - 8
    owner = np.searchsorted(starts, [piece[0] - 8 - first for piece in pieces], side="right") - 1
    frames = [tuple(p for p, o in zip(pieces, owner.tolist(), strict=True) if o == k) for k in range(n_frames)]
    if not all(frames):
        raise RawFormatError(f"{origin}: the table of offsets of PixelData (7FE0,0010) does not fit its fragments")
    return tuple(frames)


def _checked(window: Window, places: tuple[Place, ...], layout: PixelLayout, origin: str) -> list[str]:
    """Hold a compressed frame against the header before it is decoded; return what contradicts but can be repaired."""
    if not layout.syntax.is_encapsulated:
        return []
    decoded = layout.rows * layout.columns * layout.bits_allocated // 8
    encoded = sum(length for _, length in places)
    if decoded > _ALWAYS_EXPANDED_BYTES and decoded > _MOST_EXPANSION * encoded:
        raise RawFormatError(
            f"{origin}: {encoded} bytes for a frame of {layout.rows} x {layout.columns} pixels are not credible"
        )
    found = codestream(window.read(places[0][0], min(places[0][1], HEAD_BYTES)))
    if found is None:
        return []
    if (found.rows, found.columns) != (layout.rows, layout.columns):
        raise RawFormatError(
            f"{origin}: the codestream has {found.rows} x {found.columns} pixels, but Rows (0028,0010) and Columns "
            f"(0028,0011) are {layout.rows} x {layout.columns}"
        )
    return _sign_repairs(found, layout)


def _sign_repairs(found: Codestream, layout: PixelLayout) -> list[str]:
    if layout.syntax not in JPEG2000TransferSyntaxes or found.signed in (None, layout.signed):
        return []
    words = {True: "signed", False: "unsigned"}
    return [
        f"the codestream is {words[bool(found.signed)]}, PixelRepresentation (0028,0103) says {words[layout.signed]}: "
        f"its {found.precision_bits} bits are read as {words[layout.signed]}"
    ]
