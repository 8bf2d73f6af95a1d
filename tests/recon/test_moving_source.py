"""A source that moves along the axis: helices and several circles, against the truth and against one circle."""

from __future__ import annotations

import numpy as np
import pytest

from marspipe.errors import GeometryError
from marspipe.recon.fdk import FieldOfViewWarning, fdk
from marspipe.recon.redundancy import IncompleteScanWarning, choose_redundancy
from marspipe.recon.redundancy.blending import CirclesBlend, HelixBlend
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import Cylinder, Ellipsoid, line_integrals
from tests.recon.scans import ball, circle, without_orbit

BODY = [Ellipsoid((0, 0, 0), (4, 4, 9), 0.5)]
BALLS = [
    Ellipsoid((1.5 * np.cos(i), 1.5 * np.sin(i), z), (1.0, 1.0, 1.0), 0.5) for i, z in enumerate((-6, -3, 0, 3, 6))
]
GRID = VolumeGrid((70, 40, 40), (0.2, 0.22, 0.22))
VIEWS = 120


def moving(angles: np.ndarray, heights: np.ndarray | float, **changes: object) -> ScanGeometry:
    settings: dict[str, object] = {
        "source_to_isocenter_mm": 60.0,
        "source_to_detector_mm": 90.0,
        "detector_shape": (64, 96),
        "pixel_pitch_mm": (0.25, 0.25),
    }
    return ScanGeometry.circular(angles_rad=angles, source_z_mm=heights, **(settings | changes))  # type: ignore[arg-type]


def helix(pitch: float, length: float = 24.0, direction: int = 1, **changes: object) -> ScanGeometry:
    n = int(np.ceil(length / pitch) * VIEWS)
    turns = np.arange(n) / VIEWS
    return moving(direction * 2 * np.pi * turns, (turns - n / VIEWS / 2) * pitch, **changes)


def circles(pitch: float, count: int, **changes: object) -> ScanGeometry:
    heights = (np.arange(count) - (count - 1) / 2) * pitch
    return moving(np.tile(circle(VIEWS), count), np.repeat(heights, VIEWS), **changes)


SCANS = {
    "slow helix": helix(2.0),
    "fast helix": helix(7.0),
    "falling helix": helix(5.0)[::-1],
    "helix turning the other way": helix(5.0, direction=-1),
    "helix, offset detector": helix(4.0, principal_point_px=(31.5, 30.0)),
    "helix, general kernel": without_orbit(helix(6.0), 0.01),
    "overlapping circles": circles(3.0, 6),
    "circles that just meet": circles(7.0, 3),
    "short circles": moving(
        np.tile(np.linspace(0, np.pi + 0.6, VIEWS), 3), np.repeat([-6.0, 0.0, 6.0], VIEWS), detector_shape=(64, 94)
    ),
    "circles of an offset detector": circles(6.0, 3, principal_point_px=(31.5, 30.0)),
}


@pytest.mark.parametrize("name", SCANS)
def test_balls_all_along_the_axis_have_their_attenuation(name: str) -> None:
    geometry = SCANS[name]
    volume = fdk(line_integrals(BODY + BALLS, geometry), geometry, GRID)
    for number, shape in enumerate(BALLS):
        core = volume[ball(GRID, 0.6, shape.center_mm)]
        assert core.mean() == pytest.approx(1.0, abs=0.003), f"ball {number}"
        assert core.std() < 0.006, f"ball {number}"
    empty = volume[ball(GRID, 0.8, (-1.5, 1.8, 1.5))]
    assert empty.mean() == pytest.approx(0.5, abs=0.003)


@pytest.mark.parametrize("name", ["slow helix", "circles of an offset detector", "helix, general kernel"])
def test_slabs_and_batches_do_not_change_the_bits(name: str) -> None:
    geometry = SCANS[name]
    data = line_integrals(BALLS, geometry)
    whole = fdk(data, geometry, GRID)
    for cut in (slice(0, 23), slice(23, 24), slice(24, 70)):
        assert np.array_equal(fdk(data, geometry, GRID.window(z=cut), threads=1), whole[cut])


def test_a_helix_equals_a_circle_where_nothing_changes_along_the_axis() -> None:
    column = [Cylinder((0.7, -0.4, 0.0), 3.0, 60.0, 0.4)]
    spiral, single = helix(5.0), moving(circle(VIEWS), 0.0)
    grid = VolumeGrid((1, 60, 60), (0.2, 0.15, 0.15))
    one = fdk(line_integrals(column, single), single, grid)
    other = fdk(line_integrals(column, spiral), spiral, grid)
    # The column is cut off by the detector's rows nowhere, so that only the cone angle makes a difference.
    np.testing.assert_allclose(other, one, atol=0.004 * 0.4)


