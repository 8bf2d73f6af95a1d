from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from marspipe.errors import GeometryError, InputError
from marspipe.recon.redundancy import (
    IncompleteScanWarning,
    angular_shares_rad,
    choose_redundancy,
    fan_angles_rad,
    parker_weights,
    wang_weights,
)
from marspipe.scan.geometry import ScanGeometry
from tests.recon.scans import circle, cone, without_orbit

FAN = math.atan(21 * 0.6 / 60)  # half fan angle of cone()
SHORT = math.pi + 2 * FAN


def arc(n_views: int, range_rad: float, first: float = 0.0) -> np.ndarray:
    return first + np.linspace(0, range_rad, n_views)


def parallel(angles: np.ndarray, **changes: object) -> ScanGeometry:
    settings_ = {"detector_shape": (3, 41), "pixel_pitch_mm": (0.5, 0.5), "angles_rad": angles}
    return ScanGeometry.parallel(**(settings_ | changes))  # type: ignore[arg-type]


# --- what is chosen ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("geometry", "name"),
    [
        (cone(), "full"),
        (cone(angles_rad=circle(24, first=1.0)[::-1]), "full"),
        (cone(angles_rad=np.linspace(0, 2 * np.pi, 25)), "full"),  # the end point twice
        (cone(angles_rad=circle(48, turn=4 * np.pi)), "full"),
        (cone(angles_rad=circle(3)), "full"),
        (cone(angles_rad=arc(60, SHORT)), "parker"),
        (cone(angles_rad=-arc(60, SHORT, first=2.0)), "parker"),
        (cone(angles_rad=arc(60, math.radians(300))), "parker"),
        (cone(angles_rad=arc(350, math.radians(350))), "parker"),
        (cone(angles_rad=arc(359, math.radians(357))), "full"),  # a few views short of the circle
        (cone(principal_point_px=(18, 8)), "wang"),
        (cone(principal_point_px=(18, 40)), "wang"),
        (cone(principal_point_px=(18, 19.5)), "full"),  # a center of rotation, no offset detector
        (parallel(circle(30, math.pi)), "parallel-180"),
        (parallel(np.linspace(0, math.pi, 31)), "parallel-180"),
        (parallel(circle(45, 1.5 * math.pi)), "parallel-180"),
        (parallel(circle(60)), "full"),
        (parallel(circle(60), principal_point_px=(1, 5)), "wang"),
        (without_orbit(cone()), "full"),
        (without_orbit(cone(angles_rad=arc(60, SHORT))), "parker"),
        (without_orbit(cone(principal_point_px=(18, 8))), "wang"),
    ],
)
def test_the_scheme_follows_from_the_scan(geometry: ScanGeometry, name: str) -> None:
    redundancy = choose_redundancy(geometry)
    assert redundancy.name == name
    assert redundancy.description.endswith(".")
    assert redundancy.view_weights_rad.shape == (len(geometry),)
    assert redundancy.columns(0).shape == (geometry.detector_shape[1],)
    assert (redundancy.view_weights_rad >= 0).all() and (redundancy.column_weights >= 0).all()


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (cone(angles_rad=arc(60, math.radians(190))), r"190 of the 203\.7 degrees .* within 3\.486 mm"),
        (cone(angles_rad=arc(60, math.radians(90))), r"90 of the 203\.7 degrees .*lines are missing"),
        (parallel(circle(30, math.radians(120))), r"116 of the 180 degrees"),
    ],
)
def test_a_range_that_is_too_small_warns_with_numbers(geometry: ScanGeometry, message: str) -> None:
    with pytest.warns(IncompleteScanWarning, match=message):
        redundancy = choose_redundancy(geometry)
    assert redundancy.name == "limited-angle"


def test_missing_views_inside_a_scan_warn() -> None:
    angles = np.delete(circle(360), slice(100, 140))
    angles = np.delete(angles, slice(200, 240))
    with pytest.warns(IncompleteScanWarning, match="41 degrees of the scan have no view"):
        choose_redundancy(cone(angles_rad=angles))


