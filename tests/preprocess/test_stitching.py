from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.preprocess.bad_pixels import PixelFlag
from marspipe.preprocess.calibration import Calibration
from marspipe.preprocess.chain import ChainSettings, Preprocessor
from marspipe.preprocess.chain_settings import Tiles
from marspipe.preprocess.stitching import Stitcher
from marspipe.preprocess.tiles import TileLayout, stitch, wide_detector
from marspipe.scan.energy import Counter, counter_bins

Function = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
TILE = (24, 32)
PITCH = (0.1, 0.1)
# Three positions in a row and one above, at fractions of pixels.
OFFSETS = np.array([[0.0, 0.0], [0.03, 2.254], [-0.05, 4.5], [1.637, 1.1]])


def ramp(v: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 + 0.01 * v + 0.02 * u


def smooth(v: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 + 0.4 * np.sin(u / 9) * np.cos(v / 7)


def seen_by(function: Function, layout: TileLayout) -> list[NDArray[np.float32]]:
    """Line integrals of two bins, the second half of the first, on the camera of every position."""
    v, u = np.mgrid[0 : TILE[0], 0 : TILE[1]].astype(np.float64)
    frames = [function(v + o[0], u + o[1]) for o in layout.origins_px]
    return [np.stack([frame, 0.5 * frame]).astype(np.float32) for frame in frames]


def truth_of(function: Function, layout: TileLayout) -> NDArray[np.float64]:
    v, u = np.mgrid[0 : layout.shape[0], 0 : layout.shape[1]].astype(np.float64)
    frame = function(v, u)
    return np.stack([frame, 0.5 * frame])


def no_flags(n: int) -> list[NDArray[np.uint8]]:
    return [np.zeros((2, *TILE), dtype=np.uint8) for _ in range(n)]


def test_sub_pixel_offsets_give_the_wide_truth() -> None:
    layout = wide_detector(TILE, OFFSETS, PITCH)
    for function, interpolation, tolerance in (
        (ramp, "bilinear", 2e-6),
        (smooth, "bilinear", 1.7e-3),  # (f_uu + f_vv) / 8
        (smooth, "cubic", 6e-4),  # at the edges of a position, which are continued straight
    ):
        stitcher = Stitcher(layout, no_flags(4), ChainSettings(tiles=Tiles(interpolation)))  # type: ignore[arg-type]
        seen_somewhere = stitcher.flags == 0
        assert seen_somewhere.mean() > 0.6
        wide = stitcher(seen_by(function, layout))
        assert wide.dtype == np.float32
        difference = np.abs(wide - truth_of(function, layout))
        assert difference[seen_somewhere].max() < tolerance


def test_it_is_what_stitch_gives_where_something_is_seen() -> None:
    layout = wide_detector(TILE, OFFSETS, PITCH)
    rng = np.random.default_rng(3)
    tiles = [rng.standard_normal((2, *TILE)).astype(np.float32) for _ in OFFSETS]
    flags = [(rng.random((2, *TILE)) < 0.05).astype(np.uint8) * np.uint8(PixelFlag.DEAD) for _ in OFFSETS]
    for settings in (Tiles(), Tiles("cubic", 5.0), Tiles(equalize="offset")):
        stitcher = Stitcher(layout, flags, ChainSettings(tiles=settings))
        wide = stitcher(tiles)
        for b in range(2):
            known = stitch(
                np.stack([tile[b] for tile in tiles]),
                layout,
                np.stack([f[b] != 0 for f in flags]),
                interpolation=settings.interpolation,
                feather_px=settings.feather_px,
                equalize=settings.equalize,
            )
            np.testing.assert_array_equal(stitcher.flags[b] != 0, known.mask)
            # Dividing weights once instead of every sum costs a rounding or two.
            np.testing.assert_allclose(wide[b][~known.mask], known.frame[~known.mask], rtol=2e-6, atol=2e-6)


def test_one_position_gives_the_very_frame() -> None:
    rng = np.random.default_rng(5)
    flat = rng.uniform(900, 1100, size=(1, *TILE))
    flat[0, rng.random(TILE) < 0.03] = 0
    flat[0, :, 11:16] = 0
    bins = counter_bins([Counter(0, "SPM", 20.0)])
    chain = Preprocessor(replace(Calibration.of_means(flat, 0 * flat, 8), counter_bits=12), bins)
    for feather in (16.0, 7.3):
        settings = replace(chain.settings, tiles=Tiles(feather_px=feather))
        stitcher = Stitcher(wide_detector(TILE, [[0.4, -7.0]], PITCH), [chain.flags], settings)
        np.testing.assert_array_equal(stitcher.flags, chain.flags)
        seen = rng.poisson(flat / 2).astype(np.uint16)
        for counters in (seen, np.where(np.arange(TILE[1]) == 3, 4095, seen).astype(np.uint16)):
            integrals, bad = chain.unfilled(counters)
            np.testing.assert_array_equal(stitcher([integrals], [bad]), chain(counters))


def test_overlaps_take_the_good_pixels_of_the_other_position() -> None:
    layout = wide_detector(TILE, [[0.0, 0.0], [0.0, 2.0]], PITCH)  # 20 px apart, 12 px in common
    tiles = seen_by(ramp, layout)
    flags = no_flags(2)
    flags[0][:, 5, 25] = PixelFlag.DEAD  # in the overlap
    flags[0][0, 8, 3] = PixelFlag.HOT  # seen by the first position only
    flags[0][0, 9, 22], flags[1][0, 9, 2] = PixelFlag.DEAD, PixelFlag.NOISY  # bad in both
    for tile, of_tile in zip(tiles, flags, strict=True):
        tile[of_tile != 0] = 77
    stitcher = Stitcher(layout, flags)
    assert stitcher.flags[0, 8, 3] == PixelFlag.HOT
    assert stitcher.flags[0, 9, 22] == PixelFlag.DEAD | PixelFlag.NOISY
    assert np.count_nonzero(stitcher.flags) == 2
    wide = stitcher(tiles)
    np.testing.assert_allclose(wide, truth_of(ramp, layout), atol=2e-6)  # fillings of a ramp are exact


def test_pixels_that_are_bad_in_one_view_only() -> None:
    layout = wide_detector(TILE, [[0.0, 0.0], [0.0, 2.04]], PITCH)
    tiles = seen_by(ramp, layout)
    stitcher = Stitcher(layout, no_flags(2))
    clean = stitcher(tiles)
    bad = np.zeros((2, *TILE), dtype=bool)
    bad[0, 4, 6] = bad[0, 6, 25] = True
    spoiled = [tiles[0].copy(), tiles[1]]
    spoiled[0][bad] = np.nan  # anything may be in there
    wide = stitcher(spoiled, [bad, None])
    np.testing.assert_allclose(wide, clean, atol=5e-6)
    np.testing.assert_array_equal(wide[1], clean[1])
    np.testing.assert_array_equal(stitcher(tiles), clean)
    np.testing.assert_array_equal(stitcher(tiles, [np.zeros_like(bad), None]), clean)


def test_what_is_bad_in_every_view_stays_so() -> None:
    layout = wide_detector(TILE, [[0.0, 0.0], [0.0, 2.0]], PITCH)
    tiles = seen_by(ramp, layout)
    flags = no_flags(2)
    flags[0][0, 8, 3] = PixelFlag.HOT
    tiles[0][0, 8, 3] = 77
    more = np.zeros((2, *TILE), dtype=bool)
    more[0, 12, 12] = True
    wide = Stitcher(layout, flags)(tiles, [more, None])
    np.testing.assert_allclose(wide, truth_of(ramp, layout), atol=2e-6)


def test_flags_are_those_of_the_pixels_that_would_be_mixed() -> None:
    layout = wide_detector(TILE, [[0.0, 0.0], [0.0, 3.63]], PITCH)  # pixel 37 would be 0.3 of 0 and 0.7 of 1
    flags = no_flags(2)
    flags[1][0, 5, 1] = PixelFlag.HOT
    flags[1][1, 5, 0] = PixelFlag.HOT  # too little of it to be missed
    found = Stitcher(layout, flags).flags
    assert found[0, 5, 37] == PixelFlag.HOT
    assert found[1, 5, 37] == 0
    assert (found[:, :, 32:37] == PixelFlag.DEAD).all()
    assert found[0, 5, 38] == 0


def test_gaps_between_positions_are_bridged_and_flagged() -> None:
    layout = wide_detector(TILE, [[0.0, 0.0], [0.0, 3.6]], PITCH)  # 36 px apart: 4 px that nobody sees
    stitcher = Stitcher(layout, no_flags(2))
    assert (stitcher.flags[:, :, 32:36] == PixelFlag.DEAD).all()
    assert np.count_nonzero(stitcher.flags) == 2 * 24 * 4
    np.testing.assert_allclose(stitcher(seen_by(ramp, layout)), truth_of(ramp, layout), atol=2e-6)


def test_levels_are_made_equal_on_request() -> None:
    layout = wide_detector(TILE, [[0.0, 0.0], [0.0, 2.0]], PITCH)
    tiles = seen_by(ramp, layout)
    shifted = [tiles[0] + np.float32(0.05), tiles[1] - np.float32(0.05)]
    level = Stitcher(layout, no_flags(2), ChainSettings(tiles=Tiles(equalize="offset")))(shifted)
    np.testing.assert_allclose(level, truth_of(ramp, layout), atol=2e-6)
    plain = Stitcher(layout, no_flags(2))(shifted)
    assert np.abs(plain - truth_of(ramp, layout)).max() == pytest.approx(0.05, rel=1e-3)


def test_what_does_not_fit_is_refused_by_name() -> None:
    layout = wide_detector(TILE, [[0.0, 0.0], [0.0, 2.0]], PITCH)
    with pytest.raises(ScanError, match="flags of 1 camera positions, expected 2"):
        Stitcher(layout, no_flags(1))
    with pytest.raises(ScanError, match="camera position 1: flags of shape"):
        Stitcher(layout, [no_flags(1)[0], np.zeros((2, 3, 3), dtype=np.uint8)])
    stitcher = Stitcher(layout, no_flags(2))
    tiles = seen_by(ramp, layout)
    with pytest.raises(ScanError, match="a view of 1 camera positions, expected 2"):
        stitcher(tiles[:1])
    with pytest.raises(ScanError, match="camera position 1: line integrals of shape"):
        stitcher([tiles[0], tiles[1][:1]])
    with pytest.raises(ScanError, match="camera position 0: a mask of shape"):
        stitcher(tiles, [np.zeros(TILE, dtype=bool), None])
    everything = np.ones((2, *TILE), dtype=bool)
    with pytest.raises(ScanError, match="bin 0: every pixel of the frame is bad or saturated"):
        stitcher(tiles, [everything, everything])
    with pytest.raises(ScanError, match="energy bin 0: no camera position has a good pixel"):
        Stitcher(layout, [np.ones((2, *TILE), dtype=np.uint8)] * 2)
