from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest

from marspipe.dicom.parametric_map import parametric_map_files, parametric_map_instances
from marspipe.dicom.series import SeriesHeader, series_header
from marspipe.errors import InputError
from tests.dicom.written import read_all, write_all


def parametric(volume: Any, bin: int) -> SeriesHeader:
    return series_header(volume, bin, kind="parametric-map")


def test_the_very_values_come_back(maps: Any) -> None:
    for bin in range(3):
        (dataset,) = read_all(maps, parametric(maps, bin))
        assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.30"
        assert "PixelData" not in dataset
        assert dataset.pixel_array.dtype == np.float32
        np.testing.assert_array_equal(dataset.pixel_array, maps[bin])


def test_highdicom_reads_real_world_values_in_place(maps: Any, tmp_path: Path) -> None:
    (path,) = write_all(maps, parametric(maps, 1), tmp_path)
    built = highdicom.imread(path).get_volume(apply_real_world_transform=True)
    point = np.array([[maps.grid.axis_mm(a)[i] for a, i in zip("xyz", (3, 2, 1), strict=True)]])
    k, j, i = np.rint(built.map_reference_to_indices(point)[0]).astype(int)
    assert built.array[k, j, i] == maps[1][1, 2, 3]


def test_units_and_material_are_said(maps: Any) -> None:
    (iodine,) = read_all(maps, parametric(maps, 1))
    mapping = iodine.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "mg/ml"
    substance = mapping.QuantityDefinitionSequence[0]
    assert substance.ConceptCodeSequence[0].CodeValue == "44588005"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1.0, 0.0)
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == float(maps[1].max())
    (energy,) = read_all(maps, parametric(maps, 0))
    mapping = energy.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "/mm"
    assert energy.SeriesDescription == "70 keV monoenergetic, attenuation 1/mm"


def test_a_viewer_first_shows_the_range_of_the_middle_slice(maps: Any) -> None:
    (dataset,) = read_all(maps, parametric(maps, 0))
    window = dataset.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0]
    low, high = np.percentile(maps[0][3], [1, 99.5])
    assert float(window.WindowWidth) == pytest.approx(high - low, rel=1e-4)
    assert float(window.WindowCenter) == pytest.approx((high + low) / 2, rel=1e-4)


def test_large_maps_are_concatenations(maps: Any) -> None:
    header = parametric(maps, 1)
    limit = 65536 + 4 * (480 + 512)
    assert [part.frames for part in parametric_map_instances(header, limit)] == [range(0, 3), range(3, 7)]
    datasets = read_all(maps, header, max_instance_bytes=limit)
    np.testing.assert_array_equal(np.concatenate([d.pixel_array for d in datasets]), maps[1])
    assert [d.InConcatenationNumber for d in datasets] == [1, 2]


def test_odd_options_are_refused(maps: Any) -> None:
    for options in ({"transfer_syntax": "jpeg-ls"}, {"water_attenuation_per_mm": 0.02}):
        with pytest.raises(InputError, match="holds the volume's own float values"):
            series_header(maps, 0, kind="parametric-map", **options)
    header = parametric(maps, 0)
    maps.arrays[0][2, 0, 0] = np.inf
    with pytest.raises(InputError, match="slice 2 of bin 0: 1 of 120 pixels are NaN or infinite"):
        next(parametric_map_files(maps, header)).content()
