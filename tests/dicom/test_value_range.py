from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.dicom.scale import linear_scale
from marspipe.dicom.value_range import MARGIN, TAIL, ValueHistogram, robust_range
from marspipe.errors import InputError

WATER_PER_MM, NOISE_PER_MM = 0.02, 1e-3


def histogram_of(pixels: np.ndarray, parts: int = 1) -> ValueHistogram:
    empty = ValueHistogram.empty(float(pixels.min()), float(pixels.max()))
    whole = empty
    for part in np.array_split(pixels, parts):
        whole = whole + empty.add(part)
    return whole


def noisy_water(outliers: list[float]) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.concatenate([rng.normal(WATER_PER_MM, NOISE_PER_MM, 1_000_000), outliers]).astype(np.float32)


def test_a_plain_volume_keeps_its_full_range() -> None:
    pixels = noisy_water([])
    assert robust_range(histogram_of(pixels)) == (float(pixels.min()), float(pixels.max()))


def test_what_many_voxels_have_is_no_outlier() -> None:
    pixels = noisy_water([0.4] * 100)  # a screw
    assert robust_range(histogram_of(pixels)) == (float(pixels.min()), float(pixels.max()))


def test_few_streaks_do_not_decide_the_range() -> None:
    pixels = noisy_water([5.0, -3.0, 0.9])
    low, high = robust_range(histogram_of(pixels))
    ends = np.quantile(pixels[:-3], [TAIL, 1 - TAIL])
    assert low < ends[0] < ends[1] < high
    # A cell's width beside the margin, at either end.
    assert high - low < (1 + 2 * MARGIN) * (ends[1] - ends[0] + 3 * 8.0 / 65536)
    scale = linear_scale(low, high, clips=True)
    stored, clipped = scale.store(pixels)
    assert clipped <= 2 * TAIL * pixels.size + 3
    assert scale.slope < 1e-3 * NOISE_PER_MM  # the full range would give a tenth of the noise
    assert linear_scale(-3.0, 5.0).slope > 0.1 * NOISE_PER_MM
    inside = (pixels >= low) & (pixels <= high)
    assert np.abs(scale.restore(stored) - pixels)[inside].max() <= 0.5 * scale.slope * (1 + 1e-6)


def test_the_full_range_costs_at_most_two_bits() -> None:
    pixels = noisy_water([])
    spread = float(np.ptp(np.quantile(pixels, [TAIL, 1 - TAIL])))
    for factor, kept in ((3.6, True), (4.8, False), (48.0, False)):
        more = np.append(pixels, np.float32(pixels.min() + factor * spread))
        low, high = robust_range(histogram_of(more))
        assert (high == float(more.max())) is kept
        assert high - low <= 4.0 * spread * 1.01


@settings(deadline=None)
@given(st.integers(1, 9))
def test_parts_add_up_to_the_same_histogram_in_any_order(parts: int) -> None:
    pixels = np.random.default_rng(parts).normal(size=500).astype(np.float32)
    whole, cut = histogram_of(pixels), histogram_of(pixels, parts)
    np.testing.assert_array_equal(whole.counts, cut.counts)
    assert cut.counts.sum() == pixels.size
    again = ValueHistogram.from_bytes(cut.to_bytes())
    assert (again.low, again.high) == (cut.low, cut.high)
    np.testing.assert_array_equal(again.counts, cut.counts)


def test_pixels_outside_the_field_of_view_do_not_count() -> None:
    pixels = np.array([[0.1, 0.2], [9.0, np.nan]])
    outside = np.array([[False, False], [True, True]])
    assert ValueHistogram.empty(0.0, 1.0).add(pixels, outside).counts.sum() == 2
    assert ValueHistogram.empty(0.0, 1.0).add(pixels, np.ones((2, 2), bool)).counts.sum() == 0


def test_a_constant_or_empty_volume_has_its_own_range() -> None:
    assert robust_range(ValueHistogram.empty(0.5, 0.5).add(np.full(7, 0.5))) == (0.5, 0.5)
    assert robust_range(ValueHistogram.empty(0.0, 2.0)) == (0.0, 2.0)


def test_wrong_histograms_are_refused() -> None:
    with pytest.raises(InputError, match="finite range"):
        ValueHistogram.empty(1.0, 0.0)
    with pytest.raises(InputError, match="outside the volume's statistics"):
        ValueHistogram.empty(0.0, 1.0).add(np.array([1.5]))
    with pytest.raises(InputError, match="outside the volume's statistics"):
        ValueHistogram.empty(0.0, 1.0).add(np.array([np.nan]))
    with pytest.raises(InputError, match="different ranges"):
        ValueHistogram.empty(0.0, 1.0) + ValueHistogram.empty(0.0, 2.0)
    for broken in (b"", b"short", ValueHistogram.empty(0.0, 1.0).to_bytes()[:-1]):
        with pytest.raises(InputError, match="not a histogram"):
            ValueHistogram.from_bytes(broken)
