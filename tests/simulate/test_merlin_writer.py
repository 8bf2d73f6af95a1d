"""The Merlin writer: what the reader gets back, and how its headers compare with real ones."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from marspipe.errors import InputError
from marspipe.readers import merlin
from marspipe.simulate.merlin_writer import write_merlin, write_merlin_header_file
from tests.readers.merlin_files import REAL, asymmetric, frames, mib, needs_real, same

CAMERA: dict[str, Any] = {
    "counter_depth_bits": 12,
    "counters_per_exposure": 1,
    "color_mode": False,
    "thresholds_kev": (20.0, 33.17),
    "exposure_s": 0.3,
    "start_time": datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC),
}


def written(images: list[np.ndarray], **changes: Any) -> bytes:
    file = io.BytesIO()
    assert write_merlin(file, images, **{**CAMERA, **changes}) == len(images)
    return file.getvalue()


@pytest.mark.parametrize(("counters", "color"), [(1, False), (2, False), (4, True), (5, True), (8, True)])
@pytest.mark.parametrize(("depth", "dtype"), [(1, "uint8"), (6, "uint8"), (12, "uint16"), (24, "uint32")])
def test_round_trip(depth: int, dtype: str, counters: int, color: bool, rng: np.random.Generator) -> None:
    images = [rng.integers(0, 2**depth, (8, 12), dtype=np.uint32) for _ in range(3 * counters)]
    images[0][0, 0] = 2**depth - 1
    content = written(images, counter_depth_bits=depth, counters_per_exposure=counters, color_mode=color)
    file = io.BytesIO(content)
    entries = merlin.index(file, "x.mib")
    assert [(e.exposure_index, e.counter) for e in entries] == [divmod(n, counters) for n in range(3 * counters)]
    assert {(e.dtype, e.counter_depth_bits, e.exposure_s) for e in entries} == {(dtype, depth, 0.3)}
    assert entries[0].thresholds_kev == (20.0, 33.17, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert all(same(got, frame) for got, frame in zip(merlin.read_many(file, entries), images, strict=True))


ASSEMBLIES: list[dict[str, Any]] = [
    {"shape": (6, 512), "layout": "2x2"},
    {"shape": (8, 514), "layout": "2x2G"},
    {"shape": (515, 515), "layout": "2x2G"},
    {"shape": (3, 1024), "layout": "4x1"},
    {"shape": (3, 1033), "layout": "4x1G"},
    {"shape": (4, 256), "layout": "2x2", "counters": 8},
    {"shape": (3, 256), "raw": True},
    {"shape": (6, 512), "raw": True, "layout": "2x2"},
    {"shape": (3, 256), "raw": True, "header": "bare"},
    {"shape": (6, 512), "raw": True, "layout": "2x2", "header": "bare", "counters": 2},
]


@pytest.mark.parametrize("depth", [1, 6, 12, 24])
@pytest.mark.parametrize("kind", ASSEMBLIES, ids=lambda k: " ".join(map(str, k.values())))
def test_round_trip_of_assemblies_and_raw(kind: dict[str, Any], depth: int) -> None:
    content = mib(exposures=2, depth=depth, **kind)
    assert content == mib(exposures=2, depth=depth, **kind)
    file = io.BytesIO(content)
    entries = merlin.index(file, "x.mib")
    expected = frames(2 * kind.get("counters", 1), kind["shape"], depth)
    assert all(same(got, frame) for got, frame in zip(merlin.read_many(file, entries), expected, strict=True))
    assert {e.dtype for e in entries} == {{1: "uint8", 6: "uint8", 12: "uint16", 24: "uint32"}[depth]}
    assert {e.counter_depth_bits for e in entries} == {depth}
    bare = kind.get("header") == "bare"
    assert entries[0].thresholds_kev == (() if bare else (20.0, 33.0, 50.0, 65.0, 0.0, 0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("depth", "dtype", "magic"), [(12, "uint16", b"12B,000001,0,"), (24, "uint32", b"24B,000001,0,")]
)
def test_round_trip_of_old_headers(depth: int, dtype: str, magic: bytes) -> None:
    content = mib(exposures=2, depth=depth, shape=(256, 256), header="old")
    assert content.startswith(magic)
    assert len(content[:256].rstrip(b"\0").split(b",")) == 34
    file = io.BytesIO(content)
    entries = merlin.index(file, "x.mib")
    assert [(e.sequence, e.counter, e.dtype, e.counter_depth_bits, e.exposure_s) for e in entries] == [
        (n, 0, dtype, depth, 0.3) for n in (1, 2)
    ]
    assert {e.thresholds_kev for e in entries} == {(20.0, 33.0)}
    assert {e.acquired_at for e in entries} == {None}  # local time without a zone
    expected = frames(2, (256, 256), depth)
    assert all(same(got, frame) for got, frame in zip(merlin.read_many(file, entries), expected, strict=True))


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ({"shape": (4, 512), "layout": "2x2"}, b"MQ1,000001,00768,04,0512,0004,U16,   2x2,0F,"),
        ({"shape": (4, 514), "layout": "2x2G"}, b"MQ1,000001,00768,04,0514,0004,U16,   2x2G,0F,"),
        ({"shape": (4, 512), "layout": "2x2", "raw": True}, b"MQ1,000001,00768,04,1024,0002,R64,   2x2,0F,"),
        ({"shape": (256, 256), "raw": True, "depth": 24}, b"MQ1,000001,00384,01,0512,0256,R64,   1x1,01,"),
        ({"first_sequence": 41}, b"MQ1,000041,00384,01,0006,0004,U16,   1x1,01,"),
    ],
)
def test_first_fields(kind: dict[str, Any], start: bytes) -> None:
    assert mib(exposures=1, **kind).startswith(start)


def test_same_frames_same_bytes() -> None:
    assert mib(exposures=2, counters=4) == mib(exposures=2, counters=4)


def test_time_zone_and_nanoseconds() -> None:
    start = datetime(2024, 5, 6, 9, 8, 9, tzinfo=timezone(timedelta(hours=2)))
    content = written([asymmetric(2, 2)] * 2, start_time=start, exposure_s=1.2345e-5)
    header = content[392:].split(b"\0")[0].decode().split(",")
    assert header[9] == "2024-05-06 09:08:09.000012"
    assert header[-4:-1] == ["2024-05-06T07:08:09.000012345Z", "12345ns", "12"]
    assert written([asymmetric(2, 2)], start_time=datetime(2024, 5, 6, 7, 8, 9)) == written([asymmetric(2, 2)])


@needs_real
@pytest.mark.parametrize("depth", [1, 6, 12, 24])
def test_header_has_the_fields_of_a_real_one(depth: int) -> None:
    real = (REAL / f"Single_1_Frame_CounterDepth_{depth}_Rows_256.mib").read_bytes()[:384]
    frame = asymmetric(256, 256, 2**depth - 1)
    own = written([frame], counter_depth_bits=depth, thresholds_kev=(2.0, 511.0), exposure_s=0.001)[:384]

    def shape(header: bytes) -> list[str]:
        """The fields with every digit replaced, so that widths and signs are compared, not values."""
        return [re.sub(r"\d", "9", field) for field in header.decode().split(",")]

    assert shape(own) == shape(real)
    same_in_both = [*range(9), *range(10, 23), 23]
    own_fields, real_fields = own.decode().split(","), real.decode().split(",")
    for number in same_in_both:
        if number != 23:  # the first threshold DAC depends on the chip's calibration
            assert own_fields[number] == real_fields[number], number
    assert own_fields[-3:] == real_fields[-3:]


@needs_real
def test_header_file_has_keys_of_a_real_one() -> None:
    def keys(text: bytes) -> list[str]:
        return [line.split(":\t")[0].strip() for line in text.decode().split("\r\n")]

    file = io.BytesIO()
    write_merlin_header_file(file, frames=3, charge_summing=True, **{**CAMERA, "counters_per_exposure": 2})
    own = file.getvalue()
    real = (REAL / "Single_9_Frame_CounterDepth_12_Rows_256.hdr").read_bytes()
    assert len(own) == len(real) == 2048
    own_keys, real_keys = keys(own), keys(real)
    assert own_keys == [key for key in real_keys if key in own_keys]
    assert b"Chip Mode  (SPM, CSM, CM, CSCM):\tCSM\r\n" in own
    assert b"Frames in Acquisition (Number):\t3\r\n" in own
    assert b"Thresholds (keV):\t2.000000E+1,3.317000E+1,0.000000E+0," in own


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"layout": "3x2"}, "layout must be 1x1, 2x2 or Nx1 with a number N, with or without G, got '3x2'"),
        ({"layout": "Nx1"}, "layout must be 1x1, 2x2 or Nx1 with a number N, with or without G, got 'Nx1'"),
        ({"layout": "2x2"}, "layout 2x2 with chips of 256 px is 512 px wide, but the header says 2"),
        ({"raw": True}, "a raw (R64) image of 1 chip(s) and 12 bit is 256 px wide in its header, got 2"),
        ({"raw": True, "color_mode": True}, "raw images are not written in color mode"),
        ({"header": "none"}, "header must be 'full', 'bare' or 'old', got 'none'"),
        ({"header": "old", "counter_depth_bits": 6}, "an old header is for unpacked images of one chip, 12 or 24 bit"),
        ({"header": "old"}, "an old header is for images of 256 x 256 pixels, got 2 x 2"),
        ({"first_sequence": -1}, "first_sequence must be 0 to 999999, got -1"),
        ({"exposure_s": 1e30}, "too long"),
        ({"counter_depth_bits": 16}, "counter_depth_bits must be 1, 6, 12 or 24, got 16"),
        ({"counters_per_exposure": 3}, "counters_per_exposure must be 1 to 2 without color mode, got 3"),
        ({"counters_per_exposure": 9, "color_mode": True}, "must be 1 to 8 in color mode, got 9"),
        ({"thresholds_kev": range(9)}, "thresholds_kev must be at most 8"),
        ({"thresholds_kev": [float("nan")]}, "finite energies in keV, got [nan]"),
        ({"exposure_s": 0.0}, "exposure_s must be positive"),
        ({"counters_per_exposure": 2}, "the last is incomplete"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        written([asymmetric(2, 2)], **changes)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (np.full((2, 2), 4096, np.uint16), "exposure 1, counter 0: a 12-bit counter holds at most 4095"),
        (np.zeros((2, 3), np.uint16), r"has shape \(2, 3\), expected \(2, 2\) as the first"),
        (np.zeros((2, 2), np.int16), "unsigned integers"),
        (np.zeros((2, 2), np.float32), "unsigned integers"),
        (np.zeros(4, np.uint16), "two-dimensional"),
        (np.zeros((0, 2), np.uint16), "1 to 9999 pixels a side"),
    ],
)
def test_impossible_frame(frame: np.ndarray, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        written([asymmetric(2, 2), frame])
