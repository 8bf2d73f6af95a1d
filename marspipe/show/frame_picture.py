"""The picture of one frame: the image, its color bar, its histogram."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.show.figure import FONT, INK, Sheet, add_color_bar, set_ticks, value_range
from marspipe.show.histogram import draw_histogram

COLORS = "viridis"
NO_NUMBER_COLOR = "#d94fb0"
_BAR_COLOR = "#3b6ea5"
_LEFT_IN, _TOP_IN, _FOOT_IN = 0.72, 0.82, 0.55
_SIDE_IN, _BAR_IN, _HISTOGRAM_IN, _RIGHT_IN = 4.6, 1.35, 2.3, 0.25
_HISTOGRAM_HEIGHT_IN, _NUMBERS_IN = 1.9, 1.0


def write_frame_picture(
    frame: NDArray[Any], target: str | Path | BinaryIO, title: str, subtitle: str = "", *, label: str = "counts"
) -> None:
    """Write a PNG of one frame with its color bar and its histogram.

    Colors leave out the lowest and highest 1 % of the values; dashed lines in the histogram mark where they end.

    Parameters
    ----------
    frame : ndarray, any real type, shape (rows, columns)
        ``[row v, column u]``; row 0 is drawn at the bottom, as v grows upwards.
    target : path or binary file
        Where the PNG goes.
    title, subtitle : str
        What the frame is.
    label : str
        What the values are, with their unit.

    Raises
    ------
    InputError
        If the frame is not an image, or has no finite value.
    """
    draw_frame(frame, title, subtitle, label).save(target)


def draw_frame(frame: NDArray[Any], title: str, subtitle: str, label: str) -> Sheet:
    """Return the page that :func:`write_frame_picture` writes."""
    if frame.ndim != 2 or frame.size == 0:
        raise InputError(f"a frame must have rows and columns, got shape {frame.shape}")
    width, height = frame_size_in(frame.shape, _SIDE_IN, _SIDE_IN)
    body = max(height, _HISTOGRAM_HEIGHT_IN + _NUMBERS_IN)
    bar_left = _LEFT_IN + width + 0.2
    histogram_left = bar_left + _BAR_IN
    sheet = Sheet(histogram_left + _HISTOGRAM_IN + _RIGHT_IN, _TOP_IN + body + _FOOT_IN)
    sheet.title(title, subtitle, size=FONT + 3)
    finite = frame[np.isfinite(frame)]
    histogram = sheet.axes(histogram_left, _TOP_IN, _HISTOGRAM_IN, _HISTOGRAM_HEIGHT_IN)
    limits = value_range([finite.astype(np.float64)], 1.0, 99.0) if finite.size else (0.0, 1.0)
    spread = draw_histogram(histogram, frame, label, _BAR_COLOR, limits)
    shown = show_image(sheet.axes(_LEFT_IN, _TOP_IN, width, height), frame, limits, COLORS, (width, height))
    add_color_bar(sheet, shown, label, left_in=bar_left, top_in=_TOP_IN, height_in=height)
    numbers = [
        f"min {spread.smallest:.6g}   max {spread.largest:.6g}",
        f"1 % {spread.low:.6g}   99 % {spread.high:.6g}",
        f"median {spread.median:.6g}",
    ]
    if finite.size < frame.size:
        numbers.append(f"{frame.size - finite.size} pixels are no number")
    top = _TOP_IN + _HISTOGRAM_HEIGHT_IN + 0.5
    sheet.text(histogram_left, top, "\n".join(numbers), size=FONT - 1, linespacing=1.5)
    return sheet


def frame_size_in(shape: tuple[int, ...], most_width_in: float, most_height_in: float) -> tuple[float, float]:
    """Return width and height of an image on paper, its pixels square unless it is too slender to see."""
    rows, cols = shape
    scale = min(most_width_in / cols, most_height_in / rows)
    return max(cols * scale, 0.6), max(rows * scale, 0.6)


def show_image(
    axes: Axes,
    image: NDArray[Any],
    limits: tuple[float, float],
    colors: str,
    size_in: tuple[float, float],
    labels: tuple[str, str] = ("row v [px]", "column u [px]"),
    first: tuple[int, int] = (0, 0),
) -> AxesImage:
    """Show an image in axes of a size, row 0 at the bottom; ``first`` is the number of its first row and column."""
    rows, cols = image.shape
    shown = axes.imshow(
        image.astype(np.float64),
        cmap=colors,
        vmin=limits[0],
        vmax=limits[1],
        origin="lower",
        extent=(first[1] - 0.5, first[1] + cols - 0.5, first[0] - 0.5, first[0] + rows - 0.5),
        aspect="auto",  # the axes have the right shape already
    )
    axes.set_facecolor(NO_NUMBER_COLOR)
    axes.set_ylabel(labels[0], size=FONT, color=INK, labelpad=2)
    axes.set_xlabel(labels[1], size=FONT, color=INK, labelpad=2)
    set_ticks(axes, *size_in)
    return shown
