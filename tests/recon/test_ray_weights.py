"""Detectors that are not upright: rows made level, and the weights of their rays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from marspipe.errors import GeometryError
from marspipe.recon.fdk import fdk
from marspipe.recon.filtering import ViewFilter
from marspipe.recon.ray_weights import level_rows, leveled, ray_weights
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from tests.recon.scans import circle, cone, random_stack, without_orbit
from tests.recon.tilts import tilted


def test_upright_detectors_are_level_already() -> None:
    for geometry in (cone(), without_orbit(cone()), tilted(cone(), yaw=0.1), tilted(cone(), pitch=0.2)):
        level, slopes = leveled(geometry)
        assert slopes is None
        assert level is geometry


def test_level_rows_look_at_the_same_points() -> None:
    """A frame that is linear in the world is linear on the level detector too, where each pixel now is."""
    geometry = tilted(cone(detector_shape=(41, 43)), roll=0.15, yaw=0.1, pitch=-0.2)
    level, slopes = leveled(geometry)
    assert slopes is not None
    assert np.abs(level.u_mm[:, 2]).max() < 1e-12
    rows, cols = geometry.detector_shape

    def heights(scan: ScanGeometry, view: int) -> np.ndarray:
        across = (np.arange(cols) - (cols - 1) / 2)[:, None] * scan.u_mm[view]
        along = (np.arange(rows) - (rows - 1) / 2)[:, None, None] * scan.v_mm[view]
        return (scan.detector_center_mm[view] + across + along) @ np.array([0.3, -0.5, 1.0])

    for view in (0, 7):
        moved = level_rows(heights(geometry, view).astype(np.float32), slopes[view])
        inside = slice(8, 33)  # further out the last row stands in
        np.testing.assert_allclose(moved[inside], heights(level, view)[inside], atol=2e-5)


def test_level_rows_end_with_the_last_row() -> None:
    frame = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert level_rows(frame, 1.0).tolist() == [[0, 1, 5], [0, 4, 8], [3, 7, 11], [6, 10, 11]]
    assert level_rows(frame, -0.5).tolist() == [[1.5, 1, 2], [4.5, 4, 3.5], [7.5, 7, 6.5], [9, 10, 9.5]]
    assert level_rows(frame[:1], 0.7).tolist() == [[0, 1, 2]]
    assert level_rows(frame, 0.0).tolist() == frame.tolist()


def test_the_weights_of_an_upright_detector_are_those_of_the_orbit() -> None:
    geometry = cone(principal_point_px=(14.2, 19.4))
    general = ray_weights(without_orbit(geometry), 5)
    np.testing.assert_allclose(general, ray_weights(geometry, 5) * 1.5 / 0.6, rtol=1e-6)


def test_rows_along_the_axis_are_refused() -> None:
    geometry = cone(angles_rad=circle(5))
    with pytest.raises(
        GeometryError, match=r"rows must run across .* view 0 rise by 90 degrees \(5 such views\).*swap"
    ):
        ViewFilter(tilted(geometry, roll=math.pi / 2))
    with pytest.raises(GeometryError, match=r"view 0 rise by 50 degrees"):
        fdk(random_stack(geometry), tilted(geometry, roll=math.radians(50)), VolumeGrid((1, 2, 2), (0.4,) * 3))
    assert leveled(tilted(geometry, roll=math.radians(40)))[1] is not None


def test_bands_of_a_turned_detector_have_the_bits_of_the_whole() -> None:
    geometry = tilted(cone(), roll=0.1, pitch=0.1)
    frame = random_stack(geometry)[3]
    ramp = ViewFilter(geometry)
    whole = ramp.filter(frame, 3)
    for band in ((0, 1), (5, 20), (36, 37)):
        assert np.array_equal(ramp.filter_to_columns(frame, 3, band), whole[slice(*band)].T)
