from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import lambertw

from marspipe.errors import InputError
from marspipe.preprocess.dead_time import DeadTimeModel, correct_dead_time

MODELS: tuple[DeadTimeModel, ...] = ("paralyzable", "non-paralyzable")


def lose(true: np.ndarray, exposure_s: float, tau_s: float | np.ndarray, model: str) -> np.ndarray:
    load = true * tau_s / exposure_s
    return true * np.exp(-load) if model == "paralyzable" else true / (1 + load)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(MODELS),
    st.floats(1e-3, 10),
    st.floats(1e-8, 1e-5),
    st.integers(0, 2**32 - 1),
)
def test_correction_undoes_the_loss(model: DeadTimeModel, exposure: float, tau: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # loads n tau up to 0.9 of the branch: closer to it float32 counts do not determine the rate
    true = rng.uniform(0, 0.9, size=(2, 5, 7)) * exposure / tau
    found = correct_dead_time(lose(true, exposure, tau, model), exposure, tau, model)
    assert found.counts.dtype == np.float32
    assert not found.beyond.any()
    np.testing.assert_allclose(found.counts, true, rtol=2e-6)


def test_every_pixel_its_own_dead_time() -> None:
    tau = np.linspace(0, 2e-6, 12).reshape(3, 4)
    true = np.full((5, 3, 4), 1e5)
    for model in MODELS:
        found = correct_dead_time(lose(true, 0.5, tau, model), 0.5, tau, model)
        np.testing.assert_allclose(found.counts, true, rtol=1e-6)


def test_agrees_with_lambert_w_up_to_the_branch_point() -> None:
    load = np.concatenate([np.geomspace(1e-12, 0.3, 400), np.linspace(0.3, 0.367879, 400)])
    counts = (load * 1e6).astype(np.float32)[None]
    found = correct_dead_time(counts, 1.0, 1e-6).counts
    expected = -lambertw(-counts.astype(np.float64) * 1e-6).real * 1e6
    np.testing.assert_allclose(found, expected, rtol=1e-7 * 2)


def test_poisson_losses_are_undone_on_average() -> None:
    # A paralyzable pixel by its photons: each one that follows the last within tau is lost.
    rng = np.random.default_rng(7)
    rate, tau, exposure = 4e5, 1e-6, 2.0
    times = np.sort(rng.uniform(0, exposure, rng.poisson(rate * exposure)))
    seen = 1 + int((np.diff(times) > tau).sum())
    corrected = float(correct_dead_time(np.array([[seen]]), exposure, tau).counts[0, 0])
    assert seen < 0.7 * rate * exposure
    assert abs(corrected - rate * exposure) < 5 * math.sqrt(rate * exposure) / (1 - rate * tau)


@pytest.mark.parametrize("model", MODELS)
def test_without_dead_time_nothing_changes(model: DeadTimeModel) -> None:
    counts = np.array([[0, 1, 65535]], dtype=np.uint16)
    before = counts.copy()
    found = correct_dead_time(counts, 1.0, 0.0, model)
    assert found.counts.tolist() == [[0.0, 1.0, 65535.0]]
    assert not found.beyond.any()
    np.testing.assert_array_equal(counts, before)
    exact = np.array([[3.0, -2.0]], dtype=np.float32)
    result = correct_dead_time(exact, 1.0, 0.0, model).counts
    assert result.tolist() == [[3.0, -2.0]] and result is not exact


def test_beyond_the_model_is_flagged_and_finite() -> None:
    counts = np.array([[1e5, 1 / math.e * 1e6 + 1, 1e6, 1e12]], dtype=np.float32)
    found = correct_dead_time(counts, 1.0, 1e-6)
    assert found.beyond.tolist() == [[False, True, True, True]]
    assert found.counts[0, 1:].tolist() == [1e6, 1e6, 1e6]
    found = correct_dead_time(np.array([[8.9e5, 9.1e5, 2e6]]), 1.0, 1e-6, "non-paralyzable")
    assert found.beyond.tolist() == [[False, True, True]]
    np.testing.assert_allclose(found.counts[0, 1:], 9e6, rtol=1e-6)
    assert found.counts[0, 0] < 9e6


def test_more_measured_counts_never_mean_fewer_true_ones() -> None:
    counts = np.linspace(-5, 5e5, 20001, dtype=np.float32)[None]
    for model in MODELS:
        assert (np.diff(correct_dead_time(counts, 1.0, 1e-6, model).counts) >= 0).all()


def test_what_does_not_fit_is_refused() -> None:
    good = np.ones((2, 3))
    with pytest.raises(InputError, match=r"counts must be finite, but element \(1, 2\) is nan"):
        correct_dead_time(np.where(np.arange(6).reshape(2, 3) == 5, np.nan, 1), 1.0, 1e-6)
    with pytest.raises(InputError, match="exposure_s must be positive"):
        correct_dead_time(good, 0.0, 1e-6)
    with pytest.raises(InputError, match="tau_s must not be negative"):
        correct_dead_time(good, 1.0, -1e-6)
    with pytest.raises(InputError, match=r"tau_s must be one number or an array of shape \(2, 3\)"):
        correct_dead_time(good, 1.0, np.zeros((3, 2)))
    with pytest.raises(InputError, match="model must be one of"):
        correct_dead_time(good, 1.0, 1e-6, "dead")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 2 axes"):
        correct_dead_time(np.ones(3), 1.0, 1e-6)
