from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from scipy import ndimage

from marspipe.errors import InputError
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import Cylinder, Ellipsoid, chord_lengths, line_integrals, rasterize, shepp_logan


def circular(n_views=5, shape=(9, 11), pitch=(0.7, 0.6), **kwargs):
    return ScanGeometry.circular(
        source_to_isocenter_mm=60.0,
        source_to_detector_mm=90.0,
        detector_shape=shape,
        pixel_pitch_mm=pitch,
        angles_rad=np.linspace(0, 2 * np.pi, n_views, endpoint=False) + 0.1,
        **kwargs,
    )


def tilted(n_views=3, shape=(21, 23), seed=1):
    """Sources all around, detectors turned out of every plane of symmetry."""
    rng = np.random.default_rng(seed)
    source = 50.0 * rng.standard_normal((n_views, 3))
    source *= (40 + 20 * rng.random((n_views, 1))) / np.linalg.norm(source, axis=1, keepdims=True)
    u = rng.standard_normal((n_views, 3))
    u -= source * (u * source).sum(1, keepdims=True) / (source * source).sum(1, keepdims=True)
    u *= 0.8 / np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(source, u) / np.linalg.norm(source, axis=1, keepdims=True) + 0.15 * u + 0.002 * source
    return ScanGeometry(
        detector_shape=shape, source_mm=source, detector_center_mm=-0.4 * source, u_mm=u, v_mm=v, angles_rad=None
    )


def rays(geometry):
    """Source and unit direction of every ray, straight from the definition of the geometry."""
    rows, cols = geometry.detector_shape
    row = np.arange(rows)[None, :, None, None] - (rows - 1) / 2
    col = np.arange(cols)[None, None, :, None] - (cols - 1) / 2
    center, u, v, source = (
        a[:, None, None, :] for a in (geometry.detector_center_mm, geometry.u_mm, geometry.v_mm, geometry.source_mm)
    )
    direction = center + col * u + row * v - source
    return np.broadcast_to(source, direction.shape), direction / np.linalg.norm(direction, axis=-1, keepdims=True)


@pytest.mark.parametrize("geometry", [circular(), circular(principal_point_px=(2.5, 7.0)), tilted()])
@pytest.mark.parametrize("center", [(0.0, 0.0, 0.0), (1.5, -0.7, 0.9)])
def test_chords_of_a_sphere_follow_from_the_distance_of_the_ray(geometry, center):
    source, direction = rays(geometry)
    distance = np.linalg.norm(np.cross(np.asarray(center) - source, direction), axis=-1)
    expected = 2 * np.sqrt(np.clip(2.0**2 - distance**2, 0, None))
    found = chord_lengths(Ellipsoid(center, (2.0, 2.0, 2.0), value=7.0), geometry)
    assert found.dtype == np.float64
    assert (expected > 0).any() and (expected == 0).any()
    np.testing.assert_allclose(found, expected, atol=1e-6)  # the square root is steep where a ray just touches
    np.testing.assert_allclose(found[expected > 0.5], expected[expected > 0.5], rtol=1e-12)


def test_central_rays_measure_the_axes_of_a_turned_ellipsoid():
    shape = Ellipsoid((0.4, -0.2, 0.1), (1.0, 2.0, 3.0), rotation_rad=0.6)
    axes = np.array([[math.cos(0.6), math.sin(0.6), 0], [-math.sin(0.6), math.cos(0.6), 0], [0, 0, 1]])
    source = np.asarray(shape.center_mm) - 40.0 * axes
    geometry = ScanGeometry(
        detector_shape=(1, 1),
        source_mm=source,
        detector_center_mm=np.asarray(shape.center_mm) + 15.0 * axes,
        u_mm=np.roll(axes, 1, axis=0),
        v_mm=np.roll(axes, 2, axis=0),
    )
    np.testing.assert_allclose(chord_lengths(shape, geometry).ravel(), [2.0, 4.0, 6.0], rtol=1e-13)


