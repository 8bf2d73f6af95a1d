"""The Merlin reader on sound files: real ones, and ones written by the simulator."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from marspipe.readers import READERS, merlin
from marspipe.readers.merlin_header import parse_header
from tests.readers.merlin_files import REAL, CountingFile, asymmetric, edited, mib, needs_real, record_length, same


def frames_of(name: str) -> list[np.ndarray]:
    with (REAL / name).open("rb") as file:
        return list(merlin.read_many(file, merlin.index(file, name)))


@needs_real
@pytest.mark.parametrize("frames", [1, 9])
@pytest.mark.parametrize(("depth", "dtype"), [(1, "uint8"), (6, "uint8"), (12, "uint16"), (24, "uint32")])
def test_real_file_of_every_depth(depth: int, dtype: str, frames: int) -> None:
    name = f"Single_{frames}_Frame_CounterDepth_{depth}_Rows_256.mib"
    with (REAL / name).open("rb") as file:
        entries = merlin.index(file, name)
        images = list(merlin.read_many(file, entries))
    assert [e.exposure_index for e in entries] == list(range(frames))
    assert [e.sequence for e in entries] == list(range(1, frames + 1))
    assert {e.counter for e in entries} == {0}
    first = entries[0]
    assert (first.counter_depth_bits, first.dtype, first.exposure_s) == (depth, dtype, 0.001)
    assert first.thresholds_kev == (2.0, 511.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    for image in images:
        assert image.shape == (256, 256)
        assert image.dtype == dtype
        assert image.dtype.isnative
        assert image.max() <= 2**depth - 1
        # Ten test pulses light the pattern; the 1-bit counter shows it as 1.
        assert 2200 < np.count_nonzero(image >= min(10, 2**depth - 1)) < 2450


@needs_real
def test_real_photons() -> None:
    (image,) = frames_of("test.mib")
    assert image.max() == 717
    with (REAL / "test_multi.mib").open("rb") as file:
        entries = merlin.index(file, "test_multi.mib")  # header padded with spaces
    assert len(entries) == 9
    assert entries[0].exposure_s == 0.0004
    assert entries[0].thresholds_kev[0] == 20.0
    assert entries[0].acquired_at == "2018-01-23T23:37:09.004583219Z"


@needs_real
def test_rows_grow_upwards_in_the_injected_pattern() -> None:
    """The read-out injects the digit of the chip, a "1", and the labels R0,C0 .. R255,C255 at their own indices."""
    (image,) = frames_of("Single_1_Frame_CounterDepth_12_Rows_256.mib")
    lit = (image >= 8) & (image <= 12)

    def ink(rows: slice, cols: slice) -> int:
        return int(np.count_nonzero(lit[rows, cols]))

    low, high, left, right = slice(8, 22), slice(234, 248), slice(4, 80), slice(172, 252)
    # R0,C0 has five letters, R0,C255 and R255,C0 seven, R255,C255 nine; a letter has about 13 pixels.
    assert ink(low, left) + 15 < ink(low, right) < ink(high, right) - 15
    assert ink(low, left) + 15 < ink(high, left) < ink(high, right) - 15
    # The foot of the upright "1" is its widest row, the flag points to the left at its head: foot below head.
    digit = lit[60:180, 60:120]
    foot = int(np.argmax(digit.sum(axis=1)))
    flag = int(np.flatnonzero(digit[foot + 10 :, :15].any(axis=1)).mean()) + foot + 10
    assert foot < 50 < 70 < flag


@needs_real
def test_raw_bits_are_the_unpacked_pattern() -> None:
    """Two acquisitions of the same pattern differ in some 20 noisy pixels; any wrong bit order differs in thousands."""
    (raw,) = frames_of("Single_1_Frame_CounterDepth_1_Rows_256RAW.mib")
    (unpacked,) = frames_of("Single_1_Frame_CounterDepth_1_Rows_256.mib")
    assert raw.dtype == np.uint8
    assert np.count_nonzero(raw != unpacked) < 40
    for other in (unpacked[::-1], unpacked[:, ::-1], unpacked.T):
        assert np.count_nonzero(raw != other) > 1000


@needs_real
def test_counters_that_take_turns_are_one_counter() -> None:
    """Continuous read-write mode: the raw headers alternate 0, 1, 0, ..., each a new exposure."""
    name = "Single_9_Frame_CounterDepth_1_Rows_256RAW.mib"
    content = (REAL / name).read_bytes()
    assert [content[i * 8576 :].split(b",")[11] for i in range(3)] == [b"0", b"1", b"0"]
    entries = merlin.index(io.BytesIO(content), name)
    assert [(e.exposure_index, e.counter) for e in entries] == [(i, 0) for i in range(9)]


@pytest.mark.parametrize("counters", [1, 2, 4, 8])
def test_counters_of_an_exposure(counters: int) -> None:
    content = mib(exposures=3, counters=counters)
    entries = merlin.index(io.BytesIO(content), "x.mib")
    assert [(e.exposure_index, e.counter) for e in entries] == [divmod(n, counters) for n in range(3 * counters)]
    assert [e.sequence for e in entries] == list(range(1, 3 * counters + 1))
    assert len({e.acquired_at for e in entries}) == 3
    assert entries[0].acquired_at == "2024-05-06T07:08:09.000000000Z"
    assert entries[-1].acquired_at == "2024-05-06T07:08:09.600000000Z"


def test_frames_are_rows_by_columns_upwards() -> None:
    content = mib(exposures=1, shape=(4, 6))
    file = io.BytesIO(content)
    (entry,) = merlin.index(file, "x.mib")
    image = READERS["merlin"].read(file, entry)
    assert same(image, asymmetric(4, 6))
    # Stored: the first pixel is row 0, the lowest; the second is its neighbor in u.
    assert image[0, 0] == int.from_bytes(content[384:386], "big")
    assert image[0, 1] == int.from_bytes(content[386:388], "big")


def test_region_of_rows() -> None:
    file = io.BytesIO(mib(exposures=2, shape=(64, 256)))
    entries = merlin.index(file, "x.mib")
    assert (entries[0].rows, entries[0].cols) == (64, 256)
    assert same(merlin.read(file, entries[1]), (asymmetric(64, 256) + 1) % 4096)


@pytest.mark.parametrize(("first", "count"), [(0, None), (0, 5), (3, 4), (7, 100), (12, 1), (99, 5)])
def test_a_range_of_records_is_that_part_of_the_whole(first: int, count: int | None) -> None:
    file = io.BytesIO(mib(exposures=3, counters=4))
    whole = merlin.index(file, "x.mib")
    stop = None if count is None else first + count
    assert merlin.index(file, "x.mib", first, count) == whole[first:stop]
    assert merlin.count(file, "x.mib") == 12


def test_index_reads_headers_only() -> None:
    content = mib(exposures=10, counters=2, shape=(256, 256))
    file = CountingFile(content)
    assert len(merlin.index(file, "x.mib")) == 20
    assert file.bytes_read < 25 * 384
    file = CountingFile(content)
    assert merlin.count(file, "x.mib") == 20
    assert file.bytes_read < 5 * 384


def test_record_bytes_splits_a_file() -> None:
    content = mib(exposures=3)
    assert merlin.record_bytes(content[:512], "x.mib") == record_length() == len(content) // 3


def test_offsets_beyond_4_gib(tmp_path: Path) -> None:
    """A sparse file: 70 records of 64 MiB, a mark in the last one."""
    side, records = 8192, 70
    small = mib(exposures=records, shape=(1, 1), depth=6)
    path = tmp_path / "long.mib"
    length = record_length((side, side), 1)
    with path.open("wb") as file:
        for n in range(records):
            start = n * record_length((1, 1), 1)
            header = small[start : start + 384].replace(b"0001,0001", b"8192,8192")
            file.seek(n * length)
            file.write(header)
        file.seek(records * length - 1)
        file.write(b"\x2a")
    with path.open("rb") as file:
        entries = merlin.index(file, str(path), first=records - 2)
        assert entries[-1].offset == records * length - side * side > 2**32
        image = merlin.read(file, entries[-1])
    assert image[-1, -1] == 42
    assert np.count_nonzero(image) == 1


def test_old_header_without_tail_and_thresholds() -> None:
    content = mib(exposures=1)
    header = content[:384].rstrip(b"\0").split(b",")
    old = b",".join([*header[:14], b"", b"3RX", *header[23:50], b""]).ljust(384, b"\0")
    (entry,) = merlin.index(io.BytesIO(old + content[384:]), "old.mib")
    assert entry.thresholds_kev == ()
    assert entry.acquired_at is None  # local time without a zone is not UTC
    assert (entry.exposure_s, entry.counter_depth_bits) == (0.3, 12)
    six = edited(old + content[384 : 384 + 24], {6: "U08"})
    assert parse_header(six, "six").counter_depth_bits is None  # 1 or 6 bit: not told


def test_start_in_nanoseconds() -> None:
    header = edited(mib(exposures=1), {-4: "1970-01-02T00:00:01.000000002Z"})
    assert parse_header(header, "x").start_ns == 86401 * 10**9 + 2
    local = edited(mib(exposures=1), {9: "1970-01-01 00:00:02.000003", -5: "XXXX"})
    assert parse_header(local, "x").start_ns == 2 * 10**9 + 3000


def test_exposure_of_zero_is_unknown() -> None:
    content = edited(mib(exposures=1), {10: "0.000000", -3: "0ns"})
    (entry,) = merlin.index(io.BytesIO(content), "x.mib")
    assert entry.exposure_s is None
