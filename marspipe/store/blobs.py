"""Pixels as Arrow binary values, without copying them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ARROW_BINARY_LIMIT = 2**31 - 1


def binary_column(data: NDArray[Any], sizes: Sequence[int] | NDArray[np.int64]) -> pa.Array:
    """Return an Arrow binary array over the memory of a C-contiguous array, cut into consecutive values.

    Parameters
    ----------
    data : ndarray, any shape and dtype, C-contiguous
        The pixels; below 2 GiB, the limit of Arrow's 32-bit offsets.
    sizes : sequence of int
        Bytes of each value; they add up to all of ``data``.
    """
    if data.nbytes > ARROW_BINARY_LIMIT:
        raise ValueError(f"a batch of pixels must stay below 2 GiB, got {data.nbytes} bytes; use smaller batches")
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    if offsets[-1] != data.nbytes:
        raise ValueError(f"sizes add up to {offsets[-1]} bytes, but the array has {data.nbytes}")
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data.reshape(-1).view(np.uint8))]
    return pa.Array.from_buffers(pa.binary(), len(sizes), buffers)


def pixels_of(column: pa.Array, row: int, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return one binary value as a read-only array over Arrow's own memory."""
    return np.frombuffer(column[row].as_buffer(), dtype=dtype).reshape(shape)


def checksum(pixels: NDArray[Any]) -> int:
    """Return the CRC-32 of an array's bytes, as stored in the tables."""
    return zlib.crc32(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data)
