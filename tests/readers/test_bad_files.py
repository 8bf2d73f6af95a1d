"""Every reader on every kind of bad file: the same faults, the same named error, no memory taken."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any, BinaryIO, cast

import h5py
import numpy as np
import pytest

from marspipe.errors import RawFormatError
from marspipe.readers import READERS, nxtomo, tiff
from tests.readers.bad_files import SOUND, deflated_bomb, hdf5, nexus, read_all
from tests.readers.merlin_files import same
from tests.readers.test_nxtomo import KEYS, STACK, nxs

URI = "scän 1/a b 投影"
EVERY = pytest.mark.parametrize("reader", sorted(SOUND))


def error_of(reader: str, content: bytes, uri: str = URI) -> str:
    uri += SOUND[reader].suffix
    with pytest.raises(RawFormatError) as caught:
        read_all(reader, content, uri)
    message = str(caught.value)
    assert message.startswith(uri)
    message.encode()  # can be written to a log or a table
    return message


def test_every_reader_is_tried() -> None:
    assert set(SOUND) == set(READERS)


@EVERY
def test_empty_file(reader: str) -> None:
    assert "0 bytes" in (message := error_of(reader, b"")) or "is empty" in message


@EVERY
def test_header_only(reader: str) -> None:
    error_of(reader, SOUND[reader].content[: SOUND[reader].header_bytes])


@EVERY
def test_truncated(reader: str) -> None:
    content = SOUND[reader].content
    # DICOM pads nothing, TIFF ends with pixels or tags, HDF5 with whatever came last: the last bytes count in all.
    for length in sorted({len(content) * part // 8 for part in range(1, 8)} | {len(content) - 9}):
        error_of(reader, content[:length])


@EVERY
@pytest.mark.parametrize("other", [*sorted(SOUND), "text", "zeros", "noise"])
def test_wrong_magic(reader: str, other: str) -> None:
    kinds = {"text": b"angle,counts\n0,1\n" * 40, "zeros": bytes(4096), "noise": np.random.default_rng(1).bytes(4096)}
    if other in ("nxtomo", "data_exchange") and reader in ("nxtomo", "data_exchange"):
        if other != reader:
            assert "missing" in (message := error_of(reader, SOUND[other].content)) or "no NXentry" in message
    elif other != reader:
        content = SOUND[other].content if other in SOUND else kinds[other]
        assert "not a" in error_of(reader, content)


@EVERY
def test_foreign_byte_order(reader: str) -> None:
    """Where the file tells its byte order, the same frames come out; where it cannot, the pixels give it away."""
    sound = SOUND[reader]
    expected = read_all(reader, sound.content, URI)
    assert len(expected) == 3 + (reader == "tiff")
    if reader == "merlin":
        assert "written little-endian, expected big-endian" in error_of(reader, sound.foreign)
    else:
        assert sound.foreign != sound.content
        found = read_all(reader, sound.foreign, URI)
        assert all(f.dtype.isnative and same(f, e) for f, e in zip(found, expected, strict=True))


@EVERY
def test_depth_that_contradicts_the_pixel_type(reader: str) -> None:
    expected = {
        "merlin": "pixel type U16 cannot hold a counter depth of 24 bit",
        "nxtomo": "has pixels of int16, expected one of",
        "data_exchange": "has pixels of int16, expected one of",
        "tiff": "(12 bit), expected one of",
        "dicom": "BitsAllocated (0028,0100) = 16, BitsStored (0028,0101) = 17",
    }
    assert expected[reader] in error_of(reader, SOUND[reader].contradiction)


@EVERY
def test_a_billion_pixels_take_no_memory(reader: str) -> None:
    content = SOUND[reader].absurd
    error_of(reader, content)  # imports and caches
    tracemalloc.start()
    try:
        message = error_of(reader, content)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert "31623" in message


def test_files_that_unpack_to_much_take_no_memory() -> None:
    bomb = deflated_bomb()
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        assert "is that of deflated files" in error_of("dicom", bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("missing", ["instrument/detector/data", "instrument/detector/image_key"])
def test_nexus_without_its_keys(missing: str) -> None:
    assert "no NXentry has an NXdetector with data and image_key" in error_of(
        "nxtomo", nxs(**{missing: None}).getvalue()
    )


@pytest.mark.parametrize("build", [lambda h5: None, lambda h5: h5.create_group("exchange"), lambda h5: h5.update(x=1)])
@pytest.mark.parametrize("reader", ["nxtomo", "data_exchange"])
def test_hdf5_without_the_keys(reader: str, build: Any) -> None:
    assert "the file has" in error_of(reader, hdf5(build))


def linked(folder: Path, link: Any) -> str:
    """An NXtomo scan whose frames are a link."""
    file = nxs(**{"instrument/detector/data": link})
    path = folder / "scan 1 ü.nxs"
    path.write_bytes(file.getvalue())
    return str(path)


def link_error(path: str) -> str:
    with open(path, "rb") as file, pytest.raises(RawFormatError) as caught:
        nxtomo.index(cast(BinaryIO, file), path)
    assert str(caught.value).startswith(f"{path}: /entry/instrument/detector/data links to ")
    str(caught.value).encode()
    return str(caught.value)


def target(path: Path) -> None:
    with h5py.File(path, "w") as h5:
        h5["frames"] = STACK


def test_nexus_links_that_lead_nowhere(tmp_path: Path) -> None:
    assert "'gone.h5', but there is no file" in link_error(linked(tmp_path, h5py.ExternalLink("gone.h5", "/frames")))
    target(tmp_path / "raw.h5")
    assert "which is not there" in link_error(linked(tmp_path, h5py.ExternalLink("raw.h5", "/nothing")))
    assert "/nothing, which is not there" in link_error(linked(tmp_path, h5py.SoftLink("/nothing")))
    os.mkfifo(tmp_path / "pipe.h5")
    assert "'pipe.h5', but there is no file" in link_error(linked(tmp_path, h5py.ExternalLink("pipe.h5", "/frames")))
    (tmp_path / "dangling.h5").symlink_to(tmp_path / "gone.h5")
    assert "no file" in link_error(linked(tmp_path, h5py.ExternalLink("dangling.h5", "/frames")))


@pytest.mark.parametrize("name", ["../raw.h5", "ABSOLUTE", "symbolic.h5", "folder/raw.h5", "/dev/zero"])
def test_nexus_links_outside_the_folder(tmp_path: Path, name: str) -> None:
    target(tmp_path / "raw.h5")
    scan = tmp_path / "scan"
    scan.mkdir()
    (scan / "symbolic.h5").symlink_to(tmp_path / "raw.h5")
    (scan / "folder").symlink_to(tmp_path)
    name = str(tmp_path / "raw.h5") if name == "ABSOLUTE" else name
    assert "outside the folder of the file" in link_error(linked(scan, h5py.ExternalLink(name, "/frames")))


def test_name_of_a_link_that_is_no_text(tmp_path: Path) -> None:
    assert "no file" in link_error(linked(tmp_path, h5py.ExternalLink(b"caf\xe9.h5", "/frames")))


def test_nexus_links_with_spaces_and_other_alphabets(tmp_path: Path) -> None:
    (tmp_path / "Röhre 1").mkdir()
    target(tmp_path / "Röhre 1" / "проба 投影.h5")
    path = linked(tmp_path, h5py.ExternalLink("Röhre 1/проба 投影.h5", "/frames"))
    with open(path, "rb") as file:
        assert np.array_equal(np.stack(read_all("nxtomo", cast(BinaryIO, file), path)), STACK[KEYS == 0])


def test_series_that_leaves_its_folder(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    (tmp_path / "raw.tif").write_bytes(SOUND["tiff"].content)
    (tmp_path / "scan" / "link.tif").symlink_to(tmp_path / "raw.tif")
    for name in ("../raw.tif", str(tmp_path / "raw.tif"), "link.tif"):
        path = tmp_path / "scan" / "series.json"
        path.write_text(json.dumps({"marspipe_series": 1, "files": [name], "frames_per_file": 4}))
        with path.open("rb") as file, pytest.raises(RawFormatError, match="outside the folder of the file"):
            tiff.index(cast(BinaryIO, file), str(path))


@EVERY
def test_paths_with_spaces_and_other_alphabets(reader: str, tmp_path: Path) -> None:
    folder = tmp_path / "проба 1 ü"
    folder.mkdir()
    path = folder / f"投影 100% #1{SOUND[reader].suffix}"
    path.write_bytes(SOUND[reader].content)
    with path.open("rb") as file:
        found = read_all(reader, cast(BinaryIO, file), str(path))
    assert all(same(a, b) for a, b in zip(found, read_all(reader, SOUND[reader].content, URI), strict=True))


def test_entry_that_holds_itself() -> None:
    file = nxs()
    with h5py.File(file, "a") as h5:
        h5["entry/again"] = h5["entry"]
    assert "entries deep" in error_of("nxtomo", file.getvalue())


def test_values_that_were_never_written_take_no_memory() -> None:
    file = io.BytesIO(nexus({"data": STACK}))
    with h5py.File(file, "a") as h5:
        del h5["entry/instrument/detector/image_key"]
        h5.create_dataset("entry/instrument/detector/image_key", shape=(10**9,), chunks=(1024,), dtype="i4")
    assert "image_key must be a one-dimensional array of numbers" in error_of("nxtomo", file.getvalue())
