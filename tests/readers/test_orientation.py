"""The camera's mounting: every orientation puts an asymmetric frame where the manifest says."""

from __future__ import annotations

import io
from itertools import product

import pytest

from marspipe.readers import READERS, orient, oriented_shape
from marspipe.readers.manifest import Orientation
from tests.readers.merlin_files import asymmetric, mib


def test_default_is_the_frame_itself() -> None:
    frame = asymmetric(3, 5)
    assert orient(frame, Orientation()) is frame


@pytest.mark.parametrize(("transpose", "flip_rows", "flip_columns"), list(product([False, True], repeat=3)))
def test_pixel_by_pixel(transpose: bool, flip_rows: bool, flip_columns: bool) -> None:
    orientation = Orientation(transpose=transpose, flip_rows=flip_rows, flip_columns=flip_columns)
    frame = asymmetric(3, 5)
    turned = orient(frame, orientation)
    rows, cols = oriented_shape(3, 5, orientation)
    assert turned.shape == (rows, cols) == ((5, 3) if transpose else (3, 5))
    assert turned.flags.c_contiguous
    for v in range(rows):
        for u in range(cols):
            a = rows - 1 - v if flip_rows else v
            b = cols - 1 - u if flip_columns else u
            assert turned[v, u] == (frame[b, a] if transpose else frame[a, b])


def test_the_eight_orientations_differ() -> None:
    frames = [
        orient(asymmetric(4, 4), Orientation(transpose=t, flip_rows=r, flip_columns=c)).tobytes()
        for t, r, c in product([False, True], repeat=3)
    ]
    assert len(set(frames)) == 8


def test_a_quarter_turn_of_a_camera() -> None:
    """A camera turned by 90 degrees from u towards v: its columns run along +v, its rows along -u."""
    file = io.BytesIO(mib(exposures=1, shape=(4, 6)))
    (entry,) = READERS["merlin"].index(file, "x.mib")
    stored = READERS["merlin"].read(file, entry)
    seen = orient(stored, Orientation(transpose=True, flip_columns=True))
    for row in range(4):
        for column in range(6):
            v, u = column, 3 - row
            assert seen[v, u] == stored[row, column]