@pytest.mark.parametrize("name", ["slow helix", "fast helix", "falling helix", "helix turning the other way"])
def test_views_a_turn_apart_share_a_slice(name: str) -> None:
    redundancy = choose_redundancy(SCANS[name])
    assert isinstance(redundancy.blend, HelixBlend)
    assert redundancy.name == "helix full"
    weights = redundancy.blend.weights(np.linspace(-7, 7, 11))
    of_angle = weights.reshape(-1, VIEWS, 11).sum(axis=0)  # views at the same place on the circle
    np.testing.assert_allclose(of_angle, 1.0, atol=1e-6)
    jumps = np.abs(np.diff(weights, axis=0)).max()
    assert jumps < 0.2  # a turn that ends abruptly would streak


def test_irregular_heights_and_angles_of_a_helix(rng: np.random.Generator) -> None:
    n = 5 * VIEWS
    angles = np.sort(rng.uniform(0, 10 * np.pi, n))
    heights = np.interp(angles, [0, 4 * np.pi, 10 * np.pi], [-9, -3, 10])  # the table changes its speed
    geometry = moving(angles, heights)
    volume = fdk(line_integrals(BODY + BALLS, geometry), geometry, GRID)
    for shape in BALLS[1:-1]:
        assert volume[ball(GRID, 0.6, shape.center_mm)].mean() == pytest.approx(1.0, abs=0.02)


def test_circles_fade_into_their_neighbors() -> None:
    redundancy = choose_redundancy(circles(6.0, 3))
    assert redundancy.name == "circles full"
    assert isinstance(redundancy.blend, CirclesBlend)
    z = np.linspace(-12, 12, 97)
    weights = redundancy.blend.weights(z)[::VIEWS]
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-6)
    assert weights[0, 0] == 1 and weights[2, -1] == 1
    middle = weights[:, z == 3.0][:, 0]  # half way between two circles
    np.testing.assert_allclose(middle, [0, 0.5, 0.5], atol=1e-6)
    between = (z >= 0) & (z <= 6)
    assert (np.diff(weights[2, between]) >= 0).all() and np.abs(np.diff(weights[2, between])).max() < 0.3
    one_by_one = circles(6.0, 3)[np.random.default_rng(1).permutation(3 * VIEWS)]
    again = choose_redundancy(one_by_one)
    assert again.name == "circles full"  # whatever the order of the views


def test_a_wobble_is_not_a_helix() -> None:
    redundancy = choose_redundancy(moving(circle(VIEWS), 0.05 * np.sin(circle(VIEWS))))
    assert redundancy.name == "full" and redundancy.blend is None


def test_gaps_are_told_with_numbers() -> None:
    with pytest.warns(IncompleteScanWarning, match=r"climbs 12 mm a turn, .* the rows cover \d\.\d+ mm"):
        choose_redundancy(helix(12.0, 48.0))
    with pytest.warns(IncompleteScanWarning, match=r"circles 12 mm apart leave gaps: .* covers \d\.\d+ mm"):
        choose_redundancy(circles(12.0, 2))
    geometry = helix(4.0)
    beyond = VolumeGrid((20, 8, 8), (0.5, 0.5, 0.5), (16.0, 0.0, 0.0))
    with pytest.warns(FieldOfViewWarning, match=r"outermost slices project up to \d+\.\d+ rows beside"):
        fdk(line_integrals(BALLS, geometry), geometry, beyond)


def test_what_is_neither_helix_nor_circles_is_refused() -> None:
    heights = np.linspace(0, 10, 2 * VIEWS)
    heights[100] = 9
    with pytest.raises(GeometryError, match=r"from view 100 to 101 it goes from 9 to"):
        choose_redundancy(moving(circle(2 * VIEWS, 4 * np.pi), heights))
    with pytest.raises(GeometryError, match=r"378 degrees or more, got 35\d"):
        choose_redundancy(moving(circle(VIEWS), np.linspace(0, 5, VIEWS)))
    with pytest.raises(GeometryError, match="'parker' does not apply here; it must be one of auto, full, wang"):
        choose_redundancy(helix(4.0), "parker")
    with pytest.raises(GeometryError, match="no row at the source's own height"):
        choose_redundancy(helix(4.0, principal_point_px=(-5, 47.5)))
