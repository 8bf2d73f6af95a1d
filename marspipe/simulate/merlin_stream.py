"""Encode images as the raw (R64) read-out stream of one or four Medipix3 chips."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.readers.merlin_assembly import Assembly


def encode_raw(image: NDArray[Any], assembly: Assembly, depth: int) -> bytes:
    """Return an image as its read-out stream, see :mod:`marspipe.readers.merlin_raw` for the format.

    Parameters
    ----------
    image : ndarray of unsigned integers, shape (assembly.rows, assembly.cols)
        Counts below ``2**depth``, ``[row v, column u]``.
    assembly : Assembly
        Its chips: one, or two by two.
    depth : {1, 6, 12, 24}
        Counter depth in bits.
    """
    stream = image if assembly.chips == 1 else _quad_stream(image, assembly)
    if depth == 1:
        pixels: NDArray[Any] = np.packbits(stream.astype(np.uint8).ravel(), bitorder="little")
    elif depth == 6:
        pixels = stream.astype(np.uint8)
    elif depth == 12:
        pixels = stream.astype("<u2")
    else:
        pixels = np.stack([stream >> 12, stream & 0xFFF]).astype("<u2")
    return pixels.ravel().view("<u8").astype(">u8").tobytes()


def _quad_stream(image: NDArray[Any], assembly: Assembly) -> NDArray[Any]:
    rows, side = assembly.chip_rows, assembly.chip_cols
    turned = image[rows:][::-1, ::-1]  # chips 4 and 3, both upright again
    return np.hstack([turned, image[:rows, side:], image[:rows, :side]])
