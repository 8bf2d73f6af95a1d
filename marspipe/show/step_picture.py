"""What one correction did to a frame: before, after and their difference, and the place where it did most."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import ndimage

from marspipe.errors import InputError
from marspipe.show.figure import FONT, INK, Sheet, add_color_bar, value_range
from marspipe.show.frame_picture import COLORS, frame_size_in, show_image

DIFFERENCE_COLORS = "RdBu_r"
_MARK_COLOR = "#c2560c"
_LEFT_IN, _TOP_IN, _HEAD_IN, _FOOT_IN = 0.72, 0.8, 0.3, 0.62
_PANEL_IN, _WIDE_PANEL_IN, _WIDE_DETAIL_IN = 3.0, 7.0, 1.9
# From the edge of an image past its color bar to the next image.
_GAP_IN = 1.5
# Panels of images wider than this, in heights, stand below each other.
_WIDE = 2.5
# Images larger than this get a second look at the part that changed most, unless more than this share of them changed.
_DETAIL_PX = 40
_DETAIL_FROM_PX = 96
_LOCAL_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class StepChange:
    """An image before and after a correction.

    Attributes
    ----------
    title, subtitle : str
        Which correction, of what.
    before, after : ndarray of one shape (rows, columns)
        The values.
    before_label, after_label : str
        What they are, with their unit; a difference is drawn if they are the same.
    axis_labels : (str, str)
        What rows and columns are.
    """

    title: str
    subtitle: str
    before: NDArray[Any]
    after: NDArray[Any]
    before_label: str
    after_label: str
    axis_labels: tuple[str, str] = ("row v [px]", "column u [px]")

    def __post_init__(self) -> None:
        if self.before.ndim != 2 or self.before.size == 0 or self.before.shape != self.after.shape:
            raise InputError(
                f"before and after must be images of one shape, got {self.before.shape} and {self.after.shape}"
            )

    @property
    def comparable(self) -> bool:
        """Whether before and after are the same quantity."""
        return self.before_label == self.after_label

    @property
    def difference(self) -> NDArray[np.float64]:
        """After minus before; where either is no number, 0 if both are none, else NaN."""
        before, after = self.before.astype(np.float64), self.after.astype(np.float64)
        neither = ~np.isfinite(before) & ~np.isfinite(after)
        with np.errstate(invalid="ignore"):
            return np.where(neither, 0.0, after - before)

    def summary(self) -> str:
        """Return what changed, in numbers."""
        if not self.comparable:
            return f"{self.before_label}: {_range(self.before)}; {self.after_label}: {_range(self.after)}"
        difference = self.difference
        changed = difference != 0  # NaN has changed, too
        share = f"{int(changed.sum())} of {difference.size} values ({changed.mean():.2%})"
        finite = difference[np.isfinite(difference) & changed]
        if not finite.size:
            return f"changed {share}"
        rms = float(np.sqrt(np.mean(finite**2)))
        return f"changed {share} by {_number(finite.min())} to {_number(finite.max())}, root mean square {rms:.4g}"


def _number(value: float) -> str:
    return f"{value:+.4g}".replace("-", "−")


def _range(image: NDArray[Any]) -> str:
    finite = image[np.isfinite(image)]
    if not finite.size:
        return "no number"
    low, middle, high = np.percentile(finite, [0, 50, 100])
    return f"{low:.5g} to {high:.5g}, median {middle:.5g}".replace("-", "−")


def write_step_picture(change: StepChange, target: str | Path | BinaryIO) -> None:
    """Write a PNG of an image before and after a correction, and of the difference.

    Before and after share their colors, which leave out the lowest and highest 1 %. The difference is red where the
    correction raised a value and blue where it lowered one. Large images have the part that changed most below them.

    Parameters
    ----------
    change : StepChange
        What to draw.
    target : path or binary file
        Where the PNG goes.
    """
    draw_step(change).save(target)


def draw_step(change: StepChange) -> Sheet:
    """Return the page that :func:`write_step_picture` writes."""
    rows, cols = change.before.shape
    stacked = cols > _WIDE * rows
    panels = _panels(change)
    detail = _detail(change) if change.comparable else None
    most = _WIDE_PANEL_IN if stacked else _PANEL_IN
    width, height = frame_size_in((rows, cols), most, _PANEL_IN if stacked else 1.6 * _PANEL_IN)
    step_x, step_y = width + _GAP_IN, _HEAD_IN + height + _FOOT_IN
    across = 1 if stacked else len(panels)
    down = len(panels) if stacked else 1
    detail_step = 0.0
    if detail is not None:
        detail_width, detail_height = frame_size_in(_shape(detail), _WIDE_DETAIL_IN if stacked else width, _PANEL_IN)
        detail_step = _HEAD_IN + detail_height + _FOOT_IN
    page_width = _LEFT_IN + across * step_x
    if detail is not None:
        page_width = max(page_width, _LEFT_IN + len(panels) * (detail_width + _GAP_IN))
    sheet = Sheet(max(page_width, 6.2), _TOP_IN + down * step_y + detail_step)
    sheet.title(change.title, change.subtitle, size=FONT + 3)
    sheet.text(0.2, 0.56, change.summary(), size=FONT - 1, color="#555555")
    for number, panel in enumerate(panels):
        column, row = (0, number) if stacked else (number, 0)
        left, top = _LEFT_IN + column * step_x, _TOP_IN + row * step_y + _HEAD_IN
        axes = _draw_panel(sheet, panel, (left, top, width, height), change.axis_labels)
        if detail is not None:
            corner = (detail[1].start - 0.5, detail[0].start - 0.5)
            size = _shape(detail)
            axes.add_patch(Rectangle(corner, size[1], size[0], fill=False, ec=_MARK_COLOR, lw=1.2, gid="detail"))
            left = _LEFT_IN + number * (detail_width + _GAP_IN if stacked else step_x)
            top = _TOP_IN + down * step_y + _HEAD_IN
            place = (left, top, detail_width, detail_height)
            _draw_panel(sheet, panel.cut(detail), place, change.axis_labels)
    return sheet


@dataclass(frozen=True, eq=False)
class _Panel:
    """An image and how it is shown."""

    name: str
    image: NDArray[Any]
    label: str
    limits: tuple[float, float]
    colors: str
    first: tuple[int, int] = (0, 0)

    def cut(self, window: tuple[slice, slice]) -> _Panel:
        """Return the panel of a part of the image, in the same colors."""
        first = (window[0].start, window[1].start)
        return _Panel(f"{self.name}, detail", self.image[window], self.label, self.limits, self.colors, first)


def _panels(change: StepChange) -> list[_Panel]:
    before, after = _finite(change.before), _finite(change.after)
    if not change.comparable:
        return [
            _Panel("before", change.before, change.before_label, value_range([before], 1.0, 99.0), COLORS),
            _Panel("after", change.after, change.after_label, value_range([after], 1.0, 99.0), COLORS),
        ]
    limits = value_range([before, after], 1.0, 99.0)
    difference = change.difference
    values = np.abs(_finite(difference))
    values = values[values > 0]
    # A few bad pixels that change a lot must not hide what happens to all others, nor the other way round.
    end = float(np.percentile(values, 98)) if values.size else 1.0
    return [
        _Panel("before", change.before, change.before_label, limits, COLORS),
        _Panel("after", change.after, change.after_label, limits, COLORS),
        _Panel("after − before", difference, change.after_label, (-end, end), DIFFERENCE_COLORS),
    ]


def _finite(image: NDArray[Any]) -> NDArray[np.float64]:
    values = image[np.isfinite(image)].astype(np.float64)
    return values if values.size else np.zeros(1)


def _draw_panel(
    sheet: Sheet, panel: _Panel, place_in: tuple[float, float, float, float], axis_labels: tuple[str, str]
) -> Axes:
    left, top, width, height = place_in
    axes = sheet.axes(*place_in)
    shown = show_image(axes, panel.image, panel.limits, panel.colors, (width, height), axis_labels, panel.first)
    axes.set_title(panel.name, size=FONT + 0.5, color=INK, pad=4)
    add_color_bar(sheet, shown, panel.label, left_in=left + width + 0.12, top_in=top, height_in=height)
    return axes


def _shape(window: tuple[slice, slice]) -> tuple[int, int]:
    return window[0].stop - window[0].start, window[1].stop - window[1].start


def _detail(change: StepChange) -> tuple[slice, slice] | None:
    """Return the window that changed most; None if the image is small, or nothing changed, or all of it."""
    rows, cols = change.before.shape
    difference = np.nan_to_num(np.abs(change.difference), nan=0.0, posinf=0.0)
    if max(rows, cols) <= _DETAIL_FROM_PX or not 0 < (difference > 0).mean() < _LOCAL_SHARE:
        return None
    sides = [min(n, _DETAIL_PX) for n in (rows, cols)]
    sums = ndimage.gaussian_filter(difference, [side / 5 for side in sides], mode="constant")
    at = np.unravel_index(int(np.argmax(sums)), sums.shape)
    firsts = [int(np.clip(c - side // 2, 0, n - side)) for c, side, n in zip(at, sides, (rows, cols), strict=True)]
    return slice(firsts[0], firsts[0] + sides[0]), slice(firsts[1], firsts[1] + sides[1])