def test_a_turned_ellipsoid_is_a_round_one_in_stretched_space():
    # A linear map turns chords into chords; their length scales with the direction.
    shape = Ellipsoid((0.5, 0.3, -0.4), (1.1, 2.3, 1.7), rotation_rad=-0.9)
    geometry = tilted()
    source, direction = rays(geometry)
    cos, sin = math.cos(shape.rotation_rad), math.sin(shape.rotation_rad)
    to_sphere = np.diag(1 / np.asarray(shape.radii_mm)) @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    o, d = (source - shape.center_mm) @ to_sphere.T, direction @ to_sphere.T
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
    expected = 2 * np.sqrt(np.clip(b * b - a * c, 0, None)) / a
    found = chord_lengths(shape, geometry)
    assert (found > 0).sum() > 50
    np.testing.assert_allclose(found, expected, atol=1e-6)


def single_rays(sources, pixels):
    sources, pixels = np.asarray(sources, dtype=float), np.asarray(pixels, dtype=float)
    direction = (pixels - sources) / np.linalg.norm(pixels - sources, axis=1, keepdims=True)
    u = np.cross(direction, [0.3, 0.5, 0.8])
    return ScanGeometry(
        detector_shape=(1, 1), source_mm=sources, detector_center_mm=pixels, u_mm=u, v_mm=np.cross(direction, u)
    )


def test_cylinder_chords_end_at_the_mantle_and_the_faces():
    cylinder = Cylinder((1.0, 2.0, 3.0), radius_mm=2.0, height_mm=5.0)
    geometry = single_rays(
        sources=[
            (1.0, -50.0, 3.0),  # across the axis
            (2.0, -50.0, 4.0),  # off the axis by 1
            (1.5, 2.5, -40.0),  # along the axis, inside
            (3.5, 2.0, -40.0),  # along the axis, outside
            (1.0, -50.0, 5.6),  # above the upper face
            (1.0, 2.0 - 10.0, 3.0 - 20.0),  # through both faces
            (1.0, 2.0 - 10.0, 3.0 - 2.5 - 9.0),  # in through the lower face, out through the mantle
        ],
        pixels=[
            (1.0, 50.0, 3.0),
            (2.0, 50.0, 4.0),
            (1.5, 2.5, 40.0),
            (3.5, 2.0, 40.0),
            (1.0, 50.0, 5.6),
            (1.0, 2.0 + 10.0, 3.0 + 20.0),
            (1.0, 2.0 + 10.0, 3.0 - 2.5 + 11.0),
        ],
    )
    slanted = math.hypot(10.0, 20.0) / 20.0 * 5.0
    # z rises by 1 per y: it enters the face at y = -1 from the axis and leaves the mantle at y = 2.
    corner = (2.0 + 1.0) * math.sqrt(2.0)
    expected = [4.0, 2 * math.sqrt(3.0), 5.0, 0.0, 0.0, slanted, corner]
    np.testing.assert_allclose(chord_lengths(cylinder, geometry).ravel(), expected, rtol=1e-12, atol=1e-12)


def test_a_parallel_beam_sees_the_parallel_chords():
    geometry = ScanGeometry.parallel(detector_shape=(40, 40), pixel_pitch_mm=(0.25, 0.25), angles_rad=[0.0, 0.4, 2.0])
    across = (np.arange(40) - 19.5) * 0.25
    sphere, cylinder = Ellipsoid((1.0, -0.5, 0.6), (3.0, 3.0, 3.0)), Cylinder((1.0, -0.5, 0.6), 3.0, 5.2)
    for view, angle in enumerate(geometry.angles_rad):
        u = across - (math.cos(angle) * 1.0 - math.sin(angle) * 0.5)
        z = across[:, None] - 0.6
        expected = 2 * np.sqrt(np.clip(9.0 - u**2 - z**2, 0, None))
        np.testing.assert_allclose(chord_lengths(sphere, geometry, view)[0], expected, atol=3e-6)
        expected = np.where(np.abs(z) < 2.6, 2 * np.sqrt(np.clip(9.0 - u**2, 0, None)), 0.0)
        np.testing.assert_allclose(chord_lengths(cylinder, geometry, view)[0], expected, atol=3e-6)


