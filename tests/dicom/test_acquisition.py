from __future__ import annotations

import numpy as np
import pytest

from marspipe.dicom.acquisition import acquisition_elements, acquisition_time, kernel_name
from marspipe.errors import InputError
from marspipe.scan.geometry import ScanGeometry

DETECTOR = {"detector_shape": (8, 8), "pixel_pitch_mm": (0.11, 0.11), "angles_rad": [0.0, 0.1]}


def test_nothing_known_leaves_an_empty_kvp() -> None:
    assert acquisition_elements({}) == {"KVP": ""}


def test_tube_and_distances() -> None:
    geometry = ScanGeometry.circular(source_to_isocenter_mm=200.0, source_to_detector_mm=250.5, **DETECTOR)
    tube = {"voltage_kvp": 118.0, "filters": {"Al": 1.8, "Cu": 0.1}}
    assert acquisition_elements({"tube": tube, "geometry": geometry.to_dict(), "filter": "ram-lak"}) == {
        "KVP": "118",
        "FilterType": "Al Cu",  # with thicknesses it would be longer than 16 characters
        "ConvolutionKernel": "ram-lak",
        "DistanceSourceToDetector": "250.5",
        "DistanceSourceToPatient": "200",
    }


def test_a_parallel_beam_and_general_views_have_no_distances() -> None:
    parallel = ScanGeometry.parallel(**DETECTOR)
    assert acquisition_elements({"geometry": parallel.to_dict()}) == {"KVP": ""}
    circular = ScanGeometry.circular(source_to_isocenter_mm=200.0, source_to_detector_mm=250.0, **DETECTOR)
    tilted = ScanGeometry(
        detector_shape=(8, 8),
        source_mm=circular.source_mm,
        detector_center_mm=circular.detector_center_mm,
        u_mm=circular.u_mm,
        v_mm=circular.v_mm + np.array([0.01, 0, 0]),
    )
    assert tilted.orbit is None
    assert acquisition_elements({"geometry": tilted.to_dict()}) == {"KVP": ""}


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"filter": "shepp-logan"}, "shepp-logan"),
        ({"filter": {"window": "hann", "cutoff": 0.8}}, "hann 0.8"),
        ({"filter": {"window": "hann", "cutoff": 1.0}}, "hann"),
        ({"recipe": {"filter": {"window": "cosine"}}}, "cosine"),
        ({}, ""),
    ],
)
def test_the_kernel_is_the_filter(metadata: dict[str, object], name: str) -> None:
    assert kernel_name(metadata) == name


def test_times_are_utc() -> None:
    assert acquisition_time({"acquired_at": "2024-01-01T00:30:00+01:00"}) == ("20231231", "233000.000000", "+0000")
    assert acquisition_time({"acquired_at": "2021-04-15T13:43:47.008505Z"}) == ("20210415", "134347.008505", "+0000")
    assert acquisition_time({"acquired_at": "2021-04-15T13:43:47"}) == ("20210415", "134347.000000", "")
    assert acquisition_time({}) == ("", "", "")
    with pytest.raises(InputError, match="ISO 8601"):
        acquisition_time({"acquired_at": "yesterday"})
