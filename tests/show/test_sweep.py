"""The sweep sheet: what is on it."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.scan.grid import VolumeGrid
from marspipe.show.sweep import FOUND_COLOR, LARGEST_TILE_VOXELS, draw_sweep_sheet, write_sweep_sheet


@dataclass(frozen=True)
class Found:
    column_px: float = 41.25
    method: str = "conjugate"
    quality: float = 0.97
    uncertainty_px: float = 0.03
    columns_px: NDArray[np.float64] = field(default_factory=lambda: np.linspace(5, 90, 30))
    disagreements: NDArray[np.float64] = field(default_factory=lambda: np.abs(np.linspace(5, 90, 30) - 41.25))


@dataclass(frozen=True)
class Slice:
    column_px: float
    image: NDArray[np.float32]
    sharpness: float


@dataclass(frozen=True)
class Sheet:
    scan_id: str = "sample"
    bin_label: str = "20-33 keV"
    given_px: float = 40.0
    estimate: Found = field(default_factory=Found)
    grid: VolumeGrid = field(default_factory=lambda: VolumeGrid((4, 40, 50), (0.2, 0.1, 0.1)).window(z=slice(2, 3)))
    slices: tuple[Slice, ...] = ()
    chosen: int = 2


def sweep(shape: tuple[int, int] = (40, 50), count: int = 5) -> Sheet:
    columns = 41.25 + np.arange(count) - count // 2
    image = np.zeros(shape, np.float32)
    image[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = 1.0
    slices = tuple(Slice(float(c), (1 + 0.1 * k) * image, 4 - abs(k - count // 2 - 1)) for k, c in enumerate(columns))
    grid = VolumeGrid((4, *shape), (0.2, 0.1, 0.1)).window(z=slice(2, 3))
    return Sheet(grid=grid, slices=slices, chosen=count // 2)


def tiles(sheet_axes: list) -> list:
    """Return the axes of the tiles: images without ticks."""
    return [axes for axes in sheet_axes if axes.get_images() and not axes.get_xticks().size]


@pytest.mark.parametrize(("count", "across"), [(1, 1), (3, 3), (5, 3), (9, 3), (13, 5)])
def test_one_tile_per_column_in_ascending_order(count: int, across: int) -> None:
    shown = tiles(draw_sweep_sheet(sweep(count=count)).figure.axes)
    assert len(shown) == count
    names = [axes.texts[0].get_text() for axes in shown]
    assert [float(name.split()[0]) for name in names] == [s.column_px for s in sweep(count=count).slices]
    lefts = [round(axes.get_position().x0, 6) for axes in shown]
    assert len(set(lefts)) == min(count, across)


def test_tiles_share_one_gray_window_and_the_found_one_is_marked() -> None:
    sheet = draw_sweep_sheet(sweep())
    shown = tiles(sheet.figure.axes)
    windows = {axes.get_images()[0].get_clim() for axes in sheet.figure.axes if axes.get_images()}
    assert len(windows) == 1
    marked = [axes.spines["left"].get_edgecolor() == to_rgba(FOUND_COLOR) for axes in shown]
    assert marked == [False, False, True, False, False]
    assert shown[2].texts[0].get_text() == "41.25 found"
    assert shown[3].texts[0].get_text() == "42.25 (+1)"
    assert shown[0].texts[0].get_text() == "39.25 (−2)"
    assert [axes.texts[1].get_text() for axes in shown] == ["0.250", "0.500", "0.750", "sharpest 1.000", "0.750"]


def test_headings_and_plots_say_what_was_found() -> None:
    sheet = draw_sweep_sheet(sweep())
    text = "\n".join(t.get_text() for t in sheet.figure.texts)
    for piece in (
        "Center of rotation of sample: column 41.25",
        "method conjugate, quality 0.97 of 1, uncertain by 0.03 px",
        "given was 40",
        "slice 2 at z = 0.1 mm, 20-33 keV",
    ):
        assert piece in text
    plots = [axes for axes in sheet.figure.axes if axes.lines and not axes.get_images()]
    assert [axes.get_title() for axes in plots] == ["disagreement of the search", "sharpness of the slices"]
    for axes in plots:
        assert {line.get_xdata()[0] for line in axes.lines} >= {41.25, 40.0}
    np.testing.assert_allclose(plots[1].lines[0].get_ydata(), [0.25, 0.5, 0.75, 1.0, 0.75])


def test_tiles_of_a_large_slice_show_the_part_with_the_edges() -> None:
    sheet = draw_sweep_sheet(sweep(shape=(400, 300), count=3))
    assert tiles(sheet.figure.axes)[0].get_images()[0].get_array().shape == (LARGEST_TILE_VOXELS,) * 2
    overview = sheet.figure.axes[0]
    outline = next(p for p in overview.patches if isinstance(p, Rectangle) and p.get_gid() == "detail")
    (x, y), width, height = outline.get_xy(), outline.get_width(), outline.get_height()
    assert (width, height) == pytest.approx((16.0, 16.0))
    assert x < -15.0 + 10.0 < x + width  # the middle of the bright square, mm
    assert y < -20.0 + 15.0 < y + height


def test_nothing_lies_outside_of_the_page() -> None:
    figure = draw_sweep_sheet(sweep(count=9)).figure
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.get_figwidth()
    assert box.y1 <= figure.get_figheight()


def test_file_is_a_png_of_the_same_bytes(tmp_path: Path) -> None:
    write_sweep_sheet(sweep(), tmp_path / "sheet.png")
    again = io.BytesIO()
    write_sweep_sheet(sweep(), again)
    assert (tmp_path / "sheet.png").read_bytes() == again.getvalue()
    assert again.getvalue().startswith(b"\x89PNG")


def test_no_slice_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one slice"):
        draw_sweep_sheet(Sheet())
