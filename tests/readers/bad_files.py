"""For every reader a small sound file, and ways to damage it that every reader must name."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import h5py
import numpy as np
from pydicom.uid import ExplicitVRBigEndian

from marspipe.readers import READERS
from marspipe.readers.frames import Frame
from tests.readers.merlin_files import edited, mib
from tests.readers.test_data_exchange import exchange
from tests.readers.test_dicom_frames import dicom
from tests.readers.test_nxtomo import KEYS, nxs
from tests.readers.test_tiff import STACK, pages, with_tag

SHAPE = (4, 6)
BILLION = (31623, 31623)  # 10^9 pixels


@dataclass(frozen=True)
class Sound:
    """A reader's sound file and the ways to damage it that differ by format.

    Attributes
    ----------
    suffix : str
        Ending of its name.
    content : bytes
        The file.
    header_bytes : int
        Where its header ends and the pixels or their index begin.
    foreign : bytes
        The same frames in the byte order of another machine.
    contradiction : bytes
        The depth of the pixels contradicts their type.
    absurd : bytes
        The header claims 10^9 pixels in a frame.
    """

    suffix: str
    content: bytes
    header_bytes: int
    foreign: bytes
    contradiction: bytes
    absurd: bytes


def read_all(reader: str, content: bytes | BinaryIO, uri: str) -> list[Frame]:
    """Index and read all projections of a file."""
    file = cast(BinaryIO, io.BytesIO(content)) if isinstance(content, bytes) else content
    entries = READERS[reader].index(file, uri)
    assert READERS[reader].count(file, uri) == len(entries)
    return list(READERS[reader].read_many(file, entries))


def frames(count: int = 3) -> np.ndarray:
    """Some frames of 12 bit."""
    return np.random.default_rng(3).integers(0, 4096, (count, *SHAPE), dtype=np.uint16)


def hdf5(build: Callable[[h5py.File], Any]) -> bytes:
    """An HDF5 file that a function fills."""
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        build(h5)
    return file.getvalue()


def nexus(data: dict[str, Any]) -> bytes:
    """An NXtomo file whose frames are made by arguments of create_dataset."""
    file = nxs(**{"instrument/detector/data": None})
    with h5py.File(file, "a") as h5:
        h5["entry/instrument/detector"].create_dataset("data", **data)
    return file.getvalue()


def absurd(first: int) -> dict[str, Any]:
    return {"shape": (first, *BILLION), "dtype": "u2", "chunks": (1, 64, 64)}


def swapped_pixels(content: bytes) -> bytes:
    """A Merlin file of 12 bit whose pixels were written little-endian."""
    changed = bytearray(content)
    length = 384 + 2 * SHAPE[0] * SHAPE[1]
    for start in range(0, len(content), length):
        pixels = np.frombuffer(content[start + 384 : start + length], ">u2")
        changed[start + 384 : start + length] = pixels.astype("<u2").tobytes()
    return bytes(changed)


MERLIN = mib(exposures=3)
SEVEN = np.stack([np.arange(24, dtype=np.uint16).reshape(SHAPE) + i for i in range(KEYS.size)])

SOUND = {
    "merlin": Sound(
        ".mib",
        MERLIN,
        384,
        swapped_pixels(mib(exposures=3)),
        edited(MERLIN, {-2: "24"}),
        edited(MERLIN, {4: "31623", 5: "31623"}),
    ),
    "nxtomo": Sound(
        ".nxs",
        nexus({"data": SEVEN}),
        96,
        nexus({"data": SEVEN.astype(">u2")}),
        nexus({"data": SEVEN.astype("i2")}),
        nexus(absurd(KEYS.size)),
    ),
    "data_exchange": Sound(
        ".h5",
        exchange(data=frames()).getvalue(),
        96,
        exchange(data=frames().astype(">u2")).getvalue(),
        exchange(data=frames().astype("i2")).getvalue(),
        exchange(data=absurd(3)).getvalue(),
    ),
    "tiff": Sound(
        ".tif",
        pages().getvalue(),
        8,
        pages(byteorder=">").getvalue(),
        with_tag(pages(STACK[:1]).getvalue(), 258, 12),
        with_tag(with_tag(pages(STACK[:1]).getvalue(), 256, BILLION[0]), 257, BILLION[1]),
    ),
    "dicom": Sound(
        ".dcm",
        dicom().getvalue(),
        132,
        dicom(syntax=ExplicitVRBigEndian).getvalue(),
        dicom(BitsStored=17, HighBit=16).getvalue(),
        dicom(Rows=31623, Columns=31623).getvalue(),
    ),
}


def deflated_bomb() -> bytes:
    """A DICOM file of a few kB whose attributes unpack to half a GiB."""
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(512)) + packer.flush()
    uid = b"1.2.840.10008.1.2.1.99"
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    group = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(element))
    return bytes(128) + b"DICM" + group + element + packed
