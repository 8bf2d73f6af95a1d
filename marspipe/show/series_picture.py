"""The picture of a CT series: the middle cuts across its three axes, anterior at the top."""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.scan.grid import AXES, VolumeGrid
from marspipe.show.figure import FONT, INK, Sheet, add_color_bar, add_scale_bar, set_ticks, value_range
from marspipe.show.preview import preview_cuts

EMPTY_COLOR = "#7d5ba6"  # where there is no measured value
_DISPLAYED = {"z": ("x", "y"), "y": ("x", "z"), "x": ("y", "z")}  # to the right, upwards
_LEFT_IN, _GAP_IN, _BAR_GAP_IN, _RIGHT_IN = 0.82, 0.78, 0.22, 1.05
_TOP_IN, _FOOT_IN = 1.0, 0.6
_PANELS_WIDTH_IN, _MOST_HEIGHT_IN, _LEAST_SIDE_IN = 9.0, 3.2, 0.9
_MOST_SIDE_PX = 900


class _Cut(NamedTuple):
    axis: str
    position_mm: float
    image: NDArray[np.float32]
    extent_mm: tuple[float, float, float, float]  # left, right, bottom, top

    @property
    def size_mm(self) -> tuple[float, float]:
        left, right, bottom, top = self.extent_mm
        return abs(right - left), abs(top - bottom)


def write_series_picture(
    values: NDArray[np.float32],
    grid: VolumeGrid,
    target: str | Path | BinaryIO,
    title: str,
    subtitle: str = "",
    *,
    label: str = "HU",
) -> None:
    """Write a PNG with the middle cuts of a volume, all at one scale, each with a scale bar.

    The patient's y axis points downwards in the cut across z, as in radiology: anterior is at the top, the patient's
    left at the right. The gray range leaves out the lowest and highest 0.5 %. Cuts too thin to see are left out.

    Parameters
    ----------
    values : ndarray, float32, shape (nz, ny, nx)
        ``[z, y, x]``, every index growing with its coordinate; NaN is drawn in a color.
    grid : VolumeGrid
    target : path or binary file
        Where the PNG goes.
    title, subtitle : str
        What the series is.
    label : str
        What the values are, with their unit.

    Raises
    ------
    InputError
        If the cuts have no finite value.
    """
    draw_series(values, grid, title, subtitle, label).save(target)


def draw_series(values: NDArray[np.float32], grid: VolumeGrid, title: str, subtitle: str, label: str) -> Sheet:
    """Return the page that :func:`write_series_picture` writes."""
    cuts = [_cut(values, grid, axis, index) for axis, index in preview_cuts(grid)]
    finite = [cut.image[np.isfinite(cut.image)] for cut in cuts]
    if not any(part.size for part in finite):
        raise InputError("the middle cuts of the series have no finite value to draw")
    low, high = value_range(finite, 0.5, 99.5)
    width, height = sum(cut.size_mm[0] for cut in cuts), max(cut.size_mm[1] for cut in cuts)
    scale = min(_PANELS_WIDTH_IN / width, _MOST_HEIGHT_IN / height)
    sides = [(max(w * scale, _LEAST_SIDE_IN), max(h * scale, _LEAST_SIDE_IN)) for w, h in (cut.size_mm for cut in cuts)]
    row_height = max(h for _, h in sides)
    bar_left = _LEFT_IN + sum(w for w, _ in sides) + _GAP_IN * (len(cuts) - 1) + _BAR_GAP_IN
    sheet = Sheet(max(bar_left + _RIGHT_IN, 4.2), _TOP_IN + row_height + _FOOT_IN)
    sheet.title(title, subtitle, size=FONT + 4)
    left = _LEFT_IN
    for cut, (wide, tall) in zip(cuts, sides, strict=True):
        axes = sheet.axes(left, _TOP_IN + 0.5 * (row_height - tall), wide, tall)
        axes.set_facecolor(EMPTY_COLOR)
        shown = axes.imshow(
            cut.image, cmap="gray", vmin=low, vmax=high, origin="lower", extent=cut.extent_mm, aspect="auto"
        )
        right, up = _DISPLAYED[cut.axis]
        axes.set_xlabel(f"{right} [mm]", size=FONT, color=INK, labelpad=2)
        axes.set_ylabel(f"{up} [mm]", size=FONT, color=INK, labelpad=2)
        axes.set_title(f"{cut.axis} = {cut.position_mm:.5g} mm", size=FONT, color=INK, pad=4)
        set_ticks(axes, wide, tall)
        add_scale_bar(axes, wide, tall)
        left += wide + _GAP_IN
    add_color_bar(sheet, shown, label, left_in=bar_left, top_in=_TOP_IN, height_in=row_height)
    return sheet


def _cut(values: NDArray[np.float32], grid: VolumeGrid, axis: str, index: int) -> _Cut:
    image = np.take(values, index, axis=AXES.index(axis))
    right, up = _DISPLAYED[axis]
    steps = [math.ceil(side / _MOST_SIDE_PX) for side in image.shape]
    image = image[:: steps[0], :: steps[1]]
    voxel = dict(zip(AXES, grid.voxel_mm, strict=True))
    edges = []
    for name in (right, up):
        centers = grid.axis_mm(name)
        edges += [float(centers[0]) - 0.5 * voxel[name], float(centers[-1]) + 0.5 * voxel[name]]
    if up == "y":
        image, edges = image[::-1], [edges[0], edges[1], edges[3], edges[2]]
    return _Cut(axis, float(grid.axis_mm(axis)[index]), image, (edges[0], edges[1], edges[2], edges[3]))
