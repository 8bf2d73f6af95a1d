"""Input that is wrong or at the limit: refused by a named error with the figures, or reconstructed right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import GeometryError, InputError
from marspipe.recon.fdk import FieldOfViewWarning, fdk
from marspipe.scan.checks import refuse_degrees
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import Cylinder, Ellipsoid, line_integrals
from tests.recon.scans import circle, cone, random_stack, without_orbit
from tests.recon.tilts import tilted

GRID = VolumeGrid((3, 8, 8), (0.4, 0.4, 0.4))

# --- degrees taken for radians -----------------------------------------------------------------------------------

DEGREES = {
    "a full circle": np.linspace(0, 360, 720, endpoint=False),
    "a full circle with its end": np.linspace(0, 360, 181),
    "half a circle": np.arange(0.0, 180.0),
    "a short scan": np.linspace(0, 204.3, 333),
    "from -90": np.arange(-90.0, 90.0, 0.5),
    "backwards": np.arange(360, 0, -1),
    "few views": np.array([0.0, 90.0, 180.0, 270.0]),
    "whole degrees of a small arc": np.arange(0, 12, 1),
    "half degrees of a small arc": np.arange(3.0, 14.0, 0.5),
    "single precision": np.arange(0, 12, 0.5, dtype=np.float32),
}
HELIX_DEGREES = {
    "five turns": np.linspace(0, 1800, 3600, endpoint=False),
    "five turns with their end": np.linspace(0, 1800, 3601),
    "steps of 1": np.arange(0.0, 1234.0),
    "steps of 0.36": np.arange(2777) * 0.36,
    "steps of 0.1": np.arange(12345) * 0.1,
    "steps of 7.3": np.arange(1000) * 7.3,
    "backwards": -np.arange(0.0, 777.0, 0.5),
    "circles at several heights": np.tile(np.arange(0.0, 360.0, 2.0), 4),
    "half circles at several heights": np.tile(np.linspace(0, 180, 91), 3),
}
RADIANS = {
    "a full circle": circle(720),
    "a full circle with its end": np.linspace(0, 2 * math.pi, 181),
    "two turns": np.linspace(0, 4 * math.pi, 1000),
    "three views": circle(3),
    "six views in two turns": circle(6, 4 * math.pi),
    "0, 1, 2, 3": np.arange(4.0),
    "0 to 6": np.arange(7.0),
    "round steps within a turn": np.arange(0, 2 * math.pi, 0.1),
    "wide round steps within a turn": np.arange(0, 2 * math.pi, 0.5),
    "round steps in two turns": np.arange(0, 4 * math.pi, 0.1),
    "one view": np.array([500.0]),
    "one angle twice": np.array([40.0, 40.0]),
    "from 100 turns": circle(90, first=200 * math.pi),
    "golden angle": np.mod(np.arange(300) * math.pi * (3 - math.sqrt(5)), 2 * math.pi),
    "irregular": np.random.default_rng(1).uniform(0, 12, 50),
}
HELIX_RADIANS = {
    "ten turns": np.linspace(0, 20 * math.pi, 3600, endpoint=False),
    "ten turns with their end": np.linspace(0, 20 * math.pi, 3601),
    "few views a turn": circle(60, 10 * math.pi),
    "golden angle, going on": np.arange(400) * math.pi * (3 - math.sqrt(5)),
    "round steps": np.arange(0, 8 * math.pi, 0.1),
    "irregular": np.cumsum(np.random.default_rng(2).uniform(0.01, 0.2, 2000)),
    "circles at several heights": np.tile(circle(180), 4),
    "in any order": np.random.default_rng(3).permutation(np.tile(circle(60), 3)),
}


@pytest.mark.parametrize("name", DEGREES)
def test_degrees_are_refused(name: str) -> None:
    with pytest.raises(GeometryError, match=r"angles_rad .*are they degrees\? use np\.deg2rad"):
        refuse_degrees(np.asarray(DEGREES[name], np.float64))
    refuse_degrees(np.deg2rad(np.asarray(DEGREES[name], np.float64)))


@pytest.mark.parametrize("name", HELIX_DEGREES)
def test_degrees_of_a_moving_source_are_refused(name: str) -> None:
    with pytest.raises(GeometryError, match=r"angles_rad .*are they degrees\? use np\.deg2rad"):
        refuse_degrees(HELIX_DEGREES[name], helix=True)
    refuse_degrees(np.deg2rad(HELIX_DEGREES[name]), helix=True)


@pytest.mark.parametrize("name", RADIANS)
def test_radians_pass(name: str) -> None:
    refuse_degrees(RADIANS[name])
    refuse_degrees(RADIANS[name], helix=True)


@pytest.mark.parametrize("name", HELIX_RADIANS)
def test_radians_of_a_moving_source_pass(name: str) -> None:
    refuse_degrees(HELIX_RADIANS[name], helix=True)


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(3, 2000), st.floats(-100, 100), st.sampled_from([-1, 1]), st.booleans())
def test_parts_of_a_turn_are_never_taken_for_degrees(
    views: int, per_turn: int, first: float, direction: int, helix: bool
) -> None:
    angles = first + direction * 2 * math.pi * np.arange(views) / per_turn
    if helix or np.ptp(angles) <= 4 * math.pi:
        refuse_degrees(angles, helix)


def test_a_scan_in_degrees_is_refused_as_such() -> None:
    with pytest.raises(GeometryError, match=r"span 359.5, more than two turns .*degrees\? use np\.deg2rad"):
        cone(angles_rad=np.arange(0, 360, 0.5))


# --- numbers that are none ---------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "source_to_isocenter_mm": 40.0,
    "source_to_detector_mm": 60.0,
    "detector_shape": (3, 3),
    "pixel_pitch_mm": (1.0, 1.0),
    "angles_rad": [0.0, 1.0, 2.0],
}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("source_to_isocenter_mm", 0, "positive and finite"),
        ("source_to_isocenter_mm", math.nan, "positive and finite"),
        ("source_to_isocenter_mm", None, "a length in mm, got None"),
        ("source_to_isocenter_mm", [40], "a length in mm"),
        ("source_to_detector_mm", 39.0, "at least source_to_isocenter_mm = 40"),
        ("source_to_detector_mm", math.inf, "positive and finite"),
        ("detector_shape", (3, 0), "at least 1 x 1 pixel"),
        ("detector_shape", (3.5, 2), "two integers"),
        ("detector_shape", 3, "two integers"),
        ("detector_shape", (3, 3, 3), "two integers"),
        ("pixel_pitch_mm", 1.0, r"two numbers \(v, u\) in mm"),
        ("pixel_pitch_mm", (0.0, 1.0), "positive and finite"),
        ("pixel_pitch_mm", ("a", "b"), r"two numbers \(v, u\) in mm, got \('a', 'b'\)"),
        ("pixel_pitch_mm", (None, 1.0), r"two numbers \(v, u\) in mm"),
        ("principal_point_px", (1.0,), r"two numbers \(v, u\) in px"),
        ("principal_point_px", (math.nan, 1.0), "finite"),
        ("principal_point_px", (1j, 1.0), r"two numbers \(v, u\) in px"),
        ("angles_rad", [], "non-empty one-dimensional array, got shape"),
        ("angles_rad", 5.0, "non-empty one-dimensional"),
        ("angles_rad", [[0.0, 1.0]], "non-empty one-dimensional"),
        ("angles_rad", [0.0, math.nan], "finite, but view 1 is nan"),
        ("angles_rad", ["a", "b"], "array of real numbers"),
        ("angles_rad", ["0", "1"], "array of real numbers"),
        ("angles_rad", [0.0, 1j], "array of real numbers"),
        ("angles_rad", [[0.0], [1.0, 2.0]], "array of real numbers"),
        ("angles_rad", np.array(["2020-01-01"], "M8[D]"), "array of real numbers"),
        ("angles_rad", None, "array of real numbers"),
        ("source_z_mm", [0.0, 1.0], r"one per view \(3\)"),
        ("source_z_mm", [0.0, 1.0, math.nan], "view 2 is nan"),
        ("source_z_mm", "high", "array of real numbers"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(key: str, value: object, message: str) -> None:
    with pytest.raises(GeometryError, match=rf"{key} .*{message}"):
        ScanGeometry.circular(**(SETTINGS | {key: value}))


@pytest.mark.parametrize(
    "value", [[["a"] * 3] * 24, [[1.0, 2.0], [3.0]], np.ones((24, 3), bool), np.ones((24, 3), "c16")]
)
def test_wrong_vectors_are_refused_by_name(value: Any) -> None:
    geometry = cone()
    with pytest.raises(GeometryError, match="u_mm must be an array of real numbers"):
        ScanGeometry(
            detector_shape=geometry.detector_shape,
            source_mm=geometry.source_mm,
            detector_center_mm=geometry.detector_center_mm,
            u_mm=value,
            v_mm=geometry.v_mm,
        )


# --- line integrals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stack: stack.tolist(), "float32 array, got list"),
        (lambda stack: None, "float32 array, got NoneType"),
        (lambda stack: stack.astype(np.float64), "float32 array, got float64"),
        (lambda stack: stack.astype(np.float16), "float32 array, got float16"),
        (lambda stack: stack.astype(np.uint16), "float32 array, got uint16"),
        (lambda stack: stack.astype(np.complex64), "float32 array, got complex64"),
        (lambda stack: stack.astype(">f4"), "float32 array, got >f4"),
        (lambda stack: np.ma.masked_less(stack, 0), "masked array"),
        (lambda stack: stack[0], r"\(24, 37, 43\) \(views, rows, columns\), got \(37, 43\)"),
        (lambda stack: stack[:0], r"got \(0, 37, 43\)"),
        (lambda stack: stack[:-1], r"got \(23, 37, 43\)"),
        (lambda stack: stack[:, 1:], r"got \(24, 36, 43\)"),
        (lambda stack: stack[..., :0], r"got \(24, 37, 0\)"),
        (lambda stack: stack.transpose(0, 2, 1), r"got \(24, 43, 37\)"),
    ],
)
def test_wrong_arrays_are_refused(change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fdk(change(random_stack(cone())), cone(), GRID)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("truncation", ["none", "extrapolate"])
@pytest.mark.parametrize("geometry", [cone(), tilted(cone(), roll=0.1)], ids=["upright", "rolled"])
def test_pixels_that_are_not_finite_are_named(bad: float, truncation: str, geometry: ScanGeometry) -> None:
    stack = random_stack(geometry)
    stack[5, 3, 2] = stack[5, 20, 40] = bad
    with pytest.raises(InputError, match="view 5 has 2 pixels that are not, the first at row 3, column 2"):
        fdk(stack, geometry, GRID, truncation=truncation)
    # Also where the grid does not look.
    stack = random_stack(geometry)
    stack[23, 0, 0] = bad
    with pytest.raises(InputError, match="view 23 has 1 pixels"):
        fdk(stack, geometry, VolumeGrid((1, 1, 1), (0.1, 0.1, 0.1)), truncation=truncation)


def test_numbers_that_overflow_are_refused() -> None:
    with pytest.raises(InputError, match="must be finite, but view 0 of the batch is not"):
        fdk(np.full((24, 37, 43), 3e38, np.float32), cone(), GRID)


def test_any_memory_layout_and_no_attenuation_are_fine() -> None:
    stack = random_stack(cone())
    expected = fdk(stack, cone(), GRID)
    read_only = stack.copy()
    read_only.setflags(write=False)
    for same in (np.asfortranarray(stack), np.repeat(stack, 2, axis=2)[:, :, ::2], stack[::-1].copy()[::-1], read_only):
        assert np.array_equal(fdk(same, cone(), GRID), expected)
    for truncation in ("none", "extrapolate"):
        assert not fdk(np.zeros_like(stack), cone(), GRID, truncation=truncation).any()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("window", None, "window must be one of"),
        ("cutoff", 0, "cutoff must be a fraction"),
        ("cutoff", 2, "cutoff must be a fraction"),
        ("cutoff", "half", "cutoff must be a fraction"),
        ("redundancy", None, "redundancy must be one of"),
        ("truncation", None, "truncation must be one of"),
        ("truncation", True, "truncation must be one of"),
        ("backend", None, "backend must be one of"),
        ("threads", 0, "threads must be a positive integer"),
        ("threads", 1.5, "threads must be a positive integer"),
        ("threads", True, "threads must be a positive integer"),
    ],
)
def test_wrong_options_are_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fdk(random_stack(cone()), cone(), GRID, **{option: value})  # type: ignore[arg-type]


def test_numpy_numbers_are_numbers() -> None:
    stack = random_stack(cone())
    expected = fdk(stack, cone(), GRID, cutoff=0.5)
    assert np.array_equal(fdk(stack, cone(), GRID, cutoff=np.float32(0.5)), expected)  # type: ignore[arg-type]


# --- grids and views ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["orbit", "general", "rolled"])
@pytest.mark.parametrize(
    ("shape", "voxel", "center", "message"),
    [
        ((1, 3, 3), (1.0, 30.0, 30.0), (0.0, 0.0, 0.0), "reaches the source"),
        ((3, 3, 3), (1.0, 1.0, 1.0), (0.0, 40.0, 0.0), "reaches the source"),
        ((1, 1, 90), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), "reaches the source"),
        ((1, 3, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 20.0), "cone misses the grid"),
        ((3, 3, 3), (1.0, 1.0, 1.0), (30.0, 0.0, 0.0), "cone misses the grid"),
        ((3, 3, 3), (0.4, 0.4, 0.4), (-9.5, 0.0, 0.0), "cone misses the grid"),
    ],
)
def test_grids_at_the_source_or_beside_the_cone_are_refused(
    form: str, shape: Any, voxel: Any, center: Any, message: str
) -> None:
    geometry = {"orbit": cone(), "general": without_orbit(cone()), "rolled": tilted(cone(), roll=0.05)}[form]
    with pytest.raises(GeometryError, match=message):
        fdk(random_stack(geometry), geometry, VolumeGrid(shape, voxel, center))


@pytest.mark.parametrize("redundancy", ["auto", "full", "parker", "wang"])
@pytest.mark.parametrize("angles", [[0.3], [0.3, 0.3], [0.3, 0.3 + 2 * math.pi], [0.0, 1e-13]])
def test_one_angle_is_refused(redundancy: str, angles: list[float]) -> None:
    geometry = cone(angles_rad=angles)
    with pytest.raises(GeometryError, match="views at two angles or more, got 1"):
        fdk(random_stack(geometry), geometry, GRID, redundancy=redundancy)


def test_one_row_is_the_middle_row_of_many() -> None:
    """In the plane of the orbit a fan is all there is; the voxels of that slice need no other row."""
    tall, flat = cone(detector_shape=(9, 43)), cone(detector_shape=(1, 43))
    shapes = [Ellipsoid((1.0, -0.5, 0.0), (3.0, 2.0, 4.0), 0.3, 0.4)]
    grid = VolumeGrid((1, 21, 23), (0.3, 0.3, 0.3))
    expected = fdk(line_integrals(shapes, tall), tall, grid)
    for geometry in (flat, without_orbit(flat)):
        volume = fdk(line_integrals(shapes, flat), geometry, grid)
        np.testing.assert_allclose(volume, expected, atol=1e-5 * expected.max())
    assert expected.max() > 0.25
    # A second slice lies beside the row and says so.
    with pytest.warns(FieldOfViewWarning, match=r"rows beside the detector of 1 rows"):
        fdk(line_integrals(shapes, flat), flat, VolumeGrid((9, 3, 3), (0.3, 0.3, 0.3)))


def test_one_column_is_right_for_what_it_sees() -> None:
    """A thread on the axis, thinner than a pixel: all other columns of a wide detector would measure nothing."""
    wide, narrow = cone(detector_shape=(9, 43)), cone(detector_shape=(9, 1))
    thread = [Cylinder((0.0, 0.0, 0.0), 0.1, 20.0, 2.0)]
    grid = VolumeGrid((3, 1, 1), (0.3, 0.3, 0.3))
    stack = line_integrals(thread, wide)
    assert not np.delete(stack, 21, axis=2).any()
    expected = fdk(stack, wide, grid)
    for truncation in ("none", "extrapolate"):
        found = fdk(line_integrals(thread, narrow), narrow, grid, truncation=truncation)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.warns(FieldOfViewWarning, match=r"reaches 1\.\d+ mm from the axis"):
        fdk(line_integrals(thread, narrow), narrow, VolumeGrid((1, 9, 9), (0.3, 0.3, 0.3)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 17), (17, 1), (17, 19), (33, 2)])
@pytest.mark.parametrize("truncation", ["none", "extrapolate"])
@pytest.mark.filterwarnings("ignore:the grid is larger")
def test_small_and_odd_sizes_equal_the_reference(shape: tuple[int, int], truncation: str) -> None:
    for geometry in (cone(detector_shape=shape, angles_rad=circle(7)), without_orbit(cone(detector_shape=shape))):
        for grid in (VolumeGrid((1, 1, 1), (0.3,) * 3), VolumeGrid((3, 1, 5), (0.05,) * 3)):
            stack = np.abs(random_stack(geometry))
            expected = fdk(stack, geometry, grid, backend="reference", truncation=truncation)
            found = fdk(stack, geometry, grid, truncation=truncation)
            assert found.shape == grid.shape and found.dtype == np.float32 and found.any()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("axis", "grid"), [(0, (1, 20, 22)), (1, (12, 1, 22)), (2, (12, 20, 1))])
def test_one_slice_of_any_axis_is_a_cut_of_the_whole(axis: int, grid: tuple[int, int, int]) -> None:
    geometry = cone()
    stack = random_stack(geometry)
    whole = VolumeGrid((13, 21, 23), (0.4, 0.4, 0.4))
    center = fdk(stack, geometry, whole)
    odd = tuple(1 if n == 1 else n + 1 for n in grid)
    one = fdk(stack, geometry, VolumeGrid(odd, (0.4, 0.4, 0.4)))  # type: ignore[arg-type]
    middle = center.take([center.shape[axis] // 2], axis=axis)
    np.testing.assert_allclose(one, middle, rtol=0, atol=2e-5 * np.abs(middle).max())
