"""The Merlin reader on damaged files: one clear error, whatever the damage."""

from __future__ import annotations

import io
import pickle
import re
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import RawFormatError
from marspipe.readers import merlin
from tests.readers.merlin_files import edited, mib, record_length

RECORD = record_length()


def error_of(content: bytes) -> str:
    with pytest.raises(RawFormatError) as caught:
        merlin.index(io.BytesIO(content), "scan/a b.mib")
    assert str(caught.value).startswith("scan/a b.mib: ")
    return str(caught.value)


def test_truncated_last_record_names_record_and_bytes() -> None:
    message = error_of(mib(exposures=3)[:-10])
    assert f"record 2 is truncated: expected {RECORD} bytes, found {RECORD - 10}" in message


def test_truncated_inside_the_first_header() -> None:
    for length in (1, 3, 5, 17, 200, 383):
        error_of(mib(exposures=1)[:length])


def test_pixels_that_vanish_after_indexing() -> None:
    content = mib(exposures=2)
    entry = merlin.index(io.BytesIO(content), "x.mib")[1]
    with pytest.raises(RawFormatError, match=r"exposure 1, counter 0 are truncated: expected 48 bytes .* found 47"):
        merlin.read(io.BytesIO(content[:-1]), entry)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(1000), "not a Merlin record"),
        (b"12B" + bytes(1000), "not a Merlin record"),
        (b"MPX,0000000384,MQ1,000001,", "network stream"),
        (b"MQ1,000001", "truncated"),
        (bytes(4096), "not a Merlin record"),
    ],
    ids=["empty", "hdf5", "old", "stream", "short", "zeros"],
)
def test_other_files(content: bytes, expected: str) -> None:
    assert expected in error_of(content)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({2: "00000"}, "header length must be a number from 128 to 65536, got '00000'"),
        ({2: "99999999"}, "header length"),
        ({2: "00400"}, "truncated"),  # the second record no longer begins where it should
        ({3: "04"}, "layout 1x1 has 1 chip(s), but the header counts 4"),
        ({7: "   1x4", 3: "04"}, "chip layout '1x4' is not read; only 1x1, 2x2 and Nx1 are"),
        ({7: "   3x2", 3: "06"}, "chip layout '3x2' is not read"),
        ({7: "   0x1", 3: "04"}, "chip layout '0x1' is not read"),
        ({7: "   2x2", 3: "03"}, "layout 2x2 has 4 chip(s), but the header counts 3"),
        ({7: "   2x2", 3: "04"}, "layout 2x2 with chips of 256 px is 512 px wide, but the header says 6"),
        ({7: "   2x2", 3: "04", 4: "0514", 5: "0514"}, "is 512 px wide, but the header says 514"),
        (
            {7: "   2x2G", 3: "04", 4: "0600", 5: "0600"},
            "512 px wide plus gaps of up to 16 px, but the header says 600",
        ),
        ({7: "   2x2G", 3: "04", 4: "0514", 5: "0513"}, "a gap of 2 px cannot be 513 px high: expected 2 x 1 to 256"),
        ({7: "   2x2", 3: "04", 4: "0512", 5: "0514"}, "a gap of 0 px cannot be 514 px high"),
        ({7: "   4x1", 3: "04", 4: "1024", 5: "0512"}, "a gap of 0 px cannot be 512 px high"),
        ({7: "   4x1G", 3: "04", 4: "1031", 5: "0256"}, "but the header says 1031"),  # 7 gap pixels, three seams
        ({7: "   2x2", 3: "04", 4: "0512", 5: "0512", 12: "1"}, "with chips of 128 px is 256 px wide"),
        ({4: "0000"}, "image width must be a number from 1"),
        ({4: "-256"}, "image width"),
        ({5: "99999"}, "image height"),
        ({4: "16384", 5: "16384"}, "an image of 16384 x 16384 pixels is not credible"),
        ({4: "31623", 5: "31623"}, "image width"),  # 10^9 pixels
        ({6: "U64"}, "pixel type 'U64' must be one of U08, U16, U32, R64"),
        ({6: "U08"}, "pixel type U08 cannot hold a counter depth of 12 bit"),
        ({6: "R64"}, "a raw (R64) image of 1 chip(s) and 12 bit is 256 px wide in its header, got 6"),
        ({6: "R64", -2: "24", 4: "0256"}, "1 chip(s) and 24 bit is 512 px wide in its header, got 256"),
        ({6: "R64", 7: "2x2", 3: "04", 4: "0512"}, "4 chip(s) and 12 bit is 1024 px wide in its header, got 512"),
        ({6: "R64", 4: "0256", 5: "0512"}, "has at most 256 rows in its header, got 512"),
        ({6: "R64", 7: "4x1", 3: "04", 4: "1024"}, "raw (R64) images of layout 4x1 are not read, only 1x1 and 2x2"),
        ({6: "R64", 4: "0256", 12: "1"}, "raw (R64) images in color mode are not read"),
        ({6: "R64", 4: "0256", -5: "XXXX"}, "must tell its counter depth after MQ1A"),
        ({11: "8"}, "counter number must be a number from 0 to 7, got '8'"),
        ({11: "3"}, "counter 3 needs color mode"),
        ({12: "2"}, "color mode flag"),
        ({14: "NaN"}, "threshold in keV must be a finite number, got 'NaN'"),
        ({14: "1e999"}, "threshold in keV must be a finite number"),
        ({1: "00000x"}, "sequence number"),
        ({-2: "13"}, "cannot hold a counter depth of 13 bit"),
        ({-3: "300ms"}, "the exposure must be in ns"),
        ({-4: "2024-13-06T07:08:09Z"}, "must be a UTC time, got '2024-13-06T07:08:09Z'"),
        ({-4: "2024-05-06T07:08:09"}, "must be a UTC time"),
        ({10: "soon", -5: "XXXX"}, "shutter time in s must be a finite number, got 'soon'"),
        ({10: "-1.0", -5: "XXXX"}, "must not be negative"),
    ],
)
def test_header_that_is_wrong_or_contradicts_itself(fields: dict[int, str], expected: str) -> None:
    assert expected in error_of(edited(mib(exposures=2), fields))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "12B,000001,0,2015-08-11 17:55:11.682,1.000000E+0,2.700000E+1",
            "the header has 6 fields, expected 34 after 12B",
        ),
        (",".join(["12B", "000001", "0", "", "soon", "1", "2", *["000"] * 27]), "shutter time in s must be a finite"),
        (",".join(["24B", "000001", "0", "", "1", "x", "2", *["000"] * 27]), "record 0 is truncated: expected 262400"),
        (",".join(["12B", "-00001", "0", "", "1", "1", "2", *["000"] * 27]), "sequence number"),
    ],
)
def test_old_header_that_is_wrong(text: str, expected: str) -> None:
    assert expected in error_of(text.encode().ljust(256, b"\0") + bytes(100))


