"""The picture of bad pixels: each reason in its color, with a legend that counts them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.show.figure import FONT, INK, Sheet, set_ticks
from marspipe.show.frame_picture import frame_size_in

GOOD_COLOR, SEVERAL_COLOR = "#eef0f2", "#222222"
# Colors that differ in lightness as well as in hue, in the order of the bits.
REASON_COLORS = ("#0b4f9e", "#d62d20", "#e8a200", "#7a3fa0", "#1d9a6c", "#8fb8de", "#ff7fbf", "#7a5a3a")
_LEFT_IN, _TOP_IN, _FOOT_IN, _SIDE_IN, _LEGEND_IN = 0.72, 0.82, 0.55, 5.0, 2.5
_SMALLEST_MARK_PT = 3.2
# More marks than this would cover the frame; so many bad pixels are seen without.
_MOST_MARKS = 5000


def write_flags_picture(
    flags: NDArray[np.uint8],
    reasons: Mapping[int, str],
    target: str | Path | BinaryIO,
    title: str,
    subtitle: str = "",
) -> None:
    """Write a PNG of the flags of a frame's pixels.

    Parameters
    ----------
    flags : ndarray, shape (rows, columns), uint8
        Bits of reasons; 0 is a good pixel.
    reasons : mapping of int to str
        What every bit means.
    target : path or binary file
        Where the PNG goes.
    title, subtitle : str
        Which frame.

    Raises
    ------
    InputError
        If the flags are no image of bytes.
    """
    draw_flags(flags, reasons, title, subtitle).save(target)


def draw_flags(flags: NDArray[np.uint8], reasons: Mapping[int, str], title: str, subtitle: str) -> Sheet:
    """Return the page that :func:`write_flags_picture` writes."""
    if flags.ndim != 2 or flags.size == 0 or flags.dtype != np.uint8:
        raise InputError(f"flags must be an image of bytes, got shape {flags.shape} of {flags.dtype}")
    kinds, colors, names = _kinds(flags, reasons)
    width, height = frame_size_in(flags.shape, _SIDE_IN, _SIDE_IN)
    body = max(height, 0.3 * (len(names) + 1))
    sheet = Sheet(_LEFT_IN + width + 0.25 + _LEGEND_IN, _TOP_IN + body + _FOOT_IN)
    sheet.title(title, subtitle, size=FONT + 3)
    axes = sheet.axes(_LEFT_IN, _TOP_IN, width, height)
    norm = BoundaryNorm(np.arange(len(colors) + 1) - 0.5, len(colors))
    axes.imshow(kinds, cmap=ListedColormap(colors), norm=norm, origin="lower", aspect="auto", interpolation="nearest")
    pixel_pt = 72 * min(width / flags.shape[1], height / flags.shape[0])
    rows, cols = np.nonzero(flags)
    if pixel_pt < _SMALLEST_MARK_PT and rows.size <= _MOST_MARKS:
        # Finer than the eye: every bad pixel gets a mark that is larger than itself.
        marked = [colors[k] for k in kinds[rows, cols]]
        axes.scatter(cols, rows, s=_SMALLEST_MARK_PT**2, c=marked, marker="s", linewidths=0)
        axes.set(xlim=(-0.5, flags.shape[1] - 0.5), ylim=(-0.5, flags.shape[0] - 0.5))
    axes.set_xlabel("column u [px]", size=FONT, color=INK, labelpad=2)
    axes.set_ylabel("row v [px]", size=FONT, color=INK, labelpad=2)
    set_ticks(axes, width, height)
    handles = [
        Line2D([], [], ls="none", marker="s", ms=7, mfc=color, mec=INK, mew=0.4, label=name)
        for color, name in zip(colors, names, strict=True)
    ]
    legend_left = (_LEFT_IN + width + 0.2) / sheet.width_in
    legend = sheet.figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(legend_left, 1 - (_TOP_IN - 0.08) / sheet.height_in),
        frameon=False,
        fontsize=FONT,
        labelcolor=INK,
        handletextpad=0.3,
        labelspacing=0.7,
    )
    legend.set_gid("reasons")
    return sheet


def _kinds(flags: NDArray[np.uint8], reasons: Mapping[int, str]) -> tuple[NDArray[np.uint8], list[str], list[str]]:
    """Return the number of the color of every pixel, the colors, and what they mean."""
    kinds = np.zeros(flags.shape, dtype=np.uint8)
    good = int(np.count_nonzero(flags == 0))
    colors, names = [GOOD_COLOR], [f"good: {good} of {flags.size} px"]
    several = np.bitwise_count(flags) > 1
    for place, (bit, name) in enumerate(sorted(reasons.items())):
        found = (flags & np.uint8(bit)) != 0
        if found.any():
            kinds[found & ~several] = len(colors)
            colors.append(REASON_COLORS[place % len(REASON_COLORS)])
            names.append(f"{name}: {int(found.sum())} px")
    if several.any():
        kinds[several] = len(colors)
        colors.append(SEVERAL_COLOR)
        names.append(f"several of these: {int(several.sum())} px")
    return kinds, colors, names
