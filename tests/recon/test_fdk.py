from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from marspipe.errors import GeometryError, InputError
from marspipe.recon.fdk import FieldOfViewWarning, fdk
from marspipe.recon.redundancy import IncompleteScanWarning
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import Cylinder, Ellipsoid, line_integrals, rasterize, shepp_logan
from tests.recon.scans import ball, circle, cone, random_stack, without_orbit

SMALL = VolumeGrid((5, 24, 24), (0.4, 0.4, 0.4))


def mars(n_views: int, detector: int, pitch_mm: float, **changes: object) -> ScanGeometry:
    settings = {
        "source_to_isocenter_mm": 200.0,
        "source_to_detector_mm": 250.0,
        "detector_shape": (detector, detector),
        "pixel_pitch_mm": (pitch_mm, pitch_mm),
        "angles_rad": circle(n_views),
    }
    return ScanGeometry.circular(**(settings | changes))  # type: ignore[arg-type]


def sphere(radius: float, center: tuple[float, float, float] = (0, 0, 0), value: float = 1.0) -> list[Ellipsoid]:
    return [Ellipsoid(center, (radius, radius, radius), value)]


# --- against the truth -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [1.0, 0.025])
def test_a_sphere_has_its_attenuation(mu: float) -> None:
    geometry = mars(360, 160, 12 / 128 * 1.25)
    grid = VolumeGrid((128,) * 3, (12 / 128,) * 3)
    volume = fdk(line_integrals(sphere(4.2, value=mu), geometry), geometry, grid)
    core = volume[ball(grid, 3.5)]
    assert abs(core.mean() - mu) < 0.001 * mu
    assert core.std() < 0.001 * mu
    shell = ball(grid, 5.9) & ~ball(grid, 4.9)
    assert abs(volume[shell].mean()) < 0.003 * mu


def test_a_sphere_off_the_axis_has_its_place() -> None:
    geometry = mars(180, 96, 0.15, principal_point_px=(44.6, 50.2), angles_rad=circle(180)[::-1] + 0.4)
    grid = VolumeGrid((60, 64, 68), (0.12, 0.15, 0.11), (0.3, -0.4, 0.5))
    center = (1.1, -1.4, 0.7)
    volume = fdk(line_integrals(sphere(1.5, center), geometry), geometry, grid)
    assert volume[ball(grid, 1.1, center)].mean() == pytest.approx(1, abs=2e-3)
    mass = np.clip(volume.astype(np.float64), 0.2, 1) - 0.2
    found = [float((mass.sum(axis=other) * grid.axis_mm(axis)).sum() / mass.sum())
             for axis, other in (("x", (0, 1)), ("y", (0, 2)), ("z", (1, 2)))]  # fmt: skip
    assert found == pytest.approx(center, abs=0.01)


def test_shepp_logan_agrees_with_the_truth_where_it_is_flat() -> None:
    geometry = mars(360, 160, 12 / 128 * 1.25)
    grid = VolumeGrid((128,) * 3, (12 / 128,) * 3)
    shapes = shepp_logan(5.6)
    volume = fdk(line_integrals(shapes, geometry), geometry, grid, window="hann")
    truth = rasterize(shapes, grid, supersample=3)
    flat = ndimage.maximum_filter(truth, 5) - ndimage.minimum_filter(truth, 5) < 1e-6
    flat[:44] = flat[84:] = False  # further up and down the cone has artefacts of its own
    for value, spread in ((0.0, 0.01), (0.2, 0.0015), (0.4, 0.0015)):
        region = flat & (np.abs(truth - value) < 1e-6)
        assert region.sum() > 5000
        assert abs(volume[region].mean() - value) < 0.001
        assert volume[region].std() < spread


@pytest.mark.parametrize(("pitch", "voxel"), [(0.055, 0.044), (0.11, 0.11), (0.4, 0.25)])
@pytest.mark.parametrize(("sod", "sdd"), [(200.0, 250.0), (60.0, 150.0), (500.0, 500.0)])
def test_the_scale_is_absolute(pitch: float, voxel: float, sod: float, sdd: float) -> None:
    """A sphere of half the field of view, whatever pitches, distances, magnifications and voxels."""
    field = 72 * pitch * sod / sdd / 2
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=sod,
        source_to_detector_mm=sdd,
        detector_shape=(72, 72),
        pixel_pitch_mm=(pitch, pitch),
        angles_rad=circle(150),
    )
    grid = VolumeGrid((3, 9, 9), (min(voxel, field / 20),) * 3)
    volume = fdk(line_integrals(sphere(field / 2, value=0.02), geometry), geometry, grid)
    assert volume.mean() == pytest.approx(0.02, rel=0.003)
    assert np.abs(volume / 0.02 - 1).max() < 0.01


