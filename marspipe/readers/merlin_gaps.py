"""Records that a Merlin file lacks in its middle, told by the camera's own numbers.

Sequence numbers grow by one per record, or by one per exposure. Where they jump, records are missing, and what follows
belongs to later exposures than its place in the file says; where they repeat or restart, it belongs to none. Damaged
headers between records that fit together stand for a record each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import RawFormatError
from marspipe.readers.frames import file_size, read_range
from marspipe.readers.merlin_header import PREFIX_BYTES, MerlinHeader, header_length, parse_header

# Above this many pieces they are taken as they come, not the largest consistent choice of them.
_MOST_PIECES = 2000


@dataclass(frozen=True)
class Run:
    """Whole exposures that follow each other without a gap.

    Attributes
    ----------
    exposure : int
        Number of the first one, by the sequence numbers.
    record : int
        Where it begins: number of its first record in the file.
    count : int
        Number of exposures.
    """

    exposure: int
    record: int
    count: int


@dataclass(frozen=True)
class _Piece:
    """Records ``first .. last`` whose positions by sequence number are ``shift`` more than their places."""

    first: int
    last: int
    shift: int


def first_record(file: BinaryIO, where: str) -> MerlinHeader:
    """Return the first header of a file; RawFormatError if it is damaged."""
    length = header_length(read_range(file, 0, PREFIX_BYTES), where)
    return parse_header(read_range(file, 0, length), where)


def gapless_step(file: BinaryIO, n_counters: int) -> int | None:
    """Return the step of the sequence numbers from one exposure to the next; None if there may be gaps.

    The numbers of the first and the last whole record tell; two headers are read.
    """
    try:
        head = first_record(file, "record 0")
        records = file_size(file) // head.record_bytes
        last = _header(file, head, records - 1)
    except RawFormatError:
        return None
    exposures, place = divmod(records - 1, n_counters)
    if n_counters > 1 and (head.counter, last.counter) != (0, place):
        return None
    steps = {records - 1: n_counters, exposures: 1} if records > 1 else {0: n_counters}
    return steps.get(last.sequence - head.sequence)


def runs_of(file: BinaryIO, uri: str, n_counters: int) -> tuple[list[Run], int]:
    """Return the exposures of a file by their sequence numbers; every header is read.

    Parameters
    ----------
    file : seekable binary file
        The file; its first header must be whole.
    uri : str
        Its name, for messages.
    n_counters : int
        Records of an exposure.

    Returns
    -------
    runs : list of Run
        In the order of their exposures; empty if no exposure is whole.
    step : int
        From one exposure to the next in sequence numbers: 1 or ``n_counters``.

    Raises
    ------
    RawFormatError
        If the first header is damaged.
    """
    head = first_record(file, f"{uri}: record 0")
    records = file_size(file) // head.record_bytes
    sequence, counter = np.full(records, -1, np.int64), np.full(records, -1, np.int64)
    for record in range(records):
        try:
            header = _header(file, head, record)
        except RawFormatError:
            continue
        if header.counter < n_counters or n_counters == 1:
            sequence[record], counter[record] = header.sequence, header.counter if n_counters > 1 else 0
    good = np.flatnonzero(sequence >= 0)
    if not good.size:
        return [], n_counters
    step = _step(sequence, counter, n_counters)
    position = sequence if step == n_counters else sequence * n_counters + counter
    chain = _largest_chain(_pieces(position - np.arange(records), good, records))
    # The first record that fits to the others is in its place, as far as its counter allows.
    start = int(good[good >= chain[0].first][0])
    origin = chain[0].shift - int(counter[start] - start) % n_counters
    runs, taken = [], 0
    for piece in chain:
        run = _run(piece, piece.shift - origin, taken, n_counters)
        if run is not None:
            runs.append(run)
        taken = max(taken, piece.last + piece.shift - origin + 1)
    return runs, step


def _header(file: BinaryIO, head: MerlinHeader, record: int) -> MerlinHeader:
    header = parse_header(read_range(file, record * head.record_bytes, head.header_bytes), f"record {record}")
    if header.shape_of_record != head.shape_of_record:
        raise RawFormatError(f"record {record} differs from record 0")
    return header


def _step(sequence: NDArray[np.int64], counter: NDArray[np.int64], n_counters: int) -> int:
    """Return whether every record has a number of its own, or every exposure."""
    inside = (counter[:-1] >= 0) & (counter[1:] == counter[:-1] + 1)
    steps = np.diff(sequence)[inside]
    return 1 if np.count_nonzero(steps == 0) > np.count_nonzero(steps == 1) else n_counters


def _pieces(shift: NDArray[np.int64], good: NDArray[np.int64], records: int) -> list[_Piece]:
    """Cut the records where their shift changes; damaged ones between equal shifts belong to the piece."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(shift[good])) + 1])
    ends = np.concatenate([starts[1:], [good.size]]) - 1
    pieces = [_Piece(int(good[a]), int(good[b]), int(shift[good[a]])) for a, b in zip(starts, ends, strict=True)]
    # Damaged headers at the end of the file are taken to be in place.
    pieces[-1] = _Piece(pieces[-1].first, records - 1, pieces[-1].shift)
    return pieces


def _largest_chain(pieces: list[_Piece]) -> list[_Piece]:
    """Choose the pieces with growing positions that hold the most records, so that one wrong number costs no others."""
    if len(pieces) > _MOST_PIECES:
        return pieces
    best: list[tuple[int, int]] = []  # records kept up to a piece, and the piece before it
    for i, piece in enumerate(pieces):
        end = piece.last + piece.shift
        kept, before = 0, -1
        for j, other in enumerate(pieces[:i]):
            other_end = other.last + other.shift
            overlap = max(0, other_end + 1 - piece.first - piece.shift)
            if other_end < end and best[j][0] - overlap > kept:
                kept, before = best[j][0] - overlap, j
        best.append((kept + piece.last - piece.first + 1, before))
    place = max(range(len(pieces)), key=lambda i: best[i][0])
    chosen = []
    while place >= 0:
        chosen.append(pieces[place])
        place = best[place][1]
    return chosen[::-1]


def _run(piece: _Piece, shift: int, taken: int, n_counters: int) -> Run | None:
    """Return the whole exposures of a piece from a position on."""
    start = max(piece.first + shift, taken)
    first, end = -(-start // n_counters), (piece.last + shift + 1) // n_counters
    return Run(first, first * n_counters - shift, end - first) if end > first else None