def test_what_cannot_be_reconstructed_is_refused() -> None:
    with pytest.raises(
        GeometryError, match=r"does not see the rotation axis: it falls on column -4 of columns 0\.\.42"
    ):
        choose_redundancy(cone(principal_point_px=(18, -4)))
    with pytest.raises(GeometryError, match="two angles or more, got 1"):
        choose_redundancy(cone(angles_rad=[0.5, 0.5, 0.5 + 2 * np.pi]))
    with pytest.raises(GeometryError, match=r"all around, but 156\.3 degrees have none"):
        choose_redundancy(cone(angles_rad=arc(60, SHORT)), "wang")
    with pytest.raises(GeometryError, match=r"need parallel rays, but the fan reaches 11\.86 degrees"):
        choose_redundancy(cone(), "parallel-180")
    with pytest.raises(InputError, match="redundancy must be one of auto, full"):
        choose_redundancy(cone(), "half")


def test_detectors_that_move_across_the_beam_are_refused() -> None:
    geometry = cone()
    general = {
        name: getattr(geometry, name).copy()
        for name in ("source_mm", "detector_center_mm", "u_mm", "v_mm", "angles_rad")
    }
    general["detector_center_mm"][::2] += 10 * general["u_mm"][::2]
    with pytest.raises(GeometryError, match=r"moves across the beam by .* join the camera positions"):
        choose_redundancy(ScanGeometry(detector_shape=(37, 43), **general))


def test_insisting_overrides_the_choice() -> None:
    assert choose_redundancy(cone(), "parker").name == "parker"
    assert choose_redundancy(cone(principal_point_px=(18, 8)), "full").name == "full"
    with pytest.warns(IncompleteScanWarning, match=r"full-circle weights on a scan of 203\.7 degrees"):
        choose_redundancy(cone(angles_rad=arc(60, SHORT)), "full")


# --- angular shares ----------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=40), st.sampled_from([math.pi, 2 * math.pi]))
def test_shares_fill_the_circle(angles: list[float], period: float) -> None:
    shares, after_gap, widest = angular_shares_rad(np.array(angles), period)
    assert shares.sum() == pytest.approx(period)
    assert (shares >= 0).all()
    assert (after_gap >= 0).all() and after_gap.max() <= period - widest + 1e-9


