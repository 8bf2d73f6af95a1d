"""Histograms as lines of text and as drawings."""

from __future__ import annotations

import numpy as np
import pytest

from marspipe.errors import InputError
from marspipe.show.figure import Sheet
from marspipe.show.histogram import draw_histogram, histogram_line, spread_of


def test_spread_holds_every_value(rng: np.random.Generator) -> None:
    values = rng.poisson(500, 10_000).astype(np.uint16)
    values[:3] = [0, 4095, 65535]
    spread = spread_of(values, 24)
    assert spread.counts.sum() == spread.n == values.size
    assert (spread.smallest, spread.largest) == (0, 65535)
    assert spread.low < spread.median < spread.high
    assert spread.median == pytest.approx(500, abs=3)
    # Outliers are in the end bins; they do not squeeze the rest into one bin.
    assert spread.edges[-1] < 800
    assert np.count_nonzero(spread.counts > 100) > 10


def test_whole_numbers_have_whole_bins() -> None:
    values = np.repeat(np.arange(30, dtype=np.uint8), 10)
    spread = spread_of(values, 24)
    widths = np.diff(spread.edges)
    assert set(widths) == {2.0}
    assert spread.counts.tolist() == [20] * 15


def test_what_is_no_number_is_left_out() -> None:
    spread = spread_of(np.array([1.0, np.nan, 2.0, np.inf, 3.0]))
    assert spread.n == 3
    assert spread.counts.sum() == 3
    with pytest.raises(InputError, match="at least one finite value"):
        spread_of(np.array([np.nan]))


def test_constant_values() -> None:
    for values in (np.full(9, 7, np.uint16), np.full(9, 0.5, np.float32), np.zeros(9, np.float32)):
        assert spread_of(values).counts.sum() == 9


def test_line() -> None:
    assert histogram_line(np.array([0, 1, 50, 100, 25])) == " ▁▄█▂"
    assert histogram_line(np.zeros(3, np.int64)) == "   "


def test_drawing(rng: np.random.Generator) -> None:
    axes = Sheet(3, 3).axes(0.5, 0.5, 2, 2)
    spread = draw_histogram(axes, rng.normal(size=1000), "counts", "#000000", shown=(-2.0, 2.0))
    assert spread.n == 1000
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "counts"
    assert sorted(float(line.get_xdata()[0]) for line in axes.lines) == [-2.0, 2.0]
