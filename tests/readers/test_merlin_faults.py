"""The Merlin reader on damaged files: one clear error, whatever the damage."""

from __future__ import annotations

import io
import re

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
        ({3: "04"}, "layout 1x1 has 1 chip, but the header counts 4"),
        ({7: "   2x2", 3: "04"}, "chip layout '2x2' is not read; only 1x1 is"),
        ({7: "   2x2G", 3: "04"}, "chip layout '2x2' is not read"),
        ({7: "   4x1", 3: "04"}, "chip layout '4x1' is not read"),
        ({4: "0000"}, "image width must be a number from 1"),
        ({4: "-256"}, "image width"),
        ({5: "99999"}, "image height"),
        ({4: "16384", 5: "16384"}, "an image of 16384 x 16384 pixels is not credible"),
        ({4: "31623", 5: "31623"}, "image width"),  # 10^9 pixels
        ({6: "U64"}, "pixel type 'U64' must be one of U08, U16, U32, R64"),
        ({6: "U08"}, "pixel type U08 cannot hold a counter depth of 12 bit"),
        ({6: "R64"}, "raw (R64) images of counter depth 12 bit are not read, only 1 bit"),
        ({6: "R64", -2: "1"}, "width in multiples of 64"),
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


@given(
    st.lists(st.tuples(st.integers(0, 383), st.binary(min_size=1, max_size=6)), max_size=4),
    st.integers(0, 2 * RECORD),
)
@settings(max_examples=400, deadline=None)
def test_fuzzed_bytes_give_only_raw_format_errors(edits: list[tuple[int, bytes]], length: int) -> None:
    content = bytearray(mib(exposures=1) * 2)
    for start, new in edits:
        content[start : start + len(new)] = new
    attempt(bytes(content))
    attempt(bytes(content[:length]))


ODD_FIELDS = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters=","), max_size=12),
    st.integers(-(10**30), 10**30).map(str),
    st.sampled_from(["", "0", "1", "00384", "1e308", "-0", "nan", "inf", "MQ1A", "3RX", "U08", "U32", "R64", "1_0"]),
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
