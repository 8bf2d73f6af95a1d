from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import InputError
from marspipe.preprocess.pixel_statistics import PixelSums, excess_fano, fano_limits


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.data())
def test_sums_of_parts_are_those_of_the_whole(n: int, seed: int, data: st.DataObject) -> None:
    frames = np.random.default_rng(seed).integers(0, 4096, size=(n, 3, 4)).astype(np.uint16)
    cut = data.draw(st.integers(1, n - 1))
    whole = PixelSums.of(frames)
    for one, other in ((frames[:cut], frames[cut:]), (frames[cut:], frames[:cut])):
        merged = PixelSums.of(one) + PixelSums.of(other)
        assert merged.n == whole.n
        np.testing.assert_array_equal(merged.total, whole.total)
        np.testing.assert_array_equal(merged.squares, whole.squares)
    np.testing.assert_allclose(whole.mean, frames.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole.variance, frames.var(axis=0, ddof=1), rtol=1e-9, atol=1e-9)


def test_empty_is_neutral() -> None:
    sums = PixelSums.of(np.arange(12).reshape(2, 2, 3))
    merged = PixelSums.empty((2, 3)) + sums
    assert merged.n == 2
    np.testing.assert_array_equal(merged.squares, sums.squares)
    assert not PixelSums.empty((2, 3)).mean.any()


def test_equal_frames_have_no_variance() -> None:
    assert not PixelSums.of(np.full((7, 2, 2), 0.1)).variance.max() > 1e-15


def test_fano_of_poisson_is_one_and_the_tube_is_taken_out() -> None:
    rng = np.random.default_rng(1)
    n = 400
    flux = rng.normal(1, 0.1, size=(n, 1, 1))
    for factor in (1.0, flux):
        fano = excess_fano(PixelSums.of(rng.poisson(300 * factor * np.ones((n, 20, 20)))))
        assert abs(fano.mean() - 1) < 0.02
        assert fano.std() < 2 * np.sqrt(2 / (n - 1))


def test_pixels_with_few_counts_have_no_opinion() -> None:
    frames = np.zeros((10, 1, 3))
    frames[:, 0, 1] = 5
    frames[:, 0, 2] = 50
    assert np.isnan(excess_fano(PixelSums.of(frames))).tolist() == [[True, True, False]]
    assert np.isnan(excess_fano(PixelSums.of(np.zeros((3, 2, 2))))).all()


def test_limits_give_way_to_few_frames() -> None:
    assert fano_limits(1000) == (0.5, 2.0)
    low, high = fano_limits(10)
    assert 0 < low < 0.1 and high > 4
    assert fano_limits(7)[0] == 0.0
    for wrong in ({"n_frames": 1}, {"n_frames": 5, "low": 1.5}, {"n_frames": 5, "false_alarm": 0.0}):
        with pytest.raises(InputError):
            fano_limits(**wrong)


def test_what_does_not_fit_is_refused() -> None:
    sums = PixelSums.of(np.ones((1, 2, 2)))
    with pytest.raises(InputError, match="at least 2 frames, got 1"):
        _ = sums.variance
    with pytest.raises(InputError, match="differ in shape"):
        _ = sums + PixelSums.empty((3, 3))
    with pytest.raises(InputError, match="frame 1 has"):
        PixelSums.of([np.ones((2, 2)), np.ones((2, 3))])
    with pytest.raises(InputError, match="got none"):
        PixelSums.of([])
    with pytest.raises(InputError, match=r"total must be finite, but element \(0, 1\) is nan"):
        PixelSums.of(np.array([[[1.0, np.nan]]]))
    with pytest.raises(InputError, match="real numbers"):
        PixelSums.of(np.ones((1, 2, 2), dtype=complex))
    with pytest.raises(InputError, match="negative"):
        PixelSums(-1, np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(InputError, match="squares"):
        PixelSums(1, np.ones((2, 2)), np.ones((2, 3)))
