"""The course of a scan: which frames are taken, in which order, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from marspipe.simulate.settings import SimulationSettings

_PAUSE_S = 10.0  # between one part and the next: the sample, a plate or the camera moves


class Stream(IntEnum):
    """Which random numbers: every frame has its own stream, so that no frame depends on another."""

    CHIP = 0
    PROJECTION = 1
    OPEN_BEAM_BEFORE = 2
    OPEN_BEAM_AFTER = 3
    DARK = 4
    ABSORBER = 5


@dataclass(frozen=True)
class Part:
    """Frames of one kind, taken one after the other at one camera position.

    Attributes
    ----------
    name : str
        For file names: ``dark``, ``open_beam_before``, ``absorber_0``, ``projections``, ``open_beam_after``.
    stream : Stream
        Kind of the frames.
    first, count : int
        Number of the first exposure in its stream, and number of exposures.
    start : datetime
        Start of the first exposure.
    exposure_s : float
        Exposure time, s.
    keys : dict
        ``frame_type``, ``time`` and ``absorber_mm`` of the scan manifest.
    """

    name: str
    stream: Stream
    first: int
    count: int
    start: datetime
    exposure_s: float
    keys: dict[str, Any]

    def start_of(self, number: int) -> datetime:
        """Return the start of an exposure of this part, from 0."""
        return self.start + timedelta(seconds=number * self.exposure_s)


def parts_of(settings: SimulationSettings, exposure_s: float, tile: int = 0) -> list[Part]:
    """Return what is taken at a camera position, in the order of time.

    Parameters
    ----------
    settings : SimulationSettings
        The scan.
    exposure_s : float
        Exposure time of an open beam, s.
    tile : int
        Camera position; everything is taken at the one before first.
    """
    start = settings.start_time
    parts: list[Part] = []
    for _ in range(tile + 1):
        parts = []
        for name, stream, first, count, keys in _course(settings):
            ratio = settings.defects.projection_exposure_ratio if stream is Stream.PROJECTION else 1.0
            parts.append(Part(name, stream, first, count, start, exposure_s * ratio, keys))
            start += timedelta(seconds=count * exposure_s * ratio + _PAUSE_S)
    return parts


def exposures_of(settings: SimulationSettings) -> int:
    """Return the number of exposures of a scan, at all camera positions."""
    return len(settings.camera_positions_mm) * sum(count for _, _, _, count, _ in _course(settings))


def _course(settings: SimulationSettings) -> list[tuple[str, Stream, int, int, dict[str, Any]]]:
    open_beam: dict[str, Any] = {"frame_type": "open_beam"}
    frames = settings.defects.absorber_frames
    plates = [
        (f"absorber_{k}", Stream.ABSORBER, k * frames, frames, {"frame_type": "absorber", "absorber_mm": thickness})
        for k, thickness in enumerate(settings.defects.absorbers_mm)
    ]
    return [
        ("dark", Stream.DARK, 0, settings.darks, {"frame_type": "dark", "time": "before"}),
        ("open_beam_before", Stream.OPEN_BEAM_BEFORE, 0, settings.open_beams, {**open_beam, "time": "before"}),
        *plates,
        ("projections", Stream.PROJECTION, 0, settings.n_views, {"frame_type": "projection"}),
        ("open_beam_after", Stream.OPEN_BEAM_AFTER, 0, settings.open_beams, {**open_beam, "time": "after"}),
    ]
