"""Raw (R64) images against a reference that follows the format's description bit by bit."""

from __future__ import annotations

import io

import numpy as np
import pytest

from marspipe.errors import RawFormatError
from marspipe.readers import merlin
from marspipe.readers.merlin_assembly import Assembly
from marspipe.readers.merlin_header import parse_header
from marspipe.readers.merlin_raw import decode_raw, raw_bytes
from tests.readers.merlin_files import REAL, mib, needs_real, same

SINGLE = Assembly(1, 1, 256, 3)
QUAD = Assembly(2, 2, 256, 3)


def naive_stream(raw: bytes, depth: int, n_pixels: int) -> list[int]:
    """The pixels of the stream, one at a time; groups reversed as the description says."""
    if depth == 24:
        half = len(raw) // 2
        high, low = naive_stream(raw[:half], 12, n_pixels), naive_stream(raw[half:], 12, n_pixels)
        return [4096 * h + lo for h, lo in zip(high, low, strict=True)]
    pixels = []
    for n in range(n_pixels):
        if depth == 1:
            group, bit = divmod(n, 64)
            byte = raw[8 * group + 7 - bit // 8]
            pixels.append((byte >> (bit % 8)) & 1)
        elif depth == 6:
            group, place = divmod(n, 8)
            pixels.append(raw[8 * group + 7 - place])
        else:
            group, place = divmod(n, 4)
            start = 2 * (4 * group + 3 - place)
            pixels.append(256 * raw[start] + raw[start + 1])
    return pixels


def naive_image(raw: bytes, depth: int, assembly: Assembly) -> list[list[int]]:
    """The image, pixel by pixel, from where each one lies in the stream of its chip."""
    rows, side, n = assembly.chip_rows, 256, assembly.chips
    stream = naive_stream(raw, depth, rows * side * n)
    image = [[-1] * assembly.cols for _ in range(assembly.rows)]
    for v in range(assembly.rows):
        for u in range(assembly.cols):
            chip = 1 + u // side + (2 if v >= rows else 0)
            row, column = v % rows, u % side
            if chip > 2:  # turned by 180 degrees
                row, column = rows - 1 - row, side - 1 - column
            image[v][u] = stream[row * side * n + side * (n - chip) + column]
    return image


@pytest.mark.parametrize("assembly", [SINGLE, QUAD], ids=["single", "quad"])
@pytest.mark.parametrize(("depth", "dtype"), [(1, "uint8"), (6, "uint8"), (12, "uint16"), (24, "uint32")])
def test_decoder_against_the_naive_one(depth: int, dtype: str, assembly: Assembly, rng: np.random.Generator) -> None:
    raw = rng.integers(0, 256, raw_bytes(assembly, depth), dtype=np.uint8)
    if depth == 6:
        raw &= 0x3F
    elif depth > 6:
        raw[::2] &= 0x0F  # 12 of 16 bits
    image = decode_raw(raw.tobytes(), assembly, depth)
    assert image.dtype == dtype
    assert image.dtype.isnative
    assert image.flags.c_contiguous
    assert image.tolist() == naive_image(raw.tobytes(), depth, assembly)


@pytest.mark.parametrize("layout", ["1x1", "2x2"])
@pytest.mark.parametrize("depth", [1, 6, 12, 24])
def test_writer_against_the_naive_decoder(depth: int, layout: str) -> None:
    """The writer shares nothing with the reference, so the two of reader and writer cannot err together."""
    shape = (4, 512) if layout == "2x2" else (2, 256)
    content = mib(exposures=1, shape=shape, depth=depth, raw=True, layout=layout)
    (entry,) = merlin.index(io.BytesIO(content), "x.mib")
    image = merlin.read(io.BytesIO(content), entry)
    assembly = Assembly(2, 2, 256, 2) if layout == "2x2" else Assembly(1, 1, 256, 2)
    assert entry.length == len(content) - entry.offset
    assert image.tolist() == naive_image(content[entry.offset :], depth, assembly)


def test_places_of_single_pixels() -> None:
    """Written down by hand: the first pixel is the last of its 8 bytes."""
    one = Assembly(1, 1, 256, 1)
    bits = bytearray(32)
    bits[7], bits[6], bits[8] = 0b1, 0b10, 0b1000_0000
    assert np.flatnonzero(decode_raw(bytes(bits), one, 1)).tolist() == [0, 9, 127]
    six = bytearray(256)
    six[7], six[8] = 5, 9
    image = decode_raw(bytes(six), one, 6)
    assert (image[0, 0], image[0, 15], np.count_nonzero(image)) == (5, 9, 2)
    twelve = bytearray(512)
    twelve[6:8], twelve[8:10] = b"\x0a\xbc", b"\x01\x00"
    image = decode_raw(bytes(twelve), one, 12)
    assert (image[0, 0], image[0, 7], np.count_nonzero(image)) == (0xABC, 0x100, 2)
    image = decode_raw(bytes(twelve) + bytes(6) + b"\x0d\xef" + bytes(504), one, 24)
    assert (image[0, 0], image[0, 7], np.count_nonzero(image)) == (0xABCDEF, 0x100000, 2)


def test_corners_of_the_four_chips() -> None:
    """One row of the stream: chips 4, 3, 2, 1; its first pixel is the last of the image."""
    quad = Assembly(2, 2, 256, 1)
    stream = np.zeros(1024, np.uint8)
    for place, value in ((0, 41), (255, 42), (256, 31), (511, 32), (512, 21), (767, 22), (768, 11), (1023, 12)):
        stream[place] = value
    image = decode_raw(stream.reshape(-1, 8)[:, ::-1].tobytes(), quad, 6)
    assert image[0, [0, 255, 256, 511]].tolist() == [11, 12, 21, 22]
    assert image[1, [0, 255, 256, 511]].tolist() == [32, 31, 42, 41]


@needs_real
@pytest.mark.parametrize("depth", [1, 6, 12, 24])
def test_real_images_survive_the_raw_form(depth: int) -> None:
    name = f"Single_1_Frame_CounterDepth_{depth}_Rows_256.mib"
    with (REAL / name).open("rb") as file:
        (entry,) = merlin.index(file, name)
        image = merlin.read(file, entry)
    raw = np.zeros(raw_bytes(Assembly(1, 1, 256, 256), depth), np.uint8)
    flat = [int(pixel) for pixel in image.ravel()]
    halves = [flat] if depth < 24 else [[p >> 12 for p in flat], [p & 4095 for p in flat]]
    if depth == 1:
        for n, pixel in enumerate(flat):
            raw[8 * (n // 64) + 7 - n % 64 // 8] |= pixel << n % 8
    elif depth == 6:
        for n, pixel in enumerate(flat):
            raw[8 * (n // 8) + 7 - n % 8] = pixel
    else:
        for n, pixel in enumerate(halves[0] + halves[-1] if depth == 24 else flat):
            start = 2 * (4 * (n // 4) + 3 - n % 4)
            raw[start], raw[start + 1] = divmod(pixel, 256)
    assert same(decode_raw(raw.tobytes(), Assembly(1, 1, 256, 256), depth), image)


def test_wrong_length_and_halves_that_are_too_large() -> None:
    with pytest.raises(RawFormatError, match=r"x\.mib: a raw image of 6 bit has 768 bytes, found 767"):
        decode_raw(bytes(767), SINGLE, 6, "x.mib")
    with pytest.raises(RawFormatError, match="halves of a raw 24-bit count hold at most 4095, found 4096"):
        decode_raw(bytes(3070) + b"\x10\x00", SINGLE, 24)


def test_header_of_software_0_67() -> None:
    text = (
        b"MQ1,000001,00384,01,0512,0256,R64,   1x1,01,2017-11-10 15:41:20.880248,0.005000,0,0,0,,"
        b"MQ1A,2017-11-10T15:41:20.880248165Z,5000000ns,24,"
    )
    header = parse_header(text.ljust(384, b"\0"), "x.mib")
    assert (header.rows, header.cols, header.dtype, header.image_bytes) == (256, 256, "uint32", 4 * 65536)
    assert (header.thresholds_kev, header.exposure_s, header.counter_depth_bits) == ((), 0.005, 24)
