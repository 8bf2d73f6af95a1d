"""What must not matter: where a world's axes point, how it is measured, and in which parts it is looked at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from marspipe.recon.fdk import fdk
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import Cylinder, Ellipsoid, Shape, line_integrals
from tests.recon.scans import circle, random_stack, without_orbit
from tests.recon.tilts import tilted

ROWS, COLUMNS = 30, 56
GRID = VolumeGrid((10, 22, 24), (0.3, 0.25, 0.27))
SHORT = np.linspace(0.2, 0.2 + math.pi + 0.5, 90)


def scan(**changes: Any) -> ScanGeometry:
    settings: dict[str, Any] = {
        "source_to_isocenter_mm": 60.0,
        "source_to_detector_mm": 90.0,
        "detector_shape": (ROWS, COLUMNS),
        "pixel_pitch_mm": (0.4, 0.4),
        "angles_rad": circle(90),
        "principal_point_px": (13.8, 26.9),
    }
    return ScanGeometry.circular(**(settings | changes))


SCANS: dict[str, dict[str, Any]] = {
    "full": {},
    "short": {"angles_rad": SHORT},
    "offset": {"principal_point_px": (13.8, 12.2)},
    "irregular": {"angles_rad": np.sort(np.random.default_rng(3).uniform(0, 2 * math.pi, 120))},
}


def same(found: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float = 1e-5) -> None:
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("truncation", ["none", "extrapolate"])
def test_a_mirrored_world(name: str, truncation: str) -> None:
    """Mirrored at x = 0: columns the other way round, angles with the other sign; noise shows every pixel."""
    geometry = scan(**SCANS[name])
    stack = random_stack(geometry)
    volume = fdk(stack, geometry, GRID, truncation=truncation)
    row, column = geometry.orbit.principal_point_px  # type: ignore[union-attr]
    mirrored = scan(angles_rad=-geometry.angles_rad, principal_point_px=(row, COLUMNS - 1 - column))
    flipped = np.ascontiguousarray(stack[:, :, ::-1])
    same(fdk(flipped, mirrored, GRID, truncation=truncation), volume[:, :, ::-1])


@pytest.mark.parametrize("name", SCANS)
def test_a_world_upside_down(name: str) -> None:
    geometry = scan(**SCANS[name])
    stack = random_stack(geometry)
    row, column = geometry.orbit.principal_point_px  # type: ignore[union-attr]
    mirrored = scan(angles_rad=geometry.angles_rad, principal_point_px=(ROWS - 1 - row, column))
    flipped = np.ascontiguousarray(stack[:, ::-1])
    same(fdk(flipped, mirrored, GRID), fdk(stack, geometry, GRID)[::-1])


@pytest.mark.parametrize("name", SCANS)
def test_a_world_turned_by_a_quarter(name: str) -> None:
    """A scanner a quarter turn further on, with the same frames, sees the object a quarter turn further on."""
    geometry = scan(**SCANS[name])
    grid = VolumeGrid((6, 24, 24), (0.3, 0.25, 0.25))
    stack = random_stack(geometry)
    further = scan(**(SCANS[name] | {"angles_rad": geometry.angles_rad + math.pi / 2}))
    turned = fdk(stack, further, grid)  # (x, y) goes to (-y, x)
    same(turned, np.rot90(fdk(stack, geometry, grid), k=-1, axes=(1, 2)), 3e-5)


def test_any_turn_of_the_object_is_a_turn_of_the_scanner() -> None:
    turn = 0.7
    cos, sin = math.cos(turn), math.sin(turn)

    def world(angle: float) -> list[Shape]:
        c, s = math.cos(angle), math.sin(angle)
        centers = [(2.0, 0.5, 0.3), (-1.5, -1.0, -0.4)]
        moved = [(c * x - s * y, s * x + c * y, z) for x, y, z in centers]
        return [
            Ellipsoid(moved[0], (1.8, 1.1, 1.0), 1.0, rotation_rad=0.3 + angle),
            Ellipsoid(moved[1], (1.0, 1.9, 1.2), 0.5, rotation_rad=angle),
        ]

    geometry = scan()
    turned = scan(angles_rad=geometry.angles_rad + turn)
    stack = line_integrals(world(0.0), geometry)
    np.testing.assert_allclose(line_integrals(world(turn), turned), stack, atol=2e-5)
    # One voxel at a time: where a point of the first world has gone, the second volume has its value.
    first, second = [], []
    for point in [(2.0, 0.5, 0.3), (-1.5, -1.0, -0.4), (3.4, 1.2, 0.0), (0.2, -0.4, 0.1), (-4.0, 2.0, 0.5)]:
        x, y, z = point
        first.append(fdk(stack, geometry, VolumeGrid((1, 1, 1), (0.1,) * 3, (z, y, x))).item())
        there = (z, sin * x + cos * y, cos * x - sin * y)
        second.append(fdk(stack, turned, VolumeGrid((1, 1, 1), (0.1,) * 3, there)).item())
    assert second == pytest.approx(first, abs=1e-5)
    assert np.ptp(first) > 0.5


@pytest.mark.parametrize("name", SCANS)
def test_a_grid_that_moves_by_voxels_sees_the_same_voxels(name: str) -> None:
    geometry = scan(**SCANS[name])
    stack = random_stack(geometry)
    volume = fdk(stack, geometry, GRID)
    moved = VolumeGrid(GRID.shape, GRID.voxel_mm, (2 * 0.3, -4 * 0.25, 3 * 0.27))
    same(fdk(stack, geometry, moved)[:-2, 4:, :-3], volume[2:, :-4, 3:])


def test_an_object_that_moves_with_its_grid_keeps_its_values() -> None:
    geometry = scan()
    values = []
    for shift in ((0.0, 0.0, 0.0), (1.13, -0.71, 0.0), (-2.2, 1.9, 0.17)):
        x, y, z = shift
        shapes = [Ellipsoid((x, y, z), (1.6, 1.1, 0.9), 1.0), Cylinder((x + 0.9, y, z), 0.4, 1.0, -0.5)]
        grid = VolumeGrid((5, 15, 15), (0.2, 0.2, 0.2), (z, y, x))
        values.append(fdk(line_integrals(shapes, geometry), geometry, grid, window="hann"))
    for moved in values[1:]:
        assert np.sqrt(np.mean((moved - values[0]) ** 2)) < 0.02
    assert np.sqrt(np.mean((values[0][:, :, ::-1] - values[0]) ** 2)) > 0.1


@pytest.mark.parametrize("kind", ["orbit", "general"])
def test_a_scanner_that_is_lifted_with_its_grid(kind: str) -> None:
    straight, lifted = scan(), scan(source_z_mm=7.5)
    if kind == "general":
        straight, lifted = without_orbit(straight), without_orbit(lifted)
    stack = random_stack(straight)
    grid = VolumeGrid(GRID.shape, GRID.voxel_mm, (7.5, 0.0, 0.0))
    same(fdk(stack, lifted, grid), fdk(stack, straight, GRID))


@pytest.mark.parametrize("kind", ["orbit", "tilted"])
def test_a_world_in_another_unit_of_length(kind: str) -> None:
    factor = 3.7
    geometry = scan()
    large = scan(
        source_to_isocenter_mm=60 * factor, source_to_detector_mm=90 * factor, pixel_pitch_mm=(0.4 * factor,) * 2
    )
    if kind == "tilted":
        geometry, large = (tilted(g, roll=0.05, yaw=0.1, pitch=-0.15) for g in (geometry, large))
    stack = random_stack(geometry)
    grid = VolumeGrid(GRID.shape, tuple(factor * v for v in GRID.voxel_mm))  # type: ignore[arg-type]
    same(factor * fdk(stack, large, grid), fdk(stack, geometry, GRID))


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("general", [False, True])
def test_objects_add_up(name: str, general: bool) -> None:
    geometry = scan(**SCANS[name])
    if general:
        geometry = tilted(geometry, roll=0.04, pitch=0.1)
    a, b = random_stack(geometry, 1), random_stack(geometry, 2)
    parts = 2 * fdk(a, geometry, GRID) - fdk(b, geometry, GRID)
    same(fdk(2 * a - b, geometry, GRID), parts)


@pytest.mark.parametrize("name", SCANS)
def test_the_order_of_the_views_does_not_matter(name: str) -> None:
    geometry = scan(**SCANS[name])
    stack = random_stack(geometry)
    order = np.random.default_rng(8).permutation(len(geometry))
    same(fdk(np.ascontiguousarray(stack[order]), geometry[order], GRID), fdk(stack, geometry, GRID))


@pytest.mark.parametrize("name", SCANS)
def test_views_that_are_taken_twice_count_once(name: str) -> None:
    geometry = scan(**SCANS[name])
    stack = random_stack(geometry)
    twice = np.repeat(np.arange(len(geometry)), 2)
    same(fdk(stack[twice], geometry[twice], GRID), fdk(stack, geometry, GRID))


def test_whole_turns_more_or_less_do_not_matter() -> None:
    geometry = scan()
    stack = random_stack(geometry)
    for turns in (-3, 50):
        moved = scan(angles_rad=geometry.angles_rad + 2 * math.pi * turns)
        same(fdk(stack, moved, GRID), fdk(stack, geometry, GRID))
