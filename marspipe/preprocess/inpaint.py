"""What stands in for pixels that are not believed: scattered ones, and the gaps between chips.

Scattered pixels by normalized convolution, ``sum w g / sum w`` over good neighbors only (Knutsson and Westin, CVPR
1993, 515, doi:10.1109/CVPR.1993.341081). In a gap of several pixels that would smear what both sides know; there the
value runs straight from one side to the other. Either belongs after the logarithm, where a ramp is a ramp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from marspipe.errors import InputError, ScanError
from marspipe.preprocess.arrays import finite_float32, image_shape, mask_of

# Index and weight of up to four sources per filled pixel: left, right, before, after.
_Step = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]


def _refuse_full(mask: NDArray[np.bool_]) -> None:
    if mask.all():
        raise InputError(f"all {mask.size} pixels of the frame are bad; there is nothing to fill them from")


class Inpainter:
    """Fills scattered pixels from their good neighbors; the neighbors are found once, for all frames of a mask.

    A bad pixel becomes the mean of the good pixels in the smallest square around it that has at least three,
    weighted by the inverse square of the distance; with fewer inside ``radius_px`` those, with none the nearest one.

    Parameters
    ----------
    mask : ndarray, shape (v, u), bool
        True where a pixel is to be filled.
    radius_px : int
        Half width of the widest square.
    targets : ndarray, shape (v, u), bool, optional
        Which of the masked pixels to fill; by default all.

    Raises
    ------
    InputError
        If no pixel is good.
    """

    def __init__(self, mask: NDArray[np.bool_], radius_px: int = 8, targets: NDArray[np.bool_] | None = None) -> None:
        _refuse_full(mask)
        wanted = mask if targets is None else mask & targets
        self.n_bad = int(wanted.sum())
        cols = mask.shape[1]
        places: list[int] = []
        sources: list[NDArray[np.intp]] = []
        weights: list[NDArray[np.float64]] = []
        nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
        for v, u in np.argwhere(wanted):
            good: NDArray[np.intp] = np.empty((0, 2), dtype=np.intp)
            for radius in range(1, radius_px + 1):
                corner = np.array([max(v - radius, 0), max(u - radius, 0)])
                good = np.argwhere(~mask[corner[0] : v + radius + 1, corner[1] : u + radius + 1]) + corner
                if len(good) >= 3:
                    break
            if len(good) == 0:
                good = np.array([nearest[:, v, u]], dtype=np.intp)
            weight = 1.0 / ((good - (v, u)) ** 2).sum(axis=1)
            places.append(int(v * cols + u))
            sources.append(good[:, 0] * cols + good[:, 1])
            weights.append(weight / weight.sum())
        self._targets = np.array(places, dtype=np.intp)
        self._starts = np.cumsum([0, *map(len, sources[:-1])], dtype=np.intp)
        self._sources = np.concatenate(sources) if sources else np.empty(0, dtype=np.intp)
        self._weights = np.concatenate(weights).astype(np.float32) if weights else np.empty(0, dtype=np.float32)

    def fill(self, frame: NDArray[np.float32]) -> None:
        """Fill the masked pixels of a frame, shape (v, u), C-contiguous float32, in place."""
        if self.n_bad:
            flat = frame.reshape(-1)
            flat[self._targets] = np.add.reduceat(flat[self._sources] * self._weights, self._starts)


class GapFiller:
    """Fills wide gaps by straight lines between their two sides; the lines are found once, for all frames of a mask.

    Every pixel takes the shorter of its two lines, along the row or along the column, that end in good pixels on both
    sides, and the mean of both where they are equally long. Where gaps cross, the first pass leaves pixels without a
    line; the next one has the pixels that the first has filled. What no line ever reaches takes the nearest pixel.

    Parameters
    ----------
    mask : ndarray, shape (v, u), bool
        True where a pixel is to be filled.

    Raises
    ------
    InputError
        If no pixel is good.
    """

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        _refuse_full(mask)
        self._steps: list[_Step] = []
        left = mask.copy()
        while left.any():
            step = _straight_lines(left)
            if step[0].size == 0:
                step = _nearest(left)
            self._steps.append(step)
            left.reshape(-1)[step[0]] = False

    def fill(self, frame: NDArray[np.float32]) -> None:
        """Fill the masked pixels of a frame, shape (v, u), C-contiguous float32, in place."""
        flat = frame.reshape(-1)
        for targets, sources, weights in self._steps:
            flat[targets] = (flat[sources] * weights).sum(axis=0)


def _straight_lines(mask: NDArray[np.bool_]) -> _Step:
    targets = np.flatnonzero(mask)
    along_rows = _ends(mask)
    along_cols = tuple(ends.T for ends in _ends(np.ascontiguousarray(mask.T)))
    rows, cols = np.unravel_index(targets, mask.shape)
    width = mask.shape[1]
    sources = np.zeros((4, targets.size), dtype=np.intp)
    weights = np.zeros((4, targets.size))
    spans = np.full((2, targets.size), np.inf)
    for k, ((low, high), place) in enumerate(((along_rows, cols), (along_cols, rows))):
        first, last = low[rows, cols], high[rows, cols]
        both = (first >= 0) & (last < mask.shape[1 - k])
        span = np.where(both, last - first, 1)
        spans[k, both] = span[both]
        for j, end in enumerate((first, last)):
            inside = np.where(both, end, 0)
            sources[2 * k + j] = rows * width + inside if k == 0 else inside * width + cols
        weights[2 * k] = np.where(both, (last - place) / span, 0)
        weights[2 * k + 1] = np.where(both, (place - first) / span, 0)
    shortest = spans.min(axis=0)
    chosen = (spans == shortest) & np.isfinite(spans)
    weights *= np.repeat(chosen / np.maximum(chosen.sum(axis=0), 1), 2, axis=0)
    # A weight of 0 does not silence a NaN: what is not used points to what is.
    sources = np.where(weights > 0, sources, np.take_along_axis(sources, weights.argmax(axis=0)[None], axis=0))
    reached = np.isfinite(shortest)
    return targets[reached], sources[:, reached], weights[:, reached].astype(np.float32)


def _nearest(mask: NDArray[np.bool_]) -> _Step:
    indices = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    targets = np.flatnonzero(mask)
    sources = np.ravel_multi_index(tuple(indices), mask.shape).reshape(-1)[targets]
    return targets, np.asarray(sources[None], dtype=np.intp), np.ones((1, targets.size), dtype=np.float32)


def _ends(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return per pixel the last good column before it, or -1, and the first good one after it, or the width."""
    columns = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    before = np.maximum.accumulate(np.where(mask, -1, columns), axis=1)
    after = np.minimum.accumulate(np.where(mask, mask.shape[1], columns)[:, ::-1], axis=1)[:, ::-1]
    return before, after


