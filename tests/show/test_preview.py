from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Text
from numpy.typing import NDArray

from marspipe.scan.energy import EnergyBin
from marspipe.scan.grid import VolumeGrid
from marspipe.show.figure import Sheet, round_length, value_range
from marspipe.show.preview import draw_preview, write_preview

BINS = [EnergyBin(20.0, 33.0), EnergyBin(33.0, 50.0), EnergyBin(50.0, 65.0), EnergyBin(65.0)]


class MemoryVolume:
    """A volume of plain arrays that remembers which slices were read."""

    def __init__(self, arrays: list[NDArray[np.float32]], grid: VolumeGrid, scan_id: str = "stone-7") -> None:
        self.arrays, self.grid = arrays, grid
        self.bins = BINS[: len(arrays)]
        self.metadata = {"scan_id": scan_id}
        self.read: list[tuple[int, str, int]] = []

    def slice(self, axis: str, index: int, bin: int = 0) -> NDArray[np.float32]:
        self.read.append((bin, axis, index))
        return np.take(self.arrays[bin], index, axis="zyx".index(axis))


def noise(shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], bins: int = 4) -> MemoryVolume:
    random = np.random.default_rng(5)
    arrays = [(0.02 / (b + 1) * random.random(shape)).astype(np.float32) for b in range(bins)]
    return MemoryVolume(arrays, VolumeGrid(shape, voxel_mm, (1.0, -2.0, 0.5)))


def panels(sheet: Sheet) -> list[Any]:
    """Return the axes that show slices, row by row, without the color bars."""
    return [axes for axes in sheet.figure.axes if axes.images]


def texts(sheet: Sheet) -> list[Text]:
    """Return all texts that are seen on the page."""
    FigureCanvasAgg(sheet.figure).draw()
    found = list(sheet.figure.texts)
    for axes in sheet.figure.axes:
        if axes.axison:
            found += [axes.title, axes.xaxis.label, axes.yaxis.label]
            for axis in (axes.xaxis, axes.yaxis):
                low, high = axis.get_view_interval()  # ticks beyond it exist, but are not drawn
                slack = 1e-9 * (high - low)
                found += [
                    label
                    for tick in axis.get_major_ticks()
                    for label in (tick.label1, tick.label2)
                    if low - slack <= tick.get_loc() <= high + slack
                ]
        found += axes.texts
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def assert_nothing_overlaps(sheet: Sheet) -> None:
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(sheet)]
    page = sheet.figure.bbox
    for name, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1, f"{name!r} leaves the page"
    for (a, first), (b, second) in combinations(boxes, 2):
        assert not first.overlaps(second), f"{a!r} overlaps {b!r}"


@pytest.mark.parametrize(
    ("shape", "voxel_mm", "bins"),
    [
        ((24, 28, 32), (0.1, 0.1, 0.1), 4),
        ((12, 64, 64), (0.5, 0.1, 0.1), 2),
        ((1, 64, 64), (0.1, 0.1, 0.1), 2),
        ((3, 64, 64), (0.2, 0.1, 0.1), 1),
        ((160, 24, 32), (0.05, 0.05, 0.05), 2),
        ((8, 8, 60), (1.0, 1.0, 1.0), 1),
        ((9, 64, 12), (123.456, 100.0, 100.0), 1),
        ((6, 5, 4), (1e-3, 2e-3, 1e-3), 1),
        ((40, 40, 1), (0.1, 0.1, 0.1), 1),
        ((1, 1, 1), (0.1, 0.1, 0.1), 1),
    ],
)
def test_texts_stay_clear_of_each_other(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], bins: int
) -> None:
    sheet = draw_preview(noise(shape, voxel_mm, bins))
    assert_nothing_overlaps(sheet)
    assert max(sheet.width_in, sheet.height_in) < 26


def test_three_slices_of_a_bin_are_read_and_nothing_else() -> None:
    volume = noise((5, 6, 8), (0.1, 0.1, 0.1), 2)
    draw_preview(volume)
    assert volume.read == [(b, a, i) for b in (0, 1) for a, i in (("z", 2), ("y", 3), ("x", 4))]


