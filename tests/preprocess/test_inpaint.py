from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import InputError
from marspipe.preprocess.inpaint import FrameFiller, GapFiller, Inpainter, gap_pixels, inpaint


def ramp(rows: int, cols: int) -> np.ndarray:
    v, u = np.mgrid[0:rows, 0:cols]
    return (1 + 0.01 * v - 0.02 * u).astype(np.float32)


def test_a_chip_gap_is_bridged_exactly_on_a_ramp() -> None:
    truth = ramp(40, 60)
    mask = np.zeros(truth.shape, dtype=bool)
    mask[:, 28:33] = True  # between two chips
    mask[18:24, :] = True  # and across: where the gaps cross nothing is left and right
    damaged = np.where(mask, np.float32(np.nan), truth)
    before = damaged.copy()
    found = inpaint(damaged, mask)
    assert found.frames.dtype == np.float32
    np.testing.assert_allclose(found.frames, truth, atol=1e-6)
    assert found.filled_fraction == mask.mean()
    np.testing.assert_array_equal(damaged, before)


def test_the_shorter_line_is_taken() -> None:
    rng = np.random.default_rng(1)
    frame = rng.normal(size=(30, 12)).astype(np.float32)
    mask = np.zeros(frame.shape, dtype=bool)
    mask[:, 4:8] = True
    seen = np.where(mask, np.float32(9), frame)
    GapFiller(mask).fill(seen)
    for k in range(1, 5):
        np.testing.assert_allclose(seen[:, 3 + k], (frame[:, 3] * (5 - k) + frame[:, 8] * k) / 5, atol=1e-6)


def test_of_two_lines_the_shorter_one_is_taken_and_of_equal_ones_the_mean() -> None:
    v, u = np.mgrid[0:20, 0:20].astype(np.float32)
    frame = (u + 0.1 * v**2).astype(np.float32)  # straight along rows, bent along columns
    mask = np.zeros(frame.shape, dtype=bool)
    mask[4:14, 6:10] = True  # 10 rows, 4 columns
    seen = np.where(mask, np.float32(99), frame)
    GapFiller(mask).fill(seen)
    np.testing.assert_allclose(seen, frame, atol=1e-5)
    mask[:] = False
    mask[4:8, 6:10] = True
    seen = np.where(mask, np.float32(99), frame)
    GapFiller(mask).fill(seen)
    along_column = frame[3, 7] + (frame[8, 7] - frame[3, 7]) * 2 / 5
    assert seen[5, 7] == pytest.approx((frame[5, 7] + along_column) / 2, abs=1e-5)


def test_gaps_and_scattered_pixels_are_told_apart() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[:, 10:14] = True  # gap of four
    mask[:, 20] = True  # a dead column
    mask[3, 3] = mask[5:7, 5:7] = True
    gaps = gap_pixels(mask)
    assert gaps[:, 10:14].all()
    assert gaps.sum() == 80
    assert not gap_pixels(mask, gap_px=4).any()


def test_scattered_pixels_beside_a_gap_are_filled_first() -> None:
    truth = ramp(20, 30)
    mask = np.zeros(truth.shape, dtype=bool)
    mask[:, 10:15] = True
    mask[7, 9] = mask[12, 15] = True
    found = inpaint(np.where(mask, np.float32(1e6), truth), mask).frames
    np.testing.assert_allclose(found, truth, atol=0.04)
    np.testing.assert_array_equal(found[~mask], truth[~mask])


def test_a_gap_at_the_edge_takes_the_nearest() -> None:
    mask = np.zeros((10, 10), dtype=bool)
    mask[:, :5] = True
    frame = np.tile(np.arange(10, dtype=np.float32)[:, None], (1, 10))
    found = inpaint(np.where(mask, np.float32(-1), frame), mask).frames
    np.testing.assert_array_equal(found, frame)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 0.95))
def test_whatever_the_mask_good_pixels_stay_and_filled_ones_lie_between(
    rows: int, cols: int, seed: int, fraction: float
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, cols)) < fraction
    mask[rng.integers(rows), rng.integers(cols)] = False
    frames = rng.normal(size=(2, rows, cols)).astype(np.float32)
    found = inpaint(np.where(mask, np.float32(np.inf), frames), mask, radius_px=2, gap_px=1).frames
    np.testing.assert_array_equal(found[:, ~mask], frames[:, ~mask])
    for frame, good in zip(found, frames[:, ~mask], strict=True):
        assert frame.min() >= good.min() - 1e-6 and frame.max() <= good.max() + 1e-6


def test_clean_frames_are_unchanged_and_noise_of_many_frames_is_deterministic() -> None:
    frames = np.random.default_rng(1).normal(size=(3, 8, 9)).astype(np.float32)
    found = inpaint(frames, np.zeros((8, 9), dtype=bool))
    np.testing.assert_array_equal(found.frames, frames)
    assert found.frames is not frames and found.filled_fraction == 0
    mask = np.random.default_rng(2).random((8, 9)) < 0.4
    filler = FrameFiller(mask)
    for frame, expected in zip(frames, inpaint(frames, mask).frames, strict=True):
        alone = frame.copy()
        filler.fill(alone)
        np.testing.assert_array_equal(alone, expected)


def test_single_row_and_column() -> None:
    row = np.array([[0.0, 9, 9, 9, 4]], dtype=np.float32)
    mask = row == 9
    np.testing.assert_allclose(inpaint(row, mask, gap_px=1).frames, [[0, 1, 2, 3, 4]])
    np.testing.assert_allclose(inpaint(row.T, mask.T, gap_px=1).frames, [[0], [1], [2], [3], [4]])


def test_what_does_not_fit_is_refused() -> None:
    frame = np.ones((3, 4), dtype=np.float32)
    full = np.ones((3, 4), dtype=bool)
    for maker in (Inpainter, GapFiller, FrameFiller):
        with pytest.raises(InputError, match="all 12 pixels"):
            maker(full)
    frame[1, 2] = np.nan
    with pytest.raises(InputError, match=r"frames must be finite, but element \(1, 2\) is nan"):
        inpaint(frame, ~full)
    with pytest.raises(InputError, match="mask must be bool"):
        inpaint(np.ones((3, 4)), np.zeros((4, 3), dtype=bool))