FAN_SCAN = {
    "detector_shape": (12, 96),
    "pixel_pitch_mm": (0.26, 0.26),
    "angles_rad": circle(200),
    "principal_point_px": (5.5, 47.5),
}
SLICE = VolumeGrid((1, 80, 80), (0.17, 0.17, 0.17))
DISC = [Cylinder((1.0, -1.5, 0.0), 4.0, 4.0)]
DISC_CORE = ball(SLICE, 3.4, (1.0, -1.5, 0.0))
DISC_OUTSIDE = ball(SLICE, 6.5) & ~ball(SLICE, 4.6, (1.0, -1.5, 0.0))
SCANS: dict[str, dict[str, Any]] = {
    "short": {"angles_rad": np.linspace(0, math.radians(207), 200)},
    "short, backwards": {"angles_rad": np.linspace(2, 2 - math.radians(207), 200)},
    "over-scan": {"angles_rad": np.linspace(0, math.radians(280), 270)},
    "offset to +u": {"principal_point_px": (5.5, 14.3)},
    "offset to -u": {"principal_point_px": (5.5, 80.7)},
    "offset by 45 %": {"principal_point_px": (5.5, 4.3)},
    "center of rotation": {"principal_point_px": (5.5, 44.9)},
    "short, center of rotation": {"principal_point_px": (5.5, 44.9), "angles_rad": np.linspace(0, 3.75, 200)},
    "irregular": {"angles_rad": np.sort(np.random.default_rng(5).uniform(0, 2 * np.pi, 500))},
    "end point twice": {"angles_rad": np.linspace(0, 2 * np.pi, 201)},
    "two turns": {"angles_rad": circle(400, 4 * np.pi)},
}


@pytest.mark.parametrize("case", SCANS)
@pytest.mark.parametrize("general", [False, True])
def test_every_scan_reconstructs_the_same_object(case: str, general: bool) -> None:
    """An off-center cylinder in a fan of 12 degrees half angle, where wrong weights show at once."""
    geometry = cone(**(FAN_SCAN | SCANS[case]))
    integrals = line_integrals(DISC, geometry)
    volume = fdk(integrals, without_orbit(geometry) if general else geometry, SLICE, window="hann")
    assert abs(volume[DISC_CORE].mean() - 1) < 5e-4
    assert volume[DISC_CORE].std() < 0.0025
    assert abs(volume[DISC_OUTSIDE].mean()) < 5e-4
    assert volume[DISC_OUTSIDE].std() < 0.01


@pytest.mark.parametrize(("case", "warning"), [("short", IncompleteScanWarning), ("offset to +u", FieldOfViewWarning)])
def test_wrong_weights_warn_and_show(case: str, warning: type[Warning]) -> None:
    geometry = cone(**(FAN_SCAN | SCANS[case]))
    with pytest.warns(warning):
        volume = fdk(line_integrals(DISC, geometry), geometry, SLICE, redundancy="full")
    assert abs(volume[DISC_CORE].mean() - 1) > 0.1 or volume[DISC_CORE].std() > 0.1


@pytest.mark.parametrize("angles", [circle(180, math.pi), np.linspace(0, math.pi, 181), circle(200)])
def test_parallel_rays_need_half_a_circle(angles: np.ndarray) -> None:
    geometry = ScanGeometry.parallel(
        detector_shape=(6, 128), pixel_pitch_mm=(0.1, 0.1), angles_rad=angles, principal_point_px=(2.5, 60.2)
    )
    grid = VolumeGrid((3, 110, 110), (0.1, 0.1, 0.1))
    shapes = [Cylinder((0.8, 0.5, 0.0), 3.0, 5.0, 0.5)]
    volume = fdk(line_integrals(shapes, geometry), geometry, grid)
    core = volume[1:2][ball(grid.window(z=slice(1, 2)), 2.6, (0.8, 0.5, 0.0))]
    assert core.mean() == pytest.approx(0.5, rel=1e-3)
    assert core.std() < 0.003


