"""ASTRA as a second opinion: the same scan, the same volume. Skipped where the extra ``astra`` is not installed."""

from __future__ import annotations

import contextlib
import io
import math
import os
import subprocess
import sys
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from marspipe.errors import EnvironmentMissingError, GeometryError, InputError, RunError
from marspipe.recon.astra_backend import check_fdk_cuda, reconstruct_with_astra
from marspipe.recon.fdk import FieldOfViewWarning, fdk
from marspipe.recon.filtering import WINDOWS, ViewFilter, ramp_response
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import Ellipsoid, line_integrals, rasterize
from tests.lacking import lacking, require_package
from tests.recon.scans import circle, cone, without_orbit

# A slice without any symmetry: an ellipse off the axis, turned, with a hole off its middle.
SHAPES = [Ellipsoid((2.1, -1.3, 0), (4, 6, 3), 1.0, 0.4), Ellipsoid((-0.5, 1, 0), (1.5, 1.5, 1.5), -0.5)]
# Not square, not around the axis, and a window of its lattice.
SLICE = VolumeGrid((3, 90, 80), (0.2, 0.2, 0.2), (0.0, -0.4, 1.5)).window(z=slice(1, 2), y=slice(8, 82), x=slice(4, 72))

ROW: dict[str, Any] = {"detector_shape": (1, 129), "pixel_pitch_mm": (0.3, 0.3)}
FAN = cone(**ROW, angles_rad=circle(120))
# One detector row, columns of 0.2 mm at the axis; the fan opens by 17 degrees to each side.
ROWS = {
    "fan": cone(**ROW, angles_rad=circle(120), principal_point_px=(0, 61.3)),
    "fan, other direction": cone(**ROW, angles_rad=-circle(120, first=0.3), principal_point_px=(0, 66.3)),
    "fan, short scan": cone(**ROW, angles_rad=circle(100, np.deg2rad(240))),
    "fan, offset detector": cone(**ROW, angles_rad=circle(120), principal_point_px=(0, 34.0)),
    "fan, irregular": cone(**ROW, angles_rad=np.sort(circle(160) + 0.01 * np.sin(np.arange(160.0)))),
    "fan, general form": without_orbit(cone(**ROW, angles_rad=circle(120), principal_point_px=(0, 61.3))),
    "fan from far away": cone(**ROW, angles_rad=circle(120), source_to_isocenter_mm=1e5, source_to_detector_mm=1.5e5),
    "parallel": ScanGeometry.parallel(
        detector_shape=(1, 129),
        pixel_pitch_mm=(0.2, 0.2),
        angles_rad=circle(120, np.pi),
        principal_point_px=(0, 61.3),
    ),
    "parallel, other direction": ScanGeometry.parallel(
        detector_shape=(1, 129),
        pixel_pitch_mm=(0.2, 0.2),
        angles_rad=-circle(120, np.pi),
        principal_point_px=(0, 66.0),
    ),
}


@pytest.fixture
def astra() -> Any:
    require_package("astra", "astra")
    return import_module("astra")


@pytest.fixture
def gpu(astra: Any) -> Any:
    """ASTRA on a CUDA device."""
    if not astra.use_cuda():
        lacking("GPU", "ASTRA finds no CUDA device")
    return astra


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(difference.astype(np.float64) ** 2)))


def objects_left(astra: Any) -> str:
    """Return ASTRA's own lists of the objects that it holds, without their headers."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for room in (astra.data2d, astra.projector, astra.algorithm):
            room.info()
    return "".join(line for line in said.getvalue().splitlines() if line and not line.startswith(("id ", "---")))


# --- the geometries mean the same --------------------------------------------------------------------------------


def project_with_astra(astra: Any, projection: Any, image: np.ndarray, grid: VolumeGrid) -> np.ndarray:
    """Return ASTRA's line integrals of an image ``[y, x]``, shape (views, columns)."""
    half = grid.voxel_mm[1] / 2
    y, x = (grid.axis_mm(axis)[[0, -1]] + (-half, half) for axis in "yx")
    volume = astra.create_vol_geom(*image.shape, *x, *y)
    kernel = "line_fanflat" if projection["type"].startswith("fanflat") else "line"
    projector = astra.create_projector(kernel, projection, volume)
    number, line = astra.create_sino(np.ascontiguousarray(image[::-1]), projector)
    astra.data2d.delete(number)
    astra.projector.delete(projector)
    return np.asarray(line)


