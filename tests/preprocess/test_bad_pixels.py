from __future__ import annotations

import numpy as np
import pytest

from marspipe.errors import InputError
from marspipe.preprocess.bad_pixels import (
    PixelFlag,
    PixelLimits,
    bin_flags,
    count_flags,
    count_reasons,
    drift_flags,
    edge_flags,
    pixel_flags,
    saturated,
    unstable_flags,
)
from marspipe.preprocess.pixel_statistics import PixelSums
from marspipe.scan.energy import Counter, counter_bins


def poisson(mean: float, n: int, seed: int, shape: tuple[int, int] = (64, 80)) -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, size=(n, *shape)).astype(np.uint16)


def test_flags_name_every_reason() -> None:
    flat, dark = np.full((9, 9), 1000.0), np.zeros((9, 9))
    flat[0, 0], flat[1, 1], flat[2, 2], dark[3, 3] = 0, 9000, np.nan, 500
    dark[4, 4], flat[4, 4] = 450, 460  # noisy, and dead behind its noise
    flags = count_flags(flat, dark)
    expected = {
        (0, 0): ("dead",),
        (1, 1): ("hot",),
        (2, 2): ("not finite",),
        (3, 3): ("noisy",),
        (4, 4): ("dead", "noisy"),
    }
    assert {tuple(p): PixelFlag(int(flags[tuple(p)])).reasons for p in np.argwhere(flags).tolist()} == expected
    counted = count_reasons(flags)
    assert (counted["dead"], counted["hot"], counted["noisy"], counted["not finite"], counted["edge"]) == (
        2,
        1,
        2,
        1,
        0,
    )


def test_flags_are_stored_as_one_byte_with_fixed_values() -> None:
    values = {flag.name: int(flag) for flag in PixelFlag}
    assert values == {
        "DEAD": 1, "HOT": 2, "NOISY": 4, "UNSTABLE": 8, "DRIFTING": 16, "EDGE": 32, "SATURATED": 64, "NOT_FINITE": 128,
    }  # fmt: skip
    assert PixelFlag(0).reasons == ()
    assert PixelFlag(255).reasons[-1] == "not finite"


def test_a_dark_level_is_not_noise() -> None:
    # An integrating detector has an offset of the same order in every pixel.
    flat, dark = np.full((8, 8), 1000.0), np.full((8, 8), 300.0)
    assert not count_flags(flat, dark).any()
    flat[2, 2] = 350  # nearly dead
    assert np.argwhere(count_flags(flat, dark) == PixelFlag.DEAD).tolist() == [[2, 2]]


def test_a_dark_detector_is_all_dead() -> None:
    assert (count_flags(np.zeros((3, 4)), np.zeros((3, 4))) == PixelFlag.DEAD).all()
    assert (count_flags(np.full((1, 1), np.nan), np.zeros((1, 1))) == PixelFlag.NOT_FINITE).all()


@pytest.mark.parametrize("n", [2, 4, 8, 20, 200])
@pytest.mark.parametrize("mean", [3.0, 900.0])
def test_poisson_pixels_are_stable_however_few_frames(n: int, mean: float) -> None:
    assert not unstable_flags(PixelSums.of(poisson(mean, n, seed=n))).any()


def test_unstable_pixels_are_found_and_a_flickering_tube_is_not_their_fault() -> None:
    rng = np.random.default_rng(3)
    flux = rng.normal(1, 0.05, size=(60, 1, 1))
    frames = rng.poisson(2000 * flux * np.ones((60, 40, 40))).astype(np.float64)
    frames[:, 5, 6] = rng.normal(2000, 400, size=60)  # restless
    frames[:, 7, 8] = 2000  # stuck
    flags = unstable_flags(PixelSums.of(frames))
    assert {tuple(p) for p in np.argwhere(flags).tolist()} == {(5, 6), (7, 8)}
    assert (flags[flags > 0] == PixelFlag.UNSTABLE).all()


