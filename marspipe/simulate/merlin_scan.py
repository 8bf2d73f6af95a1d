"""A simulated scan as Merlin files: a ``.mib`` and a ``.hdr`` for each kind of frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.simulate.acquisition import Acquisition
from marspipe.simulate.manifest_entries import listed_angles, manifest_heights
from marspipe.simulate.merlin_writer import write_merlin, write_merlin_header_file
from marspipe.simulate.parts import Part, Stream


def write_merlin_scan(directory: Path, acquisition: Acquisition, report: Callable[[], None]) -> list[dict[str, Any]]:
    """Write what is taken at one camera position; equal settings give equal bytes.

    Parameters
    ----------
    directory : Path
        Where; must exist. Receives two files for each kind of frames.
    acquisition : Acquisition
        The scan.
    report : callable
        Called after every exposure.

    Returns
    -------
    list of dict
        The ``files`` of a scan manifest.
    """
    settings = acquisition.settings
    thresholds = [counter.threshold_kev for counter in settings.counters]
    files = []
    for part in acquisition.parts:
        name = f"{acquisition.prefix}{part.name}.mib"
        camera: dict[str, Any] = {
            "counter_depth_bits": settings.counter_depth_bits,
            "counters_per_exposure": len(thresholds),
            "color_mode": settings.color_mode,
            "thresholds_kev": thresholds,
            "exposure_s": part.exposure_s,
            "start_time": part.start,
            "layout": settings.merlin_layout,
        }
        with (directory / name).open("wb") as file:
            write_merlin(file, _images(acquisition, part, report), raw=settings.merlin_raw, **camera)
        with (directory / name).with_suffix(".hdr").open("wb") as file:
            charge_summing = any(counter.mode == "CSM" for counter in settings.counters)
            write_merlin_header_file(file, frames=part.count, charge_summing=charge_summing, **camera)
        entry = {"path": name, "reader": "merlin", "exposure_s": part.exposure_s, **part.keys}
        if part.stream is Stream.PROJECTION:
            entry |= {"angles_rad": listed_angles(settings), **manifest_heights(settings)}
        files.append(entry)
    return files


def _images(acquisition: Acquisition, part: Part, report: Callable[[], None]) -> Iterator[NDArray[np.unsignedinteger]]:
    dtype = np.uint16 if acquisition.settings.counter_depth_bits <= 16 else np.uint32
    for counters in acquisition.frames_of(part):
        yield from counters.astype(dtype, copy=False)
        report()
