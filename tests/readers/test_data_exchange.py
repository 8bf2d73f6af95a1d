"""The Data Exchange reader: chunked, compressed, foreign byte order, the real tooth, and damaged files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from marspipe.errors import RawFormatError
from marspipe.readers import READERS, data_exchange
from tests.readers.merlin_files import CountingFile, asymmetric, same

TOOTH = Path(__file__).resolve().parents[1] / "data" / "tooth" / "tooth.h5"


def exchange(**datasets: Any) -> io.BytesIO:
    """An HDF5 file with datasets below /exchange; values are arrays or keyword arguments of create_dataset."""
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        group = h5.create_group("exchange")
        for name, value in datasets.items():
            group.create_dataset(name, **(value if isinstance(value, dict) else {"data": value}))
    return file


def stack(n: int = 5, rows: int = 4, cols: int = 6, dtype: str = "uint16") -> np.ndarray:
    return np.stack([asymmetric(rows, cols) + i for i in range(n)]).astype(dtype)


def test_real_tooth() -> None:
    with TOOTH.open("rb") as file:
        counts = {t: data_exchange.count(file, "tooth.h5", frame_type=t) for t in ("projection", "open_beam", "dark")}
        entries = data_exchange.index(file, "tooth.h5")
        images = list(data_exchange.read_many(file, entries[::60]))
        one = READERS["data_exchange"].read(file, entries[60])
    assert counts == {"projection": 181, "open_beam": 10, "dark": 10}
    assert [e.exposure_index for e in entries] == list(range(181))
    first = entries[0]
    assert (first.dataset, first.rows, first.cols, first.dtype) == ("/exchange/data", 2, 640, "float32")
    assert (first.length, first.counter_depth_bits) == (2 * 640 * 4, None)
    with h5py.File(TOOTH) as h5:
        stored = h5["/exchange/data"][::60]
    assert np.array_equal(np.stack(images), stored)
    assert np.array_equal(one, images[1])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32", ">u2", ">u4", ">f4"])
@pytest.mark.parametrize("chunks", [None, (1, 4, 6), (3, 2, 5)])
def test_frames_of_every_type_and_chunking(dtype: str, chunks: tuple[int, ...] | None) -> None:
    data = stack(n=7, dtype=dtype)
    compression = None if chunks is None else "gzip"
    file = exchange(data={"data": data, "chunks": chunks, "compression": compression})
    entries = data_exchange.index(file, "x.h5")
    images = list(data_exchange.read_many(file, entries))
    assert all(
        i.dtype.isnative and i.dtype == np.dtype(dtype).newbyteorder("=") == e.dtype
        for i, e in zip(images, entries, strict=True)
    )
    assert np.array_equal(np.stack(images), data)


def test_frames_are_rows_by_columns() -> None:
    file = exchange(data=stack(n=2))
    entries = data_exchange.index(file, "x.h5")
    assert same(data_exchange.read(file, entries[1]), asymmetric(4, 6) + 1)


def test_chunks_of_several_frames_are_fetched_once() -> None:
    """Chunks of 8 frames and 9 MB, more than HDF5 keeps by itself, checksummed and so only readable as a whole."""
    data = np.random.default_rng(1).integers(0, 60000, (16, 768, 768), dtype=np.uint16)
    content = exchange(data={"data": data, "chunks": (8, 768, 768), "fletcher32": True}).getvalue()
    file = CountingFile(content)
    entries = data_exchange.index(file, "x.h5")
    index_bytes = file.bytes_read
    assert 0 < index_bytes < len(content) / 100
    assert np.array_equal(np.stack(list(data_exchange.read_many(file, entries))), data)
    assert file.bytes_read - index_bytes < 1.1 * len(content)


def test_dataset_by_name_and_range() -> None:
    file = exchange(data=stack(), other=stack(n=9))
    entries = data_exchange.index(file, "x.h5", 3, 4, dataset="/exchange/other", frame_type="dark")
    assert [(e.offset, e.exposure_index, e.sequence) for e in entries] == [(i, i, i) for i in range(3, 7)]
    assert same(data_exchange.read(file, entries[0]), asymmetric(4, 6) + 3)
    assert data_exchange.count(file, "x.h5", dataset="/exchange/other") == 9


def test_soft_links_inside_the_file_are_followed() -> None:
    file = exchange(raw=stack())
    with h5py.File(file, "a") as h5:
        h5["exchange/data"] = h5py.SoftLink("/exchange/raw")
    assert data_exchange.count(file, "x.h5") == 5


@pytest.mark.parametrize(
    ("datasets", "expected"),
    [
        ({"data_white": stack()}, "dataset /exchange/data is missing; the file has /exchange, /exchange/data_white"),
        ({"data": stack()[0]}, "/exchange/data must have rank 3 (theta, v, u), got shape (4, 6)"),
        ({"data": stack()[:0]}, "/exchange/data is empty: shape (0, 4, 6)"),
        ({"data": stack(dtype="float64")}, "has pixels of float64, expected one of uint8, uint16, uint32, float32"),
        ({"data": stack(dtype="int16")}, "has pixels of int16"),
        ({"data": np.zeros((1, 2, 2), "S3")}, "has pixels of |S3"),
    ],
)
def test_dataset_that_is_not_a_stack(datasets: dict[str, Any], expected: str) -> None:
    with pytest.raises(RawFormatError) as caught:
        data_exchange.index(exchange(**datasets), "scan/a b.h5")
    assert str(caught.value).startswith("scan/a b.h5: ")
    assert expected in str(caught.value)


def test_group_instead_of_dataset() -> None:
    with pytest.raises(RawFormatError, match="/exchange is a group"):
        data_exchange.index(exchange(data=stack()), "x.h5", dataset="/exchange")
    with pytest.raises(RawFormatError, match="/exchange/data/x is missing"):
        data_exchange.index(exchange(data=stack()), "x.h5", dataset="/exchange/data/x")


@pytest.mark.parametrize("content", [b"", b"MQ1,000001,00384", bytes(4096)])
def test_not_hdf5(content: bytes) -> None:
    with pytest.raises(RawFormatError, match=f"x.h5: not an HDF5 file: its {len(content)} bytes"):
        data_exchange.index(io.BytesIO(content), "x.h5")


def test_truncated_hdf5() -> None:
    content = exchange(data=stack(n=50, rows=32, cols=32)).getvalue()
    for length in (8, 64, 600, 2000, len(content) - 1000):
        with pytest.raises(RawFormatError, match=r"^x\.h5: "):
            data_exchange.index(io.BytesIO(content[:length]), "x.h5")


def test_damaged_chunk_names_the_frame() -> None:
    data = np.random.default_rng(2).integers(0, 60000, (3, 64, 64), dtype=np.uint16)
    file = exchange(data={"data": data, "chunks": (1, 64, 64), "fletcher32": True})
    content = bytearray(file.getvalue())
    place = content.index(data[1].tobytes()[:64])
    content[place + 5] ^= 0xFF
    damaged = io.BytesIO(content)
    entries = data_exchange.index(damaged, "x.h5")
    assert np.array_equal(data_exchange.read(damaged, entries[0]), data[0])
    with pytest.raises(RawFormatError, match=r"^x\.h5: frame 1 of /exchange/data is damaged"):
        data_exchange.read(damaged, entries[1])


def test_values_in_other_files_are_refused(tmp_path: Path) -> None:
    """HDF5 would deliver zeros for the missing parts of a virtual dataset."""
    with h5py.File(tmp_path / "there.h5", "w") as h5:
        h5["data"] = stack()
    for kind in ("external", "folder", "virtual"):
        file = io.BytesIO()
        with h5py.File(file, "w") as h5:
            if kind == "external":
                h5.create_group("exchange")["data"] = h5py.ExternalLink(str(tmp_path / "there.h5"), "/data")
            elif kind == "folder":
                h5["exchange"] = h5py.ExternalLink(str(tmp_path / "there.h5"), "/")
            else:
                layout = h5py.VirtualLayout((5, 4, 6), "uint16")
                layout[:] = h5py.VirtualSource(str(tmp_path / "gone.h5"), "data", (5, 4, 6))
                h5.create_group("exchange").create_virtual_dataset("data", layout)
        with pytest.raises(RawFormatError, match=r"which (is|are) not followed"):
            data_exchange.index(file, "x.h5")


def test_entry_that_no_longer_fits_the_file() -> None:
    entries = data_exchange.index(exchange(data=stack(n=5)), "x.h5")
    with pytest.raises(RawFormatError, match=r"has shape \(3, 4, 6\), expected frame 4 of 4 x 6 pixels"):
        data_exchange.read(exchange(data=stack(n=3)), entries[4])
