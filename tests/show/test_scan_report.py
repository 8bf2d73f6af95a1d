"""What a scan holds, in lines."""

from __future__ import annotations

import numpy as np

from marspipe.scan.energy import Counter
from marspipe.show.histogram import spread_of
from marspipe.show.scan_report import (
    CountSurvey,
    FrameTally,
    acquired_line,
    count_lines,
    counter_line,
    empty_lines,
    exposure_line,
    flag_lines,
    height_line,
    position_lines,
    tally_lines,
)


def tally(kind: str, tile: int = 0, group: int = 0, frames: int = 10, **more: object) -> FrameTally:
    return FrameTally(kind, 0, tile, group, float(more.pop("mm", 0.0)), frames, **more)  # type: ignore[arg-type]


def test_tallies_by_position_group_and_plate() -> None:
    tallies = [tally("projection", tile) for tile in range(3)]
    tallies += [tally("open_beam", 0, g) for g in (0, 1)] + [tally("absorber", mm=2.0), tally("absorber", mm=4.0)]
    assert tally_lines(tallies) == [
        ("projection", "counter 0: 30 frames, 10 views"),
        ("", "camera position 0: 10 frames, camera position 1: 10 frames, camera position 2: 10 frames"),
        ("open_beam", "counter 0: 20 frames, 20 exposures"),
        ("", "group 0: 10 frames, group 1: 10 frames"),
        ("absorber", "counter 0: 20 frames, 20 exposures"),
        ("", "plate of 2 mm: 10 frames, plate of 4 mm: 10 frames"),
    ]


def test_many_positions_are_summed_up() -> None:
    even = tally_lines([tally("dark", tile) for tile in range(100)])
    assert even[1] == ("", "100 camera positions, 0 to 99: 10 frames each")
    odd = tally_lines([tally("dark", tile, frames=9 if tile == 42 else 10) for tile in range(100)])
    assert odd[1] == ("", "100 camera positions, 0 to 99: 9 to 10 frames each, fewest at 42")


def test_exposure_times() -> None:
    same = [tally("projection", exposure_s=(0.3, 0.3)), tally("open_beam", exposure_s=(0.3, 0.30001))]
    assert exposure_line(same) == ("exposure", "projection 0.3 s, open_beam 0.3 s")
    other = [tally("projection", exposure_s=(0.3, 0.4)), tally("open_beam", exposure_s=(0.1, 0.1)), tally("dark")]
    text = exposure_line(other)[1]
    assert text.startswith("projection 0.3 to 0.4 s, open_beam 0.1 s, dark unknown; projections and open beams differ")
    assert exposure_line([tally("dark")])[1].startswith("unknown")


def test_acquisition_times() -> None:
    spans = [
        tally("projection", acquired=("2025-01-01T12:00:00.5Z", "2025-01-01T13:30:00Z")),
        tally("open_beam", acquired=("2025-01-01T11:59:00.25Z", "2025-01-01T12:00:00Z")),
        tally("dark"),
    ]
    assert acquired_line(spans)[1] == (
        "2025-01-01T11:59:00Z to 2025-01-01T13:30:00Z (1 h 30 min 59.8 s); unknown for dark"
    )
    assert acquired_line([tally("dark")])[1].startswith("unknown")


def test_positions_and_heights() -> None:
    assert position_lines([(0.0, 0.0)], (10, 10)) == []
    many = position_lines([(0.0, 0.1 * k) for k in range(20)], (10, 40))[0][1]
    assert many == "20 camera positions (v, u), mm: v from 0 to 0, u from 0 to 1.9; they make a detector of 10 x 40 px"
    assert height_line(np.zeros(5)) == ("heights", "the sample stays at 0 mm")
    assert height_line(np.repeat([0.0, 5.0], 9))[1] == "2 heights of the sample, 0 to 5 mm: 0, 5"
    assert height_line(np.arange(90) * 0.1)[1] == "90 heights of the sample, 0 to 8.9 mm"


def test_counters() -> None:
    counters = [Counter(0, "CSM", 20.0), Counter(1, "SPM", 15.5)]
    assert counter_line(counters, 24)[1] == "0: CSM above 20 keV, 1: SPM above 15.5 keV; 24 bits deep"
    assert counter_line(counters, None)[1].endswith("; depth unknown")


def test_counts_line_up() -> None:
    values = np.arange(1000, dtype=np.uint16)
    surveys = [
        CountSurvey("projection", 0, 4, spread_of(values), 0.25),
        CountSurvey("projection", 1, 4, spread_of(values // 7), 0.0),
        CountSurvey("dark", 0, 2, spread_of(np.zeros(9, np.uint16)), None),
    ]
    lines = count_lines(surveys, {"projection": 24, "dark": 2})
    assert lines[0] == ("counts", "from 4 of 24 projection, 2 of 2 dark exposures, evenly spread")
    assert [name for name, _ in lines[2:]] == ["projection", "projection", "dark"]
    assert len({text.index("|") for _, text in lines[2:]}) == 1
    assert lines[2][1].split()[2:9] == ["0", "10", "500", "989", "999", "25", "%"]
    assert "unknown" in lines[4][1]
    assert count_lines([], {}) == []


def test_pixels_without_counts() -> None:
    (line,) = empty_lines(["20-33 keV", "33+ keV", "50+ keV"], np.array([0.125, 0.0, 1e-7]), 3)
    assert line[1].endswith("mean of 3 projections: 20-33 keV 12.5 %, 33+ keV 0 %, 50+ keV <0.001 %")
    assert empty_lines(["a"], np.zeros(1), 0) == []


def test_flags_of_a_volume() -> None:
    counts = [{"pixels": 1280, "bad": 8, "dead": 5, "not_finite": 3, "hot": 0}]
    assert flag_lines(["20+ keV"], counts) == [("bad pixels", "20+ keV: 8 of 1280 (dead 5, not finite 3)")]
    assert flag_lines(["20+ keV"], None) == []