def gap_pixels(mask: NDArray[np.bool_], gap_px: int = 3) -> NDArray[np.bool_]:
    """Return which masked pixels lie in gaps wider than ``gap_px``, both along their row and along their column."""
    widths = []
    for image in (mask, np.ascontiguousarray(mask.T)):
        before, after = _ends(image)
        # A line without any good pixel is no narrow gap, however short the line.
        widths.append(np.where((before < 0) & (after == image.shape[1]), np.inf, after - before - 1))
    return np.asarray(mask & (np.minimum(widths[0], widths[1].T) > gap_px))


@dataclass(frozen=True, eq=False)
class Inpainted:
    """Frames without holes.

    Attributes
    ----------
    frames : ndarray, shape (..., v, u), float32
        The frames, filled.
    filled_fraction : float
        Fraction of the pixels that were filled.
    """

    frames: NDArray[np.float32]
    filled_fraction: float


class FrameFiller:
    """Fills all masked pixels: scattered ones by normalized convolution, then gaps by straight lines.

    Parameters
    ----------
    mask : ndarray, shape (v, u), bool
        True where a pixel is to be filled.
    radius_px : int
        See :class:`Inpainter`.
    gap_px : int
        Masked regions wider than this, both along rows and along columns, are gaps, px.

    Attributes
    ----------
    filled_fraction : float
        Fraction of the pixels that are filled.

    Raises
    ------
    InputError
        If no pixel is good.
    """

    def __init__(self, mask: NDArray[np.bool_], radius_px: int = 8, gap_px: int = 3) -> None:
        gaps = gap_pixels(mask, gap_px)
        self.filled_fraction = float(mask.mean())
        self._scattered = Inpainter(mask, radius_px, ~gaps)
        self._gaps = GapFiller(gaps)

    def fill(self, frame: NDArray[np.float32]) -> None:
        """Fill the masked pixels of a frame, shape (v, u), C-contiguous float32, in place."""
        self._scattered.fill(frame)
        self._gaps.fill(frame)


