"""The TIFF reader: every form of page, series of files, sizes beyond 32 bit, the real Savu scan, damaged files."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import RawFormatError
from marspipe.readers import READERS, tiff
from marspipe.readers.manifest_files import FileEntry, resolve_angles
from marspipe.simulate.tiff import write_tiff
from tests.readers.merlin_files import asymmetric, same
from tests.readers.small_scans import CASES, RangedFile, require_same_bytes, require_same_scan, small_scan

SAVU = CASES / "savu_image_test_parallel3d"
needs_savu = pytest.mark.skipif(not SAVU.is_dir(), reason=f"the real TIFF scan is not at {SAVU}")

STACK = np.stack([asymmetric(20, 36) + i for i in range(4)])


def pages(stack: np.ndarray = STACK, dtype: str = "uint16", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    order = {key: options.pop(key) for key in ("byteorder", "bigtiff") if key in options}
    with tifffile.TiffWriter(file, **order) as writer:
        for frame in stack:
            writer.write(
                frame.astype(dtype), **{"photometric": "minisblack", "metadata": None, "contiguous": False, **options}
            )
    return file


def error_of(content: bytes, uri: str = "scan/a b.tif") -> str:
    with pytest.raises(RawFormatError) as caught:
        file = io.BytesIO(content)
        list(tiff.read_many(file, tiff.index(file, uri)))
    assert str(caught.value).startswith(uri)
    return str(caught.value)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 3},
        {"tile": (16, 16)},
        {"compression": "zlib"},
        {"compression": "lzma", "rowsperstrip": 7},
        {"bigtiff": True, "tile": (32, 16), "compression": "zlib"},
    ],
    ids=lambda options: "-".join(map(str, options)) or "plain",
)
def test_every_form_of_page(dtype: str, byteorder: str, options: dict[str, Any]) -> None:
    file = pages(dtype=dtype, byteorder=byteorder, **options)
    entries = tiff.index(file, "x.tif")
    frames = list(tiff.read_many(file, entries))
    assert all(f.dtype.isnative and f.dtype == dtype == e.dtype for f, e in zip(frames, entries, strict=True))
    assert np.array_equal(np.stack(frames), STACK.astype(dtype))
    assert tiff.count(file, "x.tif") == 4
    assert [(e.sequence, e.exposure_index, e.counter, e.dataset) for e in entries] == [(k, k, 0, "") for k in range(4)]


def test_frames_are_rows_by_columns_and_ranges_are_cut() -> None:
    file = pages()
    entries = tiff.index(file, "x.tif", 2, 9)
    assert [e.sequence for e in entries] == [2, 3]
    assert same(tiff.read(file, entries[1]), asymmetric(20, 36) + 3)
    assert (entries[0].rows, entries[0].cols, entries[0].length) == (20, 36, 20 * 36 * 2)


@pytest.mark.parametrize("options", [{}, {"exposures_per_file": 1, "big_endian": True}])
def test_simulated_scan_comes_back(tmp_path: Path, options: dict[str, Any]) -> None:
    acquisition = small_scan()
    files = write_tiff(tmp_path, acquisition, lambda: None, **options)
    projections = require_same_scan(tmp_path, files, acquisition)
    last = f"projections_{4 if options else 0:05d}.tif"
    assert (projections[-1].uri, projections[-1].dataset) == (str(tmp_path / last), last)


def test_twelve_bit_counters_are_sixteen_bit_pages(tmp_path: Path) -> None:
    acquisition = small_scan(counter_depth_bits=12, open_beam_photons=2000.0)
    assert (
        require_same_scan(tmp_path, write_tiff(tmp_path, acquisition, lambda: None), acquisition)[0].dtype == "uint16"
    )


def test_equal_settings_give_equal_bytes(tmp_path: Path) -> None:
    require_same_bytes(tmp_path, lambda folder: write_tiff(folder, small_scan(), lambda: None, exposures_per_file=1))


@needs_savu
def test_real_savu_scan() -> None:
    """Ninety-one files listed by number; the angles of the flat and dark frames are not among those taken."""
    angles = np.loadtxt(SAVU / "angles.txt")[10:101]
    series = {
        "marspipe_series": 1,
        "files": {"pattern": "tiffs/raw_#####.tiff", "count": 91},
        "angles": {"unit": "deg", "values": angles.tolist()},
    }
    file = io.BytesIO(json.dumps(series).encode())
    uri = str(SAVU / "scan.json")
    entry = FileEntry.model_validate(
        {
            "path": "scan.json",
            "reader": "tiff",
            "frame_type": "projection",
            "angles_rad": {"dataset": "angles", "unit": "deg"},
        }
    )
    entries = tiff.index(file, uri)
    assert tiff.count(file, uri) == len(entries) == 91
    assert {(e.rows, e.cols, e.dtype) for e in entries} == {(135, 160, "uint16")}
    frames = np.stack(list(tiff.read_many(file, entries)))
    assert np.array_equal(frames[17], tifffile.imread(SAVU / "tiffs" / "raw_00017.tiff"))
    assert np.array_equal(resolve_angles(entry, file, uri), np.deg2rad(angles))
    # Half a turn later the row is seen from behind: mirrored about the axis at column 85.86.
    with (SAVU / "flat_00001.tiff").open("rb") as flat_file, (SAVU / "dark_00001.tiff").open("rb") as dark_file:
        flat, dark = (
            tiff.read(cast(BinaryIO, f), tiff.index(cast(BinaryIO, f), "x.tiff")[0])[67].astype(float)
            for f in (flat_file, dark_file)
        )
    first, last = ((frames[k, 67] - dark) / (flat - dark) for k in (0, 90))
    axis = 85.86
    columns = np.arange(20, 150)
    mirrored = np.interp(2 * axis - columns, np.arange(160), last)
    assert np.corrcoef(first[columns], mirrored)[0, 1] > 0.98


def series_in(folder: Path, **changes: Any) -> str:
    for number in range(3):
        (folder / f"raw {number:03d}.tif").write_bytes(pages(STACK[:2] + number).getvalue())
    content = {
        "marspipe_series": 1,
        "files": {"pattern": "raw ###.tif", "count": 3},
        "frames_per_file": 2,
        **changes,
    }
    (folder / "séries.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder / "séries.json")


def series_error(uri: str) -> str:
    with open(uri, "rb") as file, pytest.raises(RawFormatError) as caught:
        tiff.index(cast(BinaryIO, file), uri)
    return str(caught.value)


def test_series_opens_only_the_files_it_needs(tmp_path: Path) -> None:
    uri = series_in(tmp_path)
    (tmp_path / "raw 000.tif").unlink()
    with open(uri, "rb") as file:
        raw = cast(BinaryIO, file)
        entries = tiff.index(raw, uri, 3, 3)
        assert [(e.dataset, e.sequence, e.exposure_index) for e in entries] == [
            ("raw 001.tif", 1, 3),
            ("raw 002.tif", 0, 4),
            ("raw 002.tif", 1, 5),
        ]
        assert [int(f[0, 0]) for f in READERS["tiff"].read_many(raw, entries)] == [3, 3, 4]
    assert "the series lists 'raw 000.tif', but there is no file" in series_error(uri)


def test_series_on_another_file_system(tmp_path: Path) -> None:
    uri = f"far://host{series_in(tmp_path)}"
    with cast(BinaryIO, io.BufferedReader(RangedFile(uri))) as file:
        entries = tiff.index(file, uri)
        assert entries[2].uri == f"far://host{tmp_path}/raw 001.tif"
        assert len(list(tiff.read_many(file, entries))) == 6


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"frames_per_file": 3}, "the file does not hold 3 frames"),
        ({"frames_per_file": 1}, "the file does not hold 1 frames"),
        ({"counters": 4}, "divide into exposures of 4 counters"),
        ({"files": ["../raw 000.tif"]}, "the series lists '../raw 000.tif', outside the folder"),
        ({"files": {"pattern": "raw.tif", "count": 3}}, "pattern must have one run of #"),
        ({"files": []}, "at least 1 item"),
        ({"files": {"pattern": "raw ###.tif", "count": 10**12}}, "less than or equal to 10000000"),
        ({"frame_per_file": 2}, "unknown key 'frame_per_file'; did you mean 'frames_per_file'?"),
        ({"marspipe_series": 2}, "marspipe_series: input should be 1, got 2"),
    ],
)
def test_series_that_is_wrong(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in series_error(series_in(tmp_path, **changes))


def test_series_of_different_frames_and_no_series(tmp_path: Path) -> None:
    uri = series_in(tmp_path)
    (tmp_path / "raw 002.tif").write_bytes(pages(STACK[:2, 1:]).getvalue())
    message = series_error(uri)
    assert "raw 002.tif: frames are 19 x 36 pixels of uint16, expected 20 x 36 pixels of uint16" in message
    for content in (b"\xff\xfe", b"[1, 2]", b"{", b""):
        with pytest.raises(RawFormatError, match=r"^x\.yaml: "):
            tiff.index(io.BytesIO(content), "x.yaml")


def test_angles_of_a_file_that_has_none(tmp_path: Path) -> None:
    with pytest.raises(RawFormatError, match="a TIFF file holds no angles"):
        tiff.read_angles(pages(), "x.tif", "angles")
    uri = series_in(tmp_path)
    with open(uri, "rb") as file, pytest.raises(RawFormatError, match="there is no 'angles'; a series file gives its"):
        tiff.read_angles(cast(BinaryIO, file), uri, "angles")


@pytest.mark.parametrize("last", [70_000, 131_071])
def test_pages_beyond_32_bit(tmp_path: Path, last: int) -> None:
    """A sparse BigTIFF of more than 4 GiB, its second page at the end."""
    path = tmp_path / "large.tif"
    place = last << 16
    with path.open("wb") as file:
        first = pages(STACK[:1], bigtiff=True).getvalue()
        second = pages(STACK[1:2], bigtiff=True).getvalue()
        file.write(first)
        moved = bytearray(second)
        (ifd,) = struct.unpack("<Q", second[8:16])
        (tags,) = struct.unpack("<Q", second[ifd : ifd + 8])
        for tag in range(ifd + 8, ifd + 8 + 20 * tags, 20):
            number, kind, amount, value = struct.unpack("<HHQQ", second[tag : tag + 20])
            size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 16: 8}[kind] * amount
            if number == 273 or size > 8:  # offsets of the pixels and of long values
                moved[tag : tag + 20] = struct.pack("<HHQQ", number, kind, amount, value + place)
        (chain,) = struct.unpack("<Q", first[8:16])
        (tags,) = struct.unpack("<Q", first[chain : chain + 8])
        file.seek(chain + 8 + 20 * tags)
        file.write(struct.pack("<Q", place + ifd))
        file.seek(place)
        file.write(moved)
    assert os.stat(path).st_size > 1 << 32
    if os.stat(path).st_blocks * 512 > 1 << 30:
        pytest.skip("this file system has no sparse files")
    with RangedFile(f"far://host{path}") as ranged:
        raw = cast(BinaryIO, ranged)
        entries = tiff.index(raw, "large.tif")
        frames = list(tiff.read_many(raw, entries))
        assert ranged.bytes_read < 1 << 16
    assert entries[1].offset > 1 << 32
    assert np.array_equal(np.stack(frames), STACK[:2])


def test_only_the_pages_asked_for_are_read(tmp_path: Path) -> None:
    stack = np.random.default_rng(1).integers(0, 4096, (200, 128, 128), dtype=np.uint16)
    (tmp_path / "x.tif").write_bytes(pages(stack).getvalue())
    with RangedFile(f"far://host{tmp_path}/x.tif") as file:
        raw = cast(BinaryIO, file)
        frames = list(tiff.read_many(raw, tiff.index(raw, "x.tif", 150, 2)))
        assert file.bytes_read < 0.05 * (tmp_path / "x.tif").stat().st_size
    assert np.array_equal(np.stack(frames), stack[150:152])


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (pages(dtype="float64"), "page 0 has pixels of float64 (64 bit), expected one of uint8, uint16"),
        (pages(dtype="int16"), "has pixels of int16"),
        (pages(photometric="miniswhite"), "photometric interpretation 0; expected one sample, depth 1, and 1"),
        (pages(np.zeros((1, 8, 8, 3)), "uint8", photometric="rgb"), "3 samples per pixel"),
    ],
    ids=["float64", "int16", "white", "color"],
)
def test_pages_that_are_no_frames(file: io.BytesIO, expected: str) -> None:
    assert expected in error_of(file.getvalue())


def test_pages_that_differ() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for frame in (STACK[0], STACK[1, :10]):
            writer.write(frame.astype("u2"), photometric="minisblack", metadata=None, contiguous=False)
    assert "page 1 has 10 x 36 pixels of uint16, expected 20 x 36 of uint16 as page 0" in error_of(file.getvalue())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a TIFF file: its 0 bytes"),
        (b"II*\0", "not a TIFF file: its 4 bytes"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "not a TIFF file"),
        (b"II\0*" + bytes(100), "not a TIFF file"),  # marked little-endian, written big-endian
        (b"II*\0" + bytes(100), "a TIFF file without pages"),
        (b"II*\0\xff\xff\xff\x7f", "page 0 has 0 tags at offset 2147483647 of 8 bytes"),
        (b"II*\0\x08\0\0\0\xff\xff" + bytes(50), "page 0 has 65535 tags"),
        (b"MM\0+\0\x08\0\0" + b"\xff" * 8, "page 0 has 0 tags at offset 18446744073709551615 of 16 bytes"),
    ],
)
def test_not_tiff(content: bytes, expected: str) -> None:
    assert expected in error_of(content)


def with_tag(content: bytes, number: int, value: int) -> bytes:
    """The same file with the value of a tag of its first page replaced."""
    changed = bytearray(content)
    (ifd,) = struct.unpack("<I", content[4:8])
    (tags,) = struct.unpack("<H", content[ifd : ifd + 2])
    for tag in range(ifd + 2, ifd + 2 + 12 * tags, 12):
        if struct.unpack("<H", content[tag : tag + 2]) == (number,):
            changed[tag : tag + 12] = struct.pack("<HHII", number, 4, 1, value)
    assert changed != content
    return bytes(changed)


def test_absurd_sizes_take_no_memory() -> None:
    sound = pages(STACK[:1]).getvalue()
    assert "a frame of 20 x 1000000000 pixels is not credible" in error_of(with_tag(sound, 256, 10**9))
    assert "page 0 is truncated: its strips or tiles hold 1440 bytes" in error_of(with_tag(sound, 256, 30_000))
    assert "strip or tile 0 has 4000000000 bytes" in error_of(with_tag(sound, 279, 4_000_000_000))
    assert "strip or tile 0 has 1440 bytes at offset 4294967295" in error_of(with_tag(sound, 273, 2**32 - 1))


def test_pages_in_circles() -> None:
    content = bytearray(pages(STACK[:1]).getvalue())
    (ifd,) = struct.unpack("<I", content[4:8])
    (tags,) = struct.unpack("<H", content[ifd : ifd + 2])
    content[ifd + 2 + 12 * tags : ifd + 6 + 12 * tags] = struct.pack("<I", ifd)
    assert "the pages go in circles" in error_of(bytes(content))


def test_dataset_is_refused() -> None:
    with pytest.raises(RawFormatError, match=r"x\.tif: dataset '/a' is for HDF5 and DICOM files"):
        tiff.index(pages(), "x.tif", dataset="/a")


SOUND = pages(compression="zlib", tile=(16, 16)).getvalue()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(length=st.integers(0, len(SOUND) - 1))
def test_truncated_anywhere(length: int) -> None:
    """The last bytes are those of the last page's pixels or tags: some page always suffers."""
    error_of(SOUND[:length])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_are_a_named_error_or_none(changes: list[tuple[int, int]]) -> None:
    content = bytearray(SOUND)
    for place, value in changes:
        content[place] = value
    file = io.BytesIO(content)
    try:
        entries = tiff.index(file, "x.tif")
        for entry, frame in zip(entries, tiff.read_many(file, entries), strict=True):
            assert frame.shape == (entry.rows, entry.cols)
    except RawFormatError as error:
        assert str(error).startswith("x.tif")