def test_a_tilted_detector_is_corrected() -> None:
    """A detector turned by 12 degrees about z and 5 degrees in its plane gives the object of the straight one."""
    straight = mars(200, 90, 0.16)
    turn = math.radians(12)
    outward = straight.detector_center_mm / 50.0
    columns = math.cos(turn) * straight.u_mm + math.sin(turn) * 0.16 * outward
    tilted = ScanGeometry(
        detector_shape=(90, 90),
        source_mm=straight.source_mm,
        detector_center_mm=straight.detector_center_mm,
        u_mm=columns,
        v_mm=straight.v_mm,
    )
    assert tilted.orbit is None
    grid = VolumeGrid((9, 64, 64), (0.13, 0.13, 0.13))
    for geometry, tolerance in ((tilted, 0.002), (without_orbit(tilted, math.radians(5)), 0.003)):
        volume = fdk(line_integrals(sphere(2.6, (0.4, 0.3, 0.0)), geometry), geometry, grid)
        core = volume[ball(grid, 2.2, (0.4, 0.3, 0.0))]
        assert abs(core.mean() - 1) < tolerance
        assert core.std() < 2 * tolerance


def test_turning_the_object_is_turning_the_scanner() -> None:
    geometry = mars(120, 64, 0.2)
    quarter = mars(120, 64, 0.2, angles_rad=circle(120, first=-np.pi / 2))
    grid = VolumeGrid((16, 48, 48), (0.16,) * 3)
    shapes = [
        Ellipsoid((1.0, 0.4, 0.2), (2.0, 1.2, 1.0), 1.0, rotation_rad=0.3),
        Ellipsoid((-1.5, -1.2, 0.0), (0.7, 0.9, 0.8), 0.5),
    ]
    # A scanner that stood a quarter turn further back saw the object a quarter turn back: from +y towards +x.
    volume = fdk(line_integrals(shapes, geometry), geometry, grid)
    turned = fdk(line_integrals(shapes, geometry), quarter, grid)
    back = np.rot90(volume, axes=(1, 2))
    np.testing.assert_allclose(turned, back, atol=2e-5)
    assert np.abs(volume - back).max() > 0.5
    truth = rasterize(shapes, grid, supersample=2)
    assert np.corrcoef(volume.ravel(), truth.ravel())[0, 1] > 0.98


# --- bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("general", [False, True])
def test_bits_do_not_depend_on_windows_threads_and_backends(general: bool) -> None:
    geometry = mars(90, 120, 0.12, principal_point_px=(57.2, 60.4))
    if general:
        geometry = without_orbit(geometry)
    stack = random_stack(geometry)
    grid = VolumeGrid((96,) * 3, (0.1,) * 3)
    whole = fdk(stack, geometry, grid, threads=1)
    assert np.array_equal(fdk(stack, geometry, grid, threads=2, backend="cpu"), whole)
    for slab in list(grid.slabs(16))[::2]:
        assert np.array_equal(fdk(stack, geometry, slab.grid), whole[slab.z_first : slab.z_first + 16])
    cut = (slice(40, 47), slice(30, 61), slice(17, 50))
    assert np.array_equal(fdk(stack, geometry, grid.window(*cut)), whole[cut])


def test_backends_agree() -> None:
    geometry = cone(principal_point_px=(17.2, 12.1))
    stack = random_stack(geometry)
    a = fdk(stack, geometry, SMALL)
    b = fdk(stack, geometry, SMALL, backend="reference")
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_progress_counts_the_views(caplog: pytest.LogCaptureFixture) -> None:
    geometry = cone(angles_rad=circle(150))
    seen: list[tuple[int, int]] = []
    with caplog.at_level(logging.INFO, "marspipe"):
        fdk(random_stack(geometry), geometry, SMALL, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(64, 150), (128, 150), (150, 150)]
    assert "redundancy weights: full" in caplog.text


# --- what is refused, and what warns -----------------------------------------------------------------------------


