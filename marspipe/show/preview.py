"""Pictures for a first look: mid slices of a volume."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from marspipe.scan.energy import EnergyBin
from marspipe.scan.grid import AXES, VolumeGrid
from marspipe.show.figure import FONT, INK, Sheet, add_color_bar, add_scale_bar, set_ticks, value_range

# Which axis runs right and which up in the slice across an axis: both grow with their coordinate.
PLANES = {"z": ("x", "y"), "y": ("x", "z"), "x": ("y", "z")}
MOST_SLENDER = 40.0  # a plane longer than this many times its height is a line
LARGEST_SIDE_PX = 600  # finer than a panel is printed

LEFT_IN, GAP_IN, BAR_GAP_IN, RIGHT_IN = 1.0, 0.78, 0.22, 1.15
TOP_IN, PANEL_TITLE_IN, PANEL_FOOT_IN = 0.68, 0.3, 0.56
PANELS_WIDTH_IN, ROW_HEIGHT_IN, SMALLEST_PANEL_IN = 6.9, 2.4, 0.9


class SlicedVolume(Protocol):
    """What a preview reads of a volume; :func:`marspipe.open_volume` gives one."""

    @property
    def bins(self) -> Sequence[EnergyBin]: ...  # noqa: D102
    @property
    def grid(self) -> VolumeGrid: ...  # noqa: D102
    @property
    def metadata(self) -> Mapping[str, Any]: ...  # noqa: D102
    def slice(self, axis: str, index: int, bin: int = 0) -> NDArray[np.float32]: ...  # noqa: D102


@dataclass(frozen=True)
class _Panel:
    """A slice to show: where it is cut, and its edges."""

    axis: str
    index: int
    position_mm: float
    shape: tuple[int, int]
    edges_mm: tuple[float, float, float, float]  # left, right, bottom, top
    reduction: tuple[int, int]

    @property
    def width_mm(self) -> float:
        return self.edges_mm[1] - self.edges_mm[0]

    @property
    def height_mm(self) -> float:
        return self.edges_mm[3] - self.edges_mm[2]

    @property
    def slenderness(self) -> float:
        return max(self.width_mm / self.height_mm, self.height_mm / self.width_mm)


def write_preview(volume: SlicedVolume, target: str | Path | BinaryIO) -> None:
    """Write a PNG with the middle slices across z, y and x of every energy bin, one row a bin.

    All panels have one scale. The gray range of a row leaves out the lowest and highest 0.5 % of what it shows. Planes
    too thin to see (those along a volume of one slice, say) are left out. One slice is in memory at a time.

    Parameters
    ----------
    volume : SlicedVolume
        ``metadata["scan_id"]`` becomes the title.
    target : path or binary file
        Where the PNG goes.
    """
    draw_preview(volume).save(target)


def preview_cuts(grid: VolumeGrid) -> list[tuple[str, int]]:
    """Return the slices that a preview shows: the axis that each is perpendicular to, and its index along that axis."""
    return [(panel.axis, panel.index) for panel in _panels(grid)]


def draw_preview(volume: SlicedVolume) -> Sheet:
    """Return the page that :func:`write_preview` writes."""
    grid = volume.grid
    panels = _panels(grid)
    scale, row_height = _inches_per_mm(panels)
    widths = [panel.width_mm * scale for panel in panels]
    bar_left = LEFT_IN + sum(widths) + GAP_IN * (len(panels) - 1) + BAR_GAP_IN
    row_step = PANEL_TITLE_IN + row_height + PANEL_FOOT_IN
    sheet = Sheet(max(bar_left + RIGHT_IN, 4.2), TOP_IN + row_step * len(volume.bins))
    counts, sizes = (" × ".join(f"{v:.5g}" for v in values) for values in (grid.shape, grid.voxel_mm))
    title = str(volume.metadata.get("scan_id", "volume"))
    sheet.title(title, f"{counts} voxels of {sizes} mm (z, y, x)", size=FONT + 4)
    for row, energy in enumerate(volume.bins):
        top = TOP_IN + row * row_step + PANEL_TITLE_IN
        images = [_reduced(volume.slice(p.axis, p.index, bin=row), p.reduction) for p in panels]
        low, high = value_range(images, 0.5, 99.5)
        middle = top + 0.5 * row_height
        sheet.text(0.24, middle, energy.label, size=FONT + 1, weight="bold", rotation=90, ha="center", va="center")
        left = LEFT_IN
        for panel, image, width in zip(panels, images, widths, strict=True):
            height = panel.height_mm * scale
            axes = sheet.axes(left, middle - 0.5 * height, width, height)
            shown = axes.imshow(
                image,
                cmap="gray",
                vmin=low,
                vmax=high,
                origin="lower",
                extent=panel.edges_mm,
                aspect="auto",  # the frame has the right shape already
            )
            right_axis, up_axis = PLANES[panel.axis]
            axes.set_xlabel(f"{right_axis} [mm]", size=FONT, color=INK, labelpad=2)
            axes.set_ylabel(f"{up_axis} [mm]", size=FONT, color=INK, labelpad=2)
            axes.set_title(f"{panel.axis} = {panel.position_mm:.4g} mm", size=FONT, color=INK, pad=4)
            set_ticks(axes, width, height)
            add_scale_bar(axes, width, height)
            left += width + GAP_IN
        add_color_bar(
            sheet, shown, "attenuation [1/mm]", left_in=bar_left, top_in=middle - 0.5 * row_height, height_in=row_height
        )
    return sheet


def _panels(grid: VolumeGrid) -> list[_Panel]:
    """Return the panels to show: the three planes, but not those too thin to see; at least one."""
    planes = [_panel(grid, axis) for axis in AXES]
    visible = [p for p in planes if p.slenderness <= MOST_SLENDER and 1 not in p.shape]
    return visible or [min(planes, key=lambda p: p.slenderness)]


def _panel(grid: VolumeGrid, axis: str) -> _Panel:
    """Return the panel of the middle slice across an axis."""
    right, up = PLANES[axis]
    size = dict(zip(AXES, grid.shape, strict=True))
    voxel = dict(zip(AXES, grid.voxel_mm, strict=True))
    index = size[axis] // 2
    edges, factors = [], []
    for name in (right, up):
        factor = math.ceil(size[name] / LARGEST_SIDE_PX)
        shown = size[name] - size[name] % factor
        first = float(grid.axis_mm(name)[0]) - 0.5 * voxel[name]
        edges += [first, first + shown * voxel[name]]
        factors.append(factor)
    return _Panel(
        axis=axis,
        index=index,
        position_mm=float(grid.axis_mm(axis)[index]),
        shape=(size[up], size[right]),
        edges_mm=(edges[0], edges[1], edges[2], edges[3]),
        reduction=(factors[1], factors[0]),
    )


def _inches_per_mm(panels: Sequence[_Panel]) -> tuple[float, float]:
    """Return the scale of all panels and the height of a row."""
    width, height = sum(p.width_mm for p in panels), max(p.height_mm for p in panels)
    scale = min(PANELS_WIDTH_IN / width, ROW_HEIGHT_IN / height)
    # Long, thin volumes get more paper, within reason, before their panels become too narrow to label.
    thin = min(p.width_mm for p in panels)
    scale = max(scale, min(SMALLEST_PANEL_IN / thin, 4 * scale))
    return scale, max(height * scale, SMALLEST_PANEL_IN)


def _reduced(image: NDArray[np.floating], factors: tuple[int, int]) -> NDArray[np.float64]:
    """Return an image with blocks of pixels averaged; incomplete blocks at the end are left out."""
    (fy, fx), (rows, cols) = factors, (image.shape[0] // factors[0], image.shape[1] // factors[1])
    cut = np.asarray(image[: rows * fy, : cols * fx])
    mean: NDArray[np.float64] = cut.reshape(rows, fy, cols, fx).mean(axis=(1, 3), dtype=np.float64)
    return mean
