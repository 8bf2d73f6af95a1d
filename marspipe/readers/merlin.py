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

Chips
-----
Images of several chips are stored as one image (:mod:`marspipe.readers.merlin_assembly` says what their gaps are), raw
ones as the read-out stream (:mod:`marspipe.readers.merlin_raw`); :func:`chip_edges` tells where chips begin and end.

Interrupted scans
-----------------
The last record of a file may be cut. :func:`survey` says how many records are whole; :func:`count` and an
:func:`index` that reaches into the cut part raise :class:`CutFileError`, which carries that number, so that the whole
exposures before it can be asked for by range.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from marspipe.errors import RawFormatError
from marspipe.readers.frames import Frame, FrameEntry, FrameType, clip_range, file_size, native, read_range
from marspipe.readers.merlin_assembly import Assembly
from marspipe.readers.merlin_header import PREFIX_BYTES, MerlinHeader, chip_edges, header_length, parse_header
from marspipe.readers.merlin_raw import decode_raw, raw_bytes

__all__ = [
    "SUFFIXES",
    "CutFileError",
    "MerlinEntry",
    "MerlinSurvey",
    "chip_edges",
    "count",
    "index",
    "last_header",
    "read",
    "read_many",
    "record_bytes",
    "survey",
]

SUFFIXES = (".mib",)


class CutFileError(RawFormatError):
    """A file that ends inside a record or an exposure, as after an interrupted scan.

    Attributes
    ----------
    whole_records : int
        Records in whole exposures; ``index(file, uri, 0, whole_records)`` lists them.
    offset : int
        Where the first record after them begins, in bytes.
    """

    def __init__(self, message: str, whole_records: int, offset: int) -> None:
        super().__init__(message)
        self.whole_records = whole_records
        self.offset = offset

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.whole_records, self.offset)


@dataclass(frozen=True)
class MerlinEntry(FrameEntry):
    """A :class:`FrameEntry` that knows whether its pixels are raw (R64).

    Attributes
    ----------
    raw : Assembly or None
        The chips of a raw image; None if the pixels are stored unpacked.
    """

    raw: Assembly | None = None


@dataclass(frozen=True)
class MerlinSurvey:
    """What the first exposure and the size of a file tell.

    Attributes
    ----------
    uri : str
        The file.
    header : MerlinHeader
        The first header.
    records : int
        Records in whole exposures.
    counters : tuple of int
        Counters of every exposure.
    alternating : bool
        Whether two counters take turns (continuous read-write mode).
    cut : str or None
        What is cut off at the end of the file; None if it is whole.
    """

    uri: str
    header: MerlinHeader
    records: int
    counters: tuple[int, ...]
    alternating: bool
    cut: str | None

    @property
    def exposures(self) -> int:
        """Number of whole exposures."""
        return self.records // len(self.counters)

    def cut_error(self) -> CutFileError:
        """Return the error that describes the cut."""
        return CutFileError(f"{self.uri}: {self.cut}", self.records, self.records * self.header.record_bytes)


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
        If a header is damaged or differs from the first, a counter is missing or doubled, or the sequence numbers skip,
        repeat or restart. The message names file and record.
    CutFileError
        If the range reaches into an incomplete record or exposure at the end of the file.
    """
    if dataset is not None:
        raise RawFormatError(f"{uri}: a Merlin file has no datasets, but the manifest asks for {dataset!r}")
    plan = survey(file, uri)
    head, n = plan.header, len(plan.counters)
    wanted = clip_range(first, count, plan.records)
    if plan.cut is not None and (count is None or first + count > plan.records):
        raise plan.cut_error()
    entries: list[FrameEntry] = []
    before: dict[int, MerlinHeader] = {}
    previous: MerlinHeader | None = None
    # One exposure earlier than asked, so that a doubled record is seen at the seam of two ranges too.
    for record in range(max(0, wanted.start - n), wanted.stop):
        header = _header_at(file, uri, record, head)
        _refuse_doubled(f"{uri}: record {record}", header, before.get(record % n))
        before[record % n] = header
        if record < wanted.start:
            previous = header
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
        if previous is not None:
            _check_sequence(f"{uri}: record {record}", previous, header, starts_exposure=record % n == 0)
        previous = header
        entries.append(
            MerlinEntry(
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
                raw=header.assembly if header.pixel_type == "R64" else None,
            )
        )
    return entries


def count(file: BinaryIO, uri: str, *, dataset: str | None = None, frame_type: FrameType = "projection") -> int:
    """Return the number of records (counter images) of a file, from its first headers and its size.

    Raises
    ------
    RawFormatError
        As :func:`index`, as far as the first exposure and the file size tell.
    CutFileError
        If the last record or exposure is incomplete.
    """
    plan = survey(file, uri)
    if plan.cut is not None:
        raise plan.cut_error()
    return plan.records


def read(file: BinaryIO, entry: FrameEntry) -> Frame:
    """Return one counter image ``[row v, column u]``, native byte order.

    Raises
    ------
    RawFormatError
        If the entry contradicts itself, or the file ends inside the pixels. Nothing is read or allocated before the
        entry's size is checked against the shape of its image.
    """
    where = f"{entry.uri}: exposure {entry.exposure_index}, counter {entry.counter}"
    assembly = entry.raw if isinstance(entry, MerlinEntry) else None
    depth = entry.counter_depth_bits or 1
    if assembly is None:
        expected = entry.rows * entry.cols * np.dtype(entry.dtype).itemsize
    else:
        expected = raw_bytes(assembly, depth)
    if entry.length != expected:
        raise RawFormatError(
            f"{where}: {entry.length} bytes do not hold {entry.rows} x {entry.cols} pixels of {entry.dtype}"
        )
    raw = read_range(file, entry.offset, entry.length)
    if len(raw) != entry.length:
        raise RawFormatError(
            f"{entry.uri}: the pixels of exposure {entry.exposure_index}, counter {entry.counter} are truncated: "
            f"expected {entry.length} bytes at offset {entry.offset}, found {len(raw)}"
        )
    if assembly is not None:
        return decode_raw(raw, assembly, depth, where)
    stored = np.dtype(entry.dtype).newbyteorder(">")
    image = native(np.frombuffer(raw, dtype=stored).reshape(entry.rows, entry.cols))
    _refuse_foreign_order(image, entry, where)
    return image


def read_many(file: BinaryIO, entries: Iterable[FrameEntry]) -> Iterator[Frame]:
    """Yield the counter images of many entries of one file, in their order."""
    for entry in entries:
        yield read(file, entry)


def _refuse_foreign_order(image: Frame, entry: FrameEntry, where: str) -> None:
    """Raise if the pixels exceed the counter's depth, but would fit it with their bytes the other way round."""
    largest = 2 ** (entry.counter_depth_bits or 8 * image.itemsize) - 1
    if image.itemsize > 1 and image.max() > largest >= image.byteswap().max():
        raise RawFormatError(
            f"{where}: pixels of up to {image.max()} exceed {entry.counter_depth_bits} bit and fit it byte-swapped: "
            "the file was written little-endian, expected big-endian"
        )