def flat_projection(astra: Any, geometry: ScanGeometry, kind: str) -> Any:
    """Return a scan of one row as ASTRA's two-dimensional geometry of a kind."""
    assert geometry.orbit is not None
    columns, pitch = geometry.detector_shape[1], geometry.pixel_pitch_mm[1]
    sod, sdd = geometry.orbit.source_to_isocenter_mm, geometry.orbit.source_to_detector_mm
    if kind == "fanflat":
        return astra.create_proj_geom("fanflat", pitch, columns, geometry.angles_rad, sod, sdd - sod)
    if kind == "parallel":
        return astra.create_proj_geom("parallel", pitch, columns, geometry.angles_rad)
    vectors = geometry.to_astra()["Vectors"][:, [0, 1, 3, 4, 6, 7]].copy()
    if kind == "parallel_vec":
        vectors[:, :2] /= -sod  # the direction of the rays
    return astra.create_proj_geom(kind, columns, vectors)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(
    ("kind", "column"),
    [("fanflat", 32.0), ("fanflat_vec", 32.0), ("fanflat_vec", 27.3), ("parallel", 32.0), ("parallel_vec", 37.8)],
)
def test_astra_projects_as_the_geometry_says(astra: Any, kind: str, column: float, direction: int) -> None:
    scan: dict[str, Any] = {
        "detector_shape": (1, 65),
        "angles_rad": direction * circle(11, first=0.2),
        "principal_point_px": (0, column),
    }
    if kind.startswith("fanflat"):
        geometry = cone(**scan, pixel_pitch_mm=(0.6, 0.6))
    else:
        geometry = ScanGeometry.parallel(**scan, pixel_pitch_mm=(0.4, 0.4))
    grid = VolumeGrid((1, 150, 140), (0.1, 0.1, 0.1), (0.0, -1.0, 2.0))
    ellipse = [Ellipsoid((2.1, -1.3, 0), (4, 6, 3), 1.0, 0.4)]
    image = rasterize(ellipse, VolumeGrid((1, 150, 140), (1e-6, 0.1, 0.1), grid.center_mm), 5)[0]
    found = project_with_astra(astra, flat_projection(astra, geometry, kind), image, grid)
    # Of up to 12 mm; the pixels' steps make it 0.03 mm, half a column makes it 0.4 mm.
    assert rms(found - line_integrals(ellipse, geometry)[:, 0]) < 0.05


def test_astras_vectors_of_a_cone_are_ours(astra: Any) -> None:
    angles = -circle(7, first=0.4)
    theirs = astra.create_proj_geom("cone", 0.3, 0.5, 12, 17, angles, 40.0, 25.0)
    ours = cone(detector_shape=(12, 17), pixel_pitch_mm=(0.5, 0.3), angles_rad=angles, source_to_detector_mm=65.0)
    vectors = astra.geom_2vec(theirs)
    np.testing.assert_allclose(ours.to_astra()["Vectors"], vectors["Vectors"], atol=1e-12)
    assert {key: ours.to_astra()[key] for key in ("type", "DetectorRowCount", "DetectorColCount")} == {
        key: vectors[key] for key in ("type", "DetectorRowCount", "DetectorColCount")
    }
    assert ScanGeometry.from_astra(theirs) == ours
    again = ScanGeometry.from_astra(vectors)
    assert again.orbit is not None
    np.testing.assert_allclose(again.to_astra()["Vectors"], vectors["Vectors"], atol=1e-12)


def test_astras_shifted_detector_is_our_principal_point(astra: Any) -> None:
    angles = circle(5)
    theirs = astra.create_proj_geom("cone", 0.3, 0.5, 12, 17, angles, 40.0, 25.0)
    # The detector moves by 1.5 columns and -2 rows; the axis then falls as much farther down its columns and rows.
    moved = ScanGeometry.from_astra(astra.geom_postalignment(theirs, (1.5, -2.0)))
    assert moved.orbit is not None
    assert moved.orbit.principal_point_px == pytest.approx((5.5 + 2.0, 8.0 - 1.5), abs=1e-9)


# --- the volumes are the same ------------------------------------------------------------------------------------


def moments(image: np.ndarray, grid: VolumeGrid) -> dict[str, float]:
    """Return the integral of an image ``[y, x]``, its center of mass (mm) and its second moments (mm^2)."""
    y, x = np.meshgrid(grid.axis_mm("y"), grid.axis_mm("x"), indexing="ij")
    weight = image.astype(np.float64) / image.sum(dtype=np.float64)
    dx, dy = x - (weight * x).sum(), y - (weight * y).sum()
    return {
        "integral": float(image.sum(dtype=np.float64) * grid.voxel_mm[1] * grid.voxel_mm[2]),
        "x": float((weight * x).sum()),
        "y": float((weight * y).sum()),
        "xx": float((weight * dx**2).sum()),
        "yy": float((weight * dy**2).sum()),
        "xy": float((weight * dx * dy).sum()),
    }


