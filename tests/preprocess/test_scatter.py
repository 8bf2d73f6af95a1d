from __future__ import annotations

import numpy as np
import pytest

from marspipe.errors import InputError
from marspipe.preprocess.counts import fraction_without_counts
from marspipe.preprocess.flux import Region
from marspipe.preprocess.scatter import scatter_in_shadow, subtract_scatter

SHADOW = Region(0, 10, 0, 5)


def test_scatter_measured_in_the_shadow_is_removed() -> None:
    rng = np.random.default_rng(1)
    primary = rng.uniform(100, 200, size=(2, 10, 20))
    primary[:, :, :5] = 0
    level = np.array([8.0, 3.0])
    found = scatter_in_shadow(primary + level[:, None, None], SHADOW)
    np.testing.assert_allclose(found, level, rtol=1e-6)
    clean = subtract_scatter(primary + level[:, None, None], found)
    assert clean.dtype == np.float32
    np.testing.assert_allclose(clean, primary, atol=2e-5)


def test_no_scatter_changes_nothing_and_noise_stays_symmetric() -> None:
    counts = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    before = counts.copy()
    np.testing.assert_array_equal(subtract_scatter(counts, 0.0), before)
    assert subtract_scatter(counts, [4.0, 0.0]).min() == -4
    np.testing.assert_array_equal(counts, before)


def test_masked_shadow_pixels_do_not_count() -> None:
    frame = np.full((10, 20), 2.0)
    frame[1, 1] = np.nan
    mask = np.isnan(frame)
    assert float(scatter_in_shadow(frame, SHADOW, mask)) == 2.0
    with pytest.raises(InputError, match="no good pixel in the shadow"):
        scatter_in_shadow(frame, SHADOW, np.ones_like(mask))
    with pytest.raises(InputError, match=r"frames must be finite, but element \(1, 1\)"):
        scatter_in_shadow(frame, SHADOW)


def test_wrong_offsets_are_refused() -> None:
    counts = np.zeros((2, 2, 3))
    with pytest.raises(InputError, match="not be negative"):
        subtract_scatter(counts, -1.0)
    with pytest.raises(InputError, match="one per image"):
        subtract_scatter(counts, [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="offsets must be finite"):
        subtract_scatter(counts, [1.0, np.nan])
    with pytest.raises(InputError, match="at least 3 axes"):
        subtract_scatter(np.zeros((2, 3)), 1.0)


def test_fraction_without_counts_is_per_bin() -> None:
    counts = np.array([[[0, 1], [-2, 3]], [[1, 1], [1, 1]]], dtype=np.float32)
    assert fraction_without_counts(counts).tolist() == [0.5, 0.0]
