"""Reading a volume: every way gives the same voxels, and no damaged byte ever gives others."""

from __future__ import annotations

import multiprocessing
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from marspipe.errors import RunError
from marspipe.store.volume import open_volume
from tests.store.stored_volumes import SHAPE, write_volume

NZ, NY, NX = SHAPE


@dataclass(frozen=True)
class Stored:
    """A volume of 2 bins in 2 files each, 3 tiles a slice, and its voxels."""

    uri: str
    voxels: NDArray[np.float32]

    def file(self, bin_: int = 1, slab: int = 1) -> Path:
        return Path(self.uri) / f"part-{bin_}-{slab}.parquet"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = str(tmp_path_factory.mktemp("volume") / "a volume")
    return Stored(folder, write_volume(folder))


@pytest.fixture
def stored(original: Stored, tmp_path: Path) -> Stored:
    shutil.copytree(original.uri, tmp_path / "copy")
    return Stored(str(tmp_path / "copy"), original.voxels)


def test_slices_regions_and_stacks_are_the_voxels(original: Stored) -> None:
    volume = open_volume(original.uri)
    for bin_ in range(2):
        whole = original.voxels[bin_]
        np.testing.assert_array_equal(np.asarray(volume[bin_]), whole)
        for z in (0, NZ // 2 - 1, NZ // 2, -1):
            np.testing.assert_array_equal(volume[bin_][z], whole[z])
        for y in (0, 4, 5, -1):
            np.testing.assert_array_equal(volume.slice("y", y, bin_), whole[:, y])
        np.testing.assert_array_equal(volume.slice("x", 3, bin_), whole[:, :, 3])
        np.testing.assert_array_equal(volume[bin_][2:6], whole[2:6])
        part = volume.roi(z=slice(1, 6), y=slice(4, 6), x=slice(2, 9), bin=bin_)
        np.testing.assert_array_equal(part, whole[1:6, 4:6, 2:9])


def test_many_threads_read_from_one_volume(original: Stored) -> None:
    volume, start = open_volume(original.uri), threading.Barrier(8)

    def read(seed: int) -> bool:
        start.wait()
        places = np.random.default_rng(seed).integers(0, (2, NZ), (60, 2))
        return all(np.array_equal(volume[b][z], original.voxels[b, z]) for b, z in places)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def _read_in_child(volume: object, voxels: NDArray[np.float32], answers: object) -> None:
    same = all(np.array_equal(volume[1][z], voxels[1, z]) for z in range(NZ))  # type: ignore[index]
    answers.put(same)  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_processes_do_not_disturb_each_other(original: Stored) -> None:
    volume = open_volume(original.uri)
    np.testing.assert_array_equal(volume[1][0], original.voxels[1, 0])
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    children = [fork.Process(target=_read_in_child, args=(volume, original.voxels, answers)) for _ in range(3)]
    for child in children:
        child.start()
    for _ in range(20):
        np.testing.assert_array_equal(volume[1][NZ - 1], original.voxels[1, NZ - 1])
    assert [answers.get(timeout=60) for _ in children] == [True] * 3
    for child in children:
        child.join()


def flip(path: Path, place: int, bits: int = 0x10) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bits
    path.write_bytes(content)


def place_of(stored: Stored, bin_: int, z: int, tile: int) -> int:
    """Return where the first pixel of a tile lies in its file."""
    content = stored.file().read_bytes()
    at = content.index(stored.voxels[bin_, z, 4 * tile].tobytes())
    assert content.count(stored.voxels[bin_, z, 4 * tile].tobytes()) == 1
    return at


def test_a_flipped_pixel_bit_is_named(stored: Stored) -> None:
    flip(stored.file(), place_of(stored, 1, 6, 2) + 5, 0x01)
    volume = open_volume(stored.uri)
    with pytest.raises(RunError, match=r"part-1-1\.parquet: the checksum of bin 1, slice 6, tile 2 does not match"):
        volume[1][6]
    # What is whole can still be read.
    np.testing.assert_array_equal(volume[1][5], stored.voxels[1, 5])
    np.testing.assert_array_equal(volume.slice("y", 0, 1), stored.voxels[1, :, 0])
    with pytest.raises(RunError, match="bin 1, slice 6, tile 2"):
        np.asarray(volume[1])


def test_a_flipped_checksum_or_place_is_named(stored: Stored) -> None:
    group = pq.read_metadata(stored.file()).row_group(3)
    names = [group.column(c).path_in_schema for c in range(group.num_columns)]
    content = stored.file().read_bytes()
    for name, text in [("checksum", "does not match its pixels"), ("z", "has z = "), ("tile", "has tile = ")]:
        chunk = group.column(names.index(name))
        # The value is the end of its page, and this the only page of its chunk.
        flip(stored.file(), chunk.data_page_offset + chunk.total_compressed_size - 2)
        with pytest.raises(RunError, match=rf"part-1-1\.parquet: .*bin 1, slice 5, tile 0 .*{text}|{text}"):
            open_volume(stored.uri)[1][5]
        stored.file().write_bytes(content)


def bytes_to_flip(stored: Stored) -> Iterator[int]:
    """Return every byte of a file that is no pixel."""
    content = stored.file().read_bytes()
    pixels = np.zeros(len(content), bool)
    for z in range(NZ // 2, NZ):
        for first in range(0, NY, 4):
            block = stored.voxels[1, z, first : first + 4].tobytes()
            at = content.index(block)
            pixels[at : at + len(block)] = True
    yield from np.flatnonzero(~pixels).tolist()


def test_no_damage_outside_the_pixels_gives_other_pixels(stored: Stored) -> None:
    content, path = stored.file().read_bytes(), stored.file()
    refused, places = 0, list(bytes_to_flip(stored))
    rng = np.random.default_rng(5)
    for place in rng.permutation(places)[:1500].tolist():
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        volume = open_volume(stored.uri)
        try:
            read = np.asarray(volume[1])
        except RunError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            # Names of the writer, sizes and statistics that nobody asked for.
            np.testing.assert_array_equal(read, stored.voxels[1])
    assert refused > 300


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content[:-8] + struct.pack("<I", 2**31) + content[-4:],
        lambda content: content[:-8] + struct.pack("<I", 10) + content[-4:],
        lambda content: bytes(len(content)),
    ],
)
def test_a_cut_or_emptied_file_is_named(stored: Stored, damage: Callable[[bytes], bytes]) -> None:
    stored.file().write_bytes(damage(stored.file().read_bytes()))
    volume = open_volume(stored.uri)
    with pytest.raises(RunError, match=r"part-1-1\.parquet: .*the file is damaged"):
        volume[1][NZ - 1]
    np.testing.assert_array_equal(volume[1][0], stored.voxels[1, 0])


def test_a_missing_file_is_named(stored: Stored) -> None:
    stored.file().unlink()
    with pytest.raises(RunError, match=r"part-1-1\.parquet is missing; open the volume again"):
        open_volume(stored.uri)[1][NZ - 1]


def test_a_file_of_another_slab_is_refused(stored: Stored) -> None:
    shutil.copy(stored.file(bin_=0), stored.file(bin_=1))
    with pytest.raises(RunError, match=r"part-1-1\.parquet: bin 1, slice 4, tile 0 has bin = 0, expected 1"):
        open_volume(stored.uri)[1][4]