@pytest.mark.parametrize("distance", [1e6, 1e9, 1e12])
def test_a_far_source_does_not_cancel(distance):
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=distance,
        source_to_detector_mm=distance,
        detector_shape=(1, 3),
        pixel_pitch_mm=(1.0, 1.0),
        angles_rad=[0.3],
    )
    for shape in (Ellipsoid((0.0, 0.0, 0.0), (2.0, 2.0, 2.0)), Cylinder((0.0, 0.0, 0.0), 2.0, 4.0)):
        expected = [2 * math.sqrt(3.0), 4.0, 2 * math.sqrt(3.0)]
        np.testing.assert_allclose(chord_lengths(shape, geometry).ravel(), expected, rtol=1e-11)


def test_integrals_equal_sums_through_the_rasterized_phantom():
    shapes = [
        Ellipsoid((0.5, -0.8, 0.3), (4.0, 2.0, 3.0), value=0.8, rotation_rad=0.5),
        Cylinder((-1.0, 1.0, 0.5), radius_mm=2.0, height_mm=5.0, value=0.5),
        Ellipsoid((0.9, -0.9, 0.5), (1.0, 1.2, 0.9), value=-0.6),
    ]
    geometry = tilted(n_views=2)
    grid = VolumeGrid(shape=(100, 100, 100), voxel_mm=(0.1, 0.1, 0.1))
    volume = rasterize(shapes, grid, supersample=2)
    source, direction = rays(geometry)
    middle = -(source * direction).sum(-1)
    along = np.arange(-9.0, 9.0, 0.04) + 0.02
    points = source[..., None, :] + (middle[..., None] + along)[..., None] * direction[..., None, :]
    index = [points[..., axis] / 0.1 + 49.5 for axis in (2, 1, 0)]
    expected = ndimage.map_coordinates(volume, index, order=1).sum(-1) * 0.04
    found = line_integrals(shapes, geometry)
    assert found.dtype == np.float32 and found.shape == (2, 21, 23)
    assert found.max() > 3.0
    error = found - expected
    assert np.abs(error).max() < 0.25  # where a ray grazes an edge, which voxels blur
    assert np.quantile(np.abs(error), 0.95) < 0.03
    assert abs(error.mean()) < 0.002


def test_nested_shapes_replace_each_other():
    outer, inner = Cylinder((0.0, 0.0, 0.0), 3.0, 6.0), Cylinder((1.0, 0.5, 0.2), 1.0, 4.0)
    geometry = circular()
    shell = line_integrals([outer, Cylinder(inner.center_mm, 1.0, 4.0, value=-1.0)], geometry)
    np.testing.assert_allclose(shell, chord_lengths(outer, geometry) - chord_lengths(inner, geometry), atol=1e-6)
    assert shell.min() > -1e-12
    filled = line_integrals([outer, Cylinder(inner.center_mm, 1.0, 4.0, value=0.5)], geometry)
    np.testing.assert_allclose(filled - shell, 1.5 * chord_lengths(inner, geometry), atol=1e-6)


def test_views_and_threads_do_not_change_a_bit():
    shapes, geometry = shepp_logan(3.0), circular(n_views=6)
    whole = line_integrals(shapes, geometry)
    assert np.array_equal(line_integrals(shapes, geometry, slice(2, 5)), whole[2:5])
    assert np.array_equal(line_integrals(shapes, geometry, [4, 1]), whole[[4, 1]])
    assert np.array_equal(line_integrals(shapes, geometry, 3), whole[3:4])
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert np.array_equal(line_integrals(shapes, geometry), whole)
    finally:
        numba.set_num_threads(threads)


def test_no_shapes_no_attenuation():
    assert not line_integrals([], circular()).any()
    assert not rasterize([], VolumeGrid((2, 3, 4), (1.0, 1.0, 1.0))).any()


def test_a_mirrored_row_or_column_is_found():
    # High z is a high row; at angle 0 high x is a high column.
    geometry = circular(n_views=1)[0:1]
    geometry = ScanGeometry.from_dict({**geometry.to_dict(), "angles_rad": [0.0]})
    shadow = line_integrals([Ellipsoid((1.2, 0.0, 0.8), (0.5, 0.5, 0.5))], geometry)[0]
    row, col = np.array(np.nonzero(shadow)).mean(axis=1)
    assert row == pytest.approx(4 + 0.8 * 1.5 / 0.7, abs=0.6)
    assert col == pytest.approx(5 + 1.2 * 1.5 / 0.6, abs=0.6)


