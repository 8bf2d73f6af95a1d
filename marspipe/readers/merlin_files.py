"""Acquisitions of several Merlin files, ordered by the sequence numbers in their headers.

Merlin cuts a long acquisition into ``name1.mib``, ``name2.mib``, ..., whose names sort wrongly from ten files on. The
sequence number runs on from file to file, so it alone gives the order. What does not fit together is listed by name:

- ``gap``: numbers are missing between two files, or before the first (an acquisition begins with 1);
- ``duplicate``: two files hold the same records (same numbers, same start);
- ``restart``: two files hold the same numbers but began at different times: they are two acquisitions;
- ``shape``: a file has images or counters other than the first;
- ``cut``: the last record or exposure of a file is incomplete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from marspipe.errors import ScanError
from marspipe.readers.merlin import MerlinSurvey, last_header, survey
from marspipe.readers.merlin_header import MerlinHeader

FaultKind = Literal["gap", "duplicate", "restart", "shape", "cut"]


@dataclass(frozen=True)
class SetFault:
    """One thing that is wrong with a set of files: its kind, the file, and a sentence."""

    kind: FaultKind
    uri: str
    message: str


@dataclass(frozen=True)
class SetFile:
    """A file of a set: what it holds, and the header of its last whole exposure."""

    survey: MerlinSurvey
    last: MerlinHeader

    @property
    def uri(self) -> str:
        """Name of the file."""
        return self.survey.uri

    @property
    def head(self) -> MerlinHeader:
        """Its first header."""
        return self.survey.header


@dataclass(frozen=True)
class MerlinSet:
    """Files of one acquisition.

    Attributes
    ----------
    files : tuple of SetFile
        In the order of their sequence numbers.
    faults : tuple of SetFault
        Empty if the files fit together.
    """

    files: tuple[SetFile, ...]
    faults: tuple[SetFault, ...]

    @property
    def exposures(self) -> int:
        """Number of whole exposures in all files."""
        return sum(file.survey.exposures for file in self.files)

    def check(self) -> MerlinSet:
        """Return the set itself; raise ScanError with all its faults if it has any."""
        if self.faults:
            raise ScanError("; ".join(f"{fault.uri}: {fault.message}" for fault in self.faults))
        return self


def survey_files(files: Iterable[tuple[str, BinaryIO]]) -> MerlinSet:
    """Return the acquisition that files (name, open file) make up, as :func:`order_files`.

    Raises
    ------
    RawFormatError
        If a file is no Merlin file or not one exposure in it is whole.
    """
    members = []
    for uri, file in files:
        found = survey(file, uri)
        members.append(SetFile(found, last_header(file, found)))
    return order_files(members)


def order_files(members: Iterable[SetFile]) -> MerlinSet:
    """Return files in the order of their sequence numbers, with everything that does not fit.

    Raises
    ------
    ScanError
        If there is no file.
    """
    # Files with the same numbers stand in the order of their start, then of their names: the result depends on
    # nothing but the files.
    files = sorted(members, key=lambda file: (file.head.sequence, file.head.start_ns or 0, file.uri))
    if not files:
        raise ScanError("a set of Merlin files must have at least one file, got none")
    return MerlinSet(tuple(files), tuple(_faults(files)))


def _faults(files: list[SetFile]) -> Iterator[SetFault]:
    first = files[0]
    if first.head.sequence > 1:
        yield SetFault("gap", first.uri, f"the first sequence number is {first.head.sequence}, expected 1")
    before: SetFile | None = None
    for file in files:
        if file.survey.cut is not None:
            yield SetFault("cut", file.uri, file.survey.cut)
        if _kind(file) != _kind(first):
            yield SetFault("shape", file.uri, f"its images are not those of {first.uri}: {_shapes(file, first)}")
        if before is None:
            before = file
            continue
        start, end = file.head.sequence, before.last.sequence
        if start <= end:
            yield _overlap(before, file)
        elif start > end + 1:
            missing = f"{end + 1}" if start == end + 2 else f"{end + 1} to {start - 1}"
            yield SetFault(
                "gap", file.uri, f"sequence numbers {missing} are missing before it ({before.uri} ends at {end})"
            )
        if file.last.sequence > end:
            before = file


def _overlap(before: SetFile, file: SetFile) -> SetFault:
    start, end = file.head.sequence, min(file.last.sequence, before.last.sequence)
    numbers = f"sequence numbers {start} to {end}"
    same_start = file.head.start_ns is not None and file.head.start_ns == before.head.start_ns
    # A copy begins inside the other file: then its first record started before that file ended.
    inside = (
        file.head.start_ns is not None
        and before.head.start_ns is not None
        and before.last.start_ns is not None
        and start > before.head.sequence
        and before.head.start_ns < file.head.start_ns <= before.last.start_ns
    )
    if same_start or inside:
        return SetFault("duplicate", file.uri, f"{numbers} are those of {before.uri}, with the same start")
    return SetFault("restart", file.uri, f"{numbers} lie in {before.uri} too, but began at another time")


def _kind(file: SetFile) -> tuple[object, ...]:
    return (*file.head.shape_of_record, *file.survey.counters)


def _shapes(file: SetFile, first: SetFile) -> str:
    return f"{_shape(file)}, expected {_shape(first)}"


def _shape(file: SetFile) -> str:
    head = file.head
    counters = ", ".join(map(str, file.survey.counters))
    return f"{head.rows} x {head.cols} {head.pixel_type} {head.counter_depth_bits} bit, counters {counters}"
