from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.dicom.scale import STORED_MAX, hounsfield_scale, linear_scale
from marspipe.errors import InputError

attenuations = st.floats(min_value=-5.0, max_value=50.0, width=32)


@settings(deadline=None)
@given(st.lists(attenuations, min_size=2, max_size=30))
def test_attenuations_come_back_within_half_a_step(values: list[float]) -> None:
    pixels = np.array(values, dtype=np.float32)
    scale = linear_scale(float(pixels.min()), float(pixels.max()))
    stored, clipped = scale.store(pixels)
    assert clipped == 0
    assert len(scale.slope_text) <= 16
    assert len(scale.intercept_text) <= 16
    # What a reader does with the texts in the file.
    restored = stored * float(scale.slope_text) + float(scale.intercept_text)
    rounding = 4 * np.spacing(np.abs(pixels.astype(np.float64)).max() + scale.slope * STORED_MAX)
    assert np.abs(restored - pixels).max() <= 0.5 * scale.slope + rounding
    np.testing.assert_array_equal(restored, scale.restore(stored))


def test_the_whole_int16_range_is_used() -> None:
    scale = linear_scale(-0.01, 0.37)
    stored, _ = scale.store(np.array([-0.01, 0.18, 0.37]))
    assert stored.tolist() == [-STORED_MAX, 0, STORED_MAX]
    assert scale.slope == pytest.approx(0.38 / 65534, rel=1e-9)
    assert scale.rescale_type == "US"


def test_a_constant_volume_keeps_its_value() -> None:
    value = float(np.float32(0.0213))
    scale = linear_scale(value, value)
    stored, clipped = scale.store(np.full(4, value, np.float32))
    assert clipped == 0
    np.testing.assert_allclose(scale.restore(stored), value, rtol=1e-12)


def test_a_narrow_range_far_from_zero_is_not_clipped() -> None:
    low, high = 1.0, float(np.nextafter(np.float32(1), np.float32(2)))
    scale = linear_scale(low, high)
    stored, clipped = scale.store(np.array([low, high], np.float32))
    assert clipped == 0
    assert np.abs(scale.restore(stored) - [low, high]).max() <= 0.5 * scale.slope + 1e-15


def test_hounsfield_units() -> None:
    scale = hounsfield_scale(0.0206)
    values = np.array([0.0, 0.0206, 0.0309, 0.0206 * 1.0004])
    stored, clipped = scale.store(values)
    assert stored.tolist() == [-1000, 0, 500, 0]
    assert clipped == 0
    assert (scale.slope_text, scale.intercept_text, scale.rescale_type) == ("1", "0", "HU")
    assert scale.output(0.0309) == pytest.approx(500.0)


def test_hounsfield_units_beyond_int16_are_clipped_and_counted() -> None:
    stored, clipped = hounsfield_scale(0.02).store(np.array([[0.5, 2.0], [-9.0, 0.02]]))
    assert stored.tolist() == [[24000, 32767], [-32767, 0]]
    assert clipped == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="1 of 3 pixels"):
        linear_scale(0.0, 1.0).store(np.array([0.1, bad, 0.3]))


@pytest.mark.parametrize("limits", [(np.nan, 1.0), (0.0, np.inf), (1.0, 0.0)])
def test_a_range_that_is_none_is_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="finite range"):
        linear_scale(*limits)


@pytest.mark.parametrize("water", [0.0, -0.02, np.nan, np.inf])
def test_water_without_attenuation_is_refused(water: float) -> None:
    with pytest.raises(InputError, match="attenuation of water"):
        hounsfield_scale(water)
