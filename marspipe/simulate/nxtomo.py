"""A simulated scan as NeXus NXtomo: all frames in one stack per counter, told apart by ``image_key``.

The definition has no energy dimension: every counter is an NXentry of its own, ``entry0``, ``entry1``, ... Nor has it
a place for the camera's position or for plates in the beam: those lie in files of their own.

Layout: https://manual.nexusformat.org/classes/applications/NXtomo.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from marspipe.simulate.acquisition import Acquisition
from marspipe.simulate.parts import Part, Stream

FILE = "scan.nxs"

_IMAGE_KEY = {
    Stream.PROJECTION: 0,
    Stream.OPEN_BEAM_BEFORE: 1,
    Stream.OPEN_BEAM_AFTER: 1,
    Stream.ABSORBER: 1,
    Stream.DARK: 2,
}
FloatArray = NDArray[np.float64]


def write_nxtomo(directory: Path, acquisition: Acquisition, report: Callable[[], None]) -> list[dict[str, Any]]:
    """Write what is taken at one camera position, frame by frame; equal settings give equal bytes.

    Parameters
    ----------
    directory : Path
        Where; must exist. Receives ``scan.nxs``; a file for each plate; and, where the gain of the pixels drifts,
        ``open_beam_after.nxs``, so that its open beams are a group of their own.
    acquisition : Acquisition
        The scan; dark frames come first, then open beams, projections, open beams.
    report : callable
        Called after every exposure.

    Returns
    -------
    list of dict
        The ``files`` of a scan manifest.
    """
    apart = {Stream.ABSORBER}
    if acquisition.settings.defects.gain_drift_spread > 0:
        apart.add(Stream.OPEN_BEAM_AFTER)
    together = [part for part in acquisition.parts if part.stream not in apart]
    name = f"{acquisition.prefix}{FILE}"
    _write_file(directory / name, acquisition, together, report)
    common = {"path": name, "reader": "nxtomo"}
    translation = {"dataset": "/entry0/sample/z_translation", "unit": "mm"}
    projections: dict[str, Any] = {"angles_rad": {"dataset": "/entry0/sample/rotation_angle", "unit": "deg"}}
    if acquisition.settings.heights_mm().any():
        projections["sample_z_mm"] = translation
    entries = [
        {**common, "frame_type": "dark"},
        {**common, "frame_type": "open_beam"},
        {**common, "frame_type": "projection", **projections},
    ]
    for part in acquisition.parts:
        if part.stream in apart:
            name = f"{acquisition.prefix}{part.name}.nxs"
            _write_file(directory / name, acquisition, [part], report)
            entries.append({"path": name, "reader": "nxtomo", **part.keys})
    return entries


@dataclass(frozen=True, eq=False)
class _Frames:
    """A value for each frame of a file: image key, angle (deg), height, exposure and start (s), monitor counts."""

    keys: NDArray[np.uint8]
    angles_deg: FloatArray
    heights_mm: FloatArray
    exposures_s: FloatArray
    starts_s: FloatArray
    monitor: NDArray[np.int64] | None


def _write_file(path: Path, acquisition: Acquisition, parts: Sequence[Part], report: Callable[[], None]) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["NX_class"] = "NXroot"
        file.attrs["default"] = "entry0"
        frames = _frames(acquisition, parts)
        stacks = [
            _write_entry(file, f"entry{counter.index}", acquisition, counter.threshold_kev, frames)
            for counter in acquisition.settings.counters
        ]
        place = 0
        for part in parts:
            for counters in acquisition.frames_of(part):
                for stack, frame in zip(stacks, counters, strict=True):
                    stack[place] = frame
                place += 1
                report()


def _frames(acquisition: Acquisition, parts: Sequence[Part]) -> _Frames:
    counts = [part.count for part in parts]
    keys = np.repeat(np.array([_IMAGE_KEY[part.stream] for part in parts], np.uint8), counts)
    angles, heights = np.zeros(keys.size), np.zeros(keys.size)
    if (keys == 0).any():
        angles[keys == 0] = np.rad2deg(acquisition.geometry.angles_rad)
        heights[keys == 0] = acquisition.settings.heights_mm()
    shots = [acquisition.shot(part.stream, part.first + k) for part in parts for k in range(part.count)]
    monitor = np.array([shot.monitor for shot in shots]) if acquisition.settings.defects.monitor_counts else None
    return _Frames(
        keys,
        angles,
        heights,
        np.array([shot.exposure_s for shot in shots]),
        np.array([shot.time_s for shot in shots]),
        monitor,
    )


def _write_entry(file: Any, name: str, acquisition: Acquisition, threshold_kev: float, frames: _Frames) -> Any:
    settings = acquisition.settings
    entry = _group(file, name, "NXentry")
    entry["definition"] = "NXtomo"
    entry["title"] = settings.scan_id
    entry["start_time"] = settings.start_time.isoformat()
    detector = _group(_group(entry, "instrument", "NXinstrument"), "detector", "NXdetector")
    stack = detector.create_dataset(
        "data",
        shape=(frames.keys.size, *settings.detector_shape),
        chunks=(1, *settings.detector_shape),
        dtype=np.uint16 if settings.counter_depth_bits <= 16 else np.uint32,
    )
    detector["image_key"] = frames.keys
    pitch_v, pitch_u = settings.pixel_pitch_mm
    _quantity(detector, "x_pixel_size", pitch_u, "mm")
    _quantity(detector, "y_pixel_size", pitch_v, "mm")
    _quantity(detector, "distance", settings.source_to_detector_mm - settings.source_to_isocenter_mm, "mm")
    _quantity(detector, "count_time", frames.exposures_s, "s")
    _quantity(detector, "start_time", frames.starts_s, "s")
    detector["start_time"].attrs["start"] = settings.start_time.isoformat()
    _quantity(detector, "threshold_energy", threshold_kev, "keV")
    sample = _group(entry, "sample", "NXsample")
    sample["name"] = "simulated phantom"
    _quantity(sample, "rotation_angle", frames.angles_deg, "deg")
    for axis in "xy":
        _quantity(sample, f"{axis}_translation", np.zeros(frames.keys.size), "mm")
    _quantity(sample, "z_translation", frames.heights_mm, "mm")
    if frames.monitor is not None:
        monitor = _group(entry, "control", "NXmonitor")
        monitor["data"] = frames.monitor
    data = _group(entry, "data", "NXdata")
    data.attrs["signal"] = "data"
    for link, target in (
        ("data", "instrument/detector/data"),
        ("image_key", "instrument/detector/image_key"),
        ("rotation_angle", "sample/rotation_angle"),
    ):
        data[link] = h5py.SoftLink(f"/{name}/{target}")
    return stack


def _group(parent: Any, name: str, nx_class: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _quantity(group: Any, name: str, value: Any, unit: str) -> None:
    group[name] = value
    group[name].attrs["units"] = unit
