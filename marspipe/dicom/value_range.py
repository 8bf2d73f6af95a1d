"""Which range of values a series stores: from histograms that tasks make of their slices and merge.

An int16 has 65534 steps. Spread over the range that nearly all voxels keep to, a step is far below the noise: a
micro-CT of water (0.02/mm) with 5 % noise (1e-3/mm) and values from -0.01 to 0.06/mm has steps of 1e-6/mm, a
thousandth of the noise. A single streak beside a grain of metal may reach a hundred times as far; stretched over it,
steps would be a tenth of the noise and come near to what people measure. So the full range is kept, with no voxel
clipped, as long as it is at most :data:`STRETCH` times the range of all but 0.001 % of the voxels at either end (at
worst two bits of sixteen are spent on it); beyond that, voxels outside the wider robust range are clipped and counted.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError

# As many as an int16 has: where outliers stretch the edges, a cell of the histogram may hold all other voxels, and
# 65534 steps across that cell are still fine.
CELLS = 1 << 16
# The share of voxels, at either end, that does not decide the range.
TAIL = 1e-5
# The full range is kept up to this many robust ranges.
STRETCH = 4.0
# A robust range is widened by this part of itself at either end, if there are voxels.
MARGIN = 0.25
_HEAD = struct.Struct("<ddI")


@dataclass(frozen=True, eq=False)
class ValueHistogram:
    """How many voxels have which value; histograms of the same range add up, in any order, to the same one.

    Attributes
    ----------
    low, high : float
        Range of all values, 1/mm or mg/mL: minimum and maximum of the bin's statistics.
    counts : ndarray, int64, shape (cells,)
        Voxels in equal parts of the range.
    """

    low: float
    high: float
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, low: float, high: float, cells: int = CELLS) -> ValueHistogram:
        """Return a histogram without voxels.

        Raises
        ------
        InputError
            If the range is not finite or reversed.
        """
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InputError(f"a histogram needs a finite range, got {low!r} to {high!r}")
        return cls(float(low), float(high), np.zeros(cells, np.int64))

    @property
    def cell(self) -> float:
        """Width of a cell."""
        return (self.high - self.low) / self.counts.size

    def add(self, pixels: NDArray[np.floating], outside: NDArray[np.bool_] | None = None) -> ValueHistogram:
        """Return a histogram that holds the pixels too.

        Parameters
        ----------
        pixels : ndarray, float, any shape
            Values within the range.
        outside : ndarray, bool, same shape, optional
            Pixels that do not count.

        Raises
        ------
        InputError
            If a pixel is NaN or lies outside the range.
        """
        values = np.ravel(pixels if outside is None else pixels[~outside]).astype(np.float64)
        if values.size == 0:
            return self
        least, greatest = float(values.min()), float(values.max())
        if not (self.low <= least and greatest <= self.high):
            raise InputError(
                f"the pixels span {least:.6g} to {greatest:.6g}, outside the volume's statistics "
                f"{self.low:.6g} to {self.high:.6g}"
            )
        if self.high > self.low:
            values -= self.low
            values *= self.counts.size / (self.high - self.low)
        else:
            values[:] = 0
        cells = np.minimum(values.astype(np.int64), self.counts.size - 1)
        counted: NDArray[np.int64] = np.bincount(cells, minlength=self.counts.size).astype(np.int64)
        return ValueHistogram(self.low, self.high, self.counts + counted)

    def __add__(self, other: ValueHistogram) -> ValueHistogram:
        if (self.low, self.high, self.counts.size) != (other.low, other.high, other.counts.size):
            raise InputError("histograms of different ranges do not add up")
        return ValueHistogram(self.low, self.high, self.counts + other.counts)

    def to_bytes(self) -> bytes:
        """Return the histogram as bytes, for a column of a table."""
        return _HEAD.pack(self.low, self.high, self.counts.size) + self.counts.astype("<i8").tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> ValueHistogram:
        """Restore a histogram from :meth:`to_bytes`.

        Raises
        ------
        InputError
            If the bytes are not one.
        """
        if len(content) < _HEAD.size or len(content) != _HEAD.size + 8 * _HEAD.unpack_from(content)[2]:
            raise InputError(f"{len(content)} bytes are not a histogram of values")
        low, high, _ = _HEAD.unpack_from(content)
        return cls(low, high, np.frombuffer(content, "<i8", offset=_HEAD.size).astype(np.int64))


def robust_range(histogram: ValueHistogram) -> tuple[float, float]:
    """Return the range that a series should store, see the module.

    Returns
    -------
    low, high : float
        The full range of the histogram, or a part of it that holds all but at most 0.001 % of the voxels at either end.
    """
    full = histogram.low, histogram.high
    reached = np.cumsum(histogram.counts)
    total = int(reached[-1])
    if total == 0 or histogram.high == histogram.low:
        return full
    tail = TAIL * total
    # The cells in which the tails end are kept whole.
    first = int(np.searchsorted(reached, tail, side="right"))
    last = int(np.searchsorted(reached, total - tail, side="left"))
    low, high = histogram.low + first * histogram.cell, histogram.low + (last + 1) * histogram.cell
    if full[1] - full[0] <= STRETCH * (high - low):
        return full
    margin = MARGIN * (high - low)
    return max(low - margin, full[0]), min(high + margin, full[1])
