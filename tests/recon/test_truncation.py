from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from marspipe.errors import InputError
from marspipe.recon.fdk import fdk
from marspipe.recon.filtering import ViewFilter
from marspipe.recon.truncation import added_columns
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import Cylinder, Ellipsoid, Shape, line_integrals, rasterize
from tests.recon.scans import circle, cone, random_stack, without_orbit

MU = 0.02
COLUMNS, PITCH, SOD, SDD = 96, 0.4, 100.0, 150.0
FAN = math.atan((COLUMNS - 1) / 2 * PITCH / SDD)
FIELD = SOD * math.sin(FAN)  # radius of the field of view, mm


def scan(columns: int = COLUMNS, **changes: Any) -> ScanGeometry:
    settings: dict[str, Any] = {
        "source_to_isocenter_mm": SOD,
        "source_to_detector_mm": SDD,
        "detector_shape": (2, columns),
        "pixel_pitch_mm": (PITCH, PITCH),
        "angles_rad": circle(200),
    }
    return ScanGeometry.circular(**(settings | changes))


def cylinder(x: float, y: float, radius: float, value: float = 1.0, field: float = FIELD) -> Cylinder:
    return Cylinder((x * field, y * field, 0.0), radius * field, 40.0, value * MU)


def ellipse(x: float, y: float, a: float, b: float, turn: float) -> Ellipsoid:
    return Ellipsoid((x * FIELD, y * FIELD, 0.0), (a * FIELD, b * FIELD, 1e4), MU, turn)


RODS = [cylinder(0.5, 0, 0.06, 8), cylinder(-0.75, 0.66, 0.06, 8), cylinder(-1.2, -0.3, 0.08, 8)]
# Objects, and the errors allowed: root mean square over the field of view but its rim, and over the rim; in MU.
OBJECTS: dict[str, tuple[list[Shape], float, float]] = {
    "cylinder on the axis": ([cylinder(0, 0, 1.3)], 0.002, 0.005),
    "barely too large": ([cylinder(0, 0, 1.1)], 0.003, 0.01),
    "twice as wide": ([cylinder(0, 0, 2.0)], 0.005, 0.01),
    "three times as wide": ([cylinder(0, 0, 3.0)], 0.25, 0.3),
    "cylinder beside the axis": ([cylinder(0.4, 0.1, 1.1)], 0.015, 0.03),
    "turned ellipse": ([ellipse(0.3, -0.2, 1.8, 1.1, 0.4)], 0.01, 0.025),
    "rods, one of them on the rim, one outside": ([ellipse(0.3, -0.2, 1.6, 1.1, 0.4), *RODS], 0.06, 0.17),
}


def errors(volume: np.ndarray, shapes: list[Shape], grid: VolumeGrid, field: float) -> tuple[float, float]:
    """Return the root mean square error in MU inside the field of view, and next to its rim; edges do not count."""
    truth = rasterize(shapes, grid, supersample=2)
    flat = ndimage.maximum_filter(truth, (1, 5, 5)) - ndimage.minimum_filter(truth, (1, 5, 5)) < 1e-6
    radius = np.hypot(grid.axis_mm("y")[:, None], grid.axis_mm("x")) / field
    wrong = ((volume - truth) / MU) ** 2
    return (
        float(np.sqrt(wrong[flat & (radius < 0.9)].mean())),
        float(np.sqrt(wrong[flat & (radius >= 0.9) & (radius < 0.985)].mean())),
    )


def slice_of(field: float) -> VolumeGrid:
    """Return one slice that reaches just beyond the field of view."""
    return VolumeGrid((1, 90, 90), (2 * field / 90,) * 3)


