"""The clock of open beams: acquisition times where all frames have them, else view numbers."""

from __future__ import annotations

import pytest

from marspipe.errors import ScanError
from marspipe.pipeline.corrections.clock import Clock, nanoseconds_of


def metadata(untimed_projections: int, untimed_darks: int = 0) -> dict[str, object]:
    return {
        "geometry": {"angles_rad": [0.0] * 10},
        "groups": [
            {"frame_type": "projection", "frames": 10, "untimed": untimed_projections},
            {"frame_type": "open_beam", "frames": 4, "untimed": 0},
            {"frame_type": "dark", "frames": 4, "untimed": untimed_darks},
        ],
    }


def test_times_count_if_all_frames_that_matter_have_one() -> None:
    assert Clock.of(metadata(0, untimed_darks=4)) == Clock(True, 10)
    assert Clock.of(metadata(1)) == Clock(False, 10)


def test_seconds_since_1970() -> None:
    assert nanoseconds_of("1970-01-01T00:00:01.000000001Z") == 1_000_000_001
    assert nanoseconds_of("1970-01-01T00:00:01+00:00") == 1_000_000_000
    clock = Clock(True, 10)
    assert clock.of_frame(3, "1970-01-01T00:01:00.5Z") == 60.5
    assert clock.of_group(0, 3, 12.5) == 12.5
    with pytest.raises(ScanError, match="view 3 has no acquisition time"):
        clock.of_frame(3, None)
    with pytest.raises(ScanError, match="a group of open beams has no time"):
        clock.of_group(1, 2, None)
    with pytest.raises(ScanError, match="ISO 8601 time in UTC, got 'noon'"):
        clock.of_frame(3, "noon")


def test_views_stand_in_for_times() -> None:
    clock = Clock(False, 10)
    assert clock.of_frame(3, "1970-01-01T00:01:00Z") == 3.0
    assert (clock.of_group(0, 2, None), clock.of_group(1, 2, 17.0)) == (0.0, 9.0)
    assert clock.of_group(0, 1, None) == 0.0
    with pytest.raises(ScanError, match="3 groups of open beams, but not every frame has an acquisition time"):
        clock.of_group(0, 3, None)
