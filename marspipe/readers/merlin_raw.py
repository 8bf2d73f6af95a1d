"""Raw (R64) Merlin images: the read-out stream of the chips, decoded and put together.

The stream consists of big-endian 64-bit words whose lowest bits are the first pixel: 64 pixels of 1 bit, 8 of 6 bit
(one byte each), or 4 of 12 bit (two bytes each). Turning the bytes of every word round therefore yields all pixels in
order, little-endian. A 24-bit image is two whole 12-bit images, the more significant one first.

The stream of four chips has the rows of chips 4, 3, 2, 1 side by side. In the image, chips 1 and 2 are the first rows,
left and right; chips 3 and 4 the last rows, left and right, both turned by 180 degrees, for they are mounted with their
foot outwards. Row 0 is where :mod:`marspipe.readers.merlin` has it. This order is the one LiberTEM documents
(https://doi.org/10.5281/zenodo.1477847); of one chip it is verified by real files in both forms, of four it is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import RawFormatError
from marspipe.readers.merlin_assembly import Assembly

_LARGEST = {6: 63, 12: 4095, 24: 4095}  # of what is stored: a 24-bit count is two halves of 12 bit


def raw_bytes(assembly: Assembly, depth: int) -> int:
    """Return the stored size of a raw image of a counter depth (1, 6, 12, 24 bit)."""
    stored_bits = {1: 1, 6: 8, 12: 16, 24: 32}[depth]
    return assembly.rows * assembly.cols * stored_bits // 8


def decode_raw(raw: bytes, assembly: Assembly, depth: int, where: str = "") -> NDArray[Any]:
    """Decode a raw image.

    Parameters
    ----------
    raw : bytes
        The stored image, ``raw_bytes(assembly, depth)`` long.
    assembly : Assembly
        Its chips: one, or two by two.
    depth : {1, 6, 12, 24}
        Counter depth in bits.
    where : str
        File and exposure, for messages.

    Returns
    -------
    ndarray of uint8 (1 and 6 bit), uint16 (12) or uint32 (24), shape (rows, cols)
        The counts, ``[row v, column u]``.

    Raises
    ------
    RawFormatError
        If the length is wrong, or a pixel exceeds its depth.
    """
    expected = raw_bytes(assembly, depth)
    if len(raw) != expected:
        raise RawFormatError(f"{where}: a raw image of {depth} bit has {expected} bytes, found {len(raw)}")
    words = np.frombuffer(raw, dtype=">u8").astype("<u8")
    width = assembly.chips * assembly.chip_cols
    if depth == 1:
        pixels: NDArray[Any] = np.unpackbits(words.view(np.uint8), bitorder="little")
    elif depth == 6:
        pixels = words.view(np.uint8)
    else:
        pixels = words.view("<u2").astype(np.uint16, copy=False)
    if depth in _LARGEST and (largest := int(pixels.max())) > _LARGEST[depth]:
        what = "the halves of a raw 24-bit count" if depth == 24 else f"the pixels of a raw {depth}-bit image"
        raise RawFormatError(f"{where}: {what} hold at most {_LARGEST[depth]}, found {largest}")
    if depth == 24:
        high, low = pixels.reshape(2, assembly.chip_rows, width)
        stream = (high.astype(np.uint32) << np.uint32(12)) | low
    else:
        stream = pixels.reshape(assembly.chip_rows, width)
    return stream if assembly.chips == 1 else _quad(stream)


def _quad(stream: NDArray[Any]) -> NDArray[Any]:
    rows, side = stream.shape[0], stream.shape[1] // 4
    chip4, chip3, chip2, chip1 = (stream[:, n * side : (n + 1) * side] for n in range(4))
    image = np.empty((2 * rows, 2 * side), stream.dtype)
    image[:rows, :side] = chip1
    image[:rows, side:] = chip2
    image[rows:, :side] = chip3[::-1, ::-1]
    image[rows:, side:] = chip4[::-1, ::-1]
    return image
