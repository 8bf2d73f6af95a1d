from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import Encoder

from marspipe.dicom.compression import compressed, transfer_syntax_uid
from marspipe.dicom.series import series_header
from marspipe.errors import EnvironmentMissingError, InputError
from marspipe.scan.grid import VolumeGrid
from tests.dicom.written import SYNTAXES, read_all, write_all

every_syntax = pytest.mark.parametrize("syntax", ["jpeg-ls", "jpeg-2000", "rle"])


def extreme_volume(make_volume: Any, volume: Any) -> Any:
    """Return noise over the whole range of values, so that stored ones reach from -32767 to 32767 and cross 0."""
    rng = np.random.default_rng(5)
    grid = VolumeGrid((3, 33, 40), (0.25, 0.11, 0.088))
    noise = rng.normal(size=grid.shape).astype(np.float32)
    noise[1, 16, 20], noise[1, 17, 20] = -6.0, 6.0
    return make_volume([noise], volume.bins[:1], grid, volume.metadata)


@every_syntax
def test_the_same_pixels_come_back(volume: Any, make_volume: Any, syntax: Any) -> None:
    source = extreme_volume(make_volume, volume)
    plain = series_header(source, 0, field_of_view_mm=1.4)
    packed = series_header(source, 0, field_of_view_mm=1.4, transfer_syntax=syntax)
    assert packed.series_uid == plain.series_uid  # the same images
    lowest, highest = 0, 0
    for first, second in zip(read_all(source, plain), read_all(source, packed), strict=True):
        assert second.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
        assert second.LossyImageCompression == "00"
        assert second.SOPInstanceUID == first.SOPInstanceUID
        np.testing.assert_array_equal(second.pixel_array, first.pixel_array)
        lowest, highest = min(lowest, first.pixel_array.min()), max(highest, first.pixel_array.max())
    assert (lowest, highest) == (-32768, 32767)


@every_syntax
def test_simpleitk_reads_compressed_slices(
    volume: Any, make_volume: Any, syntax: Any, tmp_path: Path, simpleitk: Any
) -> None:
    source = extreme_volume(make_volume, volume)
    header = series_header(source, 0, transfer_syntax=syntax)
    write_all(source, header, tmp_path)
    names = simpleitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / header.folder), header.series_uid)
    values = simpleitk.GetArrayFromImage(simpleitk.ReadImage(names))
    assert np.abs(values - source[0]).max() <= 0.5 * header.scale.slope * (1 + 1e-4)


@every_syntax
def test_multi_frame_objects_are_compressed_frame_by_frame(volume: Any, make_volume: Any, syntax: Any) -> None:
    source = extreme_volume(make_volume, volume)
    options: dict[str, Any] = {"kind": "enhanced-ct", "water_attenuation_per_mm": 0.0206}
    plain = series_header(source, 0, **options)
    packed = series_header(source, 0, transfer_syntax=syntax, **options)
    (first,), (second,) = read_all(source, plain), read_all(source, packed)
    assert second.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
    np.testing.assert_array_equal(second.pixel_array, first.pixel_array)


@pytest.mark.parametrize(
    ("syntax", "shape"), [("jpeg-ls", (8, 8)), ("jpeg-ls", (64, 1)), ("jpeg-2000", (32, 32)), ("rle", (1, 1))]
)
def test_the_smallest_images_are_compressed(syntax: str, shape: tuple[int, int]) -> None:
    stored = np.random.default_rng(1).integers(-32768, 32768, shape).astype(np.int16)
    stream = compressed(stored, syntax)
    decoder = get_decoder(transfer_syntax_uid(syntax))
    pixels, _ = decoder.as_array(
        encapsulate([stream]),
        rows=shape[0],
        columns=shape[1],
        number_of_frames=1,
        samples_per_pixel=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=1,
        photometric_interpretation="MONOCHROME2",
        pixel_keyword="PixelData",
    )
    np.testing.assert_array_equal(pixels, stored)
    assert compressed(stored.copy(order="F"), syntax) == stream


def small_volume(make_volume: Any, volume: Any, rows: int, columns: int) -> Any:
    shape = (2, rows, columns)
    grid = VolumeGrid(shape, (1.0, 1.0, 1.0))
    return make_volume([np.zeros(shape, np.float32)], volume.bins[:1], grid, volume.metadata)


@pytest.mark.parametrize(
    ("syntax", "rows", "columns", "least"),
    [
        ("jpeg-ls", 7, 9, "64 pixels"),
        ("jpeg-ls", 1, 63, "64 pixels"),
        ("jpeg-2000", 31, 40, "32 pixels a side"),
        ("jpeg-2000", 40, 31, "32 pixels a side"),
    ],
)
def test_smaller_images_are_refused(
    volume: Any, make_volume: Any, syntax: Any, rows: int, columns: int, least: str
) -> None:
    tiny = small_volume(make_volume, volume, rows, columns)
    with pytest.raises(InputError, match=rf"{rows} x {columns} pixels are too small for {syntax} \(at least {least}\)"):
        series_header(tiny, 0, transfer_syntax=syntax)


@pytest.mark.parametrize(
    ("syntax", "rows", "columns"),
    [("jpeg-ls", 8, 8), ("jpeg-ls", 1, 64), ("jpeg-2000", 32, 32), ("rle", 1, 1), ("uncompressed", 1, 1)],
)
def test_images_of_the_least_size_are_taken(
    volume: Any, make_volume: Any, syntax: Any, rows: int, columns: int
) -> None:
    header = series_header(small_volume(make_volume, volume, rows, columns), 0, transfer_syntax=syntax)
    assert (header.transfer_syntax, header.shape) == (syntax, (2, rows, columns))


def test_a_missing_encoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "available_plugins", ())
    with pytest.raises(EnvironmentMissingError, match="pip install pyjpegls"):
        compressed(np.zeros((2, 2), np.int16), "jpeg-ls")


def test_other_transfer_syntaxes_are_refused(volume: Any) -> None:
    with pytest.raises(InputError, match="uncompressed, jpeg-ls, jpeg-2000, rle, got 'zip'"):
        transfer_syntax_uid("zip")
    with pytest.raises(InputError, match="got 'zip'"):
        series_header(volume, 0, transfer_syntax="zip")  # type: ignore[arg-type]
