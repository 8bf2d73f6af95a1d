from __future__ import annotations

import numpy as np
import pytest

from marspipe.errors import InputError
from marspipe.preprocess.flux import (
    Region,
    correct_line_integrals,
    flux_from_air,
    flux_from_exposure,
    flux_from_monitor,
    scale_counts,
)
from marspipe.preprocess.logarithm import line_integrals, log_open_beam

AIR = Region(0, 20, 0, 4)


def test_exposure_and_monitor_are_ratios() -> None:
    np.testing.assert_allclose(flux_from_exposure([0.1, 0.3], 0.2), [0.5, 1.5], rtol=1e-15)
    assert float(flux_from_monitor(50, 100)) == 0.5
    with pytest.raises(InputError, match="exposure_s must be positive, but frame 1 has 0"):
        flux_from_exposure([1.0, 0.0], 1.0)
    with pytest.raises(InputError, match=r"monitor must be finite, but element \(1,\) is nan"):
        flux_from_monitor([1.0, np.nan], 1.0)
    with pytest.raises(InputError, match="open_beam_monitor must be positive"):
        flux_from_monitor([1.0], 0.0)


def test_air_strip_undoes_a_drifting_tube() -> None:
    rng = np.random.default_rng(1)
    flat = rng.uniform(4e5, 6e5, size=(20, 30))
    truth = np.zeros((20, 30))
    truth[:, 5:] = rng.uniform(0.5, 2, size=(20, 25))
    flux = np.array([0.9, 1.0, 1.2])
    frames = rng.poisson(flux[:, None, None] * flat * np.exp(-truth)).astype(np.float32)
    found = flux_from_air(frames, flat, AIR)
    np.testing.assert_allclose(found, flux, atol=4 / np.sqrt(flat[:, :4].sum()))
    p = correct_line_integrals(line_integrals(frames.copy(), log_open_beam(flat, 10**6)), found)
    assert p.dtype == np.float32
    noise = np.sqrt(1 / frames)
    assert np.abs((p - truth) / noise).max() < 6
    # where counts are many, scaling them is the same
    scaled = line_integrals(scale_counts(frames, found), log_open_beam(flat, 10**6))
    np.testing.assert_allclose(scaled, p, atol=1e-4)


def test_masked_pixels_do_not_vote() -> None:
    flat = np.full((20, 30), 100.0)
    frame = flat * 0.5
    mask = np.zeros(flat.shape, dtype=bool)
    mask[3, 2] = True
    frame[3, 2] = np.nan
    assert float(flux_from_air(frame, flat, AIR, mask)) == pytest.approx(0.5, rel=1e-12)
    with pytest.raises(InputError, match="frames must be finite"):
        flux_from_air(frame, flat, AIR)
    with pytest.raises(InputError, match="no good pixel"):
        flux_from_air(frame, flat, AIR, np.ones(flat.shape, dtype=bool))


def test_no_light_and_no_place_are_refused() -> None:
    flat = np.full((20, 30), 100.0)
    with pytest.raises(InputError, match="open beam has no counts"):
        flux_from_air(flat, np.zeros_like(flat), AIR)
    with pytest.raises(InputError, match="frame 1 has 0"):
        flux_from_air(np.stack([flat, 0 * flat]), flat, AIR)
    for region in (Region(0, 21, 0, 4), Region(3, 3, 0, 4), Region(-1, 3, 0, 4)):
        with pytest.raises(InputError, match="not on a detector of 20 x 30"):
            flux_from_air(flat, flat, region)
    with pytest.raises(InputError, match="shape of a frame"):
        flux_from_air(flat, flat[:, :5], AIR)
    with pytest.raises(InputError, match="mask must be bool"):
        flux_from_air(flat, flat, AIR, np.zeros((2, 2), dtype=bool))


def test_unit_flux_changes_nothing_and_shapes_are_checked() -> None:
    frames = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    before = frames.copy()
    for function in (scale_counts, correct_line_integrals):
        np.testing.assert_array_equal(function(frames, 1.0), before)
        np.testing.assert_array_equal(function(frames, [1.0, 1.0]), before)
        with pytest.raises(InputError, match="one per frame"):
            function(frames, [1.0, 1.0, 1.0])
        with pytest.raises(InputError, match="flux must be positive"):
            function(frames, [1.0, 0.0])
    np.testing.assert_array_equal(frames, before)
    assert scale_counts(np.ones((1, 1)), 4.0).tolist() == [[0.25]]
