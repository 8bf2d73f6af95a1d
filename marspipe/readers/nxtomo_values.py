"""Values of an NXtomo file beside the pixels: one for every frame of a stack, or one for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import RawFormatError
from marspipe.readers import hdf5
from marspipe.readers.files import guard
from marspipe.readers.frames import FrameType

IMAGE_KEYS: dict[FrameType, int] = {"projection": 0, "open_beam": 1, "dark": 2}
LENGTH_MM = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "nm": 1e-6}
TIME_S = {"s": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6}
ENERGY_KEV = {"kev": 1.0, "ev": 1e-3, "mev": 1e3}


@dataclass(frozen=True)
class Stack:
    """One stack of frames in an NXtomo file.

    Attributes
    ----------
    entry, detector, data : str
        HDF5 paths of the entry (``""`` if a detector outside any was named), the detector and its frames.
    image_key : ndarray, shape (frames,), int
        What every frame is.
    """

    entry: str
    detector: str
    data: str
    image_key: NDArray[np.int64]

    def frames(self, frame_type: FrameType) -> NDArray[np.int64]:
        """Return the numbers of the frames of a type; absorbers are open beams of a file taken with a plate."""
        return np.flatnonzero(self.image_key == IMAGE_KEYS.get(frame_type, IMAGE_KEYS["open_beam"]))


def of_projections(values: NDArray[np.float64], stack: Stack, where: str) -> NDArray[np.float64]:
    """Return the values of the projections, given one for every frame or one for every projection."""
    projections = stack.frames("projection")
    if values.size == stack.image_key.size:
        return values[projections]
    if values.size != projections.size:
        raise RawFormatError(
            f"{where} has {values.size} values, expected one for each of the {stack.image_key.size} frames or of the "
            f"{projections.size} projections"
        )
    return values


def per_frame(
    container: hdf5.Container, path: str, stack: Stack, units: dict[str, float]
) -> NDArray[np.float64] | None:
    """Return a value for every frame of the stack, scaled by its unit; None if there is none with a known unit."""
    if container.find(path) is None:
        return None
    values, unit = container.numbers(path, scalar=True)
    scale = _scale(unit, units)
    if values.size not in (1, stack.image_key.size):
        raise RawFormatError(
            f"{container.uri}: {path} has {values.size} values, expected one, or one for each of the "
            f"{stack.image_key.size} frames"
        )
    return None if scale is None else np.broadcast_to(values * scale, stack.image_key.shape)


def starts_of(container: hdf5.Container, stack: Stack) -> tuple[datetime, NDArray[np.float64]] | None:
    """Return ``detector/start_time`` of every frame, s, and the moment that it counts from; None without a zone."""
    path = f"{stack.detector}/start_time"
    seconds = per_frame(container, path, stack, TIME_S)
    if seconds is None:
        return None
    with guard(f"{container.uri}: {path}"):
        text = hdf5.attribute(container.dataset(path), "start")
    try:
        zero = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    if zero.tzinfo is None or seconds.size != stack.image_key.size or not np.isfinite(seconds).all():
        return None
    return zero, seconds


def moment_of(starts: tuple[datetime, NDArray[np.float64]], place: int) -> str:
    """Return the start of a frame, ISO 8601 in UTC."""
    zero, seconds = starts
    moment = (zero + timedelta(seconds=float(seconds[place]))).astimezone(UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def monitor_of(container: hdf5.Container, stack: Stack) -> NDArray[np.float64] | None:
    """Return the beam monitor's counts in every frame of the stack; None if the file has none for every frame."""
    path = f"{stack.entry}/control/data"
    if not stack.entry or container.find(path) is None:
        return None
    values, _ = container.numbers(path, scalar=True)
    if values.size == 1 != stack.image_key.size:
        return None  # a monitor that was read once says nothing of a frame
    if values.size != stack.image_key.size:
        raise RawFormatError(
            f"{container.uri}: {path} has {values.size} values, expected one for each of the "
            f"{stack.image_key.size} frames"
        )
    if not np.isfinite(values).all() or values.min() < 0:
        raise RawFormatError(f"{container.uri}: {path} must hold counts, finite and not negative")
    return values


def single_value(container: hdf5.Container, path: str, units: dict[str, float]) -> float | None:
    """Return a number scaled by its unit; None if there is none, or none with a known unit."""
    if container.find(path) is None:
        return None
    values, unit = container.numbers(path, scalar=True)
    scale = _scale(unit, units)
    return None if scale is None or values.size != 1 else float(values[0]) * scale


def _scale(unit: str | None, units: dict[str, float]) -> float | None:
    if unit is None:
        return 1.0 if units is TIME_S else None  # count_time is in s by the definition; a length is not guessed
    return units.get(unit.strip().lower())


def thresholds_of(container: hdf5.Container, stacks: list[Stack]) -> tuple[float, ...]:
    """Return the thresholds of all counters, keV; none unless every counter has one."""
    values = [single_value(container, f"{stack.detector}/threshold_energy", ENERGY_KEV) for stack in stacks]
    return tuple(value for value in values if value is not None) if None not in values else ()