def test_one_frame_says_nothing_about_stability() -> None:
    assert not unstable_flags(PixelSums.of(poisson(100, 1, seed=1))).any()


def test_drift_is_relative_to_the_frame() -> None:
    before, after = poisson(5000, 16, seed=1), poisson(4000, 16, seed=2)  # the tube lost 20 %
    rng = np.random.default_rng(4)
    after[:, 9, 9] = rng.poisson(4400, size=16)
    after[:, 3, 70] = rng.poisson(3600, size=16)
    flags = drift_flags(PixelSums.of(before), PixelSums.of(after))
    assert {tuple(p) for p in np.argwhere(flags).tolist()} == {(9, 9), (3, 70)}
    none = drift_flags(PixelSums.of(before), PixelSums.of(after), PixelLimits(drift_fraction=0.2))
    assert not none.any()
    with pytest.raises(InputError, match="differ in shape"):
        drift_flags(PixelSums.of(before), PixelSums.of(after[:, :3]))


def test_edges_and_saturation() -> None:
    flags = edge_flags((4, 6), rows=(0, 3), cols=(2,))
    assert (flags == PixelFlag.EDGE).sum() == 2 * 6 + 2
    with pytest.raises(InputError, match="column 6 is not on a detector of 4 x 6"):
        edge_flags((4, 6), cols=(6,))
    assert saturated(np.array([4094, 4095], dtype=np.uint16), 12).tolist() == [False, True]
    with pytest.raises(InputError, match="counter_bits"):
        saturated(np.zeros(2), 0)


def test_everything_together_on_clean_and_damaged_frames() -> None:
    before, after, dark = poisson(500, 20, seed=1), poisson(500, 20, seed=2), poisson(0.001, 20, seed=3)
    sums = [PixelSums.of(f) for f in (before, after, dark)]
    assert not pixel_flags(sums[:2], sums[2], counter_bits=12).any()
    after[:, 1, 1], before[:, 2, 2], after[:, 2, 2], dark[:, 3, 3] = 900, 0, 0, 50
    before[:, 4, 4] = after[:, 4, 4] = 4095
    before, after = before.astype(np.float64), after.astype(np.float64)
    sums = [PixelSums.of(f) for f in (before, after, dark)]
    flags = pixel_flags(sums[:2], sums[2], edges=edge_flags((64, 80), cols=(79,)), counter_bits=12)
    assert PixelFlag(int(flags[1, 1])).reasons == ("unstable", "drifting")
    assert PixelFlag(int(flags[2, 2])).reasons == ("dead",)
    assert PixelFlag(int(flags[3, 3])).reasons == ("noisy",)
    assert PixelFlag(int(flags[4, 4])).reasons == ("hot", "unstable", "saturated")
    assert (flags[:, 79] == PixelFlag.EDGE).all()
    assert np.count_nonzero(flags) == 4 + 64


def test_groups_are_required_and_must_fit() -> None:
    sums = PixelSums.of(poisson(5, 3, seed=1))
    with pytest.raises(InputError, match="at least one open beam"):
        pixel_flags([])
    with pytest.raises(InputError, match="at least one open beam"):
        pixel_flags([PixelSums.empty((64, 80))])
    with pytest.raises(InputError, match=r"dark frames have shape \(2, 2\)"):
        pixel_flags([sums], PixelSums.empty((2, 2)))


def test_a_difference_carries_the_flags_of_both_counters() -> None:
    bins = counter_bins([Counter(0, "CSM", 20.0), Counter(1, "CSM", 40.0), Counter(2, "SPM", 10.0)])
    flags = np.zeros((3, 2, 2), dtype=np.uint8)
    flags[0, 0, 0], flags[1, 0, 0], flags[1, 1, 1], flags[2, 0, 1] = 1, 4, 8, 2
    result = bin_flags(flags, bins)
    assert result.dtype == np.uint8
    assert result.tolist() == [[[5, 0], [0, 8]], [[4, 0], [0, 8]], [[0, 2], [0, 0]]]