@given(st.lists(st.floats(0, 6), min_size=3, max_size=30, unique=True), st.randoms(use_true_random=False))
def test_shares_do_not_depend_on_the_order(angles: list[float], random: object) -> None:
    shuffled = list(range(len(angles)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    a = np.array(angles)
    shares, beta, _ = angular_shares_rad(a, 2 * math.pi)
    again, beta_again, _ = angular_shares_rad(a[shuffled], 2 * math.pi)
    assert np.array_equal(again, shares[shuffled])
    assert np.array_equal(beta_again, beta[shuffled])


def test_views_at_the_same_angle_share() -> None:
    closed = choose_redundancy(cone(angles_rad=np.linspace(0, 2 * np.pi, 25))).view_weights_rad
    step = 2 * np.pi / 24
    assert closed[1:-1] == pytest.approx(step / 2)
    assert closed[[0, -1]] == pytest.approx(step / 4)
    half = choose_redundancy(parallel(np.linspace(0, math.pi, 31))).view_weights_rad
    assert half[1:-1] == pytest.approx(math.pi / 30)
    assert half[[0, -1]] == pytest.approx(math.pi / 60)
    assert half.sum() == pytest.approx(math.pi)


def test_a_repeated_end_of_an_arc_shares_too() -> None:
    shares, _, _ = angular_shares_rad(np.array([0.0, 0.1, 0.2, 0.2]), 2 * math.pi, closed=False)
    assert shares == pytest.approx([0.1, 0.1, 0.05, 0.0])


def test_irregular_angles_have_the_gaps_to_both_neighbors() -> None:
    angles = np.array([0.0, 1.0, 1.5, 3.0, 4.5, 5.2])
    weights = choose_redundancy(cone(angles_rad=angles)).view_weights_rad
    wrap = 2 * np.pi - 5.2
    assert weights == pytest.approx(np.array([wrap + 1, 1.5, 2, 3, 2.2, 0.7 + wrap]) / 4)


# --- conjugate rays ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@example(where=0.0, across=1.0, over=0.0)
@given(st.floats(0, 1), st.floats(-1, 1), st.floats(0, 0.9))
def test_parker_weights_of_the_two_measurements_of_a_line_sum_to_one(where: float, across: float, over: float) -> None:
    """The line of (beta, gamma) is measured again at (beta + pi + 2 gamma, -gamma), in angles of the paper."""
    delta = FAN + over * (math.pi / 2 - FAN)
    gamma, covered = across * FAN, math.pi + 2 * delta
    beta = where * covered
    weight = parker_weights(np.array([[beta]]), np.array([[-gamma]]), delta).item()
    total = weight
    for turn in (math.pi + 2 * gamma, 2 * gamma - math.pi):
        if 0 <= beta + turn <= covered:
            total += parker_weights(np.array([[beta + turn]]), np.array([[gamma]]), delta).item()
    assert 0 <= weight <= 1
    assert total == pytest.approx(1, abs=1e-9)


@given(st.floats(-1, 1), st.floats(0.01, 1))
def test_wang_weights_of_the_two_measurements_of_a_line_sum_to_one(gamma: float, short_side: float) -> None:
    pair = wang_weights(np.array([gamma, -gamma]), short_side)
    assert pair.sum() == pytest.approx(1)
    assert pair[0] >= pair[1] or gamma <= 0


@pytest.mark.parametrize("first", [0.0, 1.3])
@pytest.mark.parametrize("direction", [1, -1])
def test_weights_of_a_scan_cover_every_line_once(first: float, direction: int) -> None:
    """Sum the weights of all measured rays into bins of the lines' direction: each line offset gets pi in sum."""
    geometry = cone(angles_rad=direction * arc(721, SHORT + 0.3, first))
    redundancy = choose_redundancy(geometry)
    fan = fan_angles_rad(geometry)[0]
    for column in (0, 7, 21, 40):
        both = redundancy.view_weights_rad @ (
            redundancy.column_weights[:, column] + redundancy.column_weights[:, 42 - column]
        )
        assert fan[column] == pytest.approx(-fan[42 - column])
        assert both == pytest.approx(2 * math.pi, rel=1e-4)


def test_fan_angles_of_the_general_form_are_those_of_the_orbit() -> None:
    for point in ((18, 21), (15, 8.3)):
        geometry = cone(principal_point_px=point)
        general = fan_angles_rad(without_orbit(geometry))
        np.testing.assert_allclose(general, np.repeat(fan_angles_rad(geometry), 24, axis=0), atol=1e-12)
        a, b = choose_redundancy(geometry), choose_redundancy(without_orbit(geometry))
        np.testing.assert_allclose(a.view_weights_rad, b.view_weights_rad, atol=1e-12)
        for view in (0, 7):
            np.testing.assert_allclose(b.columns(view), a.columns(view), atol=1e-9)
        assert a.pad_columns == b.pad_columns


def test_offset_detectors_are_widened_to_be_symmetrical() -> None:
    assert choose_redundancy(cone(principal_point_px=(18, 8))).pad_columns == (26, 0)
    assert choose_redundancy(cone(principal_point_px=(18, 34))).pad_columns == (0, 26)
    assert choose_redundancy(cone(principal_point_px=(18, 8.25))).pad_columns == (26, 0)
    assert choose_redundancy(cone()).pad_columns == (0, 0)


def test_the_field_of_view_is_the_circle_that_the_outermost_rays_touch() -> None:
    assert choose_redundancy(cone()).field_of_view_mm == pytest.approx(40 * math.sin(FAN))
    wang = choose_redundancy(cone(principal_point_px=(18, 8)))
    assert wang.field_of_view_mm == pytest.approx(40 * math.sin(math.atan(34 * 0.6 / 60)))
    half = choose_redundancy(parallel(circle(30, math.pi), principal_point_px=(1, 19)))
    assert half.field_of_view_mm == pytest.approx(19 * 0.5)


def test_complete_scans_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_redundancy(cone(angles_rad=arc(60, SHORT)))
        choose_redundancy(cone(angles_rad=circle(60, SHORT)))  # short by one step
        choose_redundancy(cone(angles_rad=circle(5)))
