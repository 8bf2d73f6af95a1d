"""The ``.hdr`` text beside Merlin files: real ones, own ones, damaged ones."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import RawFormatError
from marspipe.readers.merlin_sidecar import parse_sidecar
from marspipe.simulate.merlin_writer import write_merlin_header_file
from tests.readers.merlin_files import REAL, START, needs_real


def hdr(**changes: Any) -> bytes:
    file = io.BytesIO()
    camera: dict[str, Any] = {
        "frames": 720,
        "counter_depth_bits": 12,
        "counters_per_exposure": 8,
        "color_mode": True,
        "charge_summing": True,
        "thresholds_kev": (18.0, 30.0, 45.0, 75.0),
        "exposure_s": 0.3,
        "start_time": START,
    }
    write_merlin_header_file(file, **{**camera, **changes})
    return file.getvalue()


@needs_real
def test_real_files() -> None:
    for path in sorted(REAL.glob("*.hdr")):
        found = parse_sidecar(path.read_bytes(), path.name)
        assert (found.chip_mode, found.layout, found.gap_fill) == ("SPM", "1x1", "None"), path.name
        assert found.acquisition_type == "Normal"
        assert found.sensor_bias_v == 120.0
        assert len(found.thresholds_kev) == 8
    name = "Single_9_Frame_CounterDepth_1_Rows_256RAW.hdr"
    found = parse_sidecar((REAL / name).read_bytes(), name)
    assert (found.counter_depth_bits, found.frames, found.frames_per_trigger) == (1, 9, 9)
    assert (found.active_counters, found.software, found.clock_mhz) == ("Alternating", "0.77", 180.0)
    assert found.fields["chip id"] == "W556_B4, - , - , -"
    assert found.fields["dead time file"] == r"Dummy (C:\<NUL>\)"


def test_own_file() -> None:
    found = parse_sidecar(hdr(layout="2x2G"), "x.hdr")
    assert (found.chip_mode, found.counter_depth_bits, found.frames) == ("CSCM", 12, 720)
    assert (found.layout, found.gap_fill, found.active_counters) == ("2x2", "Zero", "Both Counters")
    assert found.thresholds_kev == (18.0, 30.0, 45.0, 75.0, 0.0, 0.0, 0.0, 0.0)
    assert (found.sensor_bias_v, found.frames_per_trigger) == (None, 1)


def test_older_spelling() -> None:
    text = b"HDR,\t\nAssembly Size:\t1 X 1\nCounter Depth:\t12B\nThresholds:\t2.7E+1\t3.6E+0\nSensor Bias:\t90 V\nEnd\t"
    found = parse_sidecar(text, "x.hdr")
    assert (found.layout, found.counter_depth_bits, found.thresholds_kev) == ("1x1", 12, (27.0, 3.6))
    assert (found.sensor_bias_v, found.chip_mode, found.frames) == (90.0, None, None)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"HDR,", b"HDF,", "not a Merlin .hdr file"),
        (b"End", b"end", "a line must be 'key:<tab>value', got 'end"),
        (b"CSCM\r", b"XSCM\r", "the chip mode must be one of SPM, CSM, CM, CSCM, got 'XSCM'"),
        (b"(number):\t12\r", b"(number):\t13\r", "the counter depth must be 1, 6, 12 or 24 bit, got '13'"),
        (b"\t720\r", b"\t7.0\r", "frames in acquisition must be a number, got '7.0'"),
        (b"1.800000E+1", b"1.800000E+x", "a threshold must be a finite energy in keV, got '1.800000E+x'"),
        (b"1.800000E+1", b"NaN", "a threshold must be a finite energy in keV, got 'NaN'"),
        (b"Gain:", b"Chip ID:", "the key 'chip id' is there twice"),
    ],
)
def test_damage(old: bytes, new: bytes, expected: str) -> None:
    content = hdr()
    assert old in content
    with pytest.raises(RawFormatError, match=re.escape(f"x.hdr: {expected}")):
        parse_sidecar(content.replace(old, new, 1), "x.hdr")


def test_file_that_breaks_off_or_is_too_long() -> None:
    content = hdr()
    with pytest.raises(RawFormatError, match="breaks off"):
        parse_sidecar(content[: content.index(b"Gain:")], "x.hdr")
    with pytest.raises(RawFormatError, match=r"a Merlin \.hdr file of 70000 bytes is not credible"):
        parse_sidecar(content.ljust(70000), "x.hdr")


@given(st.lists(st.tuples(st.integers(0, 900), st.binary(min_size=1, max_size=4)), max_size=5), st.integers(0, 2048))
@settings(max_examples=300, deadline=None)
def test_fuzzed_bytes_give_only_raw_format_errors(edits: list[tuple[int, bytes]], length: int) -> None:
    content = bytearray(hdr())
    for start, new in edits:
        content[start : start + len(new)] = new
    for damaged in (bytes(content), bytes(content[:length])):
        try:
            found = parse_sidecar(damaged, "fuzz.hdr")
        except RawFormatError:
            continue
        assert found.fields is not None