def test_coordinates_grow_to_the_right_and_upwards() -> None:
    grid = VolumeGrid((30, 40, 50), (0.2, 0.1, 0.1), (1.0, -2.0, 0.5))
    values = np.zeros(grid.shape, np.float32)
    values[20:24, 18:22, 35:40] = 1.0  # crosses the middle slice of y only
    values[14:17, 30:34, 5:9] = 1.0  # ... of z only
    values[22:26, 8:12, 23:27] = 1.0  # ... of x only
    target = io.BytesIO()
    sheet = draw_preview(MemoryVolume([values], grid))
    sheet.save(target)
    target.seek(0)
    picture = imread(target)[::-1, :, :3].min(axis=2)  # row 0 at the bottom
    expected = {"z": ("x", "y", 5, 9, 30, 34), "y": ("x", "z", 35, 40, 20, 24), "x": ("y", "z", 8, 12, 22, 26)}
    for axes, (right, up, r0, r1, u0, u1) in zip(panels(sheet), expected.values(), strict=True):
        frame = axes.get_window_extent()
        region = picture[round(frame.y0) + 2 : round(frame.y1) - 2, round(frame.x0) + 2 : round(frame.x1) - 2]
        x_mm, y_mm = grid.axis_mm(right), grid.axis_mm(up)
        seen = np.argwhere(region > 0.9)
        # The scale bar in the lower left corner is white, too; the bright block is what lies beyond it.
        bar = 0.45 * 150
        seen = seen[(seen[:, 0] > bar) | (seen[:, 1] > 1.1 * 150)]
        row, column = seen.mean(axis=0) + 2
        (left, end), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        shown_right = left + (end - left) * column / frame.width
        shown_up = bottom + (top - bottom) * row / frame.height
        assert shown_right == pytest.approx(x_mm[r0:r1].mean(), abs=0.15)
        assert shown_up == pytest.approx(y_mm[u0:u1].mean(), abs=0.15)


def test_all_panels_have_one_scale_and_show_their_edges() -> None:
    volume = noise((10, 20, 30), (0.5, 0.2, 0.1), 1)
    sheet = draw_preview(volume)
    scales = []
    for axes in panels(sheet):
        frame = axes.get_window_extent()
        (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
        scales += [frame.width / (x1 - x0), frame.height / (y1 - y0)]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-6)
    z_panel = panels(sheet)[0]
    np.testing.assert_allclose(z_panel.get_xlim(), [0.5 - 1.5, 0.5 + 1.5])
    np.testing.assert_allclose(z_panel.get_ylim(), [-2.0 - 2.0, -2.0 + 2.0])
    assert [axes.get_title() for axes in panels(sheet)] == ["z = 1.25 mm", "y = -1.9 mm", "x = 0.55 mm"]


def test_a_row_has_its_own_gray_range_without_the_extremes() -> None:
    volume = noise((16, 16, 16), (0.1, 0.1, 0.1), 2)
    volume.arrays[0][8, 3, 4] = 50.0
    sheet = draw_preview(volume)
    ranges = [axes.images[0].get_clim() for axes in panels(sheet)]
    assert ranges[0] == ranges[1] == ranges[2]
    assert 0.015 < ranges[0][1] <= 0.02
    assert 0.0075 < ranges[3][1] <= 0.01


def test_thin_planes_are_left_out() -> None:
    titles = [axes.get_title() for axes in panels(draw_preview(noise((1, 30, 30), (0.1, 0.1, 0.1), 1)))]
    assert titles == ["z = 1 mm"]
    titles = [axes.get_title()[0] for axes in panels(draw_preview(noise((30, 30, 1), (0.1, 0.1, 0.1), 1)))]
    assert titles == ["x"]
    titles = [axes.get_title()[0] for axes in panels(draw_preview(noise((3, 30, 30), (0.01, 0.1, 0.1), 1)))]
    assert titles == ["z"]


def test_large_slices_are_averaged_in_blocks() -> None:
    random = np.random.default_rng(1)
    values = random.random((2, 1300, 1250)).astype(np.float32)
    sheet = draw_preview(MemoryVolume([values], VolumeGrid(values.shape, (30.0, 0.1, 0.1))))
    shown = panels(sheet)[0].images[0]
    expected = values[1, :1299, :1248].reshape(433, 3, 416, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(shown.get_array(), expected, rtol=1e-5)
    np.testing.assert_allclose(shown.get_extent(), [-62.5, -62.5 + 124.8, -65.0, -65.0 + 129.9])


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    volume = noise((6, 7, 8), (0.1, 0.1, 0.1), 1)
    target = io.BytesIO()
    write_preview(volume, target)
    write_preview(volume, tmp_path / "preview.png")
    assert (tmp_path / "preview.png").read_bytes() == target.getvalue()
    assert target.getvalue().startswith(b"\x89PNG")


def test_pyplot_stays_untouched() -> None:
    backend = matplotlib.rcParams._get_backend_or_none()  # type: ignore[attr-defined]
    draw_preview(noise((4, 4, 4), (0.1, 0.1, 0.1), 1))
    assert matplotlib.rcParams._get_backend_or_none() == backend  # type: ignore[attr-defined]


def test_scale_bars_have_round_lengths() -> None:
    assert [round_length(v) for v in (1.0, 1.9, 2.0, 4.9, 7.0, 0.034, 350.0)] == [1, 1, 2, 2, 5, 0.02, 200]


def test_a_constant_image_has_a_range() -> None:
    for value in (0.0, 3.0, -2.0):
        low, high = value_range([np.full((2, 2), value)], 1, 99)
        assert low < value < high
