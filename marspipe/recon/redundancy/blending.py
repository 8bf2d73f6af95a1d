"""Which views a slice is made of when the source moves along the rotation axis: a helix, or several circles.

Every view gets a factor in every slice. The factors depend on the height of the slice alone, so that they can be
applied after the ramp filter, while the backprojection adds up, and so that a window of a grid gives the very bits of
the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# A helix' views of a slice reach this much beyond a full turn at least, so that the ends of the turn blend.
TURN_AND_BLEND = 1.05


@dataclass(frozen=True, eq=False)
class HelixBlend:
    """The views of a helix that make a slice: about one turn around the view at its height, more if rows allow.

    With ``t`` the angle between a view and the one whose source is level with the slice, a view has the weight
    ``g(t) / sum_k g(t + 2 pi k)``: views a turn apart measure nearly the same lines, and their weights sum to one.
    ``g`` is 1 in the middle and falls to 0 as a squared cosine where the detector's rows end.

    Attributes
    ----------
    angles_rad : ndarray, float64, shape (views,)
        Angles, going on from turn to turn.
    heights_mm : ndarray, float64, shape (views,)
        Height of the source, rising or falling throughout.
    reach_rad : float
        Angle from the level view at which a slice leaves the detector's rows at the edge of the field of view.

    Notes
    -----
    Wang, Lin, Cheng, Shinozaki, IEEE Trans. Med. Imaging 12 (1993) 486, doi:10.1109/42.241876; smooth weights over
    several turns after Stierstorfer et al., Phys. Med. Biol. 49 (2004) 2209, doi:10.1088/0031-9155/49/11/007.
    """

    angles_rad: FloatArray
    heights_mm: FloatArray
    reach_rad: float

    @property
    def pitch_mm(self) -> float:
        """Climb per turn."""
        return float(np.ptp(self.heights_mm) / np.ptp(self.angles_rad)) * 2 * math.pi

    def weights(self, z_mm: FloatArray, views: range | None = None) -> NDArray[np.float32]:
        """Return the factor of the views (all, or a run) in slices at heights ``z_mm``, float32 (views, slices)."""
        rising = np.argsort(self.heights_mm, kind="stable")
        level = np.interp(z_mm, self.heights_mm[rising], self.angles_rad[rising])
        low, high = float(self.angles_rad.min()), float(self.angles_rad.max())
        # Near an end the window shrinks, down to a turn; beyond that it stops, and slices use the last turn.
        least = TURN_AND_BLEND * math.pi
        level = np.clip(level, min(low + least, (low + high) / 2), max(high - least, (low + high) / 2))
        half = np.clip(np.minimum(level - low, high - level), least, max(self.reach_rad, least))
        angles = self.angles_rad if views is None else self.angles_rad[views.start : views.stop]
        weights = np.zeros((angles.size, z_mm.size), np.float32)
        turns = range(-math.ceil((high - low) / (2 * math.pi)), math.ceil((high - low) / (2 * math.pi)) + 1)
        for k in range(z_mm.size):
            own = _window(angles - level[k], half[k])
            used = np.flatnonzero(own)
            total = np.zeros(used.size)
            for turn in turns:
                other = angles[used] + 2 * math.pi * turn
                measured = (other >= low - 1e-9) & (other <= high + 1e-9)
                total += np.where(measured, _window(other - level[k], half[k]), 0.0)
            weights[used, k] = own[used] / total
        return weights


def _window(t: FloatArray, half: float) -> FloatArray:
    """Return 1 for the inner half of ``|t| < half``, then a squared cosine down to 0."""
    inside: FloatArray = np.clip(2 * np.abs(t) / half - 1, 0.0, 1.0)
    return np.asarray(np.cos(0.5 * math.pi * inside) ** 2 * (np.abs(t) < half), np.float64)


@dataclass(frozen=True, eq=False)
class CirclesBlend:
    """Several circles at different heights: each makes the slices around it, and neighbors fade into one another.

    Attributes
    ----------
    circle_of_view : ndarray, int64, shape (views,)
        Number of the circle of each view; circles are counted from the lowest.
    heights_mm : ndarray, float64, shape (circles,)
        Their heights, ascending.
    reach_mm : float
        How far above or below its plane a circle still sees the whole field of view.
    """

    circle_of_view: NDArray[np.int64]
    heights_mm: FloatArray
    reach_mm: float

    def weights(self, z_mm: FloatArray, views: range | None = None) -> NDArray[np.float32]:
        """Return the factor of the views (all, or a run) in slices at heights ``z_mm``, float32 (views, slices)."""
        n = self.heights_mm.size
        shares = np.ones((n, z_mm.size))
        for i in range(n):
            for neighbor, away in ((i - 1, -1.0), (i + 1, 1.0)):
                if 0 <= neighbor < n:
                    gap = abs(self.heights_mm[neighbor] - self.heights_mm[i])
                    # Linear over the heights that both circles see; where they share none, a switch half way.
                    fade = max(2 * self.reach_mm - gap, 1e-9 * gap)
                    outward = away * (z_mm - self.heights_mm[i])
                    shares[i] *= np.clip((0.5 * (gap + fade) - outward) / fade, 0.0, 1.0)
        shares /= shares.sum(axis=0)
        circles = self.circle_of_view if views is None else self.circle_of_view[views.start : views.stop]
        return shares.astype(np.float32)[circles]


Blend = HelixBlend | CirclesBlend
