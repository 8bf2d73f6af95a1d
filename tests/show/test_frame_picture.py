"""The picture of one frame."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from marspipe.errors import InputError
from marspipe.show.frame_picture import draw_frame, frame_size_in, write_frame_picture


def test_picture_shows_the_frame_the_right_way_up(rng: np.random.Generator) -> None:
    frame = rng.poisson(1000, (40, 60)).astype(np.uint16)
    frame[5:15, 10:30] = 100
    sheet = draw_frame(frame, "stone: view 3", "CSM", "counts")
    histogram, image, bar = sheet.figure.axes
    np.testing.assert_array_equal(np.asarray(image.images[0].get_array()), frame)
    assert image.images[0].origin == "lower"
    assert (image.get_xlabel(), image.get_ylabel()) == ("column u [px]", "row v [px]")
    assert bar.get_ylabel() == histogram.get_xlabel() == "counts"
    low, high = image.images[0].get_clim()
    assert low == 100
    assert 1000 < high < frame.max()  # without the highest 1 %
    text = " ".join(t.get_text() for t in sheet.figure.texts)
    assert "stone: view 3" in text
    assert f"min 100   max {frame.max()}" in text


def test_a_defect_changes_the_picture_where_it_is(rng: np.random.Generator) -> None:
    frame = rng.poisson(1000, (40, 40)).astype(np.uint16)
    pages = []
    for value in (1000, 0):
        frame[30, 5] = value
        page = io.BytesIO()
        write_frame_picture(frame, page, "frame")
        page.seek(0)
        pages.append(imread(page)[..., :3])
    height, width = pages[0].shape[:2]
    image = np.abs(pages[1] - pages[0]).max(axis=-1) > 0.3
    # Text and histogram on the right change as well; the frame itself only in one pixel, in its upper left.
    rows, columns = np.nonzero(image[:, : int(0.45 * width)])
    assert rows.size > 50
    assert rows.max() < 0.45 * height
    assert columns.max() < 0.25 * width
    assert np.ptp(rows) < height / 30
    assert np.ptp(columns) < width / 30


def test_pixels_that_are_no_number_are_counted() -> None:
    frame = np.ones((8, 9), np.float32)
    frame[0, :3] = np.nan
    sheet = draw_frame(frame, "title", "", "line integral")
    assert any("3 pixels are no number" in t.get_text() for t in sheet.figure.texts)


def test_what_is_no_frame_is_refused() -> None:
    for frame, message in ((np.ones(4), "rows and columns"), (np.full((2, 2), np.nan), "finite value")):
        with pytest.raises(InputError, match=message):
            draw_frame(frame, "", "", "counts")


@pytest.mark.parametrize("shape", [(1, 1), (2, 4000), (4000, 2), (256, 256)])
def test_any_shape_has_room(shape: tuple[int, int]) -> None:
    width, height = frame_size_in(shape, 4.6, 4.6)
    assert 0.6 <= width <= 4.6
    assert 0.6 <= height <= 4.6
    write_frame_picture(np.arange(shape[0] * shape[1], dtype=np.float64).reshape(shape), io.BytesIO(), "t")
