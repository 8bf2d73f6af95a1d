from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import InputError
from marspipe.preprocess.tiles import Interpolation, stitch, wide_detector

PITCH = (0.055, 0.055)


def tiles_of(function, layout) -> np.ndarray:  # type: ignore[no-untyped-def]
    """What every camera position sees of a scene given in wide pixels."""
    rows, cols = layout.tile_shape
    v, u = np.mgrid[0:rows, 0:cols].astype(np.float64)
    return np.stack([function(v + o[0], u + o[1]) for o in layout.origins_px]).astype(np.float32)


def wide(function, layout) -> np.ndarray:  # type: ignore[no-untyped-def]
    v, u = np.mgrid[0 : layout.shape[0], 0 : layout.shape[1]].astype(np.float64)
    return np.asarray(function(v, u))


def ramp(v: np.ndarray, u: np.ndarray) -> np.ndarray:
    return 5 + 0.03 * v - 0.02 * u


def waves(v: np.ndarray, u: np.ndarray) -> np.ndarray:
    return 5 + np.sin(0.7 * u) + np.cos(0.5 * v)


def test_layout_follows_the_camera() -> None:
    # positions 200 px apart and one row step; the reference position is the one in the middle
    offsets = np.array([[0.0, -11.0], [0.0, 0.0], [0.0275, 11.0]])
    layout = wide_detector((256, 256), offsets, PITCH, (127.5, 100.0))
    assert layout.shape == (256, 656)
    np.testing.assert_allclose(layout.origins_px, [[0, 0], [0, 200], [0.5, 400]], atol=1e-9)
    assert layout.principal_point_px == pytest.approx((127.5, 300.0))
    # a point that the reference position sees at its pixel (r, c) is at origin + (r, c) on the wide detector
    np.testing.assert_allclose(np.array(layout.principal_point_px), layout.origins_px[1] + [127.5, 100.0])


def test_one_position_is_the_camera_itself() -> None:
    layout = wide_detector((4, 6), [[3.0, -2.0]], PITCH)
    assert layout.shape == (4, 6)
    assert layout.principal_point_px == pytest.approx((1.5 - 3 / 0.055, 2.5 + 2 / 0.055))
    tile = np.random.default_rng(1).normal(size=(1, 4, 6)).astype(np.float32)
    found = stitch(tile, layout)
    np.testing.assert_allclose(found.frame, tile[0], rtol=3e-7)
    assert found.frame.dtype == np.float32 and not found.mask.any()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=4),
    st.sampled_from(["bilinear", "cubic"]),
    st.floats(0.5, 40),
)
def test_ramps_come_out_exactly(offsets: list[tuple[float, float]], how: Interpolation, feather: float) -> None:
    layout = wide_detector((11, 12), np.array(offsets), (1.0, 1.0))
    found = stitch(tiles_of(ramp, layout), layout, interpolation=how, feather_px=feather)
    assert found.frame.shape == layout.shape == found.mask.shape
    seen = ~found.mask
    np.testing.assert_allclose(found.frame[seen], wide(ramp, layout)[seen], atol=1e-5)
    if len(offsets) == 1:
        assert seen.all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["bilinear", "cubic"]))
def test_whole_pixel_offsets_are_exact_whatever_the_scene(seed: int, how: Interpolation) -> None:
    rng = np.random.default_rng(seed)
    scene = rng.normal(size=(30, 40)).astype(np.float32)
    corners = np.array([[0, 0], [0, 24], [14, 0], [14, 24], [5, 9]])
    tiles = np.stack([scene[r : r + 16, c : c + 16] for r, c in corners])
    layout = wide_detector((16, 16), corners * 0.055, PITCH)
    found = stitch(tiles, layout, interpolation=how)
    assert found.frame.shape == scene.shape
    seen = np.zeros(scene.shape, dtype=bool)
    for r, c in corners:
        seen[r : r + 16, c : c + 16] = True
    np.testing.assert_array_equal(found.mask, ~seen)
    np.testing.assert_allclose(found.frame[seen], scene[seen], atol=1e-6)
    assert not found.frame[~seen].any()


