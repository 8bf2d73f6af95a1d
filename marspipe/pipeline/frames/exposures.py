"""Exposures out of the frames table: all counter images of a view at one camera position, checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.pipeline.corrections.camera import Camera
from marspipe.store.blobs import checksum, pixels_of

FRAME_COLUMNS = (
    "view",
    "tile",
    "counter",
    "exposure_s",
    "acquired_at",
    "monitor",
    "rows",
    "cols",
    "dtype",
    "pixels",
    "checksum",
    "source_uri",
    "source_offset",
)


@dataclass(frozen=True)
class Exposure:
    """One exposure.

    Attributes
    ----------
    view, tile : int
        View and camera position.
    counters : ndarray, shape (n_counters, v, u)
        Counter images; overwritten by the next exposure of the same stream.
    exposure_s : float or None
        Exposure time, s.
    acquired_at : str or None
        Start, ISO 8601 in UTC.
    monitor : float or None
        Counts of the beam monitor.
    """

    view: int
    tile: int
    counters: NDArray[Any]
    exposure_s: float | None
    acquired_at: str | None
    monitor: float | None


def exposures(batches: Iterator[pa.RecordBatch], camera: Camera) -> Iterator[Exposure]:
    """Collect one exposure after the other; the frames of an exposure come in a row.

    Raises
    ------
    ScanError
        If a frame is missing, doubled, unknown, damaged or of another shape.
    """
    place, seen, done = (-1, -1), set[int](), set[tuple[int, int]]()
    counters = np.empty((camera.n_counters, *camera.shape), dtype=np.float32)
    for batch in batches:
        for row in (_Row(batch, number) for number in range(batch.num_rows)):
            if row.place != place:
                _require_whole(place, seen, camera)
                place, seen = row.place, set()
                if counters.dtype != row.dtype:
                    counters = np.empty(counters.shape, dtype=row.dtype)
            if place in done or row.counter in seen:
                raise ScanError(f"{row.source}: {name_of(*place, camera)}, counter {row.counter} is doubled")
            if not 0 <= row.counter < camera.n_counters:
                raise ScanError(f"{row.source}: {name_of(*place, camera)} has a frame of unknown counter {row.counter}")
            if not 0 <= place[1] < camera.n_tiles:
                raise ScanError(f"{row.source}: view {place[0]} has a frame of unknown camera position {place[1]}")
            counters[row.counter] = row.pixels(camera)
            seen.add(row.counter)
            if len(seen) == camera.n_counters:
                yield Exposure(
                    *place, counters, row.value("exposure_s"), row.value("acquired_at"), row.value("monitor")
                )
                done.add(place)
    _require_whole(place, seen, camera)


def name_of(view: int, tile: int, camera: Camera) -> str:
    """Return an exposure's name for messages."""
    return f"view {view}" if camera.n_tiles == 1 else f"view {view}, camera position {tile}"


def _require_whole(place: tuple[int, int], seen: set[int], camera: Camera) -> None:
    if place[0] >= 0 and len(seen) != camera.n_counters:
        missing = sorted(set(range(camera.n_counters)) - seen)
        raise ScanError(f"{name_of(*place, camera)} has no frame of counter {', '.join(map(str, missing))}")


@dataclass(frozen=True)
class _Row:
    """One frame of a batch."""

    batch: pa.RecordBatch
    number: int

    def value(self, name: str) -> Any:
        """Return a value of the row."""
        return self.batch.column(name)[self.number].as_py()

    @cached_property
    def place(self) -> tuple[int, int]:
        """View and camera position."""
        return int(self.value("view")), int(self.value("tile"))

    @cached_property
    def counter(self) -> int:
        return int(self.value("counter"))

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.value("dtype"))
        return dtype

    @property
    def source(self) -> str:
        return f"{self.value('source_uri')} at {self.value('source_offset')}"

    def pixels(self, camera: Camera) -> NDArray[Any]:
        """Return the frame, checked against the camera and its checksum."""
        found, name = (self.value("rows"), self.value("cols")), name_of(*self.place, camera)
        if found != camera.shape:
            raise ScanError(f"{self.source}: {name} has a frame of {found} px, expected {camera.shape}")
        frame = pixels_of(self.batch.column("pixels"), self.number, self.dtype.str, camera.shape)
        if checksum(frame) != self.value("checksum"):
            raise ScanError(
                f"{self.source}: the stored pixels of {name}, counter {self.counter} do not match their checksum; "
                "ingest the scan again"
            )
        return frame