def test_wrong_input_is_refused() -> None:
    geometry = cone()
    stack = random_stack(geometry)
    with pytest.raises(InputError, match="float32 array, got float64"):
        fdk(stack.astype(np.float64), geometry, SMALL)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"shape \(24, 37, 43\) \(views, rows, columns\), got \(23, 37, 43\)"):
        fdk(stack[1:], geometry, SMALL)
    with pytest.raises(InputError, match=r"got \(24, 43, 37\)"):
        fdk(stack.transpose(0, 2, 1), geometry, SMALL)
    with pytest.raises(InputError, match="window must be one of"):
        fdk(stack, geometry, SMALL, window="box")
    with pytest.raises(InputError, match="backend must be one of"):
        fdk(stack, geometry, SMALL, backend="opencl")
    with pytest.raises(InputError, match="redundancy must be one of"):
        fdk(stack, geometry, SMALL, redundancy="none")
    with pytest.raises(InputError, match="threads must be a positive integer"):
        fdk(stack, geometry, SMALL, threads=-1)
    with pytest.raises(GeometryError, match="cone misses the grid"):
        fdk(stack, geometry, VolumeGrid((2, 4, 4), (0.1,) * 3, (100.0, 0.0, 0.0)))
    with pytest.raises(GeometryError, match="reaches the source"):
        fdk(stack, geometry, VolumeGrid((2, 4, 4), (1.0, 25.0, 25.0)))
    stack[11, 3, 4] = np.nan
    with pytest.raises(InputError, match="view 11 has 1 pixels that are not, the first at row 3, column 4"):
        fdk(stack, geometry, SMALL)


def test_a_grid_beyond_the_field_of_view_warns_once_with_numbers() -> None:
    geometry = cone()  # sees 8.22 mm
    wide = VolumeGrid((1, 50, 50), (0.4, 0.4, 0.4))
    with pytest.warns(
        FieldOfViewWarning, match=r"reaches 9\.80\d mm from the axis, but the detector sees 8\.22"
    ) as seen:
        fdk(random_stack(geometry), geometry, wide)
    assert len(seen) == 1
    tall = VolumeGrid((41, 4, 4), (0.4, 0.4, 0.4))
    with pytest.warns(FieldOfViewWarning, match=r"project up to 2\.\d+ rows beside the detector of 37 rows"):
        fdk(random_stack(geometry), geometry, tall)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fdk(random_stack(geometry), geometry, wide.window(y=slice(10, 40), x=slice(10, 40)))


def test_a_limited_angle_warns() -> None:
    geometry = cone(angles_rad=np.linspace(0, math.pi / 2, 24))
    with pytest.warns(IncompleteScanWarning, match=r"90 of the 203\.7 degrees"):
        fdk(random_stack(geometry), geometry, SMALL)


def test_one_view_is_refused() -> None:
    geometry = cone(angles_rad=[0.0])
    with pytest.raises(GeometryError, match="two angles or more"):
        fdk(random_stack(geometry), geometry, SMALL)


@pytest.mark.parametrize(
    ("detector", "grid"),
    [((1, 43), (1, 9, 7)), ((37, 3), (9, 1, 1)), ((5, 41), (2, 7, 3)), ((37, 43), (1, 1, 1))],
)
def test_odd_sizes_work(detector: tuple[int, int], grid: tuple[int, int, int]) -> None:
    geometry = cone(detector_shape=detector)
    voxels = VolumeGrid(grid, (0.3, 0.3, 0.3))
    stack = random_stack(geometry)
    expected = fdk(stack, geometry, voxels, backend="reference")
    found = fdk(stack, geometry, voxels)
    assert found.shape == grid and found.any()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("center_mm", [(0.0, 40.0, 0.0), (0.0, 0.0, -40.0), (0.0, 30.0, 30.0)])
def test_a_grid_wholly_beside_the_field_of_view_is_refused(center_mm: tuple[float, float, float]) -> None:
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=200.0,
        source_to_detector_mm=250.0,
        detector_shape=(16, 32),
        pixel_pitch_mm=(0.2, 0.2),
        angles_rad=np.linspace(0, 2 * np.pi, 40, endpoint=False),
    )
    grid = VolumeGrid((4, 8, 8), (0.2, 0.2, 0.2), center_mm)
    with pytest.raises(GeometryError, match=r"the cone misses the grid"):
        fdk(np.zeros((40, 16, 32), np.float32), geometry, grid)
