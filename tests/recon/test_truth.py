"""The reconstruction against objects whose truth is known by formula: scale, place and shape, in every kind of scan.

``Scene.check`` is what all scans must fulfil; ``test_mistakes_do_not_agree`` shows that it notices half a pixel, a
percent of scale, and an axis turned round.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from marspipe.recon.fdk import fdk
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import Cylinder, Ellipsoid, Shape, line_integrals, rasterize
from tests.recon.scans import circle, without_orbit
from tests.recon.tilts import tilted

ROWS, COLUMNS = 40, 72
VALUE = 0.05  # 1/mm


def scan(**changes: Any) -> ScanGeometry:
    settings: dict[str, Any] = {
        "source_to_isocenter_mm": 100.0,
        "source_to_detector_mm": 150.0,
        "detector_shape": (ROWS, COLUMNS),
        "pixel_pitch_mm": (0.4, 0.4),
        "angles_rad": circle(160),
    }
    return ScanGeometry.circular(**(settings | changes))


def distances(sod: float, sdd: float, pitch: float, **changes: Any) -> ScanGeometry:
    return scan(
        source_to_isocenter_mm=sod, source_to_detector_mm=sdd, pixel_pitch_mm=(pitch, pitch), **changes
    )  # fmt: skip


def parallel(**changes: Any) -> ScanGeometry:
    settings: dict[str, Any] = {"detector_shape": (ROWS, COLUMNS), "pixel_pitch_mm": (0.25, 0.25)}
    return ScanGeometry.parallel(**(settings | {"angles_rad": circle(120, math.pi)} | changes))


class Scene:
    """An object without any symmetry inside the field of view, and a grid around it.

    ``voxels`` (z, y, x) are in units of the pixel at the axis. Sizes come from the settings of the scan, not from what
    the geometry answers, so that a wrong answer shows.
    """

    def __init__(self, geometry: ScanGeometry, voxels: tuple[float, float, float]) -> None:
        source, center = geometry.source_mm[0], geometry.detector_center_mm[0]
        depth = math.hypot(*(center - source)[:2])
        shrink = min(math.hypot(*source[:2]) / depth, 1.0)
        pitch_v, pitch_u = (float(np.linalg.norm(step[0])) * shrink for step in (geometry.v_mm, geometry.u_mm))
        rows, cols = geometry.detector_shape
        orbit = geometry.orbit
        row, column = orbit.principal_point_px if orbit is not None else ((rows - 1) / 2, (cols - 1) / 2)
        side = column if abs(column - (cols - 1) / 2) < 0.05 * cols else max(column, cols - 1 - column)
        radius, height = 0.95 * min(side, cols) * pitch_u, 0.9 * min(row, rows - 1 - row) * pitch_v
        middle = (0.22 * radius, -0.15 * radius, 0.1 * height)
        radii = (0.5 * radius, 0.36 * radius, 0.55 * height)
        hole = Cylinder((0.1 * radius, -0.1 * radius, 0.05 * height), 0.18 * radius, 0.5 * height, -0.6 * VALUE)
        self.shapes: list[Shape] = [Ellipsoid(middle, radii, VALUE, rotation_rad=0.5), hole]
        self.voxels = voxels
        voxel = (voxels[0] * pitch_v, voxels[1] * pitch_u, voxels[2] * pitch_u)
        reach = (radii[2], radii[0], radii[0])
        nz, ny, nx = (int(2 * r / v) + 8 for r, v in zip(reach, voxel, strict=True))
        self.grid = VolumeGrid((nz, ny, nx), voxel, (middle[2], middle[1], middle[0]))

    def check(self, volume: NDArray[np.float32]) -> None:
        """Assert scale, place and shape."""
        truth = rasterize(self.shapes, self.grid, supersample=4).astype(np.float64)
        flat = ndimage.maximum_filter(truth, 5) - ndimage.minimum_filter(truth, 5) < 1e-6
        for value in (VALUE, 0.4 * VALUE):
            core = flat & (np.abs(truth - value) < 1e-6)
            assert core.sum() > 25
            assert volume[core].mean() == pytest.approx(value, rel=0.01)
            assert volume[core].std() < 0.02 * VALUE
        # The filter's window and the interpolations blur by 0.8 pixels in the plane.
        blurred = ndimage.gaussian_filter(truth, (0.3 / self.voxels[0], 0.8 / self.voxels[1], 0.8 / self.voxels[2]))
        masses = [np.clip(image / VALUE, 0.2, 1.0) - 0.2 for image in (volume.astype(np.float64), blurred)]
        for axis, voxel in enumerate(self.voxels):
            others = tuple(a for a in range(3) if a != axis)
            found, expected = (mass.sum(axis=others) @ np.arange(mass.shape[axis]) / mass.sum() for mass in masses)
            assert abs(found - expected) * voxel < 0.1  # pixels
        assert np.sqrt(np.mean((volume - blurred)[1:-1] ** 2)) < 0.03 * VALUE


def reconstruct(scene: Scene, seen: ScanGeometry, taken_for: ScanGeometry | None = None) -> NDArray[np.float32]:
    return fdk(line_integrals(scene.shapes, seen), taken_for or seen, scene.grid, window="hann")


RNG = np.random.default_rng(11)
SHORT = np.linspace(0.3, 0.3 + math.pi + 2 * math.atan(36 * 0.4 / 150), 110)
CUBES, FLAT, TALL = (1.0, 1.0, 1.0), (0.6, 1.3, 0.9), (1.6, 0.8, 1.1)
SCANS: dict[str, tuple[ScanGeometry, tuple[float, float, float]]] = {
    "plain": (scan(), CUBES),
    # distances, magnifications 1 to 6, pitches, voxels
    "magnification 1": (distances(400, 400, 0.3), FLAT),
    "magnification 1.02": (distances(500, 510, 0.11), TALL),
    "magnification 1.25": (distances(200, 250, 0.055), CUBES),
    "magnification 2": (distances(60, 120, 0.2), TALL),
    "magnification 4": (distances(30, 120, 0.3), FLAT),
    "magnification 6": (distances(25, 150, 0.4), CUBES),
    "wide fan": (distances(40, 60, 0.35), FLAT),
    "oblong pixels": (scan(pixel_pitch_mm=(0.3, 0.5)), TALL),
    "parallel": (parallel(), CUBES),
    "parallel, off the middle": (parallel(principal_point_px=(18.2, 37.1), angles_rad=-circle(120, math.pi)), FLAT),
    # principal point
    "principal point": (scan(principal_point_px=(17.3, 36.9)), CUBES),
    "principal point to the other side": (scan(principal_point_px=(21.8, 33.4), angles_rad=SHORT), FLAT),
    # angles
    "backwards from 2 rad": (scan(angles_rad=2.0 - circle(160)), CUBES),
    "short": (scan(angles_rad=SHORT), CUBES),
    "short, backwards": (scan(angles_rad=SHORT[::-1] - 4.0), CUBES),
    "over-scan": (scan(angles_rad=np.linspace(0, 5.2, 150)), CUBES),
    "irregular": (scan(angles_rad=np.sort(RNG.uniform(0, 2 * math.pi, 400))), CUBES),
    "every view twice, in any order": (scan(angles_rad=RNG.permutation(np.repeat(circle(150), 2))), CUBES),
    "end point twice": (scan(angles_rad=np.linspace(-1, 2 * math.pi - 1, 161)), CUBES),
    "offset": (scan(principal_point_px=(19.5, 14.25)), CUBES),
    # A long way off: beside the plane of the orbit the two halves that such a scan is made of do not see the same.
    "offset by 45 %, backwards": (
        distances(800, 1200, 0.4, principal_point_px=(18.9, 68.0), angles_rad=-circle(240)),
        CUBES,
    ),
    # detectors that are not upright, through the general kernel
    "general": (without_orbit(scan(principal_point_px=(20.1, 36.2))), CUBES),
    "rolled": (tilted(scan(), roll=0.12), CUBES),
    "yawed": (tilted(scan(), yaw=-0.25), CUBES),
    "pitched": (tilted(scan(), pitch=0.4), CUBES),
    "rolled, yawed and pitched, short": (tilted(scan(angles_rad=SHORT), roll=-0.05, yaw=0.15, pitch=-0.2), FLAT),
    "pitched at magnification 6": (tilted(distances(25, 150, 0.4), pitch=-0.2, yaw=0.1), CUBES),
    "offset and rolled": (tilted(scan(principal_point_px=(19.5, 16.0)), roll=0.03), CUBES),
}


@pytest.mark.parametrize("name", SCANS)
def test_every_scan_agrees_with_the_truth(name: str) -> None:
    geometry, voxels = SCANS[name]
    scene = Scene(geometry, voxels)
    scene.check(reconstruct(scene, geometry))


MISTAKES: dict[str, tuple[ScanGeometry, ScanGeometry]] = {
    "half a column": (scan(angles_rad=SHORT), scan(angles_rad=SHORT, principal_point_px=(19.5, 36.0))),
    "half a column, offset": (scan(principal_point_px=(19.5, 14.25)), scan(principal_point_px=(19.5, 14.75))),
    "half a row": (scan(), scan(principal_point_px=(20.0, 35.5))),
    "rows upside down": (scan(principal_point_px=(17.3, 35.5)), scan(principal_point_px=(21.7, 35.5))),
    "one view late": (scan(), scan(angles_rad=circle(160, first=2 * math.pi / 160))),
    "backwards": (scan(), scan(angles_rad=-circle(160))),
    "scale": (scan(), scan(pixel_pitch_mm=(0.406, 0.406))),
    "pitches exchanged": (scan(pixel_pitch_mm=(0.3, 0.5)), scan(pixel_pitch_mm=(0.5, 0.3))),
    "magnification": (distances(60, 120, 0.2), distances(60, 122, 0.2)),
    "roll left out": (tilted(scan(), roll=0.12), scan()),
    "yaw left out": (tilted(scan(), yaw=-0.25), scan()),
    "pitch left out": (tilted(scan(), pitch=0.4), scan()),
    "roll the other way": (tilted(scan(), roll=0.06), tilted(scan(), roll=-0.06)),
    "pitch the other way": (tilted(scan(), pitch=0.25), tilted(scan(), pitch=-0.25)),
}


@pytest.mark.filterwarnings("ignore:the grid is larger")
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_do_not_agree(name: str) -> None:
    seen, taken_for = MISTAKES[name]
    scene = Scene(seen, CUBES)
    volume = reconstruct(scene, seen, taken_for)
    with pytest.raises(AssertionError):
        scene.check(volume)


@pytest.mark.parametrize("flip", ["columns", "rows"])
def test_a_detector_that_is_read_backwards_is_a_mirrored_geometry(flip: str) -> None:
    straight = scan(principal_point_px=(18.2, 36.4))
    names = ("source_mm", "detector_center_mm", "u_mm", "v_mm", "angles_rad")
    parts = {name: getattr(straight, name).copy() for name in names}
    axis = "u_mm" if flip == "columns" else "v_mm"
    parts[axis] *= -1
    mirrored = ScanGeometry(detector_shape=straight.detector_shape, **parts)
    scene = Scene(straight, CUBES)
    stack = line_integrals(scene.shapes, straight)
    read = stack[:, :, ::-1] if flip == "columns" else stack[:, ::-1]
    np.testing.assert_allclose(line_integrals(scene.shapes, mirrored), read, atol=1e-6)
    scene.check(fdk(np.ascontiguousarray(read), mirrored, scene.grid, window="hann"))


@pytest.mark.parametrize("sizes", [(0.4, 0.4, 0.4), (0.2, 0.5, 0.3)])
@pytest.mark.parametrize(("roll", "yaw", "pitch"), [(0.3, 0, 0), (0, 0.4, 0), (0, 0, 0.4), (-0.2, 0.2, -0.3)])
def test_strong_tilts_keep_the_scale(sizes: tuple[float, float, float], roll: float, yaw: float, pitch: float) -> None:
    """A flat object: filtered along rows that are not level it gets a wrong scale."""
    geometry = tilted(scan(detector_shape=(72, 72)), roll, yaw, pitch)
    grid = VolumeGrid((5, 11, 11), sizes, (0.2, 0.3, -0.3))
    for shape in (Ellipsoid((0.0, 0.0, 0.2), (5.0, 5.0, 2.4), VALUE), Cylinder((0.0, 0.0, 0.0), 5.0, 12.0, VALUE)):
        volume = fdk(line_integrals([shape], geometry), geometry, grid)
        assert volume.mean() == pytest.approx(VALUE, rel=0.004)
        assert volume.std() < 0.01 * VALUE


# --- the projector -----------------------------------------------------------------------------------------------


def contains(shape: Shape, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points (x, y, z) a shape contains, by its definition."""
    x, y, z = np.moveaxis(points - shape.center_mm, -1, 0)
    if isinstance(shape, Cylinder):
        inside: NDArray[np.bool_] = (x**2 + y**2 <= shape.radius_mm**2) & (np.abs(z) <= shape.height_mm / 2)
        return inside
    along = x * math.cos(shape.rotation_rad) + y * math.sin(shape.rotation_rad)
    across = y * math.cos(shape.rotation_rad) - x * math.sin(shape.rotation_rad)
    a, b, c = shape.radii_mm
    return np.asarray((along / a) ** 2 + (across / b) ** 2 + (z / c) ** 2 <= 1)