@pytest.mark.parametrize("name", ROWS)
def test_a_slice_is_ours_and_the_truth(astra: Any, name: str) -> None:
    """The image differs from ours by 0.3 % of the attenuation; a hundredth in a weight or a tenth of a column fails."""
    geometry = ROWS[name]
    views = line_integrals(SHAPES, geometry)
    ours, theirs = fdk(views, geometry, SLICE, backend="cpu"), fdk(views, geometry, SLICE, backend="astra")
    assert theirs.shape == SLICE.shape and theirs.dtype == np.float32
    assert rms(theirs - ours) < 4e-3
    assert (theirs * ours).sum(dtype=np.float64) / (ours * ours).sum(dtype=np.float64) == pytest.approx(1, abs=1e-3)
    truth = rasterize(SHAPES, VolumeGrid(SLICE.shape, (1e-6, 0.2, 0.2), middle_mm(SLICE)), 9)[0]
    for image in (ours[0], theirs[0]):
        for key, value in moments(truth, SLICE).items():
            tolerance = {"integral": 0.003 * math.pi * 24, "x": 0.01, "y": 0.01}.get(key, 0.05)
            assert moments(image, SLICE)[key] == pytest.approx(value, abs=tolerance), key


def middle_mm(grid: VolumeGrid) -> tuple[float, float, float]:
    z, y, x = (float(grid.axis_mm(axis)[[0, -1]].mean()) for axis in "zyx")
    return z, y, x


@pytest.mark.parametrize("voxel", [0.4, 0.1, 0.05])
def test_voxels_may_be_coarser_or_finer_than_columns(astra: Any, voxel: float) -> None:
    geometry = ROWS["fan"][::3]
    grid = VolumeGrid((1, int(4 / voxel), int(6 / voxel)), (voxel, voxel, voxel), (0.0, 2.0, 2.0))
    views = line_integrals(SHAPES, geometry)
    assert rms(reconstruct_with_astra(views, geometry, grid) - fdk(views, geometry, grid, backend="cpu")) < 3e-3


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (1, 9, 1)])
def test_slices_may_be_a_line_or_a_voxel(astra: Any, shape: tuple[int, int, int]) -> None:
    grid = VolumeGrid(shape, (0.2, 0.2, 0.2), (0.0, -1.0, 1.0))
    views = line_integrals(SHAPES, FAN)
    ours = fdk(views, FAN, grid, backend="cpu")
    np.testing.assert_allclose(reconstruct_with_astra(views, FAN, grid), ours, atol=0.01)


def test_beside_the_detector_there_is_nothing(astra: Any) -> None:
    geometry = cone(detector_shape=(1, 25), pixel_pitch_mm=(0.6, 0.6), angles_rad=circle(40))
    grid = VolumeGrid((1, 50, 50), (0.3, 0.3, 0.3))
    views = line_integrals([Ellipsoid((0.5, 0.2, 0), (6, 6.5, 3), 1.0)], geometry)
    with pytest.warns(FieldOfViewWarning):
        ours = fdk(views, geometry, grid, backend="cpu")
    with pytest.warns(FieldOfViewWarning):
        theirs = fdk(views, geometry, grid, backend="astra")
    assert rms(theirs - ours) < 0.01 * np.abs(ours).max()
    assert np.abs(theirs - ours).max() < 0.1 * np.abs(ours).max()


def test_the_plane_of_the_orbit_may_have_a_height(astra: Any) -> None:
    views = line_integrals(SHAPES, FAN)
    raised = cone(**ROW, angles_rad=FAN.angles_rad, source_z_mm=7.5)
    grid = VolumeGrid((1, 30, 30), (0.2, 0.2, 0.2), (0.0, 1.0, 1.0))
    above = VolumeGrid((1, 30, 30), (0.2, 0.2, 0.2), (7.5, 1.0, 1.0))
    expected = reconstruct_with_astra(views, FAN, grid)
    np.testing.assert_allclose(reconstruct_with_astra(views, raised, above), expected, atol=1e-6)