class BinFillers:
    """Fills the bad pixels of frames of several energy bins, also where some are bad in one frame only.

    Parameters
    ----------
    bad : ndarray, shape (n_bins, v, u), bool
        Pixels that are bad in every frame; not all of a bin.
    labels : sequence of str
        Names of the bins, for messages.
    radius_px, gap_px : int
        See :class:`FrameFiller`.
    """

    def __init__(self, bad: NDArray[np.bool_], labels: Sequence[str], radius_px: int = 8, gap_px: int = 3) -> None:
        self._bad, self._labels, self._sizes = bad, tuple(labels), (radius_px, gap_px)
        self._always = [FrameFiller(mask, *self._sizes) for mask in bad]
        # What is saturated in a frame often is in the next one.
        self._last: list[tuple[NDArray[np.bool_], FrameFiller]] = list(zip(bad, self._always, strict=True))

    def fill(self, frames: NDArray[np.float32], bad: NDArray[np.bool_] | None = None) -> None:
        """Fill frames, shape (n_bins, v, u), C-contiguous float32, in place.

        Parameters
        ----------
        frames : ndarray
            One frame per bin.
        bad : ndarray, shape (n_bins, v, u), bool, optional
            What is bad in these frames, if it is more than always.

        Raises
        ------
        ScanError
            If a frame has no good pixel.
        """
        for b, frame in enumerate(frames):
            (self._always[b] if bad is None else self._filler(b, bad[b])).fill(frame)

    def _filler(self, b: int, mask: NDArray[np.bool_]) -> FrameFiller:
        if np.array_equal(mask, self._bad[b]):
            return self._always[b]
        known, filler = self._last[b]
        if not np.array_equal(mask, known):
            if mask.all():
                raise ScanError(f"bin {self._labels[b]}: every pixel of the frame is bad or saturated")
            filler = FrameFiller(mask, *self._sizes)
            self._last[b] = mask.copy(), filler  # at once, as other threads may look
        return filler


def inpaint(frames: NDArray[Any], mask: NDArray[np.bool_], *, radius_px: int = 8, gap_px: int = 3) -> Inpainted:
    """Return frames with all masked pixels filled; see :class:`FrameFiller`, which serves many frames of one mask.

    Parameters
    ----------
    frames : ndarray, shape (..., v, u)
        Line integrals or thicknesses; anything in masked pixels, NaN too.
    mask : ndarray, shape (v, u), bool
        True where a pixel is to be filled.
    radius_px, gap_px : int
        See :class:`FrameFiller`.

    Returns
    -------
    Inpainted

    Raises
    ------
    InputError
        If no pixel is good, or a good one is not finite.
    """
    found = finite_float32("frames", frames, mask)
    shape = image_shape("frames", found)
    filler = FrameFiller(mask_of("mask", mask, shape), radius_px, gap_px)
    result = found.copy()
    for frame in result.reshape(-1, *shape):
        filler.fill(frame)
    return Inpainted(result, filler.filled_fraction)
