"""The open beam at the time of a frame, between groups of open beams; and what its noise adds.

GaAs pixels drift, so that open beams are taken before, after and sometimes within a scan. Between the groups at ``t0``
and ``t1`` the beam is interpolated, ``F(t) = ((t1 - t) F0 + (t - t0) F1) / (t1 - t0)``, in every pixel of every counter
of one camera position by itself. Beams that change in time, and what they leave in the images: Van Nieuwenhove et al.,
Opt. Express 23 (2015) 27975, doi:10.1364/OE.23.027975.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.preprocess.arrays import finite_float32, image_shape


@dataclass(frozen=True, eq=False)
class OpenBeamGroup:
    """Open beams taken together, averaged.

    Attributes
    ----------
    time_s : float
        Mean time of the group, s, on the clock of the frames.
    mean : ndarray, shape (..., v, u), float32
        Mean counts; a leading axis are the counters of one camera position.
    n_frames : int
        Frames averaged.
    """

    time_s: float
    mean: NDArray[np.float32]
    n_frames: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.time_s):
            raise InputError(f"OpenBeamGroup.time_s must be finite (s), got {self.time_s!r}")
        if self.n_frames < 1:
            raise InputError(f"OpenBeamGroup.n_frames must be at least 1, got {self.n_frames}")
        mean = finite_float32("OpenBeamGroup.mean", self.mean)
        image_shape("OpenBeamGroup.mean", mean)
        object.__setattr__(self, "mean", mean)


@dataclass(frozen=True, eq=False)
class OpenBeam:
    """The open beam at one time.

    Attributes
    ----------
    counts : ndarray, shape (..., v, u), float32
        Expected counts of a frame.
    variance : ndarray, shape (..., v, u), float32
        Variance of that expectation, from the Poisson noise of the groups.
    """

    counts: NDArray[np.float32]
    variance: NDArray[np.float32]


class OpenBeamSeries:
    """All groups of open beams of one camera position; one object per position.

    Parameters
    ----------
    groups : sequence of OpenBeamGroup
        At least one, in any order, at different times.
    outside : {"refuse", "nearest"}
        What a time before the first or after the last group means. A single group holds at all times: nothing is
        known of a drift.

    Raises
    ------
    InputError
        If there is no group, shapes differ, or two groups have the same time.
    """

    def __init__(self, groups: Sequence[OpenBeamGroup], outside: Literal["refuse", "nearest"] = "refuse") -> None:
        if outside not in ("refuse", "nearest"):
            raise InputError(f"outside must be 'refuse' or 'nearest', got {outside!r}")
        if not groups:
            raise InputError("a camera position needs at least one group of open beams, got none")
        self._groups = sorted(groups, key=lambda group: group.time_s)
        self._outside = outside
        for earlier, later in pairwise(self._groups):
            if earlier.mean.shape != later.mean.shape:
                raise InputError(f"groups of open beams differ in shape: {earlier.mean.shape} and {later.mean.shape}")
            if not earlier.time_s < later.time_s:
                raise InputError(f"two groups of open beams have the same time, {later.time_s} s: merge them")

    def at(self, time_s: float) -> OpenBeam:
        """Return the open beam at a time.

        The variance of a mean of ``n`` frames is ``F / n``; that of the interpolation with the weights ``1 - w`` and
        ``w`` is ``(1 - w)**2 F0 / n0 + w**2 F1 / n1``.

        Raises
        ------
        InputError
            If the time is not between the groups and ``outside`` is "refuse".
        """
        times = [group.time_s for group in self._groups]
        if not math.isfinite(time_s):
            raise InputError(f"time of a frame must be finite (s), got {time_s!r}")
        if len(times) > 1 and self._outside == "refuse" and not times[0] <= time_s <= times[-1]:
            raise InputError(
                f"frame at {time_s:g} s lies outside of the open beams, {times[0]:g} to {times[-1]:g} s: "
                "extrapolation is refused"
            )
        index = int(np.searchsorted(times, time_s, side="right"))
        if index == 0 or index == len(times):
            group = self._groups[min(index, len(times) - 1)]
            return OpenBeam(group.mean.copy(), np.maximum(group.mean, np.float32(0)) * np.float32(1 / group.n_frames))
        before, after = self._groups[index - 1], self._groups[index]
        w = (time_s - before.time_s) / (after.time_s - before.time_s)
        counts = np.float32(1 - w) * before.mean + np.float32(w) * after.mean
        variance = np.float32((1 - w) ** 2 / before.n_frames) * np.maximum(before.mean, 0)
        variance += np.float32(w**2 / after.n_frames) * np.maximum(after.mean, 0)
        return OpenBeam(counts, variance)


def transmission(
    counts: NDArray[Any], open_beam: NDArray[Any], dark: NDArray[Any] | None = None
) -> NDArray[np.float32]:
    """Return ``T = (C - D) / (F - D)``.

    Parameters
    ----------
    counts : ndarray, shape (..., v, u)
        Counts C of frames.
    open_beam, dark : ndarray, shape (v, u) or the shape of ``counts``
        Mean open-beam counts F and dark counts D (by default 0).

    Returns
    -------
    ndarray, shape (..., v, u), float32, dimensionless
        0 where the open beam is not above the dark: pixels that the mask must hold.
    """
    frames = finite_float32("counts", counts)
    flat = finite_float32("open_beam", open_beam)
    if dark is not None:
        level = finite_float32("dark", dark)
        frames, flat = frames - level, flat - level
    lit = flat > 0
    return np.asarray(np.where(lit, frames / np.where(lit, flat, 1), 0), dtype=np.float32)


def line_integral_variance(
    counts: NDArray[Any], open_beam: NDArray[Any], open_beam_variance: NDArray[Any] | float = 0.0
) -> NDArray[np.float32]:
    """Return the variance of a line integral, ``var(p) = var(T) / T**2 = 1/N + var(F) / F**2``.

    Parameters
    ----------
    counts : ndarray, shape (..., v, u)
        Counts N of a counter or an energy bin. The difference of two counters that share their photons is a Poisson
        number like each of them. N counts as ``max(N, 0) + 1/2``, as in the logarithm, so that none gives a finite
        variance.
    open_beam : ndarray, shape (v, u) or the shape of ``counts``
        Mean open-beam counts F.
    open_beam_variance : ndarray or float
        Variance of F; ``F / n`` for a mean of n frames, or :attr:`OpenBeam.variance`.

    Returns
    -------
    ndarray, shape (..., v, u), float32, dimensionless
        Infinite without open-beam counts.
    """
    frames = finite_float32("counts", counts)
    flat = finite_float32("open_beam", open_beam)
    spread = finite_float32("open_beam_variance", np.asarray(open_beam_variance))
    if spread.min() < 0:
        raise InputError(f"open_beam_variance must not be negative, got {spread.min():g}")
    lit = flat > 0
    of_open_beam = np.where(lit, spread / np.where(lit, flat, 1) ** 2, np.inf)
    return np.asarray(1 / (np.maximum(frames, 0) + np.float32(0.5)) + of_open_beam, dtype=np.float32)
