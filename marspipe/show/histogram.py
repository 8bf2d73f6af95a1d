"""How values are spread: a few percentiles, a line of block characters, a drawn histogram."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.show.figure import FONT, INK

BLOCKS = " ▁▂▃▄▅▆▇█"
LINE_BINS = 24
DRAWN_BINS = 80
# The bins reach from this percentile to that one; what lies beyond is in the first and the last bin.
_ENDS_PERCENT = (0.1, 99.9)


@dataclass(frozen=True, eq=False)
class Spread:
    """How values are spread.

    Attributes
    ----------
    n : int
        Finite values.
    smallest, low, median, high, largest : float
        Minimum, 1 %, 50 % and 99 % percentiles, maximum.
    counts : ndarray, shape (bins,), int64
        Values in every bin; the first and the last one hold also what lies beyond.
    edges : ndarray, shape (bins + 1,), float64
        Edges of the bins.
    """

    n: int
    smallest: float
    low: float
    median: float
    high: float
    largest: float
    counts: NDArray[np.int64]
    edges: NDArray[np.float64]


def spread_of(values: NDArray[Any], bins: int = LINE_BINS) -> Spread:
    """Return how values are spread; whole numbers get bins of whole widths, so that none is favored.

    Parameters
    ----------
    values : ndarray, any shape and real type
        NaN and infinity are left out.
    bins : int
        Most bins.

    Raises
    ------
    InputError
        If no value is finite.
    """
    whole = values.dtype.kind in "iub"
    flat = values.ravel() if whole else values[np.isfinite(values)]
    if flat.size == 0:
        raise InputError("a histogram needs at least one finite value, got none")
    flat = flat.astype(np.float64)
    percents = [0.0, 1.0, 50.0, 99.0, 100.0, *_ENDS_PERCENT]
    smallest, low, median, high, largest, first, last = np.percentile(flat, percents, method="nearest").tolist()
    if whole:
        width = max(1, math.ceil((last - first + 1) / bins))
        edges = first - 0.5 + width * np.arange(math.ceil((last - first + 1) / width) + 1)
    else:
        last = last if last > first else first + (abs(first) or 1.0)
        edges = np.linspace(first, last, bins + 1)
    counts, _ = np.histogram(np.clip(flat, edges[0], edges[-1]), edges)
    return Spread(flat.size, smallest, low, median, high, largest, counts.astype(np.int64), edges)


def histogram_line(counts: NDArray[np.integer]) -> str:
    """Return a histogram as one line of block characters; the highest bin is a full block, an empty one a blank."""
    top = int(counts.max(initial=0))
    if top == 0:
        return BLOCKS[0] * counts.size
    heights = np.ceil(counts / top * (len(BLOCKS) - 1)).astype(int)
    return "".join(BLOCKS[h] for h in heights)


def draw_histogram(
    axes: Axes, values: NDArray[Any], label: str, color: str, shown: tuple[float, float] | None = None
) -> Spread:
    """Draw the histogram of values into axes, on a logarithmic scale.

    Parameters
    ----------
    axes : Axes
        Where.
    values : ndarray
        What.
    label : str
        What the values are, with their unit.
    color : str
        Of the bars.
    shown : (float, float), optional
        The ends of the color scale of the picture beside it, marked by dashed lines.
    """
    spread = spread_of(values, DRAWN_BINS)
    axes.stairs(spread.counts, spread.edges, fill=True, color=color, lw=0)
    axes.set_yscale("log")
    axes.set_ylim(0.8, max(10.0, 1.5 * float(spread.counts.max())))
    for end in shown or ():
        axes.axvline(end, color=INK, lw=0.8, ls=(0, (4, 3)))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(value, 6):.5g}"))
    axes.set_xlabel(label, size=FONT, color=INK)
    axes.set_ylabel("pixels", size=FONT, color=INK, labelpad=1)
    return spread
