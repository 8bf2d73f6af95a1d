from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest

from marspipe.dicom.placement import slice_placement
from marspipe.errors import GeometryError
from marspipe.scan.grid import VolumeGrid


@pytest.mark.parametrize(
    "grid",
    [
        VolumeGrid((4000, 3, 5), (0.055, 0.1, 0.2), (12.5, -3.0, 4.0)),
        VolumeGrid((4000, 30, 50), (1 / 12, 0.1 / 3, 0.07 / 3), (-100.0, 1 / 7, 900.0)),
        VolumeGrid((40, 30, 50), (1e-5 / 3, 1e-4 / 7, 2e-5), (0.0, 0.0, 0.0)),
        VolumeGrid((2, 2, 2), (2000.0, 1500.0, 1000.0), (1e5, -1e5, 0.0)),
    ],
)
def test_positions_are_decimal_uniform_and_true(grid: VolumeGrid) -> None:
    placement = slice_placement(grid)
    texts = [placement.position(z) for z in range(grid.shape[0])]
    assert max(len(t) for position in texts for t in position) <= 16
    z = [Decimal(position[2]) for position in texts]
    assert {b - a for a, b in pairwise(z)} == {Decimal(placement.slice_thickness())}
    dz, dy, dx = grid.voxel_mm
    np.testing.assert_allclose([float(v) for v in z], grid.axis_mm("z"), rtol=0, atol=1e-6 * dz)
    np.testing.assert_allclose([float(t) for t in texts[0][:2]], [grid.axis_mm("x")[0], grid.axis_mm("y")[0]], 1e-9)
    np.testing.assert_allclose([float(t) for t in placement.pixel_spacing()], [dy, dx], rtol=1e-7)


def test_a_window_keeps_the_positions_of_its_lattice() -> None:
    whole = VolumeGrid((90, 80, 70), (0.1 / 3, 0.07, 0.09), (1.0, 2.0, 3.0))
    window = whole.window(z=slice(31, 40), y=slice(5, 9), x=slice(60, 70))
    a, b = slice_placement(whole), slice_placement(window)
    for z in range(9):
        x, y, height = b.position(z)
        assert height == a.position(z + 31)[2]
        assert Decimal(x) == a.origin_mm[2] + 60 * a.voxel_mm[2]
        assert Decimal(y) == a.origin_mm[1] + 5 * a.voxel_mm[1]


def test_round_numbers_stay_round() -> None:
    placement = slice_placement(VolumeGrid((4, 4, 4), (0.1, 0.1, 0.1), (0.3, 0.0, 0.0)))
    assert placement.position(0) == ["-0.15", "-0.15", "0.15"]
    assert placement.position(3) == ["-0.15", "-0.15", "0.45"]


def test_voxels_too_small_for_their_position_are_refused() -> None:
    with pytest.raises(GeometryError, match="too small"):
        slice_placement(VolumeGrid((2, 2, 2), (1e-9, 1e-9, 1e-9), (1e6, 0.0, 0.0)))
    with pytest.raises(GeometryError, match="too far"):
        slice_placement(VolumeGrid((2, 2, 2), (1.0, 1.0, 1.0), (1e15, 0.0, 0.0)))
