from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest

from marspipe.dicom.ct import series_files, series_header
from marspipe.dicom.enhanced import enhanced_files
from marspipe.dicom.field_of_view import field_of_view_mm, outside, padded_beyond_mm
from marspipe.dicom.parametric_map import FLOAT_PADDING, parametric_map_files
from marspipe.errors import InputError
from marspipe.scan.grid import VolumeGrid

# Of the volume, whose voxels lie from 0.1 to 2.1 mm off the axis; one voxel beyond still counts as seen.
RADIUS_MM = 1.4
SEEN_MM = RADIUS_MM + 0.11


def distance_mm(grid: VolumeGrid) -> np.ndarray:
    return np.hypot(grid.axis_mm("y")[:, None], grid.axis_mm("x"))


def test_pixels_that_the_scan_did_not_see_are_padding(volume: Any) -> None:
    header = series_header(volume, 0, field_of_view_mm=RADIUS_MM)
    beyond = distance_mm(volume.grid) > SEEN_MM
    assert 10 < np.count_nonzero(beyond) < beyond.size - 10
    for z, file in enumerate(series_files(volume, header)):
        dataset = pydicom.dcmread(io.BytesIO(file.content))
        assert dataset.PixelPaddingValue == -32768
        assert dataset["PixelPaddingValue"].VR == "SS"
        stored = dataset.pixel_array
        np.testing.assert_array_equal(stored == -32768, beyond)
        mapped = dataset.RealWorldValueMappingSequence[0]
        assert mapped.RealWorldValueFirstValueMapped > -32768
        values = stored * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        assert np.abs(values - volume[0][z])[~beyond].max() <= 0.5 * float(dataset.RescaleSlope) * (1 + 1e-6)


def test_what_stands_outside_does_not_matter(volume: Any) -> None:
    header = series_header(volume, 0, field_of_view_mm=RADIUS_MM)
    before = [file.content for file in series_files(volume, header)]
    volume.arrays[0][:, distance_mm(volume.grid) > SEEN_MM] = 77.0
    assert [file.content for file in series_files(volume, header)] == before
    assert [file.clipped_voxels for file in series_files(volume, header)] == [0] * 7


@pytest.mark.parametrize("water", [None, 0.0206])
def test_hounsfield_units_and_the_window_see_no_padding(volume: Any, water: float | None) -> None:
    seen = volume[0][3][distance_mm(volume.grid) <= SEEN_MM].astype(float)
    header = series_header(volume, 0, field_of_view_mm=RADIUS_MM, water_attenuation_per_mm=water)
    low, high = (header.scale.output(v) for v in np.percentile(seen, [1, 99.5]))
    assert float(header.window["WindowCenter"]) == pytest.approx((low + high) / 2, rel=1e-4)
    dataset = pydicom.dcmread(io.BytesIO(next(series_files(volume, header)).content))
    assert dataset.pixel_array.min() == -32768


def test_a_volume_within_the_field_of_view_has_none(volume: Any) -> None:
    volume.metadata["redundancy"] = {"name": "full", "field_of_view_mm": 5.0}
    header = series_header(volume, 0)
    assert header.padded_beyond_mm is None
    dataset = pydicom.dcmread(io.BytesIO(next(series_files(volume, header)).content))
    assert "PixelPaddingValue" not in dataset


def test_the_metadata_of_the_volume_knows_the_field_of_view(volume: Any) -> None:
    plain = series_header(volume, 0).series_uid
    volume.metadata["redundancy"] = {"name": "full", "field_of_view_mm": RADIUS_MM}
    header = series_header(volume, 0)
    assert header.padded_beyond_mm == pytest.approx(SEEN_MM)
    assert header.series_uid != plain
    assert field_of_view_mm({"redundancy": {"name": "full"}}) is None


def test_multi_frame_objects_are_padded_too(volume: Any) -> None:
    beyond = distance_mm(volume.grid) > SEEN_MM
    enhanced = series_header(volume, 0, field_of_view_mm=RADIUS_MM, kind="enhanced-ct", water_attenuation_per_mm=0.0206)
    (file,) = enhanced_files(volume, enhanced)
    dataset = pydicom.dcmread(io.BytesIO(file.content()))
    assert dataset.PixelPaddingValue == -32768
    np.testing.assert_array_equal(dataset.pixel_array == -32768, np.broadcast_to(beyond, volume.grid.shape))
    plain = series_header(volume, 0, field_of_view_mm=RADIUS_MM, kind="parametric-map")
    (file,) = parametric_map_files(volume, plain)
    dataset = pydicom.dcmread(io.BytesIO(file.content()))
    assert dataset.FloatPixelPaddingValue == FLOAT_PADDING
    np.testing.assert_array_equal(dataset.pixel_array == FLOAT_PADDING, np.broadcast_to(beyond, volume.grid.shape))


def test_wrong_radii_are_refused() -> None:
    grid = VolumeGrid((1, 4, 4), (1.0, 1.0, 1.0))
    for radius in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="field of view must be positive"):
            padded_beyond_mm(grid, radius)
    assert padded_beyond_mm(grid, None) is None


def test_the_mask_is_that_of_a_cylinder_about_the_axis() -> None:
    mask = outside((3, 4), (-1.0, -1.0), (1.0, 1.0), 1.2)
    assert mask.tolist() == [[True, False, True, True], [False, False, False, True], [True, False, True, True]]
    assert not mask.flags.writeable
