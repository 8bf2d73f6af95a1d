"""The picture of camera positions: their frames apart, and the wide frame that they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.show.figure import FONT, INK, Sheet, add_color_bar, value_range
from marspipe.show.frame_picture import COLORS, frame_size_in, show_image

_LEFT_IN, _TOP_IN, _HEAD_IN, _FOOT_IN, _BAR_IN = 0.72, 0.82, 0.3, 0.6, 1.25
_SIDE_IN, _WIDE_IN = 3.9, 7.4
_SPREAD = 1.07  # distance of two frames drawn apart, in frames
_MOST_NUMBERED = 40


def write_stitch_picture(
    tiles: Sequence[NDArray[Any]],
    origins_px: NDArray[np.float64],
    wide: NDArray[Any],
    target: str | Path | BinaryIO,
    title: str,
    subtitle: str = "",
    *,
    label: str = "line integral",
) -> None:
    """Write a PNG of the frames of all camera positions, drawn apart, and of the wide frame, in the same colors.

    Parameters
    ----------
    tiles : sequence of ndarray, shape (v, u)
        Frames; NaN where a pixel is bad.
    origins_px : ndarray, shape (tiles, 2), px
        Row and column of every frame's pixel (0, 0) on the wide one.
    wide : ndarray, shape (V, U)
        The wide frame.
    target : path or binary file
        Where the PNG goes.
    title, subtitle : str
        What it is.
    label : str
        What the values are.

    Raises
    ------
    InputError
        If there are no frames, or not as many as origins.
    """
    draw_stitch(tiles, origins_px, wide, title, subtitle, label).save(target)


def draw_stitch(
    tiles: Sequence[NDArray[Any]],
    origins_px: NDArray[np.float64],
    wide: NDArray[Any],
    title: str,
    subtitle: str,
    label: str,
) -> Sheet:
    """Return the page that :func:`write_stitch_picture` writes."""
    if not tiles or len(tiles) != len(origins_px):
        raise InputError(f"{len(tiles)} frames of {len(origins_px)} camera positions cannot be drawn")
    rows, cols = tiles[0].shape
    places = _places(np.asarray(origins_px), (rows, cols))
    apart = (float(places[:, 0].max()) + rows, float(places[:, 1].max()) + cols)
    below = wide.shape[1] > 1.3 * wide.shape[0]
    most = (_WIDE_IN, 0.7 * _SIDE_IN) if below else (_SIDE_IN, 1.5 * _SIDE_IN)
    sizes = [frame_size_in((round(r), round(c)), *most) for r, c in (apart, wide.shape)]
    widest, highest = (max(s[k] for s in sizes) for k in (0, 1))
    if below:
        page = _LEFT_IN + widest + _BAR_IN, _TOP_IN + sum(s[1] + _HEAD_IN + _FOOT_IN for s in sizes)
    else:
        page = _LEFT_IN + sum(s[0] for s in sizes) + 0.9 + _BAR_IN, _TOP_IN + highest + _HEAD_IN + _FOOT_IN
    sheet = Sheet(max(page[0], 6.2), page[1])
    sheet.title(title, subtitle, size=FONT + 3)
    limits = value_range([_finite(wide)], 1.0, 99.0)
    top = _TOP_IN + _HEAD_IN
    axes = sheet.axes(_LEFT_IN, top, *sizes[0])
    for number, (tile, (row, column)) in enumerate(zip(tiles, places, strict=True)):
        edges = (column - 0.5, column + cols - 0.5, row - 0.5, row + rows - 0.5)
        axes.imshow(tile.astype(np.float64), cmap=COLORS, vmin=limits[0], vmax=limits[1], origin="lower", extent=edges)
        axes.add_patch(Rectangle((edges[0], edges[2]), cols, rows, fc="none", ec=INK, lw=0.6, clip_on=False))
        if len(tiles) <= _MOST_NUMBERED:
            axes.annotate(
                str(number),
                (edges[0], edges[3]),
                (3, -3),
                textcoords="offset points",
                fontsize=FONT - 1,
                va="top",
                ha="left",
                color=INK,
                bbox={"fc": "white", "ec": "none", "pad": 1, "alpha": 0.8},
            )
    axes.set(xlim=(-0.5, apart[1] - 0.5), ylim=(-0.5, apart[0] - 0.5), xticks=[], yticks=[], aspect="auto")
    axes.set_frame_on(False)
    axes.set_title(f"before: {len(tiles)} camera positions, drawn apart", size=FONT + 0.5, color=INK, pad=4)
    left = _LEFT_IN
    if below:
        top += sizes[0][1] + _FOOT_IN + _HEAD_IN - 0.2
    else:
        left += sizes[0][0] + 0.9
    axes = sheet.axes(left, top, *sizes[1])
    shown = show_image(axes, wide, limits, COLORS, sizes[1])
    axes.set_title(f"after: {wide.shape[0]} × {wide.shape[1]} px", size=FONT + 0.5, color=INK, pad=4)
    add_color_bar(sheet, shown, label, left_in=left + sizes[1][0] + 0.15, top_in=top, height_in=sizes[1][1])
    return sheet


def _finite(image: NDArray[Any]) -> NDArray[np.float64]:
    values = image[np.isfinite(image)].astype(np.float64)
    return values if values.size else np.zeros(1)


def _places(origins: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return where frames are drawn: in the order of their origins, but apart."""
    places = np.empty_like(origins)
    for axis, size in enumerate(shape):
        # Positions within a third of a frame stand in one row or column, as a stage does not repeat exactly.
        order = np.argsort(origins[:, axis], kind="stable")
        steps = np.diff(origins[order, axis], prepend=origins[order[0], axis]) > size / 3
        places[order, axis] = np.cumsum(steps) * size * _SPREAD
    return places
