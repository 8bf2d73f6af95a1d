"""Camera positions put together to one wide detector.

A camera that is moved by steps that are no whole pixels sees every position on a grid of its own. The frames are
resampled to one grid, that of the position furthest towards row 0 and column 0, and blended where they overlap.

Bilinear resampling is the default: it cannot overshoot beside masked pixels and the edges of the sample, a masked pixel
spoils only its direct neighbors, and it is exact for ramps. It smooths by up to half a pixel; "cubic" (Keys, IEEE
Trans. Acoust. Speech Signal Process. 29 (1981) 1153, doi:10.1109/TASSP.1981.1163711) keeps more of the resolution and
of the noise, and falls back to bilinear where one of its pixels is masked. Both copy whole-pixel offsets exactly.
Feathering: Szeliski, Found. Trends Comput. Graph. Vis. 2 (2006) 1, doi:10.1561/0600000009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marspipe.errors import InputError
from marspipe.preprocess.arrays import finite_float32, finite_float64, image_shape, mask_of, positive

FloatArray = NDArray[np.float64]
Interpolation = Literal["bilinear", "cubic"]
Equalize = Literal["none", "scale", "offset"]

# Offsets of motor stages in mm become whole pixels only up to rounding.
_WHOLE_PX = 1e-6
# A bilinear value is believed if at least this much of its weight lies on good pixels.
_LEAST_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class TileLayout:
    """Where every camera position lies on the wide detector.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the wide detector.
    principal_point_px : (float, float)
        Row and column of the wide detector that the ray through the isocenter meets.
    tile_shape : (int, int)
        Rows and columns of the camera.
    origins_px : ndarray, shape (tiles, 2), float64, px
        Row and column of every position's pixel (0, 0) on the wide detector.
    """

    shape: tuple[int, int]
    principal_point_px: tuple[float, float]
    tile_shape: tuple[int, int]
    origins_px: FloatArray


def wide_detector(
    tile_shape: Sequence[int],
    offsets_mm: ArrayLike,
    pixel_pitch_mm: Sequence[float],
    principal_point_px: Sequence[float] | None = None,
) -> TileLayout:
    """Return the wide detector of a set of camera positions.

    Parameters
    ----------
    tile_shape : (int, int)
        Rows and columns of the camera.
    offsets_mm : array_like, shape (tiles, 2), mm
        How far the camera was moved along v and u in every position.
    pixel_pitch_mm : (float, float)
        Pixel pitch along v and u, mm.
    principal_point_px : (float, float), optional
        Row and column, on the camera at offset (0, 0), that the ray through the isocenter meets; by default the middle
        of the camera. It may lie outside.

    Returns
    -------
    TileLayout
        The wide detector ends with the last pixel that is fully covered.
    """
    rows, cols = (int(n) for n in tile_shape)
    if rows < 1 or cols < 1:
        raise InputError(f"tile_shape must be at least 1 x 1 pixel, got {(rows, cols)}")
    offsets = finite_float64("offsets_mm", offsets_mm)
    if offsets.ndim != 2 or offsets.shape[1] != 2 or len(offsets) == 0:
        raise InputError(f"offsets_mm must have shape (tiles, 2) (v, u), got {offsets.shape}")
    pitch = [positive("pixel_pitch_mm", p, "mm") for p in pixel_pitch_mm]
    if len(pitch) != 2:
        raise InputError(f"pixel_pitch_mm must be two lengths (v, u), got {list(pixel_pitch_mm)}")
    point = ((rows - 1) / 2, (cols - 1) / 2) if principal_point_px is None else tuple(map(float, principal_point_px))
    moved = offsets / pitch
    first = moved.min(axis=0)
    origins = moved - first
    whole = np.rint(origins)
    origins = np.where(np.abs(origins - whole) < _WHOLE_PX, whole, origins)
    last = origins.max(axis=0)
    shape = (math.floor(last[0]) + rows, math.floor(last[1]) + cols)
    return TileLayout(shape, (point[0] - float(first[0]), point[1] - float(first[1])), (rows, cols), origins)


@dataclass(frozen=True, eq=False)
class Stitched:
    """One wide frame of several camera positions.

    Attributes
    ----------
    frame : ndarray, shape (..., V, U), float32
        The wide frame; 0 where nothing was seen.
    mask : ndarray, shape (V, U), bool
        True where no position has a good pixel.
    adjustments : ndarray, shape (tiles, ...), float64
        By what every position was divided ("scale", 1 on geometric average) or what was subtracted ("offset", 0 on
        average; 0 for "none").
    """

    frame: NDArray[np.float32]
    mask: NDArray[np.bool_]
    adjustments: FloatArray


def stitch(
    tiles: NDArray[Any],
    layout: TileLayout,
    masks: NDArray[np.bool_] | None = None,
    *,
    interpolation: Interpolation = "bilinear",
    feather_px: float = 16.0,
    equalize: Equalize = "none",
) -> Stitched:
    """Put the frames of all camera positions together.

    In an overlap every position weighs as the distance from its own edge, up to ``feather_px``, so that it fades in
    and out without a step: ``sum w g / sum w`` over positions with a good pixel.

    Parameters
    ----------
    tiles : ndarray, shape (tiles, ..., v, u)
        Frames of every position, in the order of the layout; axes between are counters or bins.
    layout : TileLayout
        See :func:`wide_detector`.
    masks : ndarray, shape (tiles, v, u), bool, optional
        True where a pixel is bad; anything may be in there.
    interpolation : {"bilinear", "cubic"}
        See the module.
    feather_px : float
        Distance from its edge over which a position fades, px.
    equalize : {"none", "scale", "offset"}
        Bring the positions to one level by their overlaps: factors for counts, terms for line integrals.

    Returns
    -------
    Stitched

    Raises
    ------
    InputError
        If shapes do not fit, a good pixel is not finite, or an overlap has no counts to scale by.
    """
    if interpolation not in ("bilinear", "cubic"):
        raise InputError(f"interpolation must be 'bilinear' or 'cubic', got {interpolation!r}")
    if equalize not in ("none", "scale", "offset"):
        raise InputError(f"equalize must be 'none', 'scale' or 'offset', got {equalize!r}")
    n = len(layout.origins_px)
    bad = None if masks is None else mask_of("masks", masks, (n, *layout.tile_shape))
    found = np.asarray(tiles)
    between = (slice(None),) + (None,) * (found.ndim - 3)
    stack = finite_float32("tiles", found, None if bad is None else bad[between])
    if stack.ndim < 3 or len(stack) != n or image_shape("tiles", stack) != layout.tile_shape:
        raise InputError(f"tiles must have shape ({n}, ..., {layout.tile_shape}), got {stack.shape}")
    placements = [
        TilePlacement(layout, i, None if bad is None else bad[i], interpolation=interpolation, feather_px=feather_px)
        for i in range(n)
    ]
    placed = [(placement, placement.values(tile)) for placement, tile in zip(placements, stack, strict=True)]
    adjustments = level_differences(placed, stack.shape[1:-2], equalize)
    frame = np.zeros((*stack.shape[1:-2], *layout.shape), dtype=np.float32)
    total = np.zeros(layout.shape, dtype=np.float32)
    for (tile, values), adjustment in zip(placed, adjustments, strict=True):
        if equalize == "scale":
            values = values / adjustment[..., None, None].astype(np.float32)
        elif equalize == "offset":
            values = values - adjustment[..., None, None].astype(np.float32)
        frame[(..., *tile.window)] += tile.weights * values
        total[tile.window] += tile.weights
    empty = total == 0
    frame /= np.where(empty, np.float32(1), total)
    return Stitched(frame, empty, adjustments)


class TilePlacement:
    """One camera position on the wide grid: found once, for all frames of a mask.

    Parameters
    ----------
    layout : TileLayout
        See :func:`wide_detector`.
    index : int
        Which position.
    bad : ndarray, shape (v, u), bool, optional
        True where a pixel is bad.
    interpolation : {"bilinear", "cubic"}
        See the module.
    feather_px : float
        Distance from its edge over which the position fades, px.

    Attributes
    ----------
    window : (slice, slice)
        Its rows and columns of the wide detector.
    weights : ndarray, shape (rows, columns) of the window, float32
        Its weight in an overlap; 0 where it has nothing to say.
    """

    def __init__(
        self,
        layout: TileLayout,
        index: int,
        bad: NDArray[np.bool_] | None = None,
        *,
        interpolation: Interpolation = "bilinear",
        feather_px: float = 16.0,
    ) -> None:
        feather = positive("feather_px", feather_px, "px")
        first, shift, count = [], [], []
        for origin, size in zip(layout.origins_px[index], layout.tile_shape, strict=True):
            start = math.ceil(origin)
            first.append(start)
            shift.append(start - float(origin))  # the tile's own position of its first wide pixel, 0 <= shift < 1
            count.append(size if start == origin else size - 1)
        self._shift, self._count, self._interpolation = shift, count, interpolation
        self.window = (slice(first[0], first[0] + count[0]), slice(first[1], first[1] + count[1]))
        ramps = [
            np.minimum(np.minimum(x + 1, size - x), feather)
            for x, size in (
                (s + np.arange(c), size) for s, c, size in zip(shift, count, layout.tile_shape, strict=True)
            )
        ]
        self.weights = np.outer(*ramps).astype(np.float32)
        self._bad = bad if bad is not None and bad.any() else None
        if self._bad is not None:
            share = _shifted((~self._bad).astype(np.float32), shift, count, "bilinear")
            self._share = np.maximum(share, np.float32(_LEAST_SHARE))
            self._spoiled = _reaches(self._bad, shift, count) if interpolation == "cubic" else None
            # Half a share is exact only up to rounding of the offset.
            self.weights[share <= _LEAST_SHARE - 1e-4] = 0

    def values(self, tile: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return frames of the position, shape (..., v, u), on the wide grid, shape (..., rows, columns) of the window.

        Without meaning where the weight is 0. Do not write into it: it may be the frame itself.
        """
        if self._bad is None:
            return _shifted(tile, self._shift, self._count, self._interpolation)
        held = np.where(self._bad, np.float32(0), tile)
        values = _shifted(held, self._shift, self._count, "bilinear") / self._share
        if self._spoiled is not None:
            # The negative weights of the cubic have no meaning with pixels left out.
            values = np.where(self._spoiled, values, _shifted(held, self._shift, self._count, "cubic"))
        return np.asarray(values, dtype=np.float32)

    def reached(self, flags: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the bits of all pixels, shape (v, u), that bilinear resampling would mix, on the wide grid."""
        for axis, s, n in ((-2, self._shift[0], self._count[0]), (-1, self._shift[1], self._count[1])):
            parts = [_cut(flags, axis, k, n) for k in _taps(s, "bilinear")]
            flags = np.bitwise_or.reduce(parts)
        return flags


def _taps(shift: float, interpolation: Interpolation) -> dict[int, float]:
    """Return the weights of the pixels from -1 to 2 around a position; whole shifts have only one."""
    if shift == 0:
        return {0: 1.0}
    if interpolation == "bilinear":
        return {0: 1 - shift, 1: shift}
    t = shift
    return {
        -1: 0.5 * t * (-1 + t * (2 - t)),
        0: 1 + 0.5 * t * t * (-5 + 3 * t),
        1: 0.5 * t * (1 + t * (4 - 3 * t)),
        2: 0.5 * t * t * (t - 1),
    }


def _shifted(
    image: NDArray[np.float32], shift: Sequence[float], count: Sequence[int], interpolation: Interpolation
) -> NDArray[np.float32]:
    for axis, s, n in ((-2, shift[0], count[0]), (-1, shift[1], count[1])):
        taps = _taps(s, interpolation)
        if len(taps) == 1:
            image = _cut(image, axis, 0, n)
            continue
        if len(taps) == 4:
            image = _continued(image, axis)
        start = 1 if len(taps) == 4 else 0
        result = np.zeros_like(_cut(image, axis, 0, n))
        for k, weight in taps.items():
            result += np.float32(weight) * _cut(image, axis, start + k, n)
        image = result
    return image


def _cut(image: NDArray[Any], axis: int, start: int, count: int) -> NDArray[Any]:
    return image[..., start : start + count, :] if axis == -2 else image[..., start : start + count]


def _continued(image: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return an image with one more pixel on both sides, continued by straight lines."""
    n = image.shape[axis]
    one, two = (_cut(image, axis, k, 1) for k in (0, min(1, n - 1)))
    last, before = (_cut(image, axis, k, 1) for k in (n - 1, max(n - 2, 0)))
    return np.concatenate([2 * one - two, image, 2 * last - before], axis=axis)


def _reaches(bad: NDArray[np.bool_], shift: Sequence[float], count: Sequence[int]) -> NDArray[np.bool_]:
    """Return where a bad pixel is among those of the cubic."""
    held = bad.astype(np.float32)
    for axis, s, n in ((-2, shift[0], count[0]), (-1, shift[1], count[1])):
        steps = (-1, 0, 1, 2) if s else (0,)
        padding = [(0, 0), (0, 0)]
        padding[axis] = (1, 1)
        wide = np.pad(held, padding, mode="edge")
        held = np.max([_cut(wide, axis, 1 + k, n) for k in steps], axis=0)
    return held > 0


def level_differences(
    placed: Sequence[tuple[TilePlacement, NDArray[np.float32]]], leading: tuple[int, ...], equalize: Equalize
) -> FloatArray:
    """Return factors or terms that bring all overlaps to agreement, by least squares; 1 or 0 on average.

    Parameters
    ----------
    placed : sequence of (TilePlacement, ndarray)
        Every position and its values on the wide grid, shape (*leading, rows, columns).
    leading : tuple of int
        Axes before the image.
    equalize : {"none", "scale", "offset"}
        See :func:`stitch`.

    Returns
    -------
    ndarray, shape (tiles, *leading), float64
    """
    n = len(placed)
    size = math.prod(leading)
    if equalize == "none":
        return np.zeros((n, *leading))
    rows, sides = [], []
    for i in range(n):
        for j in range(i + 1, n):
            pair = _overlap(placed[i], placed[j])
            if pair is None:
                continue
            ours, theirs, pixels = pair
            if equalize == "scale":
                if min(ours.min(), theirs.min()) <= 0:
                    raise InputError(f"the overlap of camera positions {i} and {j} has no counts to scale by")
                difference = np.log(ours) - np.log(theirs)
            else:
                difference = (ours - theirs) / pixels
            row = np.zeros(n)
            row[i], row[j] = 1.0, -1.0
            # Every overlap counts as its pixels.
            rows.append(math.sqrt(pixels) * row)
            sides.append(math.sqrt(pixels) * difference.reshape(size))
    levels = np.zeros((n, size))
    if rows:
        # The least-norm solution has mean 0 in every group of positions that overlaps hang together.
        levels = np.linalg.lstsq(np.array(rows), np.array(sides), rcond=None)[0]
    levels = levels.reshape(n, *leading)
    return np.asarray(np.exp(levels) if equalize == "scale" else levels)


def _overlap(
    one: tuple[TilePlacement, NDArray[np.float32]], other: tuple[TilePlacement, NDArray[np.float32]]
) -> tuple[FloatArray, FloatArray, int] | None:
    """Return the sums of both positions over the pixels that both see, and how many those are."""
    rows, cols = (
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one[0].window, other[0].window, strict=True)
    )
    if rows.start >= rows.stop or cols.start >= cols.stop:
        return None
    cuts = [
        (slice(rows.start - t.window[0].start, rows.stop - t.window[0].start),
         slice(cols.start - t.window[1].start, cols.stop - t.window[1].start))
        for t, _ in (one, other)
    ]  # fmt: skip
    both = (one[0].weights[cuts[0]] > 0) & (other[0].weights[cuts[1]] > 0)
    pixels = int(both.sum())
    if pixels == 0:
        return None
    sums = [
        values[(..., *cut)][..., both].sum(axis=-1, dtype=np.float64)
        for (_, values), cut in zip((one, other), cuts, strict=True)
    ]
    return np.asarray(sums[0]), np.asarray(sums[1]), pixels
