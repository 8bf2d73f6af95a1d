"""What the HDF5 formats share: links, bytes read, sizes beyond 32 bit, damage."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, cast

import h5py
import numpy as np
import pytest

from marspipe.errors import RawFormatError
from marspipe.readers import data_exchange
from tests.readers.merlin_files import asymmetric, same
from tests.readers.small_scans import RangedFile

FRAMES = np.stack([asymmetric(4, 6) + i for i in range(5)]).astype(np.uint16)


def write_frames(path: Path, name: str = "data") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as h5:
        h5[name] = FRAMES


def scan_with_link(folder: Path, link: h5py.ExternalLink | h5py.SoftLink) -> str:
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "scan.h5", "w") as h5:
        h5.create_group("exchange")["data"] = link
    return str(folder / "scan.h5")


def read_all(path: str) -> np.ndarray:
    with open(path, "rb") as file:
        return np.stack(list(data_exchange.read_many(file, data_exchange.index(file, path))))


def error_of(path: str) -> str:
    with open(path, "rb") as file, pytest.raises(RawFormatError) as caught:
        data_exchange.index(file, path)
    assert str(caught.value).startswith(path)
    return str(caught.value)


@pytest.mark.parametrize("target", ["raw.h5", "sub/raw.h5", "./sub/../raw.h5", "Röhre 1/a b.h5"])
def test_links_to_files_in_the_folder_are_followed(tmp_path: Path, target: str) -> None:
    write_frames(tmp_path / "x" / target)
    path = scan_with_link(tmp_path / "x", h5py.ExternalLink(target, "/data"))
    assert np.array_equal(read_all(path), FRAMES)


def test_absolute_link_into_the_folder_is_followed(tmp_path: Path) -> None:
    write_frames(tmp_path / "raw.h5")
    assert np.array_equal(
        read_all(scan_with_link(tmp_path, h5py.ExternalLink(str(tmp_path / "raw.h5"), "data"))), FRAMES
    )


def test_chain_of_links_is_followed(tmp_path: Path) -> None:
    """A soft link to an external one, which leads to a soft link to an external one of another folder."""
    write_frames(tmp_path / "deep" / "end.h5", "inner/data")
    with h5py.File(tmp_path / "deep" / "middle.h5", "w") as h5:
        h5["there"] = h5py.ExternalLink("end.h5", "/inner")
        h5.create_group("a")["frames"] = h5py.SoftLink("/there/data")
    path = scan_with_link(tmp_path, h5py.SoftLink("/elsewhere"))
    with h5py.File(path, "a") as h5:
        h5["elsewhere"] = h5py.ExternalLink("deep/middle.h5", "/a/frames")
    assert np.array_equal(read_all(path), FRAMES)


@pytest.mark.parametrize("target", ["../raw.h5", "sub/../../raw.h5", "ABSOLUTE", "symbolic/raw.h5"])
def test_links_outside_the_folder_are_refused(tmp_path: Path, target: str) -> None:
    write_frames(tmp_path / "raw.h5")
    folder = tmp_path / "scan"
    folder.mkdir()
    (folder / "symbolic").symlink_to(tmp_path)
    target = str(tmp_path / "raw.h5") if target == "ABSOLUTE" else target
    message = error_of(scan_with_link(folder, h5py.ExternalLink(target, "/data")))
    assert f"/exchange/data links to {target!r}, outside the folder of the file, which is not followed" in message


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    message = error_of(scan_with_link(tmp_path, h5py.ExternalLink("gone.h5", "/data")))
    assert f"links to 'gone.h5', but there is no file {tmp_path}/gone.h5" in message
    write_frames(tmp_path / "raw.h5")
    message = error_of(scan_with_link(tmp_path, h5py.ExternalLink("raw.h5", "/other")))
    assert "links to /other in 'raw.h5', which is not there" in message
    assert "links to /gone, which is not there" in error_of(scan_with_link(tmp_path, h5py.SoftLink("/gone")))
    (tmp_path / "raw.h5").write_bytes(b"no HDF5 at all")
    message = error_of(scan_with_link(tmp_path, h5py.ExternalLink("raw.h5", "/data")))
    assert "scan.h5 -> raw.h5: not an HDF5 file: its 14 bytes" in message


def test_links_that_no_file_system_can_open(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for target in ("loop/raw.h5", "loop", "n" * 300 + ".h5", "sub\x01/a"):
        assert f"/exchange/data links to {target!r}" in error_of(
            scan_with_link(tmp_path, h5py.ExternalLink(target, "/data"))
        )


def test_links_in_circles(tmp_path: Path) -> None:
    assert "more than 16 links" in error_of(scan_with_link(tmp_path, h5py.SoftLink("/exchange/data")))
    message = error_of(scan_with_link(tmp_path, h5py.ExternalLink("scan.h5", "/exchange/data")))
    assert "more than 16 links" in message


def test_links_through_a_ranged_reader(tmp_path: Path) -> None:
    """On another file system, the reader's own opener is asked, for URIs of that file system."""
    write_frames(tmp_path / "sub" / "raw.h5")
    path = scan_with_link(tmp_path, h5py.ExternalLink("sub/raw.h5", "/data"))
    uri = f"far://host{path}"
    with cast(BinaryIO, io.BufferedReader(RangedFile(uri))) as file:
        frames = np.stack(list(data_exchange.read_many(file, data_exchange.index(file, uri))))
    assert np.array_equal(frames, FRAMES)
    with open(path, "rb") as file, pytest.raises(RawFormatError, match="cannot be opened from here"):
        data_exchange.index(cast(BinaryIO, io.BytesIO(file.read())), uri)