def test_options_reach_the_filter_and_progress_counts_views(astra: Any) -> None:
    options: dict[str, Any] = {"window": "hann", "cutoff": 0.6, "redundancy": "full", "truncation": "extrapolate"}
    geometry, done = FAN[::2], []
    views = line_integrals(SHAPES, geometry)
    theirs = reconstruct_with_astra(views, geometry, SLICE, **options, progress=lambda *counts: done.append(counts))
    assert rms(theirs - fdk(views, geometry, SLICE, backend="cpu", **options)) < 1e-3
    assert done == [(view, 60) for view in range(1, 61)]


@pytest.mark.parametrize("cutoff", [1.0, 0.7])
@pytest.mark.parametrize("window", WINDOWS)
def test_astras_windows_are_ours(astra: Any, window: str, cutoff: float) -> None:
    """FDK_CUDA makes its filter with the same code as ASTRA's FBP on the CPU, which is asked here."""
    line = np.random.default_rng(3).standard_normal(32, dtype=np.float32)
    # Seen from below with pixels as large as columns, every row of the image is the filtered line.
    projection, volume = astra.create_proj_geom("parallel", 1.0, 32, np.zeros(1)), astra.create_vol_geom(1, 32)
    numbers = [
        astra.create_projector("strip", projection, volume),
        astra.data2d.create("-sino", projection, line[None]),
        astra.data2d.create("-vol", volume),
    ]
    config = astra.astra_dict("FBP")
    config |= dict(zip(("ProjectorId", "ProjectionDataId", "ReconstructionDataId"), numbers, strict=True))
    config["option"] = {"FilterType": window, "FilterD": cutoff}
    algorithm = astra.algorithm.create(config)
    astra.algorithm.run(algorithm)
    found = astra.data2d.get(numbers[2])[0]
    astra.algorithm.delete(algorithm)
    astra.projector.delete(numbers[0])
    astra.data2d.delete(numbers[1:])
    # It scales by pi / (2 views) and doubles the filter.
    expected = math.pi * np.fft.irfft(np.fft.rfft(line, 64) * ramp_response(64, window, cutoff))[:32]
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --- what is refused ---------------------------------------------------------------------------------------------

NEEDS_A_DEVICE = """
import numpy as np
from marspipe.errors import EnvironmentMissingError
from marspipe.recon.fdk import FieldOfViewWarning, fdk
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid

for shape, row, slices in (((8, 16), 3.5, 4), ((8, 16), 3.5, 1), ((1, 16), 0.0, 3), ((1, 16), 0.4, 1)):
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=40, source_to_detector_mm=60, detector_shape=shape, pixel_pitch_mm=(1, 1),
        angles_rad=np.arange(12) * np.pi / 6, principal_point_px=(row, 7.5),
    )
    grid = VolumeGrid((slices, 8, 8), (0.6, 0.6, 0.6))
    try:
        fdk(np.ones((12, *shape), np.float32), geometry, grid, backend="astra")
    except EnvironmentMissingError as error:
        assert "no CUDA device" in str(error)
        print("refused")
print("alive")
"""


def test_a_cone_without_a_device_is_refused_and_the_process_lives(astra: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEEDS_A_DEVICE],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused"] * 4 + ["alive"]


def test_without_the_toolbox_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "astra", None)
    with pytest.raises(EnvironmentMissingError, match=r"pip install marspipe\[astra\]"):
        reconstruct_with_astra(np.zeros((120, 1, 129), np.float32), FAN, SLICE)


def test_pixels_that_are_not_square_are_refused(astra: Any) -> None:
    """ASTRA itself would take one of the two, and be wrong."""
    for voxel_mm in ((0.2, 0.2, 0.3), (0.2, 0.3, 0.2)):
        with pytest.raises(GeometryError, match="square voxels"):
            reconstruct_with_astra(np.zeros((120, 1, 129), np.float32), FAN, VolumeGrid((1, 20, 20), voxel_mm))


