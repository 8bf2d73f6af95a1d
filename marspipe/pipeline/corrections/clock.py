"""When frames were taken: the clock on which open beams are interpolated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from marspipe.errors import ScanError

_NS_PER_S = 1_000_000_000


def nanoseconds_of(acquired_at: str) -> int:
    """Return an acquisition time, ISO 8601 in UTC, as nanoseconds since 1970.

    Raises
    ------
    ScanError
        If the text is no such time.
    """
    try:
        return int(np.datetime64(acquired_at.removesuffix("Z").removesuffix("+00:00"), "ns").astype(np.int64))
    except ValueError as error:
        raise ScanError(f"acquired_at must be an ISO 8601 time in UTC, got {acquired_at!r}") from error


@dataclass(frozen=True)
class Clock:
    """What a time is: seconds since 1970 if every frame that matters has one, else the number of the view.

    Attributes
    ----------
    timed : bool
        Whether times are acquisition times.
    n_views : int
        Views of the scan. On their clock the first group of open beams stands at the first view and the last one at
        the last view, as before and after.
    """

    timed: bool
    n_views: int

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Clock:
        """Return the clock of a frames table from its metadata."""
        untimed = sum(g.get("untimed", g["frames"]) for g in metadata["groups"] if g["frame_type"] != "dark")
        return cls(untimed == 0, len(metadata["geometry"]["angles_rad"]))

    def of_frame(self, view: int, acquired_at: str | None) -> float:
        """Return the time of a projection."""
        if not self.timed:
            return float(view)
        if acquired_at is None:
            raise ScanError(f"view {view} has no acquisition time, although the frames table says that all frames do")
        return nanoseconds_of(acquired_at) / _NS_PER_S

    def of_group(self, place: int, n_groups: int, time_s: float | None) -> float:
        """Return the time of a group of open beams, the ``place``-th of ``n_groups`` of a camera position.

        Raises
        ------
        ScanError
            If there are more than two groups and nobody knows when they were taken.
        """
        if n_groups == 1:
            return 0.0
        if self.timed:
            if time_s is None:
                raise ScanError("a group of open beams has no time, although the frames table says that all frames do")
            return time_s
        if n_groups > 2:
            raise ScanError(
                f"{n_groups} groups of open beams, but not every frame has an acquisition time: without times there "
                "can be two groups, before and after"
            )
        return float(place * (self.n_views - 1))
