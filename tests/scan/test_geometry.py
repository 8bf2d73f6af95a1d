from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import GeometryError
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.orbit import CircularOrbit


def circular(**changes: Any) -> ScanGeometry:
    values: dict[str, Any] = {
        "source_to_isocenter_mm": 200.0,
        "source_to_detector_mm": 250.0,
        "detector_shape": (40, 50),
        "pixel_pitch_mm": (0.11, 0.12),
        "angles_rad": [0.1, 0.7, 2.0, 4.5],
        "principal_point_px": (18.25, 26.5),
    }
    return ScanGeometry.circular(**(values | changes))


def vectors(geometry: ScanGeometry) -> dict[str, np.ndarray]:
    return {name: getattr(geometry, name).copy() for name in ("source_mm", "detector_center_mm", "u_mm", "v_mm")}


def tilted() -> ScanGeometry:
    """Return a general geometry: every view's detector stands a little differently."""
    parts = vectors(circular())
    parts["u_mm"][:, 2] += [0.01, 0.02, 0.0, -0.01]
    return ScanGeometry(detector_shape=(40, 50), **parts)


GEOMETRIES = {
    "circular": circular(),
    "parallel": ScanGeometry.parallel(detector_shape=(7, 9), pixel_pitch_mm=(0.5, 0.4), angles_rad=[0.0, 1.0, 3.1]),
    "helix": circular(source_z_mm=[-1.5, -0.5, 0.25, 1.0]),
    "general": tilted(),
}

numbers = st.floats(-50, 50, allow_nan=False)
scans = st.builds(
    lambda sod, extra, rows, cols, pitch, angles, point, height: ScanGeometry.circular(
        source_to_isocenter_mm=sod,
        source_to_detector_mm=sod + extra,
        detector_shape=(rows, cols),
        pixel_pitch_mm=pitch,
        angles_rad=angles,
        principal_point_px=point,
        source_z_mm=height * np.arange(len(angles)),
    ),
    st.floats(20, 1000),
    st.floats(0, 500),
    st.integers(1, 300),
    st.integers(1, 300),
    st.tuples(st.floats(0.01, 2), st.floats(0.01, 2)),
    st.lists(st.floats(0, 12), min_size=1, max_size=5),
    st.tuples(st.floats(-20, 320), st.floats(-20, 320)),
    st.sampled_from([0.0, 0.7, -3.0]),
)


# --- the convention ----------------------------------------------------------------------------------------------


