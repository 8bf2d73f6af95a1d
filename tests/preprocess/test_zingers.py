from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from marspipe.errors import InputError
from marspipe.preprocess.zingers import remove_zingers_in_frames, remove_zingers_in_views

LEVELS = [0.02, 1.0, 40.0, 5000.0]


@pytest.mark.parametrize("level", LEVELS)
def test_poisson_noise_is_left_alone(level: float) -> None:
    counts = np.random.default_rng(1).poisson(level, size=(12, 80, 90)).astype(np.float32)
    for function in (remove_zingers_in_views, remove_zingers_in_frames):
        found = function(counts)
        assert not found.zingers.any()
        np.testing.assert_array_equal(found.counts, counts)
        assert found.counts is not counts


@pytest.mark.parametrize("level", LEVELS)
def test_zingers_are_found_and_replaced(level: float) -> None:
    rng = np.random.default_rng(2)
    clean = rng.poisson(level, size=(9, 40, 50)).astype(np.float32)
    places = np.zeros(clean.shape, dtype=bool)
    pixels = rng.choice(np.arange(1, 40 * 50 - 1), size=15, replace=False)  # two in one pixel would hide each other
    places[rng.integers(0, 9, 15), pixels // 50, pixels % 50] = True
    places[0, 0, 0] = places[8, 39, 49] = True  # first and last view, corners
    dirty = clean + np.where(places, 30 + 20 * np.sqrt(level) + 0.6 * level, 0).astype(np.float32)
    before = dirty.copy()
    for function in (remove_zingers_in_views, remove_zingers_in_frames):
        found = function(dirty)
        np.testing.assert_array_equal(found.zingers, places)
        np.testing.assert_array_equal(found.counts[~places], clean[~places])
        assert np.abs(found.counts[places] - level).max() < 5 * np.sqrt(level) + 3
        np.testing.assert_array_equal(dirty, before)


@pytest.mark.parametrize("size_px", [3, 5, 7])
def test_the_threshold_is_that_of_the_median_around(size_px: int) -> None:
    rng = np.random.default_rng(size_px)
    counts = rng.exponential(300, size=(30, 40)).astype(np.float32)  # many outliers, on purpose
    around = np.ones((size_px, size_px), dtype=bool)
    around[size_px // 2, size_px // 2] = False
    median = ndimage.median_filter(counts, footprint=around, mode="mirror")
    expected = counts > median + 4 * np.sqrt(median + 1 + (0.1 * median) ** 2)
    found = remove_zingers_in_frames(counts, sigmas=4, size_px=size_px, pixel_spread=0.1)
    assert expected.sum() > 30
    np.testing.assert_array_equal(found.zingers, expected)
    np.testing.assert_array_equal(found.counts, np.where(expected, median, counts))


def test_missing_counts_are_no_zingers() -> None:
    counts = np.full((5, 9, 9), 1000, dtype=np.uint16)
    counts[2, 4, 4] = 0
    for function in (remove_zingers_in_views, remove_zingers_in_frames):
        assert not function(counts).zingers.any()


def test_an_edge_that_moves_over_a_pixel_stays() -> None:
    # the sample's edge uncovers one column per view
    counts = np.full((12, 6, 20), 50.0)
    for view in range(12):
        counts[view, :, : view + 3] = 1000
    assert not remove_zingers_in_views(counts).zingers[1:-1].any()
    assert not remove_zingers_in_frames(counts, size_px=3).zingers.any()


def test_short_stacks_and_single_pixels() -> None:
    counts = np.array([5.0, 500.0, 5.0]).reshape(3, 1, 1)
    found = remove_zingers_in_views(counts, reach=4)
    assert found.zingers.ravel().tolist() == [False, True, False]
    assert found.counts.ravel().tolist() == [5, 5, 5]
    assert not remove_zingers_in_frames(np.array([[7.0]])).zingers.any()
    row = np.full((1, 9), 10.0)
    row[0, 4] = 400
    assert remove_zingers_in_frames(row).zingers.sum() == 1


def test_masked_pixels_are_neither_judged_nor_asked() -> None:
    counts = np.full((5, 12, 12), 100.0)
    mask = np.zeros((12, 12), dtype=bool)
    mask[2:9, 3:8] = True
    mask[5, 5] = False  # a good pixel in a dead block, with zeros all around
    counts[:, mask] = 0
    counts[2, 3, 3] = np.nan
    counts[3, 4, 4] = 1e6
    for function in (remove_zingers_in_views, remove_zingers_in_frames):
        found = function(counts, mask=mask)
        assert not found.zingers.any()
        np.testing.assert_array_equal(found.counts, counts.astype(np.float32))
        assert not function(np.zeros((3, 4, 4)), mask=np.ones((4, 4), dtype=bool)).zingers.any()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="at least 3 views"):
        remove_zingers_in_views(np.ones((2, 3, 3)))
    with pytest.raises(InputError, match=r"counts must be finite, but element \(0, 0, 1\)"):
        remove_zingers_in_views(np.array([[[1, np.inf]]] * 3))
    with pytest.raises(InputError, match="reach"):
        remove_zingers_in_views(np.ones((3, 3, 3)), reach=0)
    with pytest.raises(InputError, match="sigmas must be positive"):
        remove_zingers_in_frames(np.ones((3, 3)), sigmas=0)
    with pytest.raises(InputError, match="size_px must be an odd number"):
        remove_zingers_in_frames(np.ones((3, 3)), size_px=4)
    with pytest.raises(InputError, match="mask must be bool"):
        remove_zingers_in_frames(np.ones((3, 3)), mask=np.zeros((3, 3)))  # type: ignore[arg-type]