def survey(file: BinaryIO, uri: str) -> MerlinSurvey:
    """Return what a file holds, from its first exposure and its size; a cut is no error here.

    Raises
    ------
    RawFormatError
        If the file is empty, one of these headers is damaged, or not one exposure is whole.
    """
    size = file_size(file)
    if size == 0:
        raise RawFormatError(f"{uri}: the file is empty, expected Merlin records")
    head = _header_at(file, uri, 0)
    records, rest = divmod(size, head.record_bytes)
    cut = None
    if rest:
        cut = (
            f"record {records} is truncated: expected {head.record_bytes} bytes, found {rest} "
            f"({records} whole records before it)"
        )
    if records == 0:
        raise CutFileError(f"{uri}: {cut}", 0, 0)
    counters, alternating = _counters(file, uri, head, records)
    n = len(counters)
    if records % n and cut is None:
        cut = (
            f"the last exposure is incomplete: {records} records do not divide into exposures of "
            f"{n} counters ({_names(counters)})"
        )
    whole = records - records % n
    if whole == 0:
        raise CutFileError(f"{uri}: {cut}", 0, 0)
    return MerlinSurvey(uri, head, whole, counters, alternating, cut)


def last_header(file: BinaryIO, of: MerlinSurvey) -> MerlinHeader:
    """Return the header of the last record of a surveyed file's last whole exposure; RawFormatError if damaged."""
    return _header_at(file, of.uri, of.records - 1, of.header)


def _counters(file: BinaryIO, uri: str, head: MerlinHeader, records: int) -> tuple[tuple[int, ...], bool]:
    """Return the counters of the first exposure, and whether they take turns."""
    counters, previous = [head.counter], head
    while len(counters) < records:
        following = _header_at(file, uri, len(counters), head)
        if len(counters) == 1 and not head.color_mode and _take_turns(head, following):
            return (0,), True
        if following.counter <= previous.counter or _started_later(head, following):
            break
        counters.append(following.counter)
        previous = following
    return tuple(counters), False


def _take_turns(first: MerlinHeader, second: MerlinHeader) -> bool:
    # The other counter, but another exposure. A file of a set may begin with either.
    return {first.counter, second.counter} == {0, 1} and _started_later(first, second)


def _check_sequence(where: str, before: MerlinHeader, header: MerlinHeader, *, starts_exposure: bool) -> None:
    """Raise if records are missing: numbers grow by one per record, or stay the same inside an exposure."""
    step = header.sequence - before.sequence
    if step == 1 or (step == 0 and not starts_exposure):
        return
    if step > 1:
        raise RawFormatError(
            f"{where} has sequence number {header.sequence} after {before.sequence}: {step - 1} missing"
        )
    what = "repeats" if step == 0 else "restarts at"
    raise RawFormatError(f"{where} {what} sequence number {header.sequence} after {before.sequence}")


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