@pytest.mark.parametrize("chunks", [None, (1, 64, 64), (4, 32, 64)])
def test_only_what_is_needed_is_read(tmp_path: Path, chunks: tuple[int, ...] | None) -> None:
    frames = np.random.default_rng(1).integers(0, 4096, (1000, 64, 64), dtype=np.uint16)
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5.create_dataset("exchange/data", data=frames, chunks=chunks, compression="gzip" if chunks else None)
    size = (tmp_path / "x.h5").stat().st_size
    with RangedFile(f"far://host{tmp_path}/x.h5") as file:
        opened = cast(BinaryIO, file)
        entries = data_exchange.index(opened, file.name)
        assert file.bytes_read < 0.02 * size
        picked = entries[500:503]
        assert np.array_equal(np.stack(list(data_exchange.read_many(opened, picked))), frames[500:503])
        assert file.bytes_read < 0.05 * size


def test_offsets_beyond_32_bit(tmp_path: Path) -> None:
    """A sparse file of 9 GiB: its last frame is read, and hardly anything else."""
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as h5:
        stack = h5.create_dataset("exchange/data", shape=(73728, 256, 256), dtype="uint16")
        for frame in (0, 40000, 73727):
            stack[frame] = asymmetric(256, 256) + frame % 7
    status = os.stat(path)
    assert status.st_size > 9 << 30
    if status.st_blocks * 512 > 1 << 30:
        pytest.skip("this file system has no sparse files")
    with RangedFile(f"far://host{path}") as file:
        opened = cast(BinaryIO, file)
        entries = data_exchange.index(opened, file.name, 73727, 1) + data_exchange.index(opened, file.name, 40000, 1)
        last, middle = data_exchange.read_many(opened, entries)
        assert file.bytes_read < 1 << 20
    assert same(last, asymmetric(256, 256) + 73727 % 7)
    assert same(middle, asymmetric(256, 256) + 40000 % 7)


@pytest.mark.parametrize("chunks", [None, (1, 4, 6), (2, 4, 6)])
def test_frames_that_were_never_written(chunks: tuple[int, ...] | None) -> None:
    """An interrupted scan leaves room for frames; HDF5 would deliver zeros."""
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        stack = h5.create_dataset("exchange/data", shape=(6, 4, 6), dtype="uint16", chunks=chunks)
        if chunks:
            stack[:2] = FRAMES[:2]
    entries = data_exchange.index(file, "x.h5")
    if chunks:
        assert np.array_equal(data_exchange.read(file, entries[1]), FRAMES[1])
    with pytest.raises(RawFormatError, match=r"^x\.h5: frame 4 of /exchange/data was never written"):
        data_exchange.read(file, entries[4])


@pytest.mark.parametrize(
    ("shape", "chunks", "expected"),
    [
        ((1, 2**20, 2**20), (1, 64, 64), "a frame of 1048576 x 1048576 pixels is not credible"),
        ((1, 31623, 31623), (1, 64, 64), "a frame of 31623 x 31623 pixels is not credible"),
        ((2**40, 4, 6), (1, 4, 6), "1099511627776 frames are not credible"),
        ((2**20, 64, 64), (2**18, 64, 64), "expected at most 1024 MiB in a chunk"),
    ],
)
def test_absurd_sizes_take_no_memory(shape: tuple[int, ...], chunks: tuple[int, ...], expected: str) -> None:
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5.create_dataset("exchange/data", shape=shape, chunks=chunks, dtype="uint16")
    with pytest.raises(RawFormatError) as caught:
        data_exchange.index(file, "x.h5")
    assert expected in str(caught.value)


def test_absurd_number_of_angles() -> None:
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5.create_dataset("theta", shape=(10**9,), chunks=(1024,), dtype="f8")
    with pytest.raises(RawFormatError, match=r"/theta must be a one-dimensional array of numbers, got shape"):
        data_exchange.read_angles(file, "x.h5", "/theta")
