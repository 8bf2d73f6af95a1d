"""The NXtomo reader: frames by image key, counters as entries, angles, the real K11 scan, damaged files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO, cast

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import RawFormatError, ScanError
from marspipe.readers import nxtomo
from marspipe.readers.manifest_files import FileEntry, resolve_angles
from marspipe.simulate.nxtomo import write_nxtomo
from tests.readers.merlin_files import asymmetric, same
from tests.readers.small_scans import CASES, require_same_bytes, require_same_scan, small_scan

K11 = CASES / "k11_nxtomo_crop" / "k11-18014.nxs"
needs_k11 = pytest.mark.skipif(not K11.is_file(), reason=f"the real NXtomo scan is not at {K11}")
IMAGING = "/entry/instrument/imaging"

KEYS = np.array([2, 1, 0, 3, 0, 0, 1])
ANGLES = np.array([0.0, 0.0, 10.0, 99.0, 20.0, 30.5, 0.0])
STACK = np.stack([asymmetric(4, 6) + i for i in range(KEYS.size)]).astype(np.uint16)


def nxs(entries: tuple[str, ...] = ("entry",), **changes: Any) -> io.BytesIO:
    """A small NXtomo file; changes replace datasets by their last name, None leaves one out."""
    content: dict[str, Any] = {
        "instrument/detector/data": STACK,
        "instrument/detector/image_key": KEYS,
        "sample/rotation_angle": ANGLES,
        **changes,
    }
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        for name in entries:
            entry = h5.create_group(name)
            entry.attrs["NX_class"] = np.bytes_(b"NXentry")
            entry.create_group("instrument").attrs["NX_class"] = np.bytes_(b"NXinstrument")
            entry.create_group("instrument/detector").attrs["NX_class"] = np.bytes_(b"NXdetector")
            for path, value in content.items():
                if value is not None:
                    entry[path] = value
            if content["sample/rotation_angle"] is not None:
                entry["sample/rotation_angle"].attrs["units"] = np.bytes_(b"degree")
    return file


def error_of(file: io.BytesIO, **arguments: Any) -> str:
    with pytest.raises(RawFormatError) as caught:
        nxtomo.index(file, "scan/a b.nxs", **arguments)
    assert str(caught.value).startswith("scan/a b.nxs")
    return str(caught.value)


def test_simulated_scan_comes_back(tmp_path: Path) -> None:
    acquisition = small_scan()
    files = write_nxtomo(tmp_path, acquisition, lambda: None)
    projections = require_same_scan(tmp_path, files, acquisition)
    assert [e.dataset for e in projections[:3]] == [f"/entry{k}/instrument/detector/data" for k in range(3)]
    with open(tmp_path / "scan.nxs", "rb") as file:
        described = nxtomo.describe(file, "scan.nxs")
    assert described.stacks == ("/entry0", "/entry1", "/entry2")
    assert described.counts == {"projection": 5, "open_beam": 4, "dark": 2, "invalid": 0}
    assert (described.shape, described.dtype) == ((6, 20), "uint32")
    assert (described.pixel_pitch_mm, described.distance_mm) == ((0.11, 0.11), 50.0)
    assert (described.thresholds_kev, described.exposure_s) == ((20.0, 33.0, 50.0), acquisition.exposure_s)
    assert (described.angle_dataset, described.angle_unit) == ("/entry0/sample/rotation_angle", "deg")
    assert described.angles is not None
    np.testing.assert_allclose(np.deg2rad(described.angles), acquisition.geometry.angles_rad, atol=1e-12)
    assert {axis: z.tolist() for axis, z in described.translations_mm.items()} == {a: [0.0] * 5 for a in "xyz"}


def test_equal_settings_give_equal_bytes(tmp_path: Path) -> None:
    require_same_bytes(tmp_path, lambda folder: write_nxtomo(folder, small_scan(), lambda: None))


@pytest.mark.parametrize(("kind", "places"), [("projection", [2, 4, 5]), ("open_beam", [1, 6]), ("dark", [0])])
@pytest.mark.parametrize("keys", [KEYS, KEYS.astype(float), KEYS.astype("i1")])
def test_frames_are_picked_by_image_key(kind: Any, places: list[int], keys: Any) -> None:
    file = nxs(**{"instrument/detector/image_key": keys})
    entries = nxtomo.index(file, "x.nxs", frame_type=kind)
    assert [e.offset for e in entries] == places
    assert [e.exposure_index for e in entries] == list(range(len(places)))
    assert np.array_equal(np.stack(list(nxtomo.read_many(file, entries))), STACK[places])
    assert nxtomo.count(file, "x.nxs", frame_type=kind) == len(places)


def test_frames_are_rows_by_columns() -> None:
    file = nxs()
    assert same(nxtomo.read(file, nxtomo.index(file, "x.nxs", 1, 1)[0]), asymmetric(4, 6) + 4)


@pytest.mark.parametrize("options", [{"chunks": (1, 4, 6)}, {"chunks": (3, 2, 5), "compression": "gzip"}])
def test_chunks_and_compression(options: dict[str, Any]) -> None:
    file = nxs(**{"instrument/detector/data": None})
    with h5py.File(file, "a") as h5:
        h5["entry/instrument/detector"].create_dataset("data", data=STACK.astype(">u2"), **options)
    entries = nxtomo.index(file, "x.nxs")
    assert np.array_equal(np.stack(list(nxtomo.read_many(file, entries))), STACK[KEYS == 0])


@pytest.mark.parametrize("angles", [ANGLES, ANGLES[KEYS == 0]])
def test_angles_are_those_of_the_projections(angles: Any) -> None:
    file = nxs(**{"sample/rotation_angle": angles})
    entry = {"path": "a.nxs", "reader": "nxtomo", "frame_type": "projection"}
    dataset = "/entry/sample/rotation_angle"
    found = resolve_angles(FileEntry.model_validate({**entry, "angles_rad": {"dataset": dataset, "unit": "deg"}}), file)
    np.testing.assert_allclose(found, np.deg2rad([10.0, 20.0, 30.5]))
    wrong = FileEntry.model_validate({**entry, "angles_rad": {"dataset": dataset, "unit": "rad"}})
    with pytest.raises(ScanError, match=r"a\.nxs: /entry/sample/rotation_angle is stored in 'degree'"):
        resolve_angles(wrong, file)


def test_number_of_angles_that_fits_nothing() -> None:
    with pytest.raises(RawFormatError, match=r"has 5 values, expected one for each of the 7 frames or of the 3 proj"):
        nxtomo.read_angles(nxs(**{"sample/rotation_angle": ANGLES[:5]}), "x.nxs", "/entry/sample/rotation_angle")


def test_entries_are_counters_in_natural_order() -> None:
    names = tuple(f"bin{k}" for k in range(11))
    file = nxs(names)
    entries = nxtomo.index(file, "x.nxs")
    assert nxtomo.count(file, "x.nxs") == len(entries) == 33
    assert [e.dataset.split("/")[1] for e in entries[11:22]] == list(names)
    assert [(e.exposure_index, e.counter) for e in entries] == [divmod(k, 11) for k in range(33)]
    alone = nxtomo.index(file, "x.nxs", dataset="/bin10")
    assert [(e.dataset, e.counter) for e in alone] == [("/bin10/instrument/detector/data", 0)] * 3
    assert nxtomo.index(file, "x.nxs", dataset="bin10/instrument/detector") == alone


@pytest.mark.parametrize("what", ["image_key", "rotation_angle"])
def test_entries_that_are_not_counters_of_one_scan(what: str) -> None:
    file = nxs(("one", "two"))
    with h5py.File(file, "a") as h5:
        values = h5["two/instrument/detector/image_key" if what == "image_key" else "two/sample/rotation_angle"]
        values[2] = 1
    assert f"/one and /two differ in {what}" in error_of(file)
    assert nxtomo.count(file, "x.nxs", dataset="/one") == 3


def test_units_and_translations() -> None:
    file = nxs()
    with h5py.File(file, "a") as h5:
        detector, sample = h5["entry/instrument/detector"], h5["entry/sample"]
        for group, name, value, unit in (
            (detector, "x_pixel_size", 55.0, "um"),
            (detector, "y_pixel_size", 5.5e-5, "m"),
            (detector, "distance", 5.0, "cm"),
            (detector, "count_time", np.arange(7.0), "ms"),
            (sample, "z_translation", np.arange(7.0), "µm"),
            (sample, "x_translation", np.arange(7.0), "furlong"),
        ):
            group[name] = value
            group[name].attrs["units"] = unit
    described = nxtomo.describe(file, "x.nxs")
    assert described.pixel_pitch_mm == pytest.approx((0.055, 0.055))
    assert described.distance_mm == pytest.approx(50.0)
    assert list(described.translations_mm) == ["z"]
    np.testing.assert_allclose(described.translations_mm["z"], [2e-3, 4e-3, 5e-3])
    assert described.exposure_s is None  # differs from frame to frame
    assert [e.exposure_s for e in nxtomo.index(file, "x.nxs")] == pytest.approx([2e-3, 4e-3, 5e-3])
    assert described.counts["invalid"] == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"instrument/detector/data": None}, "no NXentry has an NXdetector with data and image_key; the file has"),
        ({"instrument/detector/image_key": None}, "no NXentry has an NXdetector with data and image_key"),
        ({"instrument/detector/image_key": KEYS[:5]}, "has 7 frames, but /entry/instrument/detector/image_key has 5"),
        ({"instrument/detector/image_key": KEYS + 1}, "image_key has the value 4, expected 0, 1, 2 or 3"),
        ({"instrument/detector/image_key": KEYS * 0.5}, "image_key has the value 0.5"),
        ({"instrument/detector/image_key": KEYS[None]}, "image_key must be a one-dimensional array of numbers"),
        ({"instrument/detector/image_key": np.array([b"a"] * 7)}, "image_key must be a one-dimensional array"),
        ({"instrument/detector/data": STACK[0]}, "/entry/instrument/detector/data must have rank 3"),
        ({"instrument/detector/data": STACK.astype("i4")}, "has pixels of int32, expected one of"),
        ({"instrument/detector/count_time": np.ones(3)}, "count_time has 3 values, expected one, or one for each of"),
    ],
)
def test_files_that_are_no_nxtomo(changes: dict[str, Any], expected: str) -> None:
    assert expected in error_of(nxs(**changes))


def test_dataset_that_is_not_there() -> None:
    assert "/other is missing; the file has /entry" in error_of(nxs(), dataset="/other")
    assert "/entry/sample has no detector with data and image_key" in error_of(nxs(), dataset="/entry/sample")
    assert "image_key is a dataset" in error_of(nxs(), dataset="/entry/instrument/detector/image_key")


@needs_k11
def test_real_k11_scan_with_links() -> None:
    uri = str(K11)
    with K11.open("rb") as file:
        raw = cast(BinaryIO, file)
        with pytest.raises(RawFormatError, match=r"/entry has 2 detectors \(/entry/instrument/EtherCAT, /entry/instru"):
            nxtomo.count(raw, uri)
        with pytest.raises(
            RawFormatError, match=r"EtherCAT/data links to 'k11-18014/k11-18014-EtherCAT.h5', but there"
        ):
            nxtomo.count(raw, uri, dataset="/entry/instrument/EtherCAT")
        kinds = ("projection", "open_beam", "dark")
        index = {kind: nxtomo.index(raw, uri, dataset=IMAGING, frame_type=kind) for kind in kinds}
        assert [len(entries) for entries in index.values()] == [3001, 100, 100]
        every = sorted(e.offset for entries in index.values() for e in entries)
        assert every == list(range(3201))
        picked = [index["projection"][k] for k in (0, 1500, 3000)]
        frames = list(nxtomo.read_many(raw, picked))
        dark = nxtomo.read(raw, index["dark"][0])
        flat = nxtomo.read(raw, index["open_beam"][0])
        angles, unit = nxtomo.read_angles(raw, uri, "/entry/imaging/gts_theta_value", IMAGING)
        described = nxtomo.describe(raw, uri, IMAGING)
    with h5py.File(K11.parent / "k11-18014" / "k11-18014-imaging.h5") as h5:
        stored = h5["entry/detector/detector"]
        assert all(np.array_equal(f, stored[e.offset]) for e, f in zip(picked, frames, strict=True))
    assert dark.mean() < flat.mean()
    assert (angles.size, unit) == (3001, None)
    assert angles[0] == pytest.approx(90.0, abs=0.01) and angles[-1] == pytest.approx(270.0, abs=0.01)
    assert described.counts == {"projection": 3001, "open_beam": 100, "dark": 100, "invalid": 0}
    assert (described.shape, described.exposure_s, described.angles) == ((22, 26), 0.02, None)


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"II*\0", bytes(4096)])
def test_not_hdf5(content: bytes) -> None:
    error_of(io.BytesIO(content))


SOUND = nxs().getvalue()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(length=st.integers(0, len(SOUND) - 1))
def test_truncated_anywhere(length: int) -> None:
    error_of(io.BytesIO(SOUND[:length]))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_are_a_named_error_or_none(changes: list[tuple[int, int]]) -> None:
    content = bytearray(SOUND)
    for place, value in changes:
        content[place] = value
    file = io.BytesIO(content)
    try:
        for entry, frame in zip(
            nxtomo.index(file, "x.nxs"), nxtomo.read_many(file, nxtomo.index(file, "x.nxs")), strict=True
        ):
            assert frame.shape == (entry.rows, entry.cols)
        nxtomo.describe(file, "x.nxs")
    except RawFormatError as error:
        assert str(error).startswith("x.nxs")