def test_positions_follow_the_convention() -> None:
    geometry = circular(angles_rad=[0.0, math.pi / 2], principal_point_px=None)
    np.testing.assert_allclose(geometry.source_mm, [[0, -200, 0], [200, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(geometry.detector_center_mm, [[0, 50, 0], [-50, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(geometry.u_mm, [[0.12, 0, 0], [0, 0.12, 0]], atol=1e-12)
    np.testing.assert_allclose(geometry.v_mm, [[0, 0, 0.11], [0, 0, 0.11]], atol=1e-12)
    assert geometry.orbit == CircularOrbit(200.0, 250.0, (0.11, 0.12), (19.5, 24.5))
    assert geometry.orbit.magnification == 1.25


def test_the_isocenter_projects_to_the_principal_point() -> None:
    row, column, w = circular().project([(0.0, 0.0, 0.0)])
    assert row == pytest.approx(18.25)
    assert column == pytest.approx(26.5)
    assert w == pytest.approx(1.0)


def test_points_project_where_the_formula_says() -> None:
    geometry = circular(angles_rad=[0.7])
    x, y, z = 3.0, -2.0, 1.5
    depth = 200 + (-x * math.sin(0.7) + y * math.cos(0.7))
    row, column, w = geometry.project([(x, y, z)])
    assert column.item() == pytest.approx(26.5 + (x * math.cos(0.7) + y * math.sin(0.7)) * 250 / depth / 0.12)
    assert row.item() == pytest.approx(18.25 + z * 250 / depth / 0.11)
    assert w.item() == pytest.approx(depth / 200)


@given(scans, st.tuples(numbers, numbers, numbers))
def test_pixels_lie_on_the_line_from_source_through_point(geometry: ScanGeometry, point: Any) -> None:
    row, column, w = geometry.project([point])
    rows, cols = geometry.detector_shape
    for view in range(len(geometry)):
        if w[view, 0] < 0.1:
            continue
        pixel = (
            geometry.detector_center_mm[view]
            + (column[view, 0] - (cols - 1) / 2) * geometry.u_mm[view]
            + (row[view, 0] - (rows - 1) / 2) * geometry.v_mm[view]
        )
        to_pixel, to_point = pixel - geometry.source_mm[view], np.array(point) - geometry.source_mm[view]
        across = np.linalg.norm(np.cross(to_pixel, to_point)) / np.linalg.norm(to_pixel) / np.linalg.norm(to_point)
        assert across < 1e-9


def test_heights_move_source_and_detector_along_the_axis() -> None:
    heights = np.array([-1.5, -0.5, 0.25, 1.0])
    still, moving = circular(), circular(source_z_mm=heights)
    point = np.array([3.0, -2.0, 1.5])
    for view, height in enumerate(heights):
        expected = still[view].project([point - [0, 0, height]])
        np.testing.assert_allclose(moving[view].project([point]), expected, rtol=1e-12)
    assert moving.orbit == still.orbit
    assert circular(source_z_mm=2.0) == circular(source_z_mm=[2.0] * 4)
    assert circular(source_z_mm=0.0) == circular()
    with pytest.raises(GeometryError, match=r"source_z_mm must be a number or one per view \(4\), got shape \(3,\)"):
        circular(source_z_mm=[1, 2, 3])
    with pytest.raises(GeometryError, match=r"source_z_mm must be finite .* view 2 is nan"):
        circular(source_z_mm=[1, 2, np.nan, 3])


def test_a_helix_may_go_on_for_many_turns() -> None:
    turns = np.arange(600) * 0.1
    assert len(circular(angles_rad=turns, source_z_mm=0.01 * turns)) == 600
    with pytest.raises(GeometryError, match="degrees"):
        circular(angles_rad=turns)


def test_another_detector_keeps_the_orbit() -> None:
    geometry = circular(source_z_mm=[0, 1, 2, 3])
    other = geometry.with_detector((12, 60), (5.0, 36.5))
    assert other.detector_shape == (12, 60)
    assert other.orbit is not None and other.orbit.principal_point_px == (5.0, 36.5)
    assert np.array_equal(other.source_mm, geometry.source_mm)
    assert geometry.with_detector(geometry.detector_shape) == geometry
    with pytest.raises(GeometryError, match="only a circular orbit"):
        tilted().with_detector((2, 2))


@pytest.mark.parametrize("turn", ["in_plane_rad", "about_u_rad", "about_v_rad"])
def test_a_tilted_detector_turns_about_its_principal_point(turn: str) -> None:
    geometry = circular(source_z_mm=[0, 1, 2, 3])
    other = geometry.with_tilted_detector(**{turn: 0.1})
    assert other.orbit is None
    assert geometry.with_tilted_detector(**{turn: 0.0}) == geometry
    axis = np.column_stack([np.zeros((4, 2)), [0, 1, 2, 3]])
    for view in range(4):
        row, column, _ = other[view].project([axis[view]])
        np.testing.assert_allclose([row.item(), column.item()], [18.25, 26.5])

    def pixel(scan: ScanGeometry, row: float, column: float) -> np.ndarray:
        up, right = (row - 19.5) * scan.v_mm, (column - 24.5) * scan.u_mm
        return np.asarray(scan.detector_center_mm + up + right)

    pivot, u, v = pixel(geometry, 18.25, 26.5), geometry.u_mm / 0.12, geometry.v_mm / 0.11
    towards_source = geometry.source_mm - pivot
    towards_source /= np.linalg.norm(towards_source, axis=1)[:, None]
    last_row, last_column = pixel(other, 28.25, 26.5) - pivot, pixel(other, 18.25, 36.5) - pivot
    np.testing.assert_allclose(np.linalg.norm(last_row, axis=1), 1.1)
    np.testing.assert_allclose(np.linalg.norm(last_column, axis=1), 1.2)
    moved = {
        "in_plane_rad": (last_column * v, 1.2),
        "about_u_rad": (last_row * towards_source, 1.1),
        "about_v_rad": (last_column * -towards_source, 1.2),
    }
    along, length = moved[turn]
    np.testing.assert_allclose(along.sum(axis=1), length * math.sin(0.1))
    still = last_column * u if turn == "about_u_rad" else last_row * v if turn == "about_v_rad" else last_row * -u
    expected = {"about_u_rad": 1.2, "about_v_rad": 1.1, "in_plane_rad": 1.1 * math.sin(0.1)}[turn]
    np.testing.assert_allclose(still.sum(axis=1), expected)


def test_tilts_come_one_after_the_other() -> None:
    geometry = circular()
    tilted = geometry.with_tilted_detector(in_plane_rad=0.2, about_u_rad=0.3)
    # The in-plane turn comes first: then the column axis has a share of the row axis that the second turn tilts.
    towards_source = np.array([np.sin(geometry.angles_rad), -np.cos(geometry.angles_rad), 0 * geometry.angles_rad]).T
    share = (tilted.u_mm * towards_source).sum(axis=1) / 0.12
    np.testing.assert_allclose(share, math.sin(0.2) * math.sin(0.3))
    with pytest.raises(GeometryError, match="in_plane_rad must be an angle between -pi/2 and pi/2 rad, got 5"):
        geometry.with_tilted_detector(in_plane_rad=5)
    with pytest.raises(GeometryError, match="only a circular orbit"):
        tilted.with_tilted_detector(about_v_rad=0.1)


# --- value semantics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GEOMETRIES)
def test_repr_pickle_and_dict_restore_the_value(name: str) -> None:
    geometry = GEOMETRIES[name]
    assert eval(repr(geometry)) == geometry
    assert pickle.loads(pickle.dumps(geometry)) == geometry
    assert ScanGeometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry
    assert hash(pickle.loads(pickle.dumps(geometry))) == hash(geometry)


@settings(max_examples=50)
@given(scans)
def test_every_scan_restores_exactly(geometry: ScanGeometry) -> None:
    assert eval(repr(geometry)) == geometry
    assert ScanGeometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


def test_geometries_differ_when_anything_differs() -> None:
    others = [
        circular(source_to_isocenter_mm=200.5),
        circular(source_to_detector_mm=251.0),
        circular(detector_shape=(40, 51)),
        circular(pixel_pitch_mm=(0.11, 0.11)),
        circular(angles_rad=[0.1, 0.7, 2.0, 4.6]),
        circular(angles_rad=[0.1, 0.7, 2.0]),
        circular(principal_point_px=(18.0, 26.5)),
        circular(source_z_mm=1.0),
        tilted(),
    ]
    assert circular() == circular()
    assert all(circular() != other for other in others)
    assert circular() != "circular"
    assert len({circular(), circular(), *others}) == 10


def test_geometries_cannot_be_changed() -> None:
    geometry = circular()
    with pytest.raises(AttributeError, match="immutable"):
        geometry.detector_shape = (1, 1)
    for array in (geometry.angles_rad, geometry.source_mm, geometry[1:].source_mm, tilted().u_mm):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    angles = np.array([0.1, 0.2])
    geometry = circular(angles_rad=angles)
    angles[0] = 5
    assert geometry.angles_rad[0] == 0.1


# --- slicing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GEOMETRIES)
def test_views_are_taken(name: str) -> None:
    geometry = GEOMETRIES[name]
    part = geometry[1:3]
    assert len(part) == 2
    assert part.detector_shape == geometry.detector_shape
    assert (part.orbit is None) == (geometry.orbit is None)
    for key in ("angles_rad", "source_mm", "detector_center_mm", "u_mm", "v_mm"):
        np.testing.assert_allclose(getattr(part, key), getattr(geometry, key)[1:3], atol=1e-12, rtol=1e-12)
    assert geometry[2] == geometry[[2]] == geometry[2:3]
    assert geometry[::-1][::-1] == geometry
    assert geometry[np.arange(len(geometry)) > 0] == geometry[1:]


@pytest.mark.parametrize("name", ["circular", "general"])
def test_rows_are_taken_and_keep_their_place(name: str) -> None:
    geometry = GEOMETRIES[name]
    points = np.random.default_rng(1).uniform(-3, 3, (20, 3))
    row, column, w = geometry.project(points)
    part = geometry[1:, 7:23]
    assert part.detector_shape == (16, 50)
    cut_row, cut_column, cut_w = part.project(points)
    np.testing.assert_allclose(cut_row, row[1:] - 7, atol=1e-9)
    np.testing.assert_allclose(cut_column, column[1:], atol=1e-9)
    np.testing.assert_allclose(cut_w, w[1:], atol=1e-12)


def test_impossible_slices_are_refused() -> None:
    geometry = circular()
    with pytest.raises(GeometryError, match="no view is left"):
        geometry[4:]
    for rows in (slice(5, 5), slice(0, 10, 2), slice(40, 50), 3):
        with pytest.raises(GeometryError, match="detector rows"):
            geometry[:, rows]


# --- ASTRA -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GEOMETRIES)
def test_vectors_go_to_astra_and_back(name: str) -> None:
    geometry = GEOMETRIES[name]
    there = geometry.to_astra()
    assert there["type"] == "cone_vec"
    assert there["Vectors"].shape == (len(geometry), 12)
    back = ScanGeometry.from_astra(there)
    for key, array in vectors(geometry).items():
        assert np.array_equal(getattr(back, key), array)
    np.testing.assert_allclose(back.angles_rad, geometry.angles_rad, atol=1e-9)
    assert (back.orbit is None) == (geometry.orbit is None)
    if geometry.orbit is not None:
        assert back.orbit.principal_point_px == pytest.approx(geometry.orbit.principal_point_px, abs=1e-6)
        assert back.orbit.source_to_detector_mm == pytest.approx(geometry.orbit.source_to_detector_mm)


@settings(max_examples=50)
@given(scans)
def test_the_orbit_is_recognized_in_vectors(geometry: ScanGeometry) -> None:
    back = ScanGeometry.from_astra(geometry.to_astra())
    assert back.orbit is not None
    assert back.orbit.principal_point_px == pytest.approx(geometry.orbit.principal_point_px, abs=1e-6)


def test_astras_cone_is_a_circular_orbit() -> None:
    cone = {
        "type": "cone",
        "DetectorRowCount": 40,
        "DetectorColCount": 50,
        "DetectorSpacingX": 0.12,
        "DetectorSpacingY": 0.11,
        "DistanceOriginSource": 200.0,
        "DistanceOriginDetector": 50.0,
        "ProjectionAngles": np.array([0.1, 0.7, 2.0, 4.5]),
    }
    assert ScanGeometry.from_astra(cone) == circular(principal_point_px=None)
    with pytest.raises(GeometryError, match="'parallel3d'"):
        ScanGeometry.from_astra({"type": "parallel3d"})
    with pytest.raises(GeometryError, match=r"shape \(n_views, 12\), got \(2, 6\)"):
        ScanGeometry.from_astra({**cone, "type": "cone_vec", "Vectors": np.zeros((2, 6))})


@pytest.mark.parametrize("change", ["source", "detector along", "detector across", "column step", "row step", "flip"])
def test_what_is_not_a_circular_orbit_is_not_taken_for_one(change: str) -> None:
    parts = vectors(circular())
    assert ScanGeometry(detector_shape=(40, 50), **parts).orbit is not None
    if change == "source":
        parts["source_mm"][2] *= 1 + 1e-6
    elif change == "detector along":
        parts["detector_center_mm"][1] *= 1.001
    elif change == "detector across":
        parts["detector_center_mm"][1] += 0.01 * parts["u_mm"][1]
    elif change == "column step":
        parts["u_mm"][3] *= 1 + 1e-6
    elif change == "row step":
        parts["v_mm"][3, 0] = 1e-6
    else:
        parts["v_mm"] *= -1
    assert ScanGeometry(detector_shape=(40, 50), **parts).orbit is None


def test_a_far_source_does_not_hide_a_moving_detector() -> None:
    geometry = ScanGeometry.parallel(detector_shape=(4, 1000), pixel_pitch_mm=(0.1, 0.1), angles_rad=[0.0, 1.0, 2.0])
    parts = vectors(geometry)
    assert ScanGeometry(detector_shape=(4, 1000), **parts).orbit is not None
    parts["detector_center_mm"][1] += 0.01 * parts["u_mm"][1]
    assert ScanGeometry(detector_shape=(4, 1000), **parts).orbit is None


# --- rows for a grid ---------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    scans,
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.floats(0.01, 3), st.floats(0.01, 3), st.floats(0.01, 3)),
    st.tuples(st.floats(-8, 8), st.floats(-4, 4), st.floats(-4, 4)),
)
def test_rows_cover_what_every_voxel_reads(geometry: ScanGeometry, shape: Any, voxel: Any, center: Any) -> None:
    grid = VolumeGrid(shape, voxel, center)
    try:
        first, stop = geometry.rows_for(grid)
    except GeometryError as error:
        assert "misses the grid" in str(error) or "reaches the source" in str(error)
        return
    z, y, x = np.meshgrid(*(grid.axis_mm(axis) for axis in ("z", "y", "x")), indexing="ij")
    row, _, _ = geometry.project(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1))
    rows = geometry.detector_shape[0]
    assert 0 <= first < stop <= rows
    below = np.floor(row)
    for needed in (below[(below >= 0) & (below < rows)], below[(below >= -1) & (below < rows - 1)] + 1):
        if needed.size:
            assert first <= needed.min() and needed.max() < stop


def test_rows_of_a_slab_are_few() -> None:
    geometry = circular(detector_shape=(400, 50), principal_point_px=None)
    grid = VolumeGrid((240, 40, 40), (0.088, 0.088, 0.088))
    bands = [geometry.rows_for(slab.grid) for slab in grid.slabs(24)]
    assert all(stop - first < 45 for first, stop in bands)
    assert [first for first, _ in bands] == sorted(first for first, _ in bands)


def test_grids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"the cone misses the grid: it projects to rows \d"):
        circular().rows_for(VolumeGrid((2, 2, 2), (1, 1, 1), (50.0, 0.0, 0.0)))
    with pytest.raises(GeometryError, match=r"behind the source of view 0; the grid's radius is 424\.\d+ mm"):
        circular(angles_rad=[0.0]).rows_for(VolumeGrid((1, 601, 601), (1, 1, 1)))


# --- validation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_to_isocenter_mm": 0}, r"source_to_isocenter_mm must be positive and finite \(mm\), got 0\.0"),
        ({"source_to_isocenter_mm": "far"}, "source_to_isocenter_mm must be a length in mm, got 'far'"),
        ({"source_to_detector_mm": math.nan}, "source_to_detector_mm must be positive and finite"),
        ({"source_to_detector_mm": 150.0}, r"at least source_to_isocenter_mm = 200\.0 mm, got 150\.0 mm"),
        ({"detector_shape": (0, 5)}, r"at least 1 x 1 pixel, got \(0, 5\)"),
        ({"detector_shape": (4.5, 5)}, r"two integers \(rows, cols\), got \(4\.5, 5\)"),
        ({"detector_shape": 5}, "two integers"),
        ({"pixel_pitch_mm": 0.1}, r"pixel_pitch_mm must be two numbers \(v, u\) in mm, got 0\.1"),
        ({"pixel_pitch_mm": (0.1, -0.1)}, r"pixel_pitch_mm must be positive and finite \(mm\), got -0\.1"),
        ({"principal_point_px": (1.0, math.inf)}, r"principal_point_px must be finite \(px\)"),
        ({"principal_point_px": (1.0,)}, "principal_point_px must be two numbers"),
        ({"angles_rad": []}, r"non-empty one-dimensional array, got shape \(0,\)"),
        ({"angles_rad": [[0.0, 1.0]]}, r"got shape \(1, 2\)"),
        ({"angles_rad": [0.0, math.nan, 1.0, math.nan]}, r"view 1 is nan \(2 such views\)"),
        ({"angles_rad": np.arange(0.0, 360.0)}, r"span 359, more than two turns \(4 pi\): are they degrees\?"),
    ],
)
def test_wrong_numbers_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        circular(**changes)


def test_wrong_vectors_are_named() -> None:
    parts = vectors(circular())

    def refuses(message: str, **changes: Any) -> None:
        with pytest.raises(GeometryError, match=message):
            ScanGeometry(**{"detector_shape": (40, 50), **parts, **changes})

    refuses(r"source_mm must have shape \(n_views, 3\), got \(4,\)", source_mm=np.zeros(4))
    refuses(r"u_mm must have shape \(4, 3\) \(views, xyz\), got \(3, 3\)", u_mm=parts["u_mm"][:3])
    refuses("one angle per view: expected 4, got 2", angles_rad=[0.0, 1.0])
    broken = parts["v_mm"].copy()
    broken[2, 1] = np.nan
    refuses(r"v_mm must be finite \(mm\), but view 2 is", v_mm=broken)
    refuses("view 0 lies in its detector plane, or u_mm and v_mm are parallel", v_mm=parts["u_mm"])
    with pytest.raises(GeometryError, match="kind must be one of circular, parallel, per_view, got 'spiral'"):
        ScanGeometry.from_dict({"kind": "spiral"})
    with pytest.raises(GeometryError, match=r"geometry of kind circular: .*'pitch'"):
        ScanGeometry.from_dict({**circular().to_dict(), "pitch": 3})