def test_cubic_is_sharper_than_bilinear_on_waves() -> None:
    layout = wide_detector((40, 50), np.array([[0.0, 0.0], [0.5, 40.5]]), (1.0, 1.0))
    truth = wide(waves, layout)
    errors = {}
    for how in ("bilinear", "cubic"):
        found = stitch(tiles_of(waves, layout), layout, interpolation=how)
        inner = ~found.mask
        inner[:2] = inner[-2:] = inner[:, -2:] = False
        errors[how] = float(np.abs(found.frame - truth)[inner].max())
    assert errors["bilinear"] < 0.1  # (1 - cos(0.35)) + (1 - cos(0.25))
    assert errors["cubic"] < 0.2 * errors["bilinear"]


def test_overlaps_fade_without_a_step_and_lower_the_noise() -> None:
    layout = wide_detector((5, 60), np.array([[0.0, 0.0], [0.0, 40.0]]), (1.0, 1.0))
    levels = np.array([1.0, 2.0], dtype=np.float32)[:, None, None] * np.ones((2, 5, 60), dtype=np.float32)
    line = stitch(levels, layout, feather_px=20).frame[2]
    assert (line[:40] == 1).all() and (line[60:] == 2).all()
    assert 0 < np.diff(line[39:61]).min() and np.diff(line[39:61]).max() < 0.11
    noise = np.random.default_rng(1).normal(size=(2, 400, 60)).astype(np.float32)
    layout = wide_detector((400, 60), np.array([[0.0, 0.0], [0.0, 40.0]]), (1.0, 1.0))
    middle = stitch(noise, layout, feather_px=4).frame[:, 45:55]
    assert middle.std() == pytest.approx(np.sqrt(0.5), rel=0.05)


@pytest.mark.parametrize("how", ["bilinear", "cubic"])
def test_masked_pixels_are_taken_from_the_other_position(how: Interpolation) -> None:
    layout = wide_detector((12, 20), np.array([[0.0, 0.0], [0.3, 10.4]]), (1.0, 1.0))
    tiles = tiles_of(ramp, layout)
    masks = np.zeros(tiles.shape, dtype=bool)
    masks[0, 4:8, 13:16] = True  # in the overlap
    masks[0, 3, 3] = True  # where only the first position looks
    masks[1, 6, 15] = True  # sub-pixel position: neighbors stand in
    tiles[masks] = np.nan
    before = tiles.copy()
    found = stitch(tiles, layout, masks, interpolation=how)
    np.testing.assert_array_equal(tiles, before)
    truth = wide(ramp, layout)
    hole = np.zeros(layout.shape, dtype=bool)
    hole[3, 3] = True
    hole[0, 20:] = True  # above the second position
    np.testing.assert_array_equal(found.mask, hole)
    assert not found.frame[hole].any()
    seen = ~found.mask
    np.testing.assert_allclose(found.frame[seen], truth[seen], atol=0.02)
    exact = seen.copy()
    exact[4:10, 24:28] = False  # around the second position's bad pixel half of a bilinear value is missing
    np.testing.assert_allclose(found.frame[exact], truth[exact], atol=1e-5)


def test_all_masked_is_all_empty() -> None:
    layout = wide_detector((3, 4), np.array([[0.0, 0.0], [0.0, 2.5]]), (1.0, 1.0))
    found = stitch(np.full((2, 3, 4), np.nan), layout, np.ones((2, 3, 4), dtype=bool), equalize="scale")
    assert found.mask.all() and not found.frame.any()
    np.testing.assert_array_equal(found.adjustments, 1)