def test_cut_file_tells_what_is_whole() -> None:
    content = mib(exposures=4, counters=2)
    for length in (7 * RECORD + 100, 7 * RECORD, 6 * RECORD + 1):
        file = io.BytesIO(content[:length])
        found = merlin.survey(file, "x.mib")
        assert (found.records, found.exposures) == (6, 3)
        with pytest.raises(merlin.CutFileError) as caught:
            merlin.count(file, "x.mib")
        error = pickle.loads(pickle.dumps(caught.value))
        assert (str(error), error.whole_records, error.offset) == (f"x.mib: {found.cut}", 6, 6 * RECORD)
        assert merlin.index(file, "x.mib", 0, 6) == merlin.index(io.BytesIO(content), "x.mib", 0, 6)
        for first, count in ((0, None), (0, 7), (6, 1)):
            with pytest.raises(merlin.CutFileError, match=re.escape(str(found.cut))):
                merlin.index(file, "x.mib", first, count)
    assert merlin.survey(io.BytesIO(content), "x.mib").cut is None


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ("000006", "record 2 has sequence number 6 after 2: 3 missing"),
        ("000002", "record 2 repeats sequence number 2 after 2"),
        ("000001", "record 2 restarts at sequence number 1 after 2"),
    ],
)
def test_sequence_that_does_not_run_on(sequence: str, expected: str) -> None:
    content = edited(mib(exposures=4), {1: sequence}, record=2)
    assert expected in error_of(content)
    with pytest.raises(RawFormatError, match=expected):
        merlin.index(io.BytesIO(content), "x.mib", 2, 1)
    assert len(merlin.index(io.BytesIO(content), "x.mib", 0, 2)) == 2


def test_counters_of_an_exposure_may_share_its_number() -> None:
    content = mib(exposures=2, counters=2)
    for record, number in ((1, "000001"), (2, "000002"), (3, "000002")):
        content = edited(content, {1: number}, record=record)
    assert [e.sequence for e in merlin.index(io.BytesIO(content), "x.mib")] == [1, 1, 2, 2]


def test_nothing_is_allocated_for_an_entry_that_cannot_be() -> None:
    file = io.BytesIO(mib(exposures=1))
    (entry,) = merlin.index(file, "x.mib")
    raw_file = io.BytesIO(mib(exposures=1, shape=(2, 256), raw=True))
    (raw_entry,) = merlin.index(raw_file, "x.mib")
    tracemalloc.start()
    try:
        with pytest.raises(RawFormatError, match="100000000000 bytes do not hold 2 x 256 pixels of uint16"):
            merlin.read(raw_file, replace(raw_entry, length=10**11))
        with pytest.raises(RawFormatError, match="100000000000 bytes do not hold 4 x 6 pixels of uint16"):
            merlin.read(file, replace(entry, length=10**11))
        header = edited(mib(exposures=1), {4: "8192", 5: "8192"})
        with pytest.raises(RawFormatError, match="record 0 is truncated"):
            merlin.index(io.BytesIO(header), "x.mib")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_header_that_is_no_text() -> None:
    content = bytearray(mib(exposures=1))
    content[100] = 0xFF
    assert "not ASCII text at byte 100" in error_of(bytes(content))


def test_records_of_another_shape() -> None:
    content = mib(exposures=3)
    message = error_of(edited(content, {4: "0003", 5: "0008"}, record=2))
    assert "record 2 is 8 x 3 pixels" in message
    assert "expected as record 0: 4 x 6 pixels" in message


