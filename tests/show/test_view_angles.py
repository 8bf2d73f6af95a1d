"""Gaps and repeats of a scan's angles, in words."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from marspipe.show.view_angles import Step, angle_lines, survey_angles


def lines(degrees: NDArray[np.float64], heights: NDArray[np.float64] | None = None) -> dict[str, str]:
    return dict(angle_lines(survey_angles(np.deg2rad(degrees), heights)))


def test_even_circle() -> None:
    text = lines(np.arange(0, 360, 2.0))
    assert text == {
        "views": "180, 0 to 358 deg, steps 2 to 2 deg, source goes counterclockwise seen from +z",
        "gaps": "none: every step is 2 deg within 1 %",
        "repeats": "none within 0.0057 deg",
    }
    assert "source goes clockwise seen from +z" in lines(-np.arange(0, 360, 2.0))["views"]


def test_gap_is_found_where_it_is() -> None:
    degrees = np.delete(np.arange(0, 360, 2.0), [45, 46, 47])
    survey = survey_angles(np.deg2rad(degrees))
    assert survey.irregular == (Step(44, 45, pytest.approx(np.deg2rad(88)), pytest.approx(np.deg2rad(8))),)
    assert lines(degrees)["gaps"] == (
        "1 of 176 steps differ from 2 deg by more than 1 %; the largest, 8 deg, from view 44 (88 deg) to view 45"
    )


def test_half_a_circle_says_what_is_not_measured() -> None:
    assert lines(np.arange(0, 182, 2.0))["gaps"].endswith("; 180 deg of the circle are not measured")
    # A gap that the end of the circle falls into is one gap.
    assert "not measured" not in lines(np.arange(0, 360, 2.0))["gaps"]


def test_repeats_across_full_turns_and_in_place() -> None:
    closed = lines(np.linspace(0, 360, 181))
    assert closed["repeats"] == "1 within 0.0057 deg: views 0 and 180 (0 deg)"
    assert closed["gaps"].startswith("none")
    stalled = np.repeat(np.arange(0, 360, 10.0), 2)
    assert lines(stalled)["repeats"].startswith("36 within 0.0057 deg: views 0 and 1 (0 deg), views 2 and 3 (10 deg)")
    assert lines(stalled)["repeats"].endswith("and 33 others")
    # An encoder's jitter is a repeat; a hundredth of a degree is not.
    assert survey_angles(np.deg2rad([0.0, 1.0, 2.0, 1.001])).repeated == ((1, 3),)
    assert survey_angles(np.deg2rad([0.0, 1.0, 2.0, 1.01])).repeated == ()


def test_same_angle_at_another_height_is_no_repeat() -> None:
    circle = np.arange(0, 360, 2.0)
    heights = np.repeat([0.0, 5.0], circle.size)
    text = lines(np.tile(circle, 2), heights)
    assert text["views"].endswith("on 2 heights")
    assert text["gaps"].startswith("none")
    assert text["repeats"].startswith("none")
    helix = np.arange(0, 1080, 2.0)
    assert lines(helix, 0.1 * np.arange(helix.size))["repeats"].startswith("none")
    assert lines(helix)["repeats"].startswith("360 within")


def test_angles_in_no_order() -> None:
    degrees = np.random.default_rng(1).permutation(np.delete(np.arange(0, 360, 3.0), 50))
    text = lines(degrees)
    assert "source goes in no order" in text["views"]
    assert "1 of 118 steps differ from 3 deg by more than 1 %; the largest, 6 deg" in text["gaps"]
    before = int(np.flatnonzero(degrees == 147)[0])
    assert f"from view {before} (147 deg)" in text["gaps"]


def test_one_view() -> None:
    assert lines(np.array([90.0])) == {"views": "1, 90 to 90 deg"}
