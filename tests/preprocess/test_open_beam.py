from __future__ import annotations

import numpy as np
import pytest

from marspipe.errors import InputError
from marspipe.preprocess.logarithm import line_integrals, log_open_beam
from marspipe.preprocess.open_beam import OpenBeamGroup, OpenBeamSeries, line_integral_variance, transmission


def group(time_s: float, level: float, n: int = 10) -> OpenBeamGroup:
    return OpenBeamGroup(time_s, np.full((2, 3, 4), level, dtype=np.float32), n)


def test_linear_drift_is_followed_exactly() -> None:
    rng = np.random.default_rng(1)
    start, slope = rng.uniform(900, 1100, size=(2, 2, 5, 6))
    slope = 0.001 * slope
    series = OpenBeamSeries([OpenBeamGroup(t, (start + slope * t).astype(np.float32), 20) for t in (100.0, 0.0, 40.0)])
    for t in (0.0, 13.0, 40.0, 77.7, 100.0):
        found = series.at(t).counts
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, start + slope * t, rtol=3e-7)


def test_variance_of_the_interpolation() -> None:
    series = OpenBeamSeries([group(0, 1000, n=10), group(10, 800, n=40)])
    middle = series.at(5)
    assert middle.counts[0, 0, 0] == 900
    np.testing.assert_allclose(middle.variance, 0.25 * 1000 / 10 + 0.25 * 800 / 40, rtol=1e-6)
    np.testing.assert_allclose(series.at(0).variance, 100, rtol=1e-6)
    np.testing.assert_allclose(series.at(10).variance, 20, rtol=1e-6)


def test_extrapolation_is_refused_unless_asked_for() -> None:
    groups = [group(0, 1000), group(10, 800)]
    for t in (-0.1, 10.1):
        with pytest.raises(InputError, match="extrapolation is refused"):
            OpenBeamSeries(groups).at(t)
    nearest = OpenBeamSeries(groups, outside="nearest")
    assert nearest.at(-5).counts[0, 0, 0] == 1000
    assert nearest.at(50).counts[0, 0, 0] == 800
    with pytest.raises(InputError, match="finite"):
        nearest.at(float("nan"))


def test_a_single_group_holds_always_and_is_not_handed_out() -> None:
    only = group(5, 700)
    series = OpenBeamSeries([only])
    found = series.at(-1e6)
    assert (found.counts == 700).all()
    found.counts[...] = 0
    assert (series.at(5).counts == 700).all()


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="at least one group"):
        OpenBeamSeries([])
    with pytest.raises(InputError, match="same time, 3 s"):
        OpenBeamSeries([group(3, 1), group(3, 2)])
    with pytest.raises(InputError, match="differ in shape"):
        OpenBeamSeries([group(3, 1), OpenBeamGroup(4, np.ones((2, 2), dtype=np.float32), 1)])
    with pytest.raises(InputError, match="outside must be"):
        OpenBeamSeries([group(3, 1)], outside="guess")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="n_frames must be at least 1"):
        group(3, 1, n=0)
    with pytest.raises(InputError, match="time_s must be finite"):
        group(float("inf"), 1)
    with pytest.raises(InputError, match="mean must be finite"):
        group(3, float("nan"))


def test_transmission_of_a_linear_detector_is_exact() -> None:
    flat, dark = np.full((3, 4), 1100.0), np.full((3, 4), 100.0)
    counts = np.stack([dark + 0.25 * (flat - dark), flat])
    found = transmission(counts, flat, dark)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack([np.full((3, 4), 0.25), np.ones((3, 4))]))
    assert transmission(np.ones((1, 1)), np.zeros((1, 1))).tolist() == [[0.0]]
    with pytest.raises(InputError, match="open_beam must be finite"):
        transmission(counts, np.full((3, 4), np.inf))


@pytest.mark.parametrize(("level", "attenuation", "n"), [(400.0, 0.7, 4), (5000.0, 2.0, 16), (60.0, 0.3, 2)])
def test_predicted_variance_is_that_of_poisson_frames(level: float, attenuation: float, n: int) -> None:
    rng = np.random.default_rng(int(level))
    flats = rng.poisson(level, size=(n, 300, 300)).mean(axis=0)
    counts = rng.poisson(level * np.exp(-attenuation), size=(1, 300, 300)).astype(np.float32)
    p = line_integrals(counts.copy(), log_open_beam(flats, n))
    predicted = line_integral_variance(counts, flats, flats / n)
    assert predicted.dtype == np.float32
    assert float(p.var()) == pytest.approx(float(predicted.mean()), rel=0.04)


def test_variance_at_the_ends() -> None:
    assert line_integral_variance(np.array([[0.0, -4.0]]), np.full((1, 2), 100.0)).tolist() == [[2.0, 2.0]]
    assert np.isinf(line_integral_variance(np.ones((1, 1)), np.zeros((1, 1)))).all()
    with pytest.raises(InputError, match="must not be negative"):
        line_integral_variance(np.ones((1, 1)), np.ones((1, 1)), -1.0)