def test_nothing_is_left_behind(astra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = FAN[::30]
    views = line_integrals(SHAPES, geometry)
    before = objects_left(astra)
    number = astra.data2d.create("-vol", astra.create_vol_geom(2, 2))
    assert objects_left(astra) != before  # it would be seen
    astra.data2d.delete(number)
    assert objects_left(astra) == before
    reconstruct_with_astra(views, geometry, SLICE)
    assert objects_left(astra) == before

    broken = views.copy()
    broken[2, 0, 5] = np.nan
    with pytest.raises(InputError, match="view 2 has 1 pixels that are not"):
        reconstruct_with_astra(broken, geometry, SLICE)
    assert objects_left(astra) == before

    held = []

    def fail(number: int) -> None:
        held.append(objects_left(astra))
        raise astra.log.AstraError("Algorithm failed")

    monkeypatch.setattr(astra.algorithm, "run", fail)
    with pytest.raises(RunError, match=r"4 views .* Algorithm failed"):
        reconstruct_with_astra(views, geometry, SLICE)
    assert held[0] != before and objects_left(astra) == before


CONE = cone(angles_rad=circle(40))
CUBES = VolumeGrid((9, 20, 20), (0.6, 0.6, 0.6), (1.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("geometry", "options"),
    [
        (CONE, {}),
        (cone(angles_rad=-circle(40, first=0.3), principal_point_px=(12.0, 21.0)), {"window": "hann", "cutoff": 0.8}),
        (cone(angles_rad=circle(40, np.deg2rad(240))), {}),
        (cone(angles_rad=-circle(40, np.deg2rad(240))), {}),
    ],
)
def test_what_fdk_cuda_does_exactly(geometry: ScanGeometry, options: dict[str, Any]) -> None:
    check_fdk_cuda(ViewFilter(geometry, **options), CUBES)


@pytest.mark.parametrize(
    ("geometry", "grid", "message"),
    [
        (without_orbit(CONE, 0.1), CUBES, "not on a circular orbit"),
        (ScanGeometry.parallel(detector_shape=(9, 9), pixel_pitch_mm=(1, 1), angles_rad=circle(9)), CUBES, "parallel"),
        (cone(angles_rad=circle(40), principal_point_px=(18.0, 12.0)), CUBES, "no weights for 'wang'"),
        (cone(angles_rad=circle(40), principal_point_px=(18.0, 21.5)), CUBES, "column 21, but falls on 21.5"),
        (cone(angles_rad=np.append(circle(40), 0.05)), CUBES, "evenly spaced"),
        (cone(angles_rad=np.append(circle(40), 0.0)), CUBES, "evenly spaced"),
        (cone(angles_rad=circle(40, np.deg2rad(240))[np.arange(40) * 7 % 40]), CUBES, "evenly spaced"),
        (CONE, VolumeGrid((9, 20, 20), (0.5, 0.6, 0.6)), "voxels must be cubes"),
        (CONE, VolumeGrid((9, 20, 20), (0.6, 0.6, 0.6), (0.0, 0.0, 0.3)), "x = 0.3 mm"),
        (CONE, VolumeGrid((9, 20, 20), (0.6, 0.6, 0.6)).window(y=slice(2, 20)), "y = 0.6 mm"),
    ],
)
def test_what_fdk_cuda_does_not_do_is_named(geometry: ScanGeometry, grid: VolumeGrid, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        check_fdk_cuda(ViewFilter(geometry), grid)


def test_fdk_cuda_does_not_extrapolate() -> None:
    with pytest.raises(InputError, match="truncation must be 'none', got 'extrapolate'"):
        check_fdk_cuda(ViewFilter(CONE, truncation="extrapolate"), CUBES)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"window": "hann", "cutoff": 0.8}])
@pytest.mark.parametrize("turn_deg", [360, 240, -240])
def test_fdk_cuda_is_our_fdk(gpu: Any, turn_deg: float, options: dict[str, Any]) -> None:
    geometry = cone(
        detector_shape=(81, 97),
        pixel_pitch_mm=(0.3, 0.25),
        angles_rad=circle(180, np.deg2rad(turn_deg), first=0.3),
        principal_point_px=(37.5, 48.0),
    )
    grid = VolumeGrid((40, 70, 64), (0.15, 0.15, 0.15), (0.4, 0.0, 0.0)).window(z=slice(3, 40))
    views = line_integrals([Ellipsoid((1.1, -0.7, 0.5), (2, 3, 1.5), 1.0, 0.4)], geometry)
    ours = fdk(views, geometry, grid, backend="cpu", **options)
    theirs = fdk(views, geometry, grid, backend="astra", **options)
    # The device's textures know 1/256 of a pixel; the two spread a short scan's weights differently.
    assert rms(theirs - ours) < 5e-3
    assert (theirs * ours).sum(dtype=np.float64) / (ours * ours).sum(dtype=np.float64) == pytest.approx(1, abs=2e-3)
    broken = views.copy()
    broken[5, 3, 2] = np.inf
    with pytest.raises(InputError, match="view 5"):
        fdk(broken, geometry, grid, backend="astra", **options)
