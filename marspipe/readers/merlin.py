"""Merlin ``.mib`` files of Medipix3 cameras: records of an ASCII header and one big-endian counter image.

Orientation
-----------
The read-out stores rows from the bottom of the chip upwards: the injected test pattern writes the labels ``R0,C0`` to
``R255,C255`` at exactly these row and column indices, and reads upright only when row 0 is drawn at the bottom. That
already is marspipe's convention (row grows with ``v``, which points up; column grows with ``u``), so frames are
delivered as stored. Programs that draw row 0 at the top flip them. How the camera is mounted is not in the file: a
rotated or mirrored camera is described by ``orientation`` in the scan manifest.

Counters
--------
Every counter of an exposure has its own record; the records of one exposure follow each other with rising counter
number and the same start. Counter numbers that alternate *without* a common start come from continuous read-write
mode: there the two memories take turns behind one threshold, so such a file has one counter, 0. (Merlin's own
unpacking writes 0 into all of them too.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from marspipe.errors import RawFormatError
from marspipe.readers.frames import Frame, FrameEntry, FrameType, clip_range, file_size, native, read_range
from marspipe.readers.merlin_header import PREFIX_BYTES, MerlinHeader, header_length, parse_header

SUFFIXES = (".mib",)


@dataclass(frozen=True)
class _Layout:
    """How the records of one file group into exposures."""

    header: MerlinHeader
    records: int
    counters: tuple[int, ...]
    alternating: bool


def record_bytes(first_header: bytes, uri: str = "") -> int:
    """Return the size of every record of a file, header and pixels, given the bytes it begins with.

    Record ``i`` starts at byte ``i * record_bytes``.

    Raises
    ------
    RawFormatError
        If the bytes are no Merlin header.
    """
    return parse_header(first_header, f"{uri}: record 0").record_bytes


def index(
    file: BinaryIO,
    uri: str,
    first: int = 0,
    count: int | None = None,
    *,
    dataset: str | None = None,
    frame_type: FrameType = "projection",
) -> list[FrameEntry]:
    """List the records of a ``.mib`` file by their headers; pixels are never read.

    Parameters
    ----------
    file : seekable binary file
        The file.
    uri : str
        Its name, for the entries and messages.
    first, count : int
        Range of records; by default all. Counters and exposures are numbered as in the whole file.
    dataset, frame_type
        Of the common interface; a ``.mib`` file has no datasets, and its frames are of the type the manifest says.

    Raises
    ------
    RawFormatError
        If a header is damaged or differs from the first, the last record or exposure is incomplete, or a counter is
        missing or doubled. The message names file and record.
    """
    if dataset is not None:
        raise RawFormatError(f"{uri}: a Merlin file has no datasets, but the manifest asks for {dataset!r}")
    plan = _layout(file, uri)
    head, n = plan.header, len(plan.counters)
    wanted = clip_range(first, count, plan.records)
    entries = []
    before: dict[int, MerlinHeader] = {}
    # One exposure earlier than asked, so that a doubled record is seen at the seam of two ranges too.
    for record in range(max(0, wanted.start - n), wanted.stop):
        header = _header_at(file, uri, record, head)
        _refuse_doubled(f"{uri}: record {record}", header, before.get(record % n))
        before[record % n] = header
        if record < wanted.start:
            continue
        exposure = record // n
        expected = plan.counters[record % n]
        if plan.alternating:
            if header.counter > 1:
                raise RawFormatError(f"{uri}: record {record} holds counter {header.counter}, expected 0 or 1")
        elif header.counter != expected:
            raise RawFormatError(
                f"{uri}: record {record} holds counter {header.counter}, expected counter {expected} of exposure "
                f"{exposure} (every exposure has counters {_names(plan.counters)}): a record is missing or doubled"
            )
        entries.append(
            FrameEntry(
                uri=uri,
                dataset="",
                offset=record * head.record_bytes + head.header_bytes,
                length=head.image_bytes,
                sequence=header.sequence,
                exposure_index=exposure,
                counter=0 if plan.alternating else header.counter,
                rows=head.rows,
                cols=head.cols,
                dtype=head.dtype,
                counter_depth_bits=head.counter_depth_bits,
                thresholds_kev=header.thresholds_kev,
                exposure_s=header.exposure_s,
                acquired_at=header.acquired_at,
            )
        )
    return entries


def count(file: BinaryIO, uri: str, *, dataset: str | None = None, frame_type: FrameType = "projection") -> int:
    """Return the number of records (counter images) of a file, from its first headers and its size.

    Raises
    ------
    RawFormatError
        As :func:`index`, as far as the first exposure and the file size tell.
    """
    return _layout(file, uri).records


def read(file: BinaryIO, entry: FrameEntry) -> Frame:
    """Return one counter image ``[row v, column u]``, native byte order.

    Raises
    ------
    RawFormatError
        If the file ends inside the pixels.
    """
    raw = read_range(file, entry.offset, entry.length)
    if len(raw) != entry.length:
        raise RawFormatError(
            f"{entry.uri}: the pixels of exposure {entry.exposure_index}, counter {entry.counter} are truncated: "
            f"expected {entry.length} bytes at offset {entry.offset}, found {len(raw)}"
        )
    if 8 * entry.length == entry.rows * entry.cols:
        return _unpack_bits(raw).reshape(entry.rows, entry.cols)
    stored = np.dtype(entry.dtype).newbyteorder(">")
    return native(np.frombuffer(raw, dtype=stored).reshape(entry.rows, entry.cols))


def read_many(file: BinaryIO, entries: Iterable[FrameEntry]) -> Iterator[Frame]:
    """Yield the counter images of many entries of one file, in their order."""
    for entry in entries:
        yield read(file, entry)


def _unpack_bits(raw: bytes) -> Frame:
    # The raw stream is made of 64-bit words, last byte first; the lowest bit is the first pixel.
    words = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 8)[:, ::-1]
    return np.unpackbits(words, axis=1, bitorder="little")


def _layout(file: BinaryIO, uri: str) -> _Layout:
    size = file_size(file)
    if size == 0:
        raise RawFormatError(f"{uri}: the file is empty, expected Merlin records")
    head = _header_at(file, uri, 0)
    records, rest = divmod(size, head.record_bytes)
    if rest:
        raise RawFormatError(
            f"{uri}: record {records} is truncated: expected {head.record_bytes} bytes, found {rest} "
            f"({records} whole records before it)"
        )
    counters, previous = [head.counter], head
    alternating = False
    while len(counters) < records:
        following = _header_at(file, uri, len(counters), head)
        if following.counter <= previous.counter:
            break
        if _started_later(head, following):
            # Higher number, but another exposure: the two counters take turns.
            alternating = len(counters) == 1 and not head.color_mode
            break
        counters.append(following.counter)
        previous = following
    if records % len(counters):
        raise RawFormatError(
            f"{uri}: the last exposure is incomplete: {records} records do not divide into exposures of "
            f"{len(counters)} counters ({_names(counters)})"
        )
    return _Layout(head, records, tuple(counters), alternating)


def _refuse_doubled(where: str, header: MerlinHeader, before: MerlinHeader | None) -> None:
    if before is None or header.start_ns is None:
        return
    if (header.counter, header.sequence, header.start_ns) == (before.counter, before.sequence, before.start_ns):
        raise RawFormatError(f"{where} repeats the exposure before it: sequence number {header.sequence}, same start")


def _started_later(first: MerlinHeader, second: MerlinHeader) -> bool:
    if first.start_ns is None or second.start_ns is None or first.exposure_s is None:
        return False
    return abs(second.start_ns - first.start_ns) > 0.5e9 * first.exposure_s


def _header_at(file: BinaryIO, uri: str, record: int, head: MerlinHeader | None = None) -> MerlinHeader:
    where = f"{uri}: record {record}"
    if head is None:
        length = header_length(read_range(file, 0, PREFIX_BYTES), where)
        return parse_header(read_range(file, 0, length), where)
    header = parse_header(read_range(file, record * head.record_bytes, head.header_bytes), where)
    if header.shape_of_record != head.shape_of_record:
        raise RawFormatError(f"{where} is {_describe(header)}, expected as record 0: {_describe(head)}")
    return header


def _describe(header: MerlinHeader) -> str:
    color = ", color mode" if header.color_mode else ""
    return (
        f"{header.rows} x {header.cols} pixels of {header.pixel_type} ({header.counter_depth_bits} bit{color}) "
        f"after {header.header_bytes} header bytes"
    )


def _names(counters: Iterable[int]) -> str:
    return ", ".join(map(str, counters))
