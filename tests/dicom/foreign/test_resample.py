"""Interpolation onto a regular grid: exact where values change linearly, and known to be empty elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.dicom.foreign.resample import even_slices, onto_grid, world_axes, world_grid
from marspipe.errors import InputError
from marspipe.scan.grid import VolumeGrid


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.5, 8.0), min_size=1, max_size=9), st.floats(-100, 100), st.floats(-30, 30))
def test_even_slices_of_a_ramp_are_the_ramp(gaps: list[float], offset: float, slope: float) -> None:
    distances = np.concatenate([[0.0], np.cumsum(gaps)])
    ramp = np.broadcast_to((offset + slope * distances)[:, None, None], (len(distances), 2, 3)).astype(np.float32)
    even, spacing = even_slices(ramp, distances, 1e-9)
    at = np.arange(len(even)) * spacing
    assert distances[-1] - spacing < at[-1] <= distances[-1] + 1e-6
    scale = 1 + abs(offset) + abs(slope) * distances[-1]
    np.testing.assert_allclose(even[:, 1, 2], offset + slope * at, atol=1e-6 * scale)


def test_slices_that_lie_right_are_kept_to_the_bit(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(5, 3, 4)).astype(np.float32)
    even, spacing = even_slices(stack[[0, 1, 3, 4]], np.array([0.0, 5.0, 15.0, 20.0]), 0.1)
    assert spacing == 5.0
    np.testing.assert_array_equal(even[[0, 1, 3, 4]], stack[[0, 1, 3, 4]])
    np.testing.assert_allclose(even[2], 0.5 * (stack[1] + stack[3]), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.permutations([0, 1, 2]),
    st.tuples(st.sampled_from([-1, 1]), st.sampled_from([-1, 1]), st.sampled_from([-1, 1])),
    st.lists(st.floats(-0.4, 0.4), min_size=9, max_size=9),
    st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2)),
)
def test_a_linear_field_on_any_lattice_is_exact_on_the_grid(
    order: list[int], signs: tuple[int, int, int], lean: list[float], slopes: tuple[float, float, float]
) -> None:
    steps = np.zeros((3, 3))
    steps[order, [0, 1, 2]] = np.array([2.0, 0.7, 0.5]) * signs
    steps += np.array(lean).reshape(3, 3) * 0.4
    shape, origin = (5, 6, 7), np.array([3.0, -20.0, 11.0])
    places = np.moveaxis(np.indices(shape), 0, -1) @ steps + origin
    stack = (10 + places @ np.array(slopes)).astype(np.float32)
    grid = world_grid(shape, origin, steps)
    assert world_axes(steps) == tuple(order)
    values = onto_grid(stack, origin, steps, grid)
    z, y, x = np.meshgrid(*(grid.axis_mm(a) for a in "zyx"), indexing="ij")
    expected = 10 + np.stack([z, y, x], axis=-1) @ np.array(slopes)
    inside = np.isfinite(values)
    assert inside.any()
    # Within 1e-4 of a voxel a place is taken for the lattice point beside it; values are float32.
    bound = 2e-5 + 1e-4 * np.abs(steps @ np.array(slopes)).sum()
    np.testing.assert_allclose(values[inside], expected[inside], rtol=0, atol=bound)
    index = (np.stack([z, y, x], axis=-1) - origin) @ np.linalg.inv(steps)
    truly = ((index >= 0) & (index <= np.array(shape) - 1)).all(axis=-1)
    assert inside[truly].all()


def test_empty_voxels_stay_empty_and_do_not_spread(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(4, 5, 6)).astype(np.float32)
    stack[1, 2, 3] = np.nan
    steps, origin = np.diag([2.0, 1.0, 1.0]), np.zeros(3)
    grid = VolumeGrid((4, 5, 6), (2.0, 1.0, 1.0), (3.0, 2.0, 2.5))
    np.testing.assert_allclose(onto_grid(stack, origin, steps, grid), stack, rtol=1e-6)
    between = onto_grid(stack, origin, steps, VolumeGrid((3, 4, 5), (2.0, 1.0, 1.0), (3.0, 2.0, 2.5)))
    empty = np.zeros((3, 4, 5), dtype=bool)
    empty[0:2, 1:3, 2:4] = True  # all of which the empty voxel is a corner
    np.testing.assert_array_equal(np.isnan(between), empty)
    corners = np.lib.stride_tricks.sliding_window_view(stack, (2, 2, 2)).mean(axis=(3, 4, 5))
    np.testing.assert_allclose(between, corners, atol=1e-6)


def test_a_plane_makes_no_volume() -> None:

    with pytest.raises(InputError, match="within their own plane"):
        world_axes(np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
