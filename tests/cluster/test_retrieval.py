"""Slices of a volume on HDFS: only their bytes are read, and a damaged one is named. No Spark, no JVM here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from marspipe.errors import RunError
from marspipe.store import hdfs as hdfs_store
from marspipe.store import storage
from marspipe.store.volume import open_volume
from tests.store.stored_volumes import write_volume

SHAPE = (40, 128, 128)
SLICE_BYTES = 4 * SHAPE[1] * SHAPE[2]
# What lies beside the pixels of a tile: ten numbers in pages of their own.
TILE_OVERHEAD_BYTES = 800


@pytest.fixture
def stored(hdfs_folder: str) -> tuple[str, NDArray[np.float32]]:
    return hdfs_folder, write_volume(hdfs_folder, SHAPE, tile_rows=64, slabs=4)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """Give the list of the ranged reads inside: file and bytes, as they are asked from HDFS."""
    reads: list[tuple[str, int]] = []

    class Counted(hdfs_store.RangedFile):
        def readinto(self, buffer: object) -> int:
            got = super().readinto(buffer)
            reads.append((self.name.rsplit("/", 1)[-1], got))
            return got

    with monkeypatch.context() as patch:
        patch.setattr(hdfs_store, "RangedFile", Counted)
        yield reads


def test_a_slice_is_one_ranged_read_of_its_bytes(
    stored: tuple[str, NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, voxels = stored
    with counted(monkeypatch) as reads:
        volume = open_volume(uri)
        assert {name for name, _ in reads} == {"_marspipe.json"}
        reads.clear()
        np.testing.assert_array_equal(volume[1][3], voxels[1, 3])
        # The end of one file, no other, and the slice.
        assert [name for name, _ in reads] == ["part-1-0.parquet"] * 2
        size = storage.size(storage.join(uri, "part-1-0.parquet"))
        assert reads[0][1] <= 256 << 10 < size
        assert SLICE_BYTES < reads[1][1] < SLICE_BYTES + 2 * TILE_OVERHEAD_BYTES
        for z in (0, 9, 4, 4):
            reads.clear()
            np.testing.assert_array_equal(volume[1][z], voxels[1, z])
            ((name, got),) = reads
            assert name == "part-1-0.parquet"
            assert SLICE_BYTES < got < SLICE_BYTES + 2 * TILE_OVERHEAD_BYTES
        reads.clear()
        np.testing.assert_array_equal(volume.slice("y", 70, 1)[:10], voxels[1, :10, 70])
        per_file = Counter(name for name, _ in reads)
        # A tile of every slice, and the footers of three more files.
        assert per_file == {"part-1-0.parquet": 10, **{f"part-1-{n}.parquet": 11 for n in (1, 2, 3)}}
        assert sum(got for _, got in reads if got < 64 << 10) < 40 * (SLICE_BYTES // 2 + TILE_OVERHEAD_BYTES)


def test_threads_share_a_volume(stored: tuple[str, NDArray[np.float32]]) -> None:
    uri, voxels = stored
    volume = open_volume(uri)

    def read(seed: int) -> bool:
        places = np.random.default_rng(seed).integers(0, (2, SHAPE[0]), (20, 2))
        return all(np.array_equal(volume[b][z], voxels[b, z]) for b, z in places)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


def test_a_flipped_byte_on_hdfs_is_named(stored: tuple[str, NDArray[np.float32]]) -> None:
    uri, voxels = stored
    file = storage.join(uri, "part-0-2.parquet")
    content = bytearray(storage.read_bytes(file))
    content[content.index(voxels[0, 25, 64].tobytes()) + 9] ^= 0x20
    storage.write_bytes(file, content, overwrite=True)
    volume = open_volume(uri)
    with pytest.raises(RunError, match=r"hdfs://.*/part-0-2\.parquet: the checksum of bin 0, slice 25, tile 1"):
        volume[0][25]
    np.testing.assert_array_equal(volume[0][24], voxels[0, 24])
