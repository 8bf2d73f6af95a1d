"""Merlin files for the tests: written by marspipe's writer, then damaged on purpose, and the real ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from marspipe.simulate.merlin_writer import HEADER_BYTES, write_merlin

START = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
REAL = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "merlin_single_chip"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real Merlin files are not at {REAL}")


def asymmetric(rows: int, cols: int, largest: int = 4095) -> NDArray[np.uint32]:
    """A frame that no flip or transposition maps onto itself."""
    v, u = np.indices((rows, cols))
    return ((7 * v + 3 * u + 1) % (largest + 1)).astype(np.uint32)


def mib(
    exposures: int = 3,
    counters: int = 1,
    shape: tuple[int, int] = (4, 6),
    depth: int = 12,
    color: bool | None = None,
    thresholds_kev: Sequence[float] = (20.0, 33.0, 50.0, 65.0),
    start_time: datetime = START,
    **more: Any,
) -> bytes:
    """A sound file; frame n is the asymmetric frame plus n, so that no two are equal; ``more`` is the writer's."""
    file = io.BytesIO()
    write_merlin(
        file,
        frames(exposures * counters, shape, depth),
        counter_depth_bits=depth,
        counters_per_exposure=counters,
        color_mode=counters > 2 if color is None else color,
        thresholds_kev=thresholds_kev,
        exposure_s=0.3,
        start_time=start_time,
        **more,
    )
    return file.getvalue()


def frames(n: int, shape: tuple[int, int], depth: int) -> list[NDArray[np.uint32]]:
    """The frames of :func:`mib`."""
    largest = 2**depth - 1
    first = asymmetric(*shape, largest).astype(np.int64)
    return [((first + k) % (largest + 1)).astype(np.uint32) for k in range(n)]


def record_length(shape: tuple[int, int] = (4, 6), pixel_bytes: int = 2) -> int:
    """Bytes of one record."""
    return HEADER_BYTES + shape[0] * shape[1] * pixel_bytes


def edited(content: bytes, fields: dict[int, str], record: int = 0, length: int | None = None) -> bytes:
    """The same file with some header fields of one record replaced."""
    start = record * (record_length() if length is None else length)
    header = content[start : start + HEADER_BYTES].rstrip(b"\0").decode().split(",")
    for number, text in fields.items():
        header[number] = text
    new = ",".join(header).encode().ljust(HEADER_BYTES, b"\0")
    assert len(new) == HEADER_BYTES
    return content[:start] + new + content[start + HEADER_BYTES :]


class CountingFile(io.BytesIO):
    """A file that counts the bytes read from it."""

    bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        part = super().read(size)
        self.bytes_read += len(part)
        return part

    def readinto(self, buffer: Any) -> int:
        length = super().readinto(buffer)
        self.bytes_read += length
        return length


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Equal in values, whatever the types."""
    return bool(np.array_equal(left.astype(np.int64), right.astype(np.int64)))