def test_rasterized_volumes_have_the_volume_of_the_shapes():
    grid = VolumeGrid(shape=(40, 50, 60), voxel_mm=(0.2, 0.15, 0.12), center_mm=(0.1, -0.2, 0.05))
    for shape, expected in (
        (Ellipsoid((0.0, 0.0, 0.0), (3.0, 1.5, 2.0), value=2.0, rotation_rad=0.3), 2 * 4 / 3 * math.pi * 9.0),
        (Cylinder((0.2, 0.1, -0.1), 2.5, 6.1, value=0.5), 0.5 * math.pi * 2.5**2 * 6.1),
    ):
        volume = rasterize([shape], grid, supersample=4)
        assert volume.dtype == np.float32 and volume.shape == grid.shape
        assert volume.sum(dtype=np.float64) * math.prod(grid.voxel_mm) == pytest.approx(expected, rel=2e-3)
        assert volume.max() == pytest.approx(shape.value)


def test_rasterized_axes_and_windows():
    grid = VolumeGrid(shape=(9, 11, 13), voxel_mm=(0.5, 0.5, 0.5))
    shapes = [Ellipsoid((2.5, -1.5, 1.0), (0.4, 0.4, 0.4))]
    volume = rasterize(shapes, grid)
    z, y, x = np.unravel_index(np.argmax(volume), volume.shape)
    assert (grid.axis_mm("z")[z], grid.axis_mm("y")[y], grid.axis_mm("x")[x]) == (1.0, -1.5, 2.5)
    shapes = shepp_logan(3.0)
    whole = rasterize(shapes, grid, 2)
    window = grid.window(z=slice(2, 5), y=slice(1, 9), x=slice(4, 13))
    assert np.array_equal(rasterize(shapes, window, 2), whole[2:5, 1:9, 4:13])
    turned = rasterize([Ellipsoid((0, 0, 0), (2.4, 0.4, 1.0), rotation_rad=math.pi / 4)], grid)[4]
    assert turned[8, 9] == 1.0 and turned[2, 9] == 0.0  # from x towards y


def test_shepp_logan_values():
    radius = 5.0
    places = {  # (x, y, z) / radius: value
        (0.0, 0.0, 0.0): 0.2,
        (0.0, 0.9, 0.0): 1.0,
        (0.0, -0.9, 0.0): 1.0,
        (0.68, 0.0, 0.0): 1.0,
        (0.0, 0.0, 0.89): 1.0,
        (0.8, 0.0, 0.0): 0.0,
        (-0.22, 0.0, -0.25): 0.0,
        (-0.22 - 0.09, 0.3, -0.25): 0.0,  # the long axis leans away from the middle at the top
        (-0.22 + 0.12, 0.3, -0.25): 0.2 + 0.2,
        (0.0, 0.4, -0.25): 0.4,
        (0.0, 0.1, 0.6): 0.0,
        (0.06, -0.105, 0.6): 0.4,
        (-0.08, -0.65, -0.25): 0.3,
    }
    for (x, y, z), value in places.items():
        grid = VolumeGrid((1, 1, 1), (0.01, 0.01, 0.01), center_mm=(radius * z, radius * y, radius * x))
        assert rasterize(shepp_logan(radius), grid).item() == pytest.approx(value, abs=1e-6), (x, y, z)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Ellipsoid((0, 0, math.nan), (1, 1, 1)), "Ellipsoid.center_mm"),
        (lambda: Ellipsoid((0, 0, 0), (1, 0, 1)), "Ellipsoid.radii_mm"),
        (lambda: Cylinder((0, 0, 0), -1.0, 1.0), "Cylinder.radius_mm"),
        (lambda: Cylinder((0, 0, 0), 1.0, math.inf), "Cylinder.height_mm"),
        (lambda: Cylinder((0, 0, 0), 1.0, 1.0, math.nan), "Cylinder.value"),
        (lambda: shepp_logan(0.0), "radius_mm"),
        (lambda: rasterize([], VolumeGrid((1, 1, 1), (1.0, 1.0, 1.0)), 0), "supersample"),
    ],
)
def test_impossible_shapes_are_refused(make, names):
    with pytest.raises(InputError, match=names):
        make()