def mirrored(stack: np.ndarray, columns: int) -> np.ndarray:
    """Return rows continued after Ohnesorge: mirrored about their end in place and value, faded by a cosine."""
    k = np.arange(1, columns + 1)
    fade = np.cos(math.pi / 2 * k / (columns + 1))
    low = np.clip(2 * stack[..., :1] - stack[..., k], 0, None) * fade
    high = np.clip(2 * stack[..., -1:] - stack[..., -1 - k], 0, None) * fade
    return np.concatenate([low[..., ::-1], stack, high], axis=-1).astype(np.float32)


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_larger_than_the_field_of_view_do_not_glow(name: str) -> None:
    shapes, inside, rim = OBJECTS[name]
    geometry, grid = scan(), slice_of(FIELD)
    stack = line_integrals(shapes, geometry)
    cut = errors(fdk(stack, geometry, grid, window="hann"), shapes, grid, FIELD)
    found = errors(fdk(stack, geometry, grid, window="hann", truncation="extrapolate"), shapes, grid, FIELD)
    assert found[0] < inside
    assert found[1] < rim
    assert found[0] < 0.25 * cut[0] and found[1] < 0.25 * cut[1]
    # The plainer method of the same price.
    wide = mirrored(stack, COLUMNS // 2)
    plain = fdk(wide, scan(2 * COLUMNS), grid, window="hann")
    worse = errors(plain, shapes, grid, FIELD)
    assert found[0] < worse[0] and found[1] < worse[1]


SCANS: dict[str, dict[str, Any]] = {
    "short": {"angles_rad": np.linspace(0, math.pi + 2 * FAN, 150)},
    "over-scan": {"angles_rad": np.linspace(4.6, 0, 220)},
    "offset": {"detector_shape": (2, 64), "principal_point_px": (0.5, 20)},
    "offset to the other side": {"detector_shape": (2, 64), "principal_point_px": (0.5, 43)},
    "offset by 45 %": {"detector_shape": (2, 64), "principal_point_px": (0.5, 2.9)},
    "center of rotation": {"principal_point_px": (0.5, 49.2)},
}


@pytest.mark.parametrize("name", SCANS)
def test_redundancy_weights_and_extrapolation_agree(name: str) -> None:
    geometry = scan(**SCANS[name])
    field = ViewFilter(geometry).redundancy.field_of_view_mm
    shapes: list[Shape] = [cylinder(0.3, 0.1, 1.15, field=field)]
    grid = slice_of(field)
    stack = line_integrals(shapes, geometry)
    inside, rim = errors(fdk(stack, geometry, grid, window="hann", truncation="extrapolate"), shapes, grid, field)
    assert inside < 0.015
    assert rim < 0.03


def test_parallel_rays_and_general_geometry_are_continued_alike() -> None:
    parallel = ScanGeometry.parallel(
        detector_shape=(2, COLUMNS), pixel_pitch_mm=(0.25, 0.25), angles_rad=circle(180, math.pi)
    )
    field = 0.25 * (COLUMNS - 1) / 2
    shapes: list[Shape] = [cylinder(0, 0, 1.4, field=field)]
    grid = slice_of(field)
    volume = fdk(line_integrals(shapes, parallel), parallel, grid, window="hann", truncation="extrapolate")
    assert max(errors(volume, shapes, grid, field)) < 0.005

    circular = scan(principal_point_px=(0.5, 45.1))
    frame = line_integrals([cylinder(0.2, 0, 1.2)], circular)[7]
    expected = ViewFilter(circular, truncation="extrapolate").filter(frame, 7)
    found = ViewFilter(without_orbit(circular), truncation="extrapolate").filter(frame, 7)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_cylinder_about_the_axis_is_continued_exactly() -> None:
    """Filtering the cut rows equals filtering rows of a detector that sees all of the object."""
    shapes = [cylinder(0, 0, 1.6)]
    whole, cut = scan(2 * COLUMNS), scan()
    first = COLUMNS // 2
    expected = ViewFilter(whole).filter(line_integrals(shapes, whole)[3], 3)[:, first : first + COLUMNS]
    frame = line_integrals(shapes, cut)[3]
    found = ViewFilter(cut, truncation="extrapolate").filter(frame, 3)
    # The ramp of a wide object is small beside the object; and its end falls between two columns.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01 * np.abs(expected).max())
    assert np.abs(ViewFilter(cut).filter(frame, 3) - expected).max() > np.abs(expected).max()


def test_rows_that_end_in_air_stay_as_they_are() -> None:
    geometry = scan()
    frame = line_integrals([cylinder(0.1, 0.2, 0.6)], geometry)[0]
    expected = ViewFilter(geometry).filter(frame, 0)
    found = ViewFilter(geometry, truncation="extrapolate").filter(frame, 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_noise_is_not_continued_and_does_not_spread() -> None:
    shapes = [cylinder(0.1, 0, 0.7)]
    geometry, grid = scan(), slice_of(FIELD)
    stack = line_integrals(shapes, geometry)
    noisy = stack + 0.03 * np.random.default_rng(2).standard_normal(stack.shape, dtype=np.float32)  # 5 % of the most
    change = (
        fdk(noisy, geometry, grid, window="hann", truncation="extrapolate") - fdk(noisy, geometry, grid, window="hann")
    ) / MU
    radius = np.hypot(grid.axis_mm("y")[:, None], grid.axis_mm("x")) / FIELD
    assert abs(change[:, radius < 0.985].mean()) < 0.003
    assert np.sqrt((change[:, radius < 0.985] ** 2).mean()) < 0.015  # the noise of the volume is 0.07
    # A truncated object gets no noisier inside.
    shapes = [cylinder(0, 0, 1.3)]
    stack = line_integrals(shapes, geometry)
    noise = 0.03 * np.random.default_rng(3).standard_normal(stack.shape, dtype=np.float32)
    exact = fdk(stack, geometry, grid, window="hann", truncation="extrapolate")
    added = (fdk(stack + noise, geometry, grid, window="hann", truncation="extrapolate") - exact)[:, radius < 0.9]
    least = fdk(noise, geometry, grid, window="hann")[:, radius < 0.9]
    assert added.std() < 1.03 * least.std()
    assert abs(added.mean()) < 0.01 * MU


def test_the_short_side_of_an_offset_detector_stays_zero() -> None:
    """What an end adds is a smooth tail: nothing of it comes from the side where Wang's weights end at zero."""
    for column in (20, 43):
        geometry = scan(detector_shape=(2, 64), principal_point_px=(0.5, column))
        ramp = ViewFilter(geometry, truncation="extrapolate")
        assert ramp.filtered_geometry == ViewFilter(geometry).filtered_geometry
        frame = np.full((2, 64), 0.5, np.float32)
        tail = ramp.filter(frame, 0) - ViewFilter(geometry).filter(frame, 0)
        steps = np.abs(tail[0])
        far, near = (steps[0], steps[-1]) if column == 20 else (steps[-1], steps[0])
        assert near > 20 * far
        assert added_columns(column, 64, ramp.redundancy.pad_columns) == ((0, 43) if column == 20 else (43, 0))


def test_added_columns_reach_as_far_as_the_axis() -> None:
    assert added_columns(31.5, 64, (0, 0)) == (32, 32)
    assert added_columns(20.2, 64, (0, 0)) == (21, 43)
    assert added_columns(0.0, 1, (0, 0)) == (0, 0)
    assert added_columns(1.5, 64, (0, 0)) == (0, 62)
    assert added_columns(-3.0, 64, (0, 0)) == (0, 66)
    # A centered detector pays half as much again for its transforms, no more.
    assert ViewFilter(scan(128))._size == 256
    assert ViewFilter(scan(128), truncation="extrapolate")._size == 384


@pytest.mark.parametrize("geometry", [cone(), cone(principal_point_px=(18, 8)), without_orbit(cone(), 0.1)])
def test_bits_do_not_depend_on_bands_rows_and_copies(geometry: ScanGeometry) -> None:
    ramp = ViewFilter(geometry, truncation="extrapolate")
    stack = np.abs(random_stack(geometry)) + np.float32(0.5)
    expected = [ViewFilter(geometry, truncation="extrapolate").filter(frame, view) for view, frame in enumerate(stack)]
    assert all(np.array_equal(ramp.filter(frame, view), expected[view]) for view, frame in enumerate(stack))
    for band in ((0, 1), (3, 37), (17, 22)):
        assert np.array_equal(ramp.filter_to_columns(stack[5], 5, band), expected[5][slice(*band)].T)
    copy = pickle.loads(pickle.dumps(ramp))
    assert np.array_equal(copy.filter(stack[4], 4), expected[4])
    assert np.array_equal(ramp.filter(np.asfortranarray(stack[4]), 4), expected[4])
    changed = stack[4].copy()
    changed[9] = 0.0
    others = np.abs(np.arange(37) - 9) > (5 if geometry.orbit is None else 0)  # making rows level mixes neighbors
    assert np.array_equal(ramp.filter(changed, 4)[others], expected[4][others])


def test_a_volume_in_windows_has_the_bits_of_the_whole() -> None:
    geometry = cone()
    stack = line_integrals([Cylinder((0.5, 0.0, 0.0), 10.0, 9.0)], geometry)
    grid = VolumeGrid((20, 24, 26), (0.4, 0.4, 0.4))
    whole = fdk(stack, geometry, grid, truncation="extrapolate", threads=1)
    cut = (slice(3, 8), slice(2, 20), slice(5, 26))
    assert np.array_equal(fdk(stack, geometry, grid.window(*cut), truncation="extrapolate", threads=2), whole[cut])


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 9, 17])
def test_narrow_detectors_work(columns: int) -> None:
    geometry = scan(columns)
    frame = np.full((2, columns), 0.7, np.float32)
    filtered = ViewFilter(geometry, truncation="extrapolate").filter(frame, 0)
    assert np.isfinite(filtered).all()
    assert filtered.shape == frame.shape


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="truncation must be one of none, extrapolate, got 'mirror'"):
        ViewFilter(cone(), truncation="mirror")
    with pytest.raises(InputError, match="truncation must be one of"):
        fdk(random_stack(cone()), cone(), VolumeGrid((1, 2, 2), (1.0, 1.0, 1.0)), truncation="yes")
