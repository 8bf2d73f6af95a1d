"""Pictures of corrections: before and after, flags of pixels, camera positions."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from marspipe.errors import InputError
from marspipe.show.flags_picture import REASON_COLORS, SEVERAL_COLOR, draw_flags, write_flags_picture
from marspipe.show.step_picture import StepChange, draw_step
from marspipe.show.stitch_picture import draw_stitch

REASONS = {1: "dead", 2: "hot", 4: "noisy"}


def change(rng: np.random.Generator, shape: tuple[int, int] = (60, 60)) -> StepChange:
    after = rng.normal(1.0, 0.01, shape)
    before = after.copy()
    before[20:22, 30:33] += 2.0
    return StepChange("stone: inpaint", "view 3", before, after, "line integral", "line integral")


def images(axes: list[Axes]) -> dict[str, Axes]:
    return {a.get_title(): a for a in axes if a.images}


def test_difference_is_symmetric_and_where_the_change_is(rng: np.random.Generator) -> None:
    drawn = change(rng)
    panels = images(draw_step(drawn).figure.axes)
    assert list(panels) == ["before", "after", "after − before"]
    shown = panels["after − before"].images[0]
    low, high = shown.get_clim()
    assert low == -high < 0
    assert shown.get_cmap().name == "RdBu_r"
    assert set(map(tuple, np.argwhere(np.asarray(shown.get_array()) != 0))) == {
        (r, c) for r in (20, 21) for c in (30, 31, 32)
    }
    assert panels["before"].images[0].get_clim() == panels["after"].images[0].get_clim()
    assert drawn.summary() == "changed 6 of 3600 values (0.17%) by −2 to −2, root mean square 2"


def test_other_quantities_have_no_difference(rng: np.random.Generator) -> None:
    drawn = replace(change(rng), before_label="counts")
    panels = images(draw_step(drawn).figure.axes)
    assert list(panels) == ["before", "after"]
    assert panels["before"].images[0].get_clim() != panels["after"].images[0].get_clim()
    assert drawn.summary().startswith("counts: ")


def test_large_images_have_the_part_that_changed_most_below(rng: np.random.Generator) -> None:
    panels = images(draw_step(change(rng, (200, 150))).figure.axes)
    assert len(panels) == 6
    detail = panels["after − before, detail"]
    (left, right), (bottom, top) = detail.get_xlim(), detail.get_ylim()
    assert left < 30
    assert right > 33
    assert bottom < 20
    assert top > 22
    assert right - left == 40
    assert any(patch.get_gid() == "detail" for patch in panels["before"].patches)
    same = replace(change(rng, (200, 150)), after=change(rng, (200, 150)).before)
    assert len(images(draw_step(replace(same, before=same.after)).figure.axes)) == 3


def test_wide_images_stand_below_each_other(rng: np.random.Generator) -> None:
    panels = images(draw_step(change(rng, (30, 300))).figure.axes)
    places = [panels[name].get_position() for name in ("before", "after", "after − before")]
    assert places[0].x0 == places[1].x0 == places[2].x0
    assert places[0].y0 > places[1].y1 > places[1].y0 > places[2].y1


def test_no_change_and_no_number() -> None:
    flat = np.ones((5, 5))
    same = StepChange("t", "s", flat, flat, "counts", "counts")
    assert same.summary() == "changed 0 of 25 values (0.00%)"
    draw_step(same)
    holes = flat.copy()
    holes[1, 1:3] = np.nan
    filled = StepChange("t", "s", holes, flat, "counts", "counts")
    assert filled.summary().startswith("changed 2 of 25 values (8.00%)")
    assert not StepChange("t", "s", holes, holes, "counts", "counts").difference.any()
    with pytest.raises(InputError, match="images of one shape"):
        StepChange("t", "s", flat, flat[:4], "counts", "counts")


# --- flags -----------------------------------------------------------------------------------------------------------


def flags() -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    found = np.zeros((20, 30), np.uint8)
    found[2, 3] = 1
    found[10, 20:22] = 2
    found[15, 5] = 1 | 4
    return found


def test_legend_counts_reasons() -> None:
    sheet = draw_flags(flags(), REASONS, "title", "bin 20-33 keV")
    legend = sheet.figure.legends[0]
    assert [t.get_text() for t in legend.get_texts()] == [
        "good: 596 of 600 px",
        "dead: 2 px",
        "hot: 2 px",
        "noisy: 1 px",
        "several of these: 1 px",
    ]


def test_every_reason_has_its_color_in_its_place() -> None:
    page = io.BytesIO()
    write_flags_picture(flags(), REASONS, page, "title")
    page.seek(0)
    image = imread(page)[..., :3]
    sheet = draw_flags(flags(), REASONS, "title", "")
    box = sheet.figure.axes[0].get_position()
    height, width = image.shape[:2]
    for (row, column), color in (
        ((2, 3), REASON_COLORS[0]),
        ((10, 20), REASON_COLORS[1]),
        ((15, 5), SEVERAL_COLOR),
    ):
        x = (box.x0 + (column + 0.5) / 30 * box.width) * width
        y = (1 - box.y0 - (row + 0.5) / 20 * box.height) * height
        np.testing.assert_allclose(image[int(y), int(x)], to_rgb(color), atol=0.01)


def test_single_pixels_of_large_frames_are_marked() -> None:
    large = np.zeros((1000, 1000), np.uint8)
    large[400, 700] = 2
    axes = draw_flags(large, REASONS, "t", "").figure.axes[0]
    (marks,) = axes.collections
    assert np.asarray(marks.get_offsets()).tolist() == [[700, 400]]
    with pytest.raises(InputError, match="image of bytes"):
        draw_flags(large.astype(np.int64), REASONS, "t", "")  # type: ignore[arg-type]


# --- camera positions ------------------------------------------------------------------------------------------------


def test_positions_are_drawn_apart_in_their_order(rng: np.random.Generator) -> None:
    origins = np.array([[0.0, 20.3], [0.0, 0.0], [24.0, 0.2], [24.1, 20.5]])
    tiles = [np.full((30, 25), float(k)) for k in range(4)]
    tiles[1][3, 4] = np.nan
    sheet = draw_stitch(tiles, origins, rng.normal(size=(54, 45)), "stone: stitch", "view 3", "line integral")
    before, after = (a for a in sheet.figure.axes if a.images)
    extents = [image.get_extent() for image in before.images]
    assert len(extents) == 4
    for one in range(4):
        for other in range(one):
            a, b = extents[one], extents[other]
            assert a[1] < b[0] or b[1] < a[0] or a[3] < b[2] or b[3] < a[2]
    assert extents[1][0] < extents[0][0]
    assert extents[1][2] < extents[2][2]
    assert extents[0][2] == extents[1][2]
    assert {image.get_clim() for image in before.images} == {after.images[0].get_clim()}
    assert sorted(t.get_text() for t in before.texts) == ["0", "1", "2", "3"]
    with pytest.raises(InputError, match="3 frames of 4 camera positions"):
        draw_stitch(tiles[:3], origins, tiles[0], "t", "", "x")
