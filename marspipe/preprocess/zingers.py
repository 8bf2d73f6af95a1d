"""Zingers: counts that appear in a pixel of a single frame, from particles and discharges, and are gone in the next.

Only what lies above is taken: no photon-counting pixel loses counts by accident. The threshold is in standard
deviations of the Poisson noise of what the neighbors expect, so that the same setting serves 10 and 100 000 counts.
After van Dokkum, Publ. Astron. Soc. Pac. 113 (2001) 1420, doi:10.1086/323894 (in a frame), and Vo et al., Opt. Express
29 (2021) 17849, doi:10.1364/OE.418448.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from marspipe.errors import InputError
from marspipe.preprocess.arrays import finite_float32, image_shape, mask_of, positive


@dataclass(frozen=True, eq=False)
class WithoutZingers:
    """Frames without zingers, and where they were.

    Attributes
    ----------
    counts : ndarray, float32
        Counts; those of a zinger are replaced by what the neighbors expect.
    zingers : ndarray, bool
        True where a count was replaced.
    """

    counts: NDArray[np.float32]
    zingers: NDArray[np.bool_]


def remove_zingers_in_views(
    counts: NDArray[Any], *, sigmas: float = 6.0, reach: int = 2, mask: NDArray[np.bool_] | None = None
) -> WithoutZingers:
    """Remove counts that stand out of a short run of views.

    Parameters
    ----------
    counts : ndarray, shape (views, v, u)
        Counts of one counter in neighboring views, at least 3.
    sigmas : float
        A zinger exceeds *every* neighbor in the run by this many standard deviations. An edge of the sample that moves
        over the pixel rises on one side only, and stays.
    reach : int
        Views on each side that are compared; at the ends of the stack the run has all its views on one side.
    mask : ndarray, shape (v, u), bool, optional
        True where a pixel is bad and left alone.

    Returns
    -------
    WithoutZingers
        A zinger becomes the median of its neighbors in the run.
    """
    limit = positive("sigmas", sigmas, "standard deviations")
    frames = finite_float32("counts", counts, mask)
    if frames.ndim != 3 or len(frames) < 3:
        raise InputError(f"counts must be at least 3 views, shape (views, v, u), got {frames.shape}")
    shape = image_shape("counts", frames)
    if reach < 1:
        raise InputError(f"reach must be at least 1 view, got {reach!r}")
    bad = None if mask is None else mask_of("mask", mask, shape)
    n = len(frames)
    width = min(2 * reach + 1, n)
    result = frames.copy()
    zingers = np.zeros(frames.shape, dtype=np.bool_)
    for view in range(n):
        first = min(max(view - width // 2, 0), n - width)
        others = [k for k in range(first, first + width) if k != view]
        highest = frames[others[0]].copy()
        for k in others[1:]:
            np.maximum(highest, frames[k], out=highest)
        found = frames[view] - highest > np.float32(limit) * np.sqrt(np.maximum(highest, 0) + 1)
        if bad is not None:
            found &= ~bad
        if found.any():
            zingers[view] = found
            result[view][found] = np.median(frames[others][:, found], axis=0)
    return WithoutZingers(result, zingers)


def remove_zingers_in_frames(
    counts: NDArray[Any],
    *,
    sigmas: float = 8.0,
    size_px: int = 5,
    pixel_spread: float = 0.05,
    mask: NDArray[np.bool_] | None = None,
) -> WithoutZingers:
    """Remove counts that stand out of their surroundings in the same frame.

    Parameters
    ----------
    counts : ndarray, shape (..., v, u)
        Counts of frames.
    sigmas : float
        A zinger exceeds the median of the pixels around it by this many standard deviations.
    size_px : int
        Odd width of the square around the pixel, which itself does not count, px; the frame is mirrored at its edges.
    pixel_spread : float
        Relative spread of the pixels' sensitivities, added to the Poisson noise: ``sigma**2 = m + 1 + (spread m)**2``.
    mask : ndarray, shape (v, u), bool, optional
        True where a pixel is bad: left alone and not asked.

    Returns
    -------
    WithoutZingers
        A zinger becomes the median of its surroundings.
    """
    limit = positive("sigmas", sigmas, "standard deviations")
    spread = positive("pixel_spread", pixel_spread, "fraction", zero=True)
    if size_px < 3 or size_px % 2 == 0:
        raise InputError(f"size_px must be an odd number from 3 on (px), got {size_px!r}")
    frames = finite_float32("counts", counts, mask)
    shape = image_shape("counts", frames)
    bad = None if mask is None else mask_of("mask", mask, shape)
    stack = frames.reshape(-1, *shape)
    result = stack.copy()
    zingers = np.zeros(stack.shape, dtype=np.bool_)
    if bad is not None and bad.all():
        return WithoutZingers(result.reshape(frames.shape), zingers.reshape(frames.shape))
    nearest = None if bad is None else ndimage.distance_transform_edt(bad, return_distances=False, return_indices=True)
    ask = np.ones(shape, dtype=np.bool_) if bad is None else ~bad
    for frame, out, found in zip(stack, result, zingers, strict=True):
        seen = frame if nearest is None else frame[nearest[0], nearest[1]]
        level = np.maximum(seen, 0)
        allowed = seen + np.float32(limit) * np.sqrt(level + 1 + (np.float32(spread) * level) ** 2)
        wide_seen, wide_allowed = (np.pad(image, size_px // 2, mode="reflect") for image in (seen, allowed))
        _stand_out(frame, ask, wide_seen, wide_allowed, size_px, out, found)
    return WithoutZingers(result.reshape(frames.shape), zingers.reshape(frames.shape))


@numba.njit(cache=True, nogil=True)
def _stand_out(frame, ask, seen, allowed, size, result, zingers):  # type: ignore[no-untyped-def]
    """Mark and replace the pixels that exceed what the median of their surroundings allows.

    What a level allows grows with the level, so that the median allows less than a pixel has if, and only if, the
    majority of its neighbors does: counting them stops early and needs no sorting.
    """
    n = size * size - 1
    middle = size // 2
    around = np.empty(n, dtype=np.float32)
    for v in range(frame.shape[0]):
        for u in range(frame.shape[1]):
            if not ask[v, u]:
                continue
            count = frame[v, u]
            above = 0
            for i in range(size):
                for j in range(size):
                    if allowed[v + i, u + j] >= count and not (i == middle and j == middle):
                        above += 1
                if above >= n // 2:
                    break
            if above >= n // 2:
                continue
            k = 0
            for i in range(size):
                for j in range(size):
                    if not (i == middle and j == middle):
                        around[k] = seen[v + i, u + j]
                        k += 1
            result[v, u] = np.sort(around)[n // 2]
            zingers[v, u] = True