@pytest.mark.parametrize(
    "geometry",
    [
        scan(
            detector_shape=(5, 9), pixel_pitch_mm=(3.0, 2.8), angles_rad=[0.2, 1.9, 4.4], principal_point_px=(2.3, 3.6)
        ),
        tilted(scan(detector_shape=(5, 9), pixel_pitch_mm=(3.0, 2.8), angles_rad=[0.2, 1.9, 4.4]), 0.2, 0.3, -0.4),
    ],
    ids=["upright", "tilted"],
)
def test_line_integrals_equal_samples_along_the_rays(geometry: ScanGeometry) -> None:
    """Walk from the source to each pixel in steps, and look at every step which shapes it is in."""
    shapes: list[Shape] = [
        Ellipsoid((1.0, -2.0, 0.5), (6.0, 3.0, 4.0), 0.05, rotation_rad=0.7),
        Cylinder((-2.0, 1.0, -0.4), 2.5, 5.0, 0.11),
        Ellipsoid((1.5, -1.0, 0.0), (1.0, 1.5, 2.0), -0.03),
    ]
    rows, cols = geometry.detector_shape
    found = line_integrals(shapes, geometry)
    steps = 12000
    share = (np.arange(steps) + 0.5) / steps
    for view in range(len(geometry)):
        source = geometry.source_mm[view]
        for row in range(rows):
            for column in range(cols):
                pixel = (
                    geometry.detector_center_mm[view]
                    + (column - (cols - 1) / 2) * geometry.u_mm[view]
                    + (row - (rows - 1) / 2) * geometry.v_mm[view]
                )
                points = source + share[:, None] * (pixel - source)
                step = np.linalg.norm(pixel - source) / steps
                expected = sum(shape.value * contains(shape, points).sum() * step for shape in shapes)
                # Each boundary that is crossed may be half a step off.
                assert found[view, row, column] == pytest.approx(expected, abs=0.2 * step)
    assert (found > 0.3).sum() > 10
