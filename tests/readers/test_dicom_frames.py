"""The DICOM frame reader: mapping tables, transfer syntaxes, series of single frames, damaged files."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from marspipe.errors import RawFormatError
from marspipe.readers import dicom_frames
from marspipe.readers.dicom_mapping import load_mapping
from marspipe.readers.files import Place
from marspipe.readers.manifest_files import FileEntry, resolve_angles
from marspipe.resources import resource_path
from marspipe.simulate.dicom_frames import write_dicom
from tests.readers.merlin_files import asymmetric, same
from tests.readers.small_scans import CASES, RangedFile, require_same_bytes, require_same_scan, small_scan

REAL = CASES / "dicom_ct"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real DICOM files are not at {REAL}")
UID = "1.2.840.10008.5.1.4.1.1.7.3"
MAPPING = """\
marspipe_scanner: 1
name: test
angle: {tag: "0011,1001", creator: ACME, unit: deg, scale: 0.001, offset: 90}
sample_z: {keyword: TableHeight, unit: cm}
thresholds: {tag: "(0011,1002)", creator: ACME, unit: eV, vr: FD}
exposure: {tag: "0018,1150", unit: ms}
"""


def frames(count: int = 3) -> np.ndarray:
    return np.stack([asymmetric(4, 6) + i for i in range(count)]).astype(np.uint16)


def dicom(
    stack: np.ndarray | None = None,
    syntax: str = ExplicitVRLittleEndian,
    angles: Any = (0, 1000, 2500),
    **changes: Any,
) -> io.BytesIO:
    """A small multi-frame file; changes set attributes by keyword, None removes one."""
    stack = frames() if stack is None else stack
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = UID, "2.25.1"
    dataset.Rows, dataset.Columns = stack.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.NumberOfFrames = len(stack)
    dataset.TableHeight, dataset.ExposureTime = "1.5", "300"
    block = dataset.private_block(0x0011, "SOMEBODY ELSE", create=True)
    block.add_new(1, "DS", ["7"])
    block = dataset.private_block(0x0011, "ACME", create=True)
    block.add_new(1, "DS", [str(a) for a in angles])
    block.add_new(2, "FD", [20000.0, 33000.0])
    big = syntax == ExplicitVRBigEndian
    dataset.PixelData = stack.astype(">u2" if big else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    if syntax == RLELossless:
        dataset.compress(RLELossless, encoding_plugin="pydicom")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(
            file,
            dataset,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=not big,
            enforce_file_format=True,
        )
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scanner.yaml").write_text(MAPPING)
    return tmp_path


def error_of(folder: Path, file: io.BytesIO, dataset: str | None = "scanner.yaml") -> str:
    uri = str(folder / "a b.dcm")
    with pytest.raises(RawFormatError) as caught:
        list(dicom_frames.read_many(file, dicom_frames.index(file, uri, dataset=dataset)))
    return str(caught.value)


@pytest.mark.parametrize("run_lengths", [False, True])
def test_simulated_scan_comes_back(tmp_path: Path, run_lengths: bool) -> None:
    acquisition = small_scan()
    files = write_dicom(tmp_path, acquisition, lambda: None, run_lengths=run_lengths)
    projections = require_same_scan(tmp_path, files, acquisition)
    assert {e.counter_depth_bits for e in projections} == {24}
    with (tmp_path / "projections.dcm").open("rb") as file:
        values = dicom_frames.read_values(cast(BinaryIO, file), "projections.dcm", "example")
    assert [(v.counter, v.camera_u_mm, v.camera_v_mm, v.sample_z_mm) for v in values[:2]] == [
        (0, 0, 0, 0),
        (1, 0, 0, 0),
    ]


@pytest.mark.parametrize("run_lengths", [False, True])
def test_simulated_files_are_dicom_to_others(tmp_path: Path, run_lengths: bool) -> None:
    acquisition = small_scan(counter_depth_bits=12, open_beam_photons=2000.0)
    write_dicom(tmp_path, acquisition, lambda: None, run_lengths=run_lengths)
    dataset = pydicom.dcmread(tmp_path / "projections.dcm")
    uri = str(tmp_path / "projections.dcm")
    with open(uri, "rb") as file:
        raw = cast(BinaryIO, file)
        ours = np.stack(list(dicom_frames.read_many(raw, dicom_frames.index(raw, uri))))
    assert np.array_equal(dataset.pixel_array, ours)
    assert (dataset.BitsAllocated, dataset.BitsStored, dataset.PatientID) == (16, 12, "demo")
    assert dataset.PerFrameFunctionalGroupsSequence[4].PositionerPrimaryAngle == pytest.approx(72.0)


def test_equal_settings_give_equal_bytes(tmp_path: Path) -> None:
    require_same_bytes(tmp_path, lambda folder: write_dicom(folder, small_scan(), lambda: None))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_transfer_syntaxes_and_mapped_values(folder: Path, syntax: str) -> None:
    file, uri = dicom(syntax=syntax), str(folder / "x.dcm")
    entries = dicom_frames.index(file, uri, dataset="scanner.yaml")
    stored = list(dicom_frames.read_many(file, entries))
    assert np.array_equal(np.stack(stored), frames()) and all(f.dtype == np.uint16 for f in stored)
    assert same(dicom_frames.read(file, entries[2]), asymmetric(4, 6) + 2)
    assert dicom_frames.count(file, uri) == 3
    assert entries[1].thresholds_kev == (20.0, 33.0) and entries[1].exposure_s == 0.3
    values = dicom_frames.read_values(file, uri, "scanner.yaml")
    assert [v.sample_z_mm for v in values] == [15.0] * 3
    entry = {"path": "x.dcm", "reader": "dicom", "frame_type": "projection", "dataset": "scanner.yaml"}
    manifest = FileEntry.model_validate({**entry, "angles_rad": {"dataset": "angle", "unit": "deg"}})
    np.testing.assert_allclose(resolve_angles(manifest, file, uri), np.deg2rad([90.0, 91.0, 92.5]), rtol=1e-12)


def test_series_of_single_frames_with_counters(tmp_path: Path) -> None:
    """Two counters; every frame is a file of its own, and says which counter it is of."""
    mapping = {
        "name": "single",
        "angle": {"keyword": "PositionerPrimaryAngle", "unit": "rad"},
        "counter": {"keyword": "InstanceNumber", "offset": -1},
    }
    (tmp_path / "m.yml").write_text(json.dumps(mapping))
    stack = frames(6)
    for k in range(6):
        file = dicom(stack[k : k + 1], PositionerPrimaryAngle=str(0.25 * (k // 2)), InstanceNumber=1 + k % 2)
        (tmp_path / f"{k + 1:04d}.dcm").write_bytes(file.getvalue())
    series = {"marspipe_series": 1, "files": {"pattern": "####.dcm", "first": 1, "count": 6}, "counters": 2}
    (tmp_path / "scan.yaml").write_text(json.dumps(series))
    uri = str(tmp_path / "scan.yaml")
    with open(uri, "rb") as opened:
        raw = cast(BinaryIO, opened)
        entries = dicom_frames.index(raw, uri, dataset="m.yml")
        assert dicom_frames.count(raw, uri) == 6
        assert [(e.exposure_index, e.counter) for e in entries] == [divmod(k, 2) for k in range(6)]
        assert np.array_equal(np.stack(list(dicom_frames.read_many(raw, entries[1:4]))), stack[1:4])
        angles, unit = dicom_frames.read_angles(raw, uri, "angle", "m.yml")
        assert (angles.tolist(), unit) == ([0.0, 0.25, 0.5], "rad")
        (tmp_path / "0004.dcm").write_bytes((tmp_path / "0003.dcm").read_bytes())
        with pytest.raises(
            RawFormatError, match=r"0004\.dcm: frame 0 is of counter 0, expected counter 1 of exposure 1"
        ):
            dicom_frames.index(raw, uri, dataset="m.yml")
        later = dicom(stack[:1], PositionerPrimaryAngle="0.3", InstanceNumber=2)
        (tmp_path / "0004.dcm").write_bytes(later.getvalue())
        with pytest.raises(
            RawFormatError, match=r"counters of exposure 1 differ in PositionerPrimaryAngle \(0018,1510\)"
        ):
            dicom_frames.read_angles(raw, uri, "angle", "m.yml")


def test_bits_above_those_stored_are_cut(folder: Path) -> None:
    stack = frames() | 0xF000
    file = dicom(stack, BitsStored=12, HighBit=11)
    entries = dicom_frames.index(file, "x.dcm")
    assert entries[0].counter_depth_bits == 12
    assert np.array_equal(np.stack(list(dicom_frames.read_many(file, entries))), stack & 0x0FFF)


def test_private_tag_in_implicit_syntax_is_read_as_text(folder: Path) -> None:
    assert dicom_frames.read_values(dicom(syntax=ImplicitVRLittleEndian), str(folder / "x"), "scanner.yaml")[
        0
    ].angle_rad


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"TableHeight": None}, "TableHeight (0018,1130) (sample_z) is missing, but the scanner mapping names it"),
        ({"TableHeight": ""}, "TableHeight (0018,1130) (sample_z) must be a "),
        ({"angles": (1, 2)}, "(0011,1001) of 'ACME' (angle) has 2 values, expected 1 or one per frame (3)"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "BitsAllocated (0028,0100) = 8"),
        ({"PixelRepresentation": 1}, "PixelRepresentation is 1, expected 0"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3, expected 1"),
        ({"HighBit": 11}, "HighBit is 11, expected 15"),
        ({"RescaleSlope": "2", "RescaleIntercept": "0"}, "RescaleSlope (0028,1053) = 2"),
        ({"Rows": 65535, "Columns": 65535}, "a frame of 65535 x 65535 pixels is not credible"),
        ({"Rows": 31623, "Columns": 3162}, "PixelData (7FE0,0010) has 144 bytes, expected 599951556 for 3 frames"),
        ({"NumberOfFrames": 2000000000}, "2000000000 frames are not credible"),
        ({"NumberOfFrames": 0}, "NumberOfFrames (0028,0008) must be at least 1, got 0"),
        ({"NumberOfFrames": 4}, "has 144 bytes, expected 192 for 4 frames"),
        ({"Rows": None}, "Rows must be a whole number, got None"),
        ({"PixelData": None}, "PixelData (7FE0,0010) is missing"),
    ],
)
def test_attributes_that_are_wrong(folder: Path, changes: dict[str, Any], expected: str) -> None:
    message = error_of(folder, dicom(**changes))
    assert expected in message and message.startswith(str(folder / "a b.dcm"))


def test_number_that_is_text(folder: Path) -> None:
    content = dicom().getvalue().replace(b"0\\1000\\2500 ", b"0\\10x0\\2500 ")
    assert "(0011,1001) of 'ACME' (angle) must be a number" in error_of(folder, io.BytesIO(content))


def test_other_transfer_syntax_is_named(folder: Path) -> None:
    content = dicom().getvalue().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.99"[:20])
    assert "TransferSyntaxUID (0002,0010) is 1.2.840.10008.1.2.99, expected one of Impl" in error_of(
        folder, io.BytesIO(content)
    )


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ("name: a\nangel: {keyword: Rows}", "unknown key 'angel'; did you mean 'angle'?"),
        ("name: a\nangle: {keyword: Rowz, unit: deg}", "'Rowz' is no DICOM keyword"),
        ("name: a\nangle: {keyword: Rows}", "unit must be one of deg, rad, got '1'"),
        ("name: a\nangle: {unit: deg}", "give either tag or keyword"),
        ("name: a\nangle: {tag: '0011', unit: deg}", "a tag is written as '0018,1510', got '0011'"),
        ("name: a\nangle: {tag: '0011,1001', unit: deg}", "a creator belongs to a private tag (odd group)"),
        ("name: a\nangle: {tag: '0018,1130', creator: X, unit: deg}", "a creator belongs to a private tag"),
        ("[1]", "a scanner mapping must be a mapping of keys"),
        ("\ud800", "not a text file"),
    ],
)
def test_mapping_that_is_wrong(folder: Path, mapping: str, expected: str) -> None:
    (folder / "scanner.yaml").write_bytes(mapping.encode("utf-8", "surrogatepass"))
    message = error_of(folder, dicom())
    assert expected in message and message.startswith(str(folder / "scanner.yaml"))


def test_mapping_that_is_not_there(folder: Path) -> None:
    assert "there is no scanner mapping 'mars'" in error_of(folder, dicom(), "mars")
    assert "there is no scanner mapping '../x'" in error_of(folder, dicom(), "../x")
    assert "names the scanner mapping 'gone.yaml', but there is no file" in error_of(folder, dicom(), "gone.yaml")
    assert "outside the folder" in error_of(folder, dicom(), "../scanner.yaml")
    with pytest.raises(RawFormatError, match="no scanner mapping says where the angle is"):
        dicom_frames.read_angles(dicom(), "x.dcm", "angle")


def test_every_shipped_mapping_is_sound() -> None:
    names = [path.stem for path in resource_path("conf/scanners").glob("*.yaml")]
    assert "example" in names
    for name in names:
        assert load_mapping(name, Place("x.dcm", ".")).name == name


def test_counters_out_of_order(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text('name: m\ncounter: {tag: "0011,1001", creator: ACME}\n')
    file, uri = dicom(frames(4), angles=(0, 1, 0, 1)), str(tmp_path / "x.dcm")
    assert [(e.exposure_index, e.counter) for e in dicom_frames.index(file, uri, 1, 2, dataset="m.yaml")] == [
        (0, 1),
        (1, 0),
    ]
    for counters, number in (((0, 1, 1, 0), 2), ((0, 0, 1, 1), 1), ((1, 0, 1, 0), 0), ((0, 1, 2, 0), 0)):
        with pytest.raises(RawFormatError, match=f"frame {number} is of counter {counters[number]} by "):
            dicom_frames.index(dicom(frames(4), angles=counters), uri, dataset="m.yaml")
    with pytest.raises(RawFormatError, match=r"\(counter\) of frame 1 must be 0, 1, ..., got -1"):
        dicom_frames.index(dicom(frames(4), angles=(0, -1, 0, 1)), uri, dataset="m.yaml")


def test_fragments_of_run_lengths_that_are_missing(folder: Path) -> None:
    content = dicom(syntax=RLELossless, NumberOfFrames=3).getvalue()
    sound = dicom_frames.index(io.BytesIO(content), "x.dcm")
    cut = sound[1].offset + 4
    assert "truncated or damaged at offset" in error_of(folder, io.BytesIO(content[:cut]))
    early = content[: sound[2].offset - 8] + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    assert "has 2 fragments, expected 3 frames" in error_of(folder, io.BytesIO(early))
    nonsense = content[: sound[1].offset] + b"\xff" * sound[1].length + content[sound[1].offset + sound[1].length :]
    assert "frame 1 is damaged or cannot be decoded" in error_of(folder, io.BytesIO(nonsense))


def test_runs_of_more_pixels_than_the_frame_has(folder: Path) -> None:
    """The decoder, which is written in Rust, panics at them: no Exception, which nobody would catch."""
    content = dicom(syntax=RLELossless, NumberOfFrames=3).getvalue()
    place = dicom_frames.index(io.BytesIO(content), "x.dcm")[1]
    too_long = struct.pack("<16I", 2, 64, 66, *[0] * 13) + b"\x81\0" * ((place.length - 64) // 2)
    damaged = content[: place.offset] + too_long + content[place.offset + len(too_long) :]
    assert "frame 1 is damaged or cannot be decoded: index out of bounds" in error_of(folder, io.BytesIO(damaged))


def test_only_the_frames_asked_for_are_read(tmp_path: Path) -> None:
    stack = np.random.default_rng(1).integers(0, 4096, (200, 128, 128), dtype=np.uint16)
    path = tmp_path / "x.dcm"
    path.write_bytes(dicom(stack).getvalue())
    with RangedFile(f"far://host{path}") as file:
        raw = cast(BinaryIO, file)
        picked = list(dicom_frames.read_many(raw, dicom_frames.index(raw, "x.dcm", 150, 2)))
        assert file.bytes_read < 0.05 * path.stat().st_size
    assert np.array_equal(np.stack(picked), stack[150:152])


def test_frames_beyond_32_bit(folder: Path) -> None:
    """A sparse file whose first frame takes 4 GiB: those behind it are read, and hardly anything else."""
    content = dicom(syntax=RLELossless).getvalue()
    first, second, _ = dicom_frames.index(io.BytesIO(content), "x.dcm")
    length = 2**32 - 2
    path = folder / "large.dcm"
    with path.open("wb") as file:
        file.write(content[: first.offset - 4] + struct.pack("<I", length) + content[first.offset : second.offset - 8])
        file.seek(first.offset + length)
        file.write(content[second.offset - 8 :])
    if os.stat(path).st_blocks * 512 > 1 << 30:
        pytest.skip("this file system has no sparse files")
    with RangedFile(f"far://host{path}") as ranged:
        raw = cast(BinaryIO, ranged)
        found = dicom_frames.index(raw, "large.dcm", 1, 2)
        assert found[0].offset > 1 << 32
        assert np.array_equal(np.stack(list(dicom_frames.read_many(raw, found))), frames()[1:])
        assert ranged.bytes_read < 1 << 17


@needs_real
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CT_small.dcm", "PixelRepresentation is 1, expected 0"),
        ("693_J2KI.dcm", "TransferSyntaxUID (0002,0010) is JPEG 2000"),
        ("no_meta.dcm", "not a DICOM file"),
    ],
)
def test_real_images_that_are_no_raw_counts(name: str, expected: str) -> None:
    with (REAL / name).open("rb") as file, pytest.raises(RawFormatError) as caught:
        dicom_frames.index(cast(BinaryIO, file), name)
    assert expected in str(caught.value)


@pytest.mark.parametrize("content", [b"", bytes(132), b"DICM", b"II*\0" + bytes(500), b"\x89HDF\r\n\x1a\n"])
def test_not_dicom(folder: Path, content: bytes) -> None:
    assert "not a DICOM file" in error_of(folder, io.BytesIO(content), None)


PLAIN, PACKED = dicom().getvalue(), dicom(syntax=RLELossless).getvalue()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.sampled_from([PLAIN, PACKED]), st.floats(0, 1, exclude_max=True))
def test_truncated_anywhere(content: bytes, part: float) -> None:
    file = io.BytesIO(content[: int(part * (len(content) - 8))])  # the last 8 end a list of fragments
    with pytest.raises(RawFormatError, match=r"^x\.dcm"):
        list(dicom_frames.read_many(file, dicom_frames.index(file, "x.dcm")))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from([PLAIN, PACKED]),
    st.lists(st.tuples(st.integers(128, len(PLAIN) - 1), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damaged_bytes_are_a_named_error_or_none(content: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[min(place, len(content) - 1)] = value
    file = io.BytesIO(damaged)
    try:
        entries = dicom_frames.index(file, "x.dcm", dataset=None)
        for entry, frame in zip(entries, dicom_frames.read_many(file, entries), strict=True):
            assert frame.shape == (entry.rows, entry.cols)
        dicom_frames.read_values(file, "x.dcm", "example")
    except RawFormatError as error:
        assert str(error).startswith("x.dcm")