@pytest.mark.parametrize("equalize", ["scale", "offset"])
def test_levels_are_equalized_by_the_overlaps(equalize: str) -> None:
    rng = np.random.default_rng(1)
    offsets = np.array([[0.0, 0.0], [0.4, 12.3], [9.0, 1.7], [9.5, 13.1]])
    layout = wide_detector((14, 18), offsets, (1.0, 1.0))
    scene = np.stack([tiles_of(ramp, layout), 2 * tiles_of(ramp, layout)], axis=1)  # two counters
    wrong = rng.uniform(0.9, 1.1, size=(4, 2))
    if equalize == "scale":
        wrong /= np.exp(np.log(wrong).mean(axis=0))
        tiles = scene * wrong[..., None, None]
    else:
        wrong -= wrong.mean(axis=0)
        tiles = scene + wrong[..., None, None]
    found = stitch(tiles, layout, equalize=equalize)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.adjustments, wrong, atol=2e-6)
    truth = wide(ramp, layout)
    seen = ~found.mask
    np.testing.assert_allclose(found.frame[0][seen], truth[seen], rtol=3e-6)
    np.testing.assert_allclose(found.frame[1][seen], 2 * truth[seen], rtol=3e-6)


def test_equal_positions_are_left_alone_and_separate_ones_too() -> None:
    layout = wide_detector((6, 6), np.array([[0.0, 0.0], [0.0, 10.0]]), (1.0, 1.0))  # a gap of four columns
    tiles = np.stack([np.full((6, 6), 2.0), np.full((6, 6), 5.0)])
    for equalize in ("none", "scale", "offset"):
        found = stitch(tiles, layout, equalize=equalize)  # type: ignore[arg-type]
        assert (found.frame[:, :6] == 2).all() and (found.frame[:, 10:] == 5).all()
        assert found.mask[:, 6:10].all() and found.mask.sum() == 24


def test_single_row_and_column() -> None:
    layout = wide_detector((1, 5), np.array([[0.0, 0.0], [0.0, 3.5]]), (1.0, 1.0))
    for how in ("bilinear", "cubic"):
        found = stitch(tiles_of(ramp, layout), layout, interpolation=how)  # type: ignore[arg-type]
        assert layout.shape == (1, 8)
        np.testing.assert_allclose(found.frame, wide(ramp, layout), atol=1e-6)
    # half a row off, a camera of one row covers no row of the grid
    layout = wide_detector((1, 5), np.array([[0.0, 0.0], [0.5, 0.0]]), (1.0, 1.0))
    assert stitch(tiles_of(ramp, layout), layout).frame.shape == (1, 5)


def test_what_does_not_fit_is_refused() -> None:
    layout = wide_detector((3, 4), np.array([[0.0, 0.0], [0.0, 2.0]]), (1.0, 1.0))
    tiles = np.ones((2, 3, 4))
    with pytest.raises(InputError, match=r"tiles must have shape \(2"):
        stitch(tiles[:1], layout)
    with pytest.raises(InputError, match=r"tiles must have shape \(2"):
        stitch(np.ones((2, 4, 3)), layout)
    with pytest.raises(InputError, match=r"tiles must be finite, but element \(0, 0, 0\)"):
        stitch(tiles * np.nan, layout)
    with pytest.raises(InputError, match="masks must be bool"):
        stitch(tiles, layout, np.zeros((3, 4), dtype=bool))
    with pytest.raises(InputError, match="overlap of camera positions 0 and 1 has no counts"):
        stitch(0 * tiles, layout, equalize="scale")
    for wrong in ({"interpolation": "lanczos"}, {"equalize": "both"}, {"feather_px": 0.0}):
        with pytest.raises(InputError):
            stitch(tiles, layout, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="offsets_mm must have shape"):
        wide_detector((3, 4), [0.0, 1.0], PITCH)
    with pytest.raises(InputError, match="offsets_mm must be finite"):
        wide_detector((3, 4), [[0.0, np.nan]], PITCH)
    with pytest.raises(InputError, match="pixel_pitch_mm must be positive"):
        wide_detector((3, 4), [[0.0, 0.0]], (0.0, 1.0))
    with pytest.raises(InputError, match="tile_shape"):
        wide_detector((0, 4), [[0.0, 0.0]], PITCH)
