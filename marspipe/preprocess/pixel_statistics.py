"""Sums over frames that say how every pixel counts: mean, variance, Fano factor.

The sums of two sets of frames add up to those of both, so that a cluster can take them part by part. Sums of counts
are integers and exact in float64 below 2**53: a 12-bit counter reaches that after 5e8 frames, and then only in the
sum of squares. The order of adding does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainccinv, gammaincinv

from marspipe.errors import InputError
from marspipe.preprocess.arrays import real_array, refuse_not_finite

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PixelSums:
    """Number, sum and sum of squares of the frames of one kind, per pixel.

    Attributes
    ----------
    n : int
        Frames.
    total, squares : ndarray, shape (v, u), float64
        Sum of the counts, and of their squares.

    Raises
    ------
    InputError
        If the shapes differ, a sum is not finite, or ``n`` is negative.
    """

    n: int
    total: FloatArray
    squares: FloatArray

    def __post_init__(self) -> None:
        if self.n < 0:
            raise InputError(f"PixelSums.n must not be negative (frames), got {self.n}")
        if self.total.shape != self.squares.shape:
            raise InputError(f"PixelSums: total has shape {self.total.shape}, squares {self.squares.shape}")
        refuse_not_finite("PixelSums.total", self.total)
        refuse_not_finite("PixelSums.squares", self.squares)

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> PixelSums:
        """Return the sums of no frame."""
        return cls(0, np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, frames: Iterable[NDArray[Any]]) -> PixelSums:
        """Return the sums of frames, each of shape (v, u): a stack, or any iterable that need not fit in memory."""
        n, total, squares = 0, None, None
        for frame in frames:
            counts = real_array("frames", frame).astype(np.float64)
            if total is None or squares is None:
                total, squares = np.zeros(counts.shape), np.zeros(counts.shape)
            if counts.shape != total.shape:
                raise InputError(f"frames differ in shape: frame 0 has {total.shape}, frame {n} has {counts.shape}")
            total += counts
            counts *= counts
            squares += counts
            n += 1
        if total is None or squares is None:
            raise InputError("PixelSums.of needs at least one frame, got none")
        return cls(n, total, squares)

    def __add__(self, other: PixelSums) -> PixelSums:
        """Return the sums over both sets of frames."""
        if self.total.shape != other.total.shape:
            raise InputError(f"PixelSums differ in shape: {self.total.shape} and {other.total.shape}")
        return PixelSums(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> FloatArray:
        """Mean counts of a frame, shape (v, u); zero without frames."""
        return self.total / max(self.n, 1)

    @property
    def variance(self) -> FloatArray:
        """Unbiased variance from frame to frame, shape (v, u); needs two frames."""
        if self.n < 2:
            raise InputError(f"a variance needs at least 2 frames, got {self.n}")
        # Rounding can leave a hair below zero where all frames are equal.
        return np.asarray(np.maximum(self.squares - self.total * self.total / self.n, 0.0) / (self.n - 1))


def excess_fano(sums: PixelSums, least_counts: float = 100.0) -> FloatArray:
    """Return the variance of every pixel over the variance that it should have.

    A Poisson pixel with mean ``m`` has the variance ``m``. A tube whose output varies by the coefficient ``c`` from
    frame to frame adds ``(c m)**2`` in all pixels alike; ``c**2`` is taken as the median of ``(variance - m) / m**2``
    over the frame, at least 0. The result ``variance / (m + (c m)**2)`` is 1 on average (Fano, Phys. Rev. 72, 26,
    1947, doi:10.1103/PhysRev.72.26). A detector that does not count photons one by one can have a smaller variance
    than ``m`` in all pixels alike; then the median of ``variance / m`` stands for Poisson's 1.

    Parameters
    ----------
    sums : PixelSums
        At least 2 frames.
    least_counts : float
        Pixels with fewer counts in all frames together have no opinion.

    Returns
    -------
    ndarray, shape (v, u), float64, dimensionless
        NaN where a pixel has no opinion.
    """
    mean, variance = sums.mean, sums.variance
    judged = sums.total >= max(least_counts, 1.0)
    ratio = np.full(mean.shape, np.nan)
    if judged.any():
        m, var = mean[judged], variance[judged]
        common = max(float(np.median((var - m) / m**2)), 0.0)
        # The median of chi-squared over its degrees of freedom is below 1 (Wilson and Hilferty, Proc. Natl. Acad. Sci.
        # 17 (1931) 684, doi:10.1073/pnas.17.12.684).
        middle = (1.0 - 2.0 / (9.0 * (sums.n - 1))) ** 3
        gain = min(float(np.median(var / m)) / middle, 1.0)
        ratio[judged] = var / ((gain or 1.0) * m + common * m**2)
    return ratio


def fano_limits(n_frames: int, low: float = 0.5, high: float = 2.0, false_alarm: float = 1e-6) -> tuple[float, float]:
    """Return the limits of the Fano factor, wide enough for the number of frames.

    The Fano factor of ``n`` Poisson frames scatters like chi-squared with ``n - 1`` degrees of freedom over ``n - 1``.
    Where that alone would cross a limit with more than the probability ``false_alarm``, the limit gives way. Counts are
    whole: fewer than 8 frames of a good pixel may all be equal, so that none is too quiet, and the lower limit is 0.

    Parameters
    ----------
    n_frames : int
        Frames, at least 2.
    low, high : float
        Limits for many frames; ``low < 1 < high``.
    false_alarm : float
        Probability to condemn a good pixel, on each side.
    """
    if n_frames < 2:
        raise InputError(f"a Fano factor needs at least 2 frames, got {n_frames}")
    if not 0 <= low < 1 < high:
        raise InputError(f"limits of the Fano factor must be 0 <= low < 1 < high, got {low} and {high}")
    if not 0 < false_alarm < 0.5:
        raise InputError(f"false_alarm must be a probability between 0 and 0.5, got {false_alarm}")
    half = 0.5 * (n_frames - 1)
    return (
        min(low, float(gammaincinv(half, false_alarm)) / half) if n_frames >= 8 else 0.0,
        max(high, float(gammainccinv(half, false_alarm)) / half),
    )
