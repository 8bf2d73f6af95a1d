"""The sweep sheet: one slice, reconstructed with the rotation axis at several detector columns.

Above: the slice at the column found, the search for it, and the sharpness of every slice. Below: the part of the slice
that has most to show, once per column, all in one gray window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import ndimage

from marspipe.errors import InputError
from marspipe.scan.grid import VolumeGrid
from marspipe.show.figure import FONT, INK, Sheet, add_scale_bar, set_ticks, value_range

FOUND_COLOR, SHARPEST_COLOR, SOFT = "#c2560c", "#1f5fa8", "#8a8f98"

WIDTH_IN, MARGIN_IN, TOP_IN = 8.6, 0.3, 0.85
OVERVIEW_IN, PLOT_HEIGHT_IN = 2.5, 2.05
TILE_GAP_IN, TILE_TITLE_IN = 0.12, 0.34
# Tiles are cut from slices wider than this, so that a voxel is wide enough to see.
LARGEST_TILE_VOXELS = 160
SMALLEST_TILE_SHARE = 0.3


class SearchedCenter(Protocol):
    """What a sheet says of the search; :func:`marspipe.recon.alignment.find_center` gives one."""

    @property
    def column_px(self) -> float: ...  # noqa: D102
    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def quality(self) -> float: ...  # noqa: D102
    @property
    def uncertainty_px(self) -> float: ...  # noqa: D102
    @property
    def columns_px(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def disagreements(self) -> NDArray[np.float64]: ...  # noqa: D102


class ColumnSlice(Protocol):
    """A slice reconstructed with the axis at a column."""

    @property
    def column_px(self) -> float: ...  # noqa: D102
    @property
    def image(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def sharpness(self) -> float: ...  # noqa: D102


class Sweep(Protocol):
    """What a sheet shows; :func:`marspipe.pipeline.align.align` gives one."""

    @property
    def scan_id(self) -> str: ...  # noqa: D102
    @property
    def bin_label(self) -> str: ...  # noqa: D102
    @property
    def given_px(self) -> float: ...  # noqa: D102
    @property
    def estimate(self) -> SearchedCenter: ...  # noqa: D102
    @property
    def grid(self) -> VolumeGrid: ...  # noqa: D102
    @property
    def slices(self) -> Sequence[ColumnSlice]: ...  # noqa: D102
    @property
    def chosen(self) -> int: ...  # noqa: D102


def write_sweep_sheet(sweep: Sweep, target: str | Path | BinaryIO) -> None:
    """Write the sweep sheet as PNG.

    Parameters
    ----------
    sweep : Sweep
        What was found, and the slices.
    target : path or binary file
        Where the PNG goes.

    Raises
    ------
    InputError
        If there is no slice.
    """
    draw_sweep_sheet(sweep).save(target)


def draw_sweep_sheet(sweep: Sweep) -> Sheet:
    """Return the page that :func:`write_sweep_sheet` writes."""
    if not sweep.slices:
        raise InputError("a sweep sheet needs at least one slice")
    grid, count = sweep.grid, len(sweep.slices)
    across = min(count, 3) if count <= 9 else 5
    window = _detail(sweep.slices[sweep.chosen].image)
    dy, dx = grid.voxel_mm[1:]
    ny, nx = window[0].stop - window[0].start, window[1].stop - window[1].start
    tile_width = (WIDTH_IN - 2 * MARGIN_IN - (across - 1) * TILE_GAP_IN) / max(across, 3)
    tile_height = tile_width * min(2.0, max(0.5, ny * dy / (nx * dx)))
    tiles_top = TOP_IN + OVERVIEW_IN + 0.5
    row_step = TILE_TITLE_IN + tile_height + 0.08
    sheet = Sheet(WIDTH_IN, tiles_top + row_step * math.ceil(count / across) + 0.15)
    estimate = sweep.estimate
    sheet.title(f"Center of rotation of {sweep.scan_id}: column {estimate.column_px:.2f}", "", size=FONT + 4)
    z_mm = float(grid.axis_mm("z")[0])
    error = f"{estimate.uncertainty_px:.2g}"
    sheet.text(
        0.2,
        0.46,
        f"method {estimate.method}, quality {estimate.quality:.2f} of 1, uncertain by {error} px; "
        f"given was {sweep.given_px:.6g}; slice {grid.start[0]} at z = {z_mm:.4g} mm, {sweep.bin_label}",
        size=FONT - 1,
        color="#555555",
    )
    images = [s.image for s in sweep.slices]
    gray = value_range([image[window] for image in images], 0.5, 99.5)
    _overview(sheet, sweep, images[sweep.chosen], window, gray)
    _plots(sheet, sweep)
    best = int(np.argmax([s.sharpness for s in sweep.slices]))
    for number, image in enumerate(images):
        row, column = divmod(number, across)
        left = MARGIN_IN + column * (tile_width + TILE_GAP_IN)
        top = tiles_top + row * row_step + TILE_TITLE_IN
        axes = sheet.axes(left, top, tile_width, tile_height)
        _tile(axes, sweep, number, image[window], gray, best=number == best)
        if number == 0:
            axes.set(xlim=(0, nx * dx), ylim=(0, ny * dy))
            add_scale_bar(axes, tile_width, tile_height)
    return sheet


def _detail(image: NDArray[np.float32]) -> tuple[slice, slice]:
    """Return the window with the most edges; all of an image that is small enough."""
    sides = [min(n, max(LARGEST_TILE_VOXELS, round(SMALLEST_TILE_SHARE * n))) for n in image.shape]
    if (sides[0], sides[1]) == image.shape:
        return slice(0, sides[0]), slice(0, sides[1])
    smooth = ndimage.gaussian_filter(image.astype(np.float64), 1.5)
    rows, columns = np.indices(image.shape)
    middle = [(n - 1) / 2 for n in image.shape]
    # The rim of the field of view is an edge of the reconstruction, not of the sample.
    within = np.hypot((rows - middle[0]) / max(middle[0], 1), (columns - middle[1]) / max(middle[1], 1)) < 0.93
    edges = ndimage.generic_gradient_magnitude(smooth, ndimage.sobel) * within
    sums = ndimage.uniform_filter(edges, sides, mode="constant")
    at = np.unravel_index(int(np.argmax(sums)), image.shape)
    firsts = [int(np.clip(c - side // 2, 0, n - side)) for c, side, n in zip(at, sides, image.shape, strict=True)]
    return slice(firsts[0], firsts[0] + sides[0]), slice(firsts[1], firsts[1] + sides[1])


def _overview(
    sheet: Sheet,
    sweep: Sweep,
    image: NDArray[np.float32],
    window: tuple[slice, slice],
    gray: tuple[float, float],
) -> None:
    """Draw the whole slice at the column found, and where the tiles are cut."""
    grid = sweep.grid
    y, x = grid.axis_mm("y"), grid.axis_mm("x")
    dy, dx = grid.voxel_mm[1:]
    edges = (x[0] - dx / 2, x[-1] + dx / 2, y[0] - dy / 2, y[-1] + dy / 2)
    width_mm, height_mm = edges[1] - edges[0], edges[3] - edges[2]
    scale = OVERVIEW_IN / max(width_mm, height_mm)
    width, height = max(width_mm * scale, 0.5), max(height_mm * scale, 0.5)
    axes = sheet.axes(0.75 + 0.5 * (OVERVIEW_IN - width), TOP_IN + 0.5 * (OVERVIEW_IN - height), width, height)
    factor = max(1, math.ceil(max(image.shape) / 750))
    axes.imshow(
        image[::factor, ::factor], cmap="gray", vmin=gray[0], vmax=gray[1], origin="lower", extent=edges, aspect="auto"
    )
    if (window[0].stop - window[0].start, window[1].stop - window[1].start) != image.shape:
        corner = (edges[0] + window[1].start * dx, edges[2] + window[0].start * dy)
        size = ((window[1].stop - window[1].start) * dx, (window[0].stop - window[0].start) * dy)
        axes.add_patch(Rectangle(corner, *size, fill=False, ec=FOUND_COLOR, lw=1.2, gid="detail"))
    axes.set_xlabel("x [mm]", size=FONT, color=INK, labelpad=2)
    axes.set_ylabel("y [mm]", size=FONT, color=INK, labelpad=2)
    set_ticks(axes, width, height)


def _plots(sheet: Sheet, sweep: Sweep) -> None:
    """Draw the search, and the sharpness of the slices."""
    estimate = sweep.estimate
    width = 1.95
    left = 0.75 + OVERVIEW_IN + 0.75
    axes = sheet.axes(left, TOP_IN, width, PLOT_HEIGHT_IN)
    axes.plot(estimate.columns_px, estimate.disagreements, color=INK, lw=1.0)
    _mark(axes, sweep)
    axes.set_ylim(bottom=0)
    axes.set_title("disagreement of the search", size=FONT, color=INK, pad=4)
    _column_axis(axes)
    axes = sheet.axes(left + width + 0.52, TOP_IN, width, PLOT_HEIGHT_IN)
    columns, sharpness = _sharpness(sweep)
    axes.plot(columns, sharpness, "-o", color=SHARPEST_COLOR, lw=1.0, ms=3.5)
    _mark(axes, sweep)
    margin = 0.08 * (columns[-1] - columns[0]) or 1.0
    axes.set_xlim(columns[0] - margin, columns[-1] + margin)
    axes.set_title("sharpness of the slices", size=FONT, color=INK, pad=4)
    _column_axis(axes)
    sheet.text(
        left,
        TOP_IN + PLOT_HEIGHT_IN + 0.5,
        "orange: found; dashed: given. Sharpness: slope of the edges, 1 is the steepest.",
        size=FONT - 1.5,
        color="#555555",
    )


def _sharpness(sweep: Sweep) -> tuple[list[float], NDArray[np.float64]]:
    """Return the columns, and the sharpness relative to the best."""
    values = np.array([s.sharpness for s in sweep.slices])
    return [s.column_px for s in sweep.slices], values / (values.max() or 1.0)


def _mark(axes: Axes, sweep: Sweep) -> None:
    low, high = axes.get_xlim()
    axes.axvline(sweep.estimate.column_px, color=FOUND_COLOR, lw=1.2, zorder=1)
    axes.axvline(sweep.given_px, color=SOFT, lw=1.0, ls=(0, (4, 3)), zorder=1)
    axes.set_xlim(low, high)


def _column_axis(axes: Axes) -> None:
    axes.set_xlabel("column of the axis [px]", size=FONT, color=INK, labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.ticklabel_format(useOffset=False)
    axes.margins(y=0.08)


def _tile(
    axes: Axes, sweep: Sweep, number: int, image: NDArray[np.float32], gray: tuple[float, float], *, best: bool
) -> None:
    """Draw one column's slice, or its most telling part."""
    dy, dx = sweep.grid.voxel_mm[1:]
    axes.imshow(
        image,
        cmap="gray",
        vmin=gray[0],
        vmax=gray[1],
        origin="lower",
        extent=(0, image.shape[1] * dx, 0, image.shape[0] * dy),
        aspect="auto",
        interpolation="nearest",
    )
    axes.set(xticks=[], yticks=[])
    found = number == sweep.chosen
    column = sweep.slices[number].column_px
    offset = column - sweep.estimate.column_px
    _, sharpness = _sharpness(sweep)
    text: dict[str, Any] = {"fontsize": FONT - 0.5, "transform": axes.transAxes, "va": "bottom"}
    color = FOUND_COLOR if found else INK
    name = f"{column:.2f}" + (" found" if found else f" ({offset:+.4g})".replace("-", "−"))
    axes.text(0.0, 1.02, name, ha="left", color=color, weight="bold" if found else "normal", **text)
    axes.text(
        1.0,
        1.02,
        f"sharpest {sharpness[number]:.3f}" if best else f"{sharpness[number]:.3f}",
        ha="right",
        color=SHARPEST_COLOR,
        weight="bold" if best else "normal",
        **text,
    )
    if found:
        for spine in axes.spines.values():
            spine.set(color=FOUND_COLOR, linewidth=2.2)
