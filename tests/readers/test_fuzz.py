"""Random damage: whatever lies in a file, frames come out or the one named error."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import BinaryIO, cast

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless

from marspipe.errors import RawFormatError
from marspipe.readers import READERS, nxtomo, tiff
from marspipe.readers.merlin_sidecar import parse_sidecar
from tests.readers.bad_files import SOUND
from tests.readers.merlin_files import mib
from tests.readers.test_dicom_frames import dicom
from tests.readers.test_nxtomo import nxs
from tests.readers.test_tiff import pages

ROOT = Path(__file__).parents[2]
QUICK = settings(max_examples=150, deadline=None, derandomize=True)

FILES = {
    "merlin": [
        SOUND["merlin"].content,
        mib(exposures=1, counters=8),
        mib(exposures=2, shape=(6, 514), layout="2x2G"),
        mib(exposures=2, shape=(2, 256), depth=12, raw=True),
        mib(exposures=2, shape=(2, 256), depth=6, raw=True),
    ],
    "tiff": [
        pages(byteorder=">").getvalue(),
        pages(bigtiff=True, compression="zlib", tile=(16, 16)).getvalue(),
        pages(compression="lzma", rowsperstrip=7).getvalue(),
    ],
    "dicom": [SOUND["dicom"].content, SOUND["dicom"].foreign, dicom(syntax=RLELossless).getvalue()],
}
PIECES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([b"\xff" * 8, b"\xff" * 4, b"\x7f", b"\0", bytes(8), b"\x80\0\0\0", b"-", b"9" * 8]),
)


def attempt(reader: str, content: bytes) -> None:
    """Index, count and read; nothing but frames or a RawFormatError that names the file may come of it."""
    uri, file = "fuzz ü.raw", cast(BinaryIO, io.BytesIO(content))
    try:
        entries = READERS[reader].index(file, uri)
        assert READERS[reader].count(file, uri) == len(entries)
        shapes = [frame.shape for frame in READERS[reader].read_many(file, entries)]
        assert shapes == [(entry.rows, entry.cols) for entry in entries]
    except RawFormatError as error:
        assert str(error).startswith(uri)
        str(error).encode()


@pytest.mark.parametrize("reader", sorted(FILES))
@QUICK
@given(data=st.data())
def test_damaged_bytes(reader: str, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(FILES[reader]), "file"))
    # Half of the damage falls on the first bytes, where the headers are.
    places = st.one_of(st.integers(0, 1000), st.integers(0, len(content) - 1))
    for place, piece in data.draw(st.lists(st.tuples(places, PIECES), min_size=1, max_size=4), "damage"):
        content[place : place + len(piece)] = piece
    attempt(reader, bytes(content))


@pytest.mark.parametrize("reader", sorted(FILES))
@QUICK
@given(data=st.data())
def test_bytes_lost_doubled_or_appended(reader: str, data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(FILES[reader]), "file")
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2), "part"))
    attempt(reader, content[:start] + content[stop:])
    attempt(reader, content[:stop] + content[start:])
    attempt(reader, content + data.draw(st.binary(max_size=50), "more"))


@pytest.mark.parametrize("reader", sorted(SOUND))
@QUICK
@given(rest=st.binary(max_size=400))
def test_any_bytes_after_the_magic(reader: str, rest: bytes) -> None:
    magic = {
        "merlin": b"MQ1,000001,00384,",
        "tiff": b"II*\0\x08\0\0\0",
        "dicom": bytes(128) + b"DICM",
        "nxtomo": b"\x89HDF\r\n\x1a\n",
        "data_exchange": b"\x89HDF\r\n\x1a\n",
    }[reader]
    attempt(reader, magic + rest)


TAGS = st.lists(
    st.tuples(
        st.sampled_from([256, 257, 258, 259, 262, 273, 277, 278, 279, 282, 317, 322, 323, 324, 325, 339, 32997]),
        st.integers(0, 13),
        st.one_of(st.sampled_from([0, 1, 2, 4, 2**31, 2**32 - 1]), st.integers(0, 40)),
        st.one_of(st.sampled_from([0, 1, 2, 8, 16, 32, 10**9, 2**32 - 1]), st.integers(0, 400)),
    ),
    min_size=1,
    max_size=14,
    unique_by=lambda tag: tag[0],
)


@QUICK
@given(tags=TAGS, rest=st.binary(max_size=60))
def test_any_tags_of_a_tiff(tags: list[tuple[int, int, int, int]], rest: bytes) -> None:
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    attempt("tiff", head + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags)) + bytes(4) + rest)


@QUICK
@given(
    st.dictionaries(
        st.sampled_from(["marspipe_series", "files", "frames_per_file", "counters", "angles", "exposure_s", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
            max_leaves=6,
        ),
    )
)
def test_any_series_file(content: dict[str, object]) -> None:
    file = cast(BinaryIO, io.BytesIO(json.dumps({"marspipe_series": 1, **content}).encode()))
    with pytest.raises(RawFormatError, match=r"^gone/series\.json: "):
        tiff.index(file, "gone/series.json")


@QUICK
@given(st.binary(max_size=300))
def test_any_sidecar(rest: bytes) -> None:
    try:
        parse_sidecar(b"HDR,\r\n" + rest, "x.hdr")
    except RawFormatError as error:
        assert str(error).startswith("x.hdr")


def with_text_of_variable_length() -> bytes:
    file = nxs()
    with h5py.File(file, "a") as h5:
        h5["entry"].attrs["NX_class"] = "NXentry"
    return file.getvalue()


@pytest.mark.parametrize("length", [0xFFFFFFFFFFFFFFF0, 0xFFFFFFFFFFFFFFF8, 0x7FFFFFFFFFFFFFFF, 10**6, 4096])
def test_heap_that_would_send_the_library_in_circles(length: int) -> None:
    """The first length would: an object's header of 16 bytes and its content add up to 0."""
    content = bytearray(with_text_of_variable_length())
    heap = content.index(b"GCOL")
    content[heap + 24 : heap + 32] = struct.pack("<Q", length)
    with pytest.raises(
        RawFormatError, match=rf"^x\.nxs: the global heap at byte {heap} is damaged: an object of {length} bytes"
    ):
        nxtomo.index(cast(BinaryIO, io.BytesIO(content)), "x.nxs")
    content[heap + 8 : heap + 16] = struct.pack("<Q", length)
    with pytest.raises(RawFormatError, match=r"^x\.nxs: the global heap at byte"):
        nxtomo.index(cast(BinaryIO, io.BytesIO(content)), "x.nxs")


def test_list_of_free_places_that_goes_in_circles() -> None:
    """Of the heap that holds the names in a group; the library would follow it forever."""
    content = bytearray(nxs().getvalue())
    heap = content.index(b"HEAP")
    free, data = struct.unpack("<QQ", content[heap + 16 : heap + 32])
    assert free < 4096  # there is a free place
    content[data + free : data + free + 8] = struct.pack("<Q", free)
    with pytest.raises(RawFormatError, match=rf"^x\.nxs: the local heap at byte {heap} is damaged"):
        nxtomo.index(cast(BinaryIO, io.BytesIO(content)), "x.nxs")


def test_damaged_hdf5_neither_crashes_nor_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.readers.hdf5_damage", "0", "600"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    outcomes = dict(line.split(" ", 1) for line in lines if not line.endswith(" begins"))
    assert len(outcomes) == 600
    assert {n: found for n, found in outcomes.items() if found not in ("read", "named")} == {}
    assert min(Counter(outcomes.values()).values()) > 60  # the damage is neither harmless nor always fatal
