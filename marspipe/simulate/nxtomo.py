"""A simulated scan as NeXus NXtomo: all frames in one stack per counter, told apart by ``image_key``.

The definition has no energy dimension: every counter is an NXentry of its own, ``entry0``, ``entry1``, ...

Layout: https://manual.nexusformat.org/classes/applications/NXtomo.html
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from marspipe.simulate.acquisition import Acquisition, Stream

FILE = "scan.nxs"

_IMAGE_KEY = {Stream.PROJECTION: 0, Stream.OPEN_BEAM_BEFORE: 1, Stream.OPEN_BEAM_AFTER: 1, Stream.DARK: 2}


def write_nxtomo(directory: Path, acquisition: Acquisition, report: Callable[[], None]) -> list[dict[str, Any]]:
    """Write a scan frame by frame; equal settings give equal bytes.

    Parameters
    ----------
    directory : Path
        Where; must exist. Receives ``scan.nxs``.
    acquisition : Acquisition
        The scan; dark frames come first, then open beams, projections, open beams.
    report : callable
        Called after every exposure.

    Returns
    -------
    list of dict
        The ``files`` of a scan manifest.
    """
    settings = acquisition.settings
    order = [
        (Stream.DARK, settings.darks),
        (Stream.OPEN_BEAM_BEFORE, settings.open_beams),
        (Stream.PROJECTION, settings.views),
        (Stream.OPEN_BEAM_AFTER, settings.open_beams),
    ]
    keys = np.concatenate([np.full(count, _IMAGE_KEY[stream], np.uint8) for stream, count in order])
    angles = np.zeros(keys.size)
    angles[keys == 0] = np.rad2deg(acquisition.geometry.angles_rad)
    with h5py.File(directory / FILE, "w") as file:
        file.attrs["NX_class"] = "NXroot"
        file.attrs["default"] = "entry0"
        stacks = [
            _write_entry(file, f"entry{counter.index}", acquisition, counter.threshold_kev, keys, angles)
            for counter in settings.counters
        ]
        place = 0
        for stream, count in order:
            for counters in acquisition.frames(stream, count):
                for stack, frame in zip(stacks, counters, strict=True):
                    stack[place] = frame
                place += 1
                report()
    rotation = {"dataset": "/entry0/sample/rotation_angle", "unit": "deg"}
    common = {"path": FILE, "reader": "nxtomo"}
    return [
        {**common, "frame_type": "dark"},
        {**common, "frame_type": "open_beam"},
        {**common, "frame_type": "projection", "angles_rad": rotation},
    ]


def _write_entry(
    file: Any, name: str, acquisition: Acquisition, threshold_kev: float, keys: Any, angles_deg: Any
) -> Any:
    settings = acquisition.settings
    entry = _group(file, name, "NXentry")
    entry["definition"] = "NXtomo"
    entry["title"] = settings.scan_id
    detector = _group(_group(entry, "instrument", "NXinstrument"), "detector", "NXdetector")
    stack = detector.create_dataset(
        "data",
        shape=(keys.size, *settings.detector_shape),
        chunks=(1, *settings.detector_shape),
        dtype=np.uint16 if settings.counter_depth_bits <= 16 else np.uint32,
    )
    detector["image_key"] = keys
    pitch_v, pitch_u = settings.pixel_pitch_mm
    _quantity(detector, "x_pixel_size", pitch_u, "mm")
    _quantity(detector, "y_pixel_size", pitch_v, "mm")
    _quantity(detector, "distance", settings.source_to_detector_mm - settings.source_to_isocenter_mm, "mm")
    _quantity(detector, "count_time", np.full(keys.size, acquisition.exposure_s), "s")
    _quantity(detector, "threshold_energy", threshold_kev, "keV")
    sample = _group(entry, "sample", "NXsample")
    sample["name"] = "simulated phantom"
    _quantity(sample, "rotation_angle", angles_deg, "deg")
    for axis in "xyz":
        _quantity(sample, f"{axis}_translation", np.zeros(keys.size), "mm")
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