def test_header_lost_in_the_middle() -> None:
    content = bytearray(mib(exposures=3))
    content[RECORD : RECORD + 384] = bytes(384)
    assert "record 1: not a Merlin record" in error_of(bytes(content))


def test_missing_counter_image() -> None:
    content = mib(exposures=4, counters=4)
    lost = content[: 6 * RECORD] + content[7 * RECORD :]
    assert "15 records do not divide into exposures of 4 counters (0, 1, 2, 3)" in error_of(lost)
    # The number fits again, but the order does not.
    swapped = lost + content[-RECORD:]
    message = error_of(swapped)
    assert "record 6 holds counter 3, expected counter 2 of exposure 1" in message
    # The fault is found in whichever range it lies, and only there.
    file = io.BytesIO(swapped)
    assert len(merlin.index(file, "x.mib", 0, 4)) == 4
    with pytest.raises(RawFormatError, match="record 6 holds counter 3"):
        merlin.index(file, "x.mib", 4, 4)


def test_doubled_exposure() -> None:
    content = mib(exposures=4, counters=2)
    doubled = content[: 4 * RECORD] + content[2 * RECORD :]
    message = "record 4 repeats the exposure before it: sequence number 3, same start"
    assert message in error_of(doubled)
    with pytest.raises(RawFormatError, match=message):
        merlin.index(io.BytesIO(doubled), "x.mib", first=4, count=2)


def test_alternating_file_with_a_counter_that_cannot_be() -> None:
    content = edited(mib(exposures=3), {11: "1"}, record=1)
    assert [e.counter for e in merlin.index(io.BytesIO(content), "x.mib")] == [0, 0, 0]
    color = mib(exposures=3, color=True)
    wrong = edited(color, {11: "1"}, record=1)
    assert "record 1 holds counter 1, expected counter 0 of exposure 1" in error_of(wrong)


def test_dataset_of_a_merlin_file() -> None:
    with pytest.raises(RawFormatError, match=re.escape("has no datasets, but the manifest asks for '/exchange/data'")):
        merlin.index(io.BytesIO(mib()), "x.mib", dataset="/exchange/data")


def attempt(content: bytes) -> None:
    """Whatever lies in the file: frames or a RawFormatError."""
    file = io.BytesIO(content)
    try:
        entries = merlin.index(file, "fuzz.mib")
        images = list(merlin.read_many(file, entries))
    except RawFormatError:
        return
    assert [i.shape for i in images] == [(e.rows, e.cols) for e in entries]


KINDS = {
    "single": mib(exposures=2),
    "two counters": mib(exposures=1, counters=2),
    "quad": mib(exposures=2, shape=(6, 512), layout="2x2"),
    "gaps": mib(exposures=2, shape=(6, 514), layout="2x2G"),
    "raw 1": mib(exposures=2, shape=(2, 256), depth=1, raw=True),
    "raw 24": mib(exposures=2, shape=(2, 256), depth=24, raw=True, header="bare"),
    "raw quad": mib(exposures=2, shape=(2, 512), depth=6, raw=True, layout="2x2"),
    "old": mib(exposures=1, shape=(256, 256), header="old"),
}


@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.tuples(st.integers(0, 800), st.binary(min_size=1, max_size=6)), max_size=4),
    st.lists(st.integers(0, 2**20), max_size=6),
    st.floats(0.0, 1.0),
)
@settings(max_examples=400, deadline=None)
def test_fuzzed_bytes_give_only_raw_format_errors(
    kind: str, edits: list[tuple[int, bytes]], flips: list[int], part: float
) -> None:
    content = bytearray(KINDS[kind])
    for start, new in edits:
        content[start : start + len(new)] = new
    for bit in flips:
        content[bit // 8 % len(content)] ^= 1 << bit % 8
    attempt(bytes(content))
    attempt(bytes(content[: int(part * len(content))]))


ODD_FIELDS = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters=","), max_size=12),
    st.integers(-(10**30), 10**30).map(str),
    st.sampled_from(
        [
            "",
            "0",
            "1",
            "00384",
            "1e308",
            "-0",
            "nan",
            "inf",
            "MQ1A",
            "3RX",
            "U08",
            "U32",
            "R64",
            "1_0",
            "2x2",
            "2x2G",
            "Nx1",
            "04",
            "0256",
            "0512",
        ]
    ),
)


@given(st.dictionaries(st.integers(1, 53), ODD_FIELDS, min_size=1, max_size=5))
@settings(max_examples=400, deadline=None)
def test_fuzzed_fields_give_only_raw_format_errors(fields: dict[int, str]) -> None:
    header = mib(exposures=1)[:384].rstrip(b"\0").decode().split(",")
    for number, text in fields.items():
        header[number] = text
    attempt(",".join(header).encode().ljust(384, b"\0")[:384] + bytes(48))


@given(st.binary(max_size=600))
@settings(max_examples=200, deadline=None)
def test_any_bytes_after_the_magic(rest: bytes) -> None:
    attempt(b"MQ1," + rest)
