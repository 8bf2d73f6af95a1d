from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marspipe.errors import GeometryError
from marspipe.scan.grid import VolumeGrid

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
voxels = st.tuples(st.floats(1e-3, 10), st.floats(1e-3, 10), st.floats(1e-3, 10))
centers = st.tuples(st.floats(-100, 100), st.floats(-100, 100), st.floats(-100, 100))
grids = st.builds(VolumeGrid, sizes, voxels, centers)


@st.composite
def windows(draw: st.DrawFn) -> tuple[VolumeGrid, tuple[slice, slice, slice]]:
    grid = draw(grids)
    cut = []
    for n in grid.shape:
        first = draw(st.integers(0, n - 1))
        cut.append(slice(first, draw(st.integers(first + 1, n))))
    return grid, (cut[0], cut[1], cut[2])


def test_coordinates_are_voxel_centers_around_the_center() -> None:
    grid = VolumeGrid((2, 3, 4), (0.5, 1.0, 2.0), (10.0, 0.0, -1.0))
    assert grid.axis_mm("z").tolist() == [9.75, 10.25]
    assert grid.axis_mm("y").tolist() == [-1.0, 0.0, 1.0]
    assert grid.axis_mm("x").tolist() == [-4.0, -2.0, 0.0, 2.0]
    assert grid.origin_mm() == (9.75, -1.0, -4.0)
    assert grid.n_voxels == 24
    assert grid.nbytes == 96
    assert grid.radius_mm() == pytest.approx(math.hypot(4, 1))
    corners = grid.corners_mm()
    assert corners.shape == (8, 3)
    assert corners.min(axis=0).tolist() == [-4.0, -1.0, 9.75]
    assert corners.max(axis=0).tolist() == [2.0, 1.0, 10.25]


@given(windows())
def test_a_window_has_the_very_coordinates_of_the_crop(case: Any) -> None:
    grid, cut = case
    window = grid.window(*cut)
    for axis, part in zip("zyx", cut, strict=True):
        assert np.array_equal(window.axis_mm(axis), grid.axis_mm(axis)[part])
    assert window.lattice_shape == grid.lattice_shape
    assert window.origin_mm() == grid.origin_mm()


@given(windows(), st.data())
def test_a_window_of_a_window_is_a_window(case: Any, data: st.DataObject) -> None:
    grid, cut = case
    first = data.draw(st.integers(0, cut[0].stop - cut[0].start - 1))
    inner = grid.window(*cut).window(z=slice(first, None))
    assert inner == grid.window(slice(cut[0].start + first, cut[0].stop), cut[1], cut[2])


@given(grids, st.integers(1, 50))
def test_slabs_partition_the_grid(grid: VolumeGrid, thickness: int) -> None:
    slabs = list(grid.slabs(thickness))
    assert [slab.index for slab in slabs] == list(range(len(slabs)))
    assert np.array_equal(np.concatenate([slab.grid.axis_mm("z") for slab in slabs]), grid.axis_mm("z"))
    assert sum(slab.n_slices for slab in slabs) == grid.shape[0]
    assert all(slab.n_slices == thickness for slab in slabs[:-1])
    assert [slab.z_first for slab in slabs] == list(range(0, grid.shape[0], thickness))
    assert all(slab.grid.shape[1:] == grid.shape[1:] for slab in slabs)


def test_slabs_of_a_window_count_in_the_lattice() -> None:
    window = VolumeGrid((20, 4, 4), (1.0, 1.0, 1.0)).window(z=slice(5, 15))
    assert [slab.z_first for slab in window.slabs(4)] == [5, 9, 13]


@given(windows())
def test_repr_pickle_and_dict_restore_the_value(case: Any) -> None:
    grid, cut = case
    for value in (grid, grid.window(*cut)):
        assert eval(repr(value)) == value
        assert pickle.loads(pickle.dumps(value)) == value
        assert VolumeGrid.from_dict(json.loads(json.dumps(value.to_dict()))) == value
        assert hash(pickle.loads(pickle.dumps(value))) == hash(value)


def test_sequences_and_numpy_numbers_become_plain_tuples() -> None:
    grid = VolumeGrid(np.array([2, 3, 4]), [1, 1, 1], np.zeros(3))  # type: ignore[arg-type]
    assert grid == VolumeGrid((2, 3, 4), (1.0, 1.0, 1.0))
    assert repr(grid) == "VolumeGrid(shape=(2, 3, 4), voxel_mm=(1.0, 1.0, 1.0), center_mm=(0.0, 0.0, 0.0))"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (0, 3, 4)}, r"shape must be at least 1 voxel along each axis, got \(0, 3, 4\)"),
        ({"shape": (2.5, 3, 4)}, r"shape must be three int numbers \(z, y, x\), got \(2\.5, 3, 4\)"),
        ({"shape": (3, 4)}, r"shape must be three numbers \(z, y, x\), got \(3, 4\)"),
        ({"voxel_mm": 0.5}, r"voxel_mm must be three numbers \(z, y, x\), got 0\.5"),
        ({"voxel_mm": (0.5, 0.0, 0.5)}, r"voxel_mm must be positive and finite \(mm\)"),
        ({"voxel_mm": (0.5, "wide", 0.5)}, "voxel_mm must be three float numbers"),
        ({"center_mm": (0, math.nan, 0)}, r"center_mm must be finite \(mm\)"),
        ({"start": (0, 0, 1)}, r"leaves its lattice along x: voxels 1\.\.4 of 4"),
        ({"start": (0, -1, 0), "lattice_shape": (9, 9, 9)}, r"leaves its lattice along y: voxels -1\.\.1 of 9"),
    ],
)
def test_wrong_numbers_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        VolumeGrid(**{"shape": (2, 3, 4), "voxel_mm": (0.5, 0.5, 0.5), **arguments})


def test_empty_windows_and_slabs_are_refused() -> None:
    grid = VolumeGrid((4, 4, 4), (1.0, 1.0, 1.0))
    with pytest.raises(GeometryError, match="window along y must be a non-empty slice with step 1"):
        grid.window(y=slice(4, 8))
    with pytest.raises(GeometryError, match="window along z"):
        grid.window(z=slice(0, 4, 2))
    with pytest.raises(GeometryError, match="slab thickness must be at least 1 slice, got 0"):
        list(grid.slabs(0))
