"""The header of a Merlin ``.mib`` record: comma-separated ASCII fields, checked one by one.

Fields 0 to 13 are positional; then follow the thresholds, one block of 27 DACs per chip and, from newer software, a
tail that begins with ``MQ1A`` and tells UTC start, exposure and counter depth. Raw files of software 0.67 leave out
thresholds and DACs; headers older than ``MQ1`` are brought into its order first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from marspipe.errors import RawFormatError
from marspipe.readers.merlin_assembly import Assembly, ChipEdges, edges_of, split_image, split_raw
from marspipe.readers.merlin_old_header import OLD_HEADER_BYTES, OLD_MAGICS, modern_fields
from marspipe.readers.merlin_raw import raw_bytes

MAGIC = b"MQ1"

# Counter depths (bits) that each pixel type can hold; R64 is the packed read-out stream.
DEPTHS = {"U08": (1, 6), "U16": (12,), "U32": (24,), "R64": (1, 6, 12, 24)}
PIXEL_BYTES = {"U08": 1, "U16": 2, "U32": 4}
PREFIX_BYTES = 64  # holds "MQ1,000001,00384," and whatever may stand in its place
_HEADER_BYTES = range(128, 65537)
_MAX_SIDE_PX = 16384
_MAX_PIXELS = 1 << 26  # 512 chips; anything above is a damaged header
_MAX_COUNTERS = 8
_MAX_THRESHOLDS = 8

_DIGITS = re.compile(r"\s*[0-9]{1,18}\s*")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*")
_NOT_FINITE = re.compile(r"\s*[+-]?(nan|inf|infinity)\s*", re.IGNORECASE)
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z?)")
_NANOSECONDS = re.compile(r"([0-9]{1,18})n[sS]")
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class MerlinHeader:
    """The header of one record.

    Attributes
    ----------
    header_bytes, image_bytes : int
        Stored size of header and pixels.
    sequence : int
        Acquisition sequence number.
    pixel_type, layout : str
        ``U08``, ``U16``, ``U32`` or ``R64``; arrangement of the chips, with a trailing ``G`` if gaps are filled.
    rows, cols : int
        Size of the image as it is delivered; the header of a raw image says another.
    counter : int
        Counter or color number of the image.
    color_mode : bool
        Whether 2 x 2 pixels share their counters.
    counter_depth_bits : int or None
        1, 6, 12 or 24; None if the header does not tell.
    thresholds_kev : tuple of float
        Thresholds listed, keV.
    exposure_s : float or None
        Shutter time in s; None if it is recorded as 0.
    acquired_at : str or None
        Start in UTC, ISO 8601, ns.
    start_ns : int or None
        Start in ns since 1970; in local time if the header has no UTC time.
    assembly : Assembly
        The chips of the image.
    """

    header_bytes: int
    image_bytes: int
    sequence: int
    pixel_type: str
    layout: str
    rows: int
    cols: int
    counter: int
    color_mode: bool
    counter_depth_bits: int | None
    thresholds_kev: tuple[float, ...]
    exposure_s: float | None
    acquired_at: str | None
    start_ns: int | None
    assembly: Assembly

    @property
    def record_bytes(self) -> int:
        """Stored size of header and pixels together."""
        return self.header_bytes + self.image_bytes

    @property
    def dtype(self) -> str:
        """NumPy name of the decoded pixel type."""
        if self.pixel_type == "R64":
            return {12: "uint16", 24: "uint32"}.get(self.counter_depth_bits or 1, "uint8")
        return f"uint{8 * PIXEL_BYTES[self.pixel_type]}"

    @property
    def shape_of_record(self) -> tuple[object, ...]:
        """What all records of a file must have in common."""
        return (
            self.header_bytes,
            self.rows,
            self.cols,
            self.pixel_type,
            self.layout,
            self.color_mode,
            self.counter_depth_bits,
        )


def chip_edges(header: MerlinHeader) -> ChipEdges:
    """Return where the chips of a header's image begin and end, with masks of gaps and edges.

    Without the ``G`` of the layout the chips abut: there are seams but no gap pixels.
    """
    return edges_of(header.assembly)


def header_length(raw: bytes, where: str) -> int:
    """Return the length of the header that the first bytes of a record announce; RawFormatError if they do not."""
    if raw.startswith(OLD_MAGICS):
        return OLD_HEADER_BYTES
    if raw.startswith(b"MPX,"):
        raise RawFormatError(f"{where}: this is a capture of Merlin's network stream (MPX), expected a .mib file")
    if not raw.startswith(MAGIC + b","):
        raise RawFormatError(f"{where}: not a Merlin record: it starts with {raw[:8]!r}, expected {MAGIC + b','!r}")
    fields = raw[:PREFIX_BYTES].split(b",")
    if len(fields) < 4:
        raise RawFormatError(f"{where}: the header is truncated after {raw[:PREFIX_BYTES]!r}")
    text = fields[2].decode("ascii", "replace")
    return _integer(text, "header length", where, _HEADER_BYTES.start, _HEADER_BYTES.stop - 1)


def parse_header(raw: bytes, where: str) -> MerlinHeader:
    """Return the header that starts a record.

    Parameters
    ----------
    raw : bytes
        The beginning of the record, at least its whole header.
    where : str
        File and record, for messages.

    Raises
    ------
    RawFormatError
        If it is not a Merlin header, contradicts itself, or describes an image that is not read.
    """
    header_bytes = header_length(raw, where)
    if len(raw) < header_bytes:
        raise RawFormatError(f"{where}: the header is truncated: expected {header_bytes} bytes, found {len(raw)}")
    text = raw[:header_bytes].split(b"\0", 1)[0]
    try:
        fields = text.decode("ascii").rstrip().split(",")
    except UnicodeDecodeError as error:
        raise RawFormatError(f"{where}: the header is not ASCII text at byte {error.start}") from error
    if raw.startswith(OLD_MAGICS):
        modern = modern_fields(fields)
        if modern is None:
            raise RawFormatError(f"{where}: the header has {len(fields)} fields, expected 34 after {fields[0]}")
        fields = modern
    if len(fields) < 14:
        raise RawFormatError(f"{where}: the header has {len(fields)} fields, expected at least 14")

    sequence = _integer(fields[1], "sequence number", where)
    chips = _integer(fields[3], "number of chips", where, 1, 64)
    cols = _integer(fields[4], "image width", where, 1, _MAX_SIDE_PX)
    rows = _integer(fields[5], "image height", where, 1, _MAX_SIDE_PX)
    pixel_type, layout = fields[6].strip(), fields[7].strip()
    counter = _integer(fields[11], "counter number", where, 0, _MAX_COUNTERS - 1)
    color_mode = bool(_integer(fields[12], "color mode flag", where, 0, 1))
    acquired_at, exposure_s, depth = _tail(fields, where)
    if exposure_s is None:
        exposure_s = _number(fields[10], "shutter time in s", where)
    if exposure_s < 0:
        raise RawFormatError(f"{where}: the shutter time must not be negative, got {exposure_s} s")

    if rows * cols > _MAX_PIXELS:
        raise RawFormatError(f"{where}: an image of {rows} x {cols} pixels is not credible")
    if counter > 1 and not color_mode:
        raise RawFormatError(f"{where}: counter {counter} needs color mode, but its flag is 0")
    if pixel_type not in DEPTHS:
        raise RawFormatError(f"{where}: pixel type {pixel_type!r} must be one of {', '.join(DEPTHS)}")
    if depth is not None and depth not in DEPTHS[pixel_type]:
        raise RawFormatError(f"{where}: pixel type {pixel_type} cannot hold a counter depth of {depth} bit")
    if depth is None and len(DEPTHS[pixel_type]) == 1:
        (depth,) = DEPTHS[pixel_type]
    if pixel_type == "R64":
        assembly, image_bytes = _raw_image(layout, chips, rows, cols, color_mode, depth, where)
    else:
        assembly = split_image(layout, chips, rows, cols, color_mode, where)
        image_bytes = rows * cols * PIXEL_BYTES[pixel_type]
    return MerlinHeader(
        header_bytes=header_bytes,
        image_bytes=image_bytes,
        sequence=sequence,
        pixel_type=pixel_type,
        layout=layout,
        rows=assembly.rows,
        cols=assembly.cols,
        counter=counter,
        color_mode=color_mode,
        counter_depth_bits=depth,
        thresholds_kev=_thresholds(fields, where),
        exposure_s=exposure_s or None,
        acquired_at=acquired_at,
        start_ns=_nanoseconds(acquired_at or fields[9]),
        assembly=assembly,
    )


def _raw_image(
    layout: str, chips: int, rows: int, cols: int, color_mode: bool, depth: int | None, where: str
) -> tuple[Assembly, int]:
    if depth is None:
        raise RawFormatError(f"{where}: the header of a raw (R64) image must tell its counter depth after MQ1A")
    if color_mode:
        raise RawFormatError(
            f"{where}: raw (R64) images in color mode are not read; let Merlin write unpacked files (U08, U16, U32)"
        )
    assembly = split_raw(layout, chips, rows, cols, depth, where)
    return assembly, raw_bytes(assembly, depth)


def _thresholds(fields: list[str], where: str) -> tuple[float, ...]:
    found = []
    for field in fields[14 : 14 + _MAX_THRESHOLDS]:
        if not field.strip():
            continue  # older software leaves them out
        if not _NUMBER.fullmatch(field) and not _NOT_FINITE.fullmatch(field):
            break  # the chip section ("3RX") begins
        found.append(_number(field, "threshold in keV", where))
    return tuple(found)


def _tail(fields: list[str], where: str) -> tuple[str | None, float | None, int | None]:
    if "MQ1A" not in fields:
        return None, None, None
    tail = fields[fields.index("MQ1A") + 1 :]
    if len(tail) < 3:
        raise RawFormatError(f"{where}: the header breaks off after MQ1A, expected time, exposure and counter depth")
    start, exposure, depth = (field.strip() for field in tail[:3])
    if not start.endswith("Z") or _nanoseconds(start) is None:
        raise RawFormatError(f"{where}: the start of the exposure must be a UTC time, got {start!r}")
    nanoseconds = _NANOSECONDS.fullmatch(exposure)
    if nanoseconds is None:
        raise RawFormatError(f"{where}: the exposure must be in ns, such as 1000000ns, got {exposure!r}")
    return start, int(nanoseconds[1]) / 1e9, _integer(depth, "counter depth", where, 1, 24)


def _nanoseconds(text: str) -> int | None:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    try:
        whole = datetime.fromisoformat(f"{match[1]} {match[2]}") - _EPOCH
    except ValueError:
        return None
    return whole // timedelta(seconds=1) * 10**9 + int((match[3] or "0").ljust(9, "0"))


def _integer(text: str, name: str, where: str, low: int = 0, high: int = 10**18) -> int:
    if not _DIGITS.fullmatch(text) or not low <= int(text) <= high:
        raise RawFormatError(f"{where}: the {name} must be a number from {low} to {high}, got {text!r}")
    return int(text)


def _number(text: str, name: str, where: str) -> float:
    if not _NUMBER.fullmatch(text) or not abs(float(text)) < 1e30:
        raise RawFormatError(f"{where}: the {name} must be a finite number, got {text!r}")
    return float(text)
