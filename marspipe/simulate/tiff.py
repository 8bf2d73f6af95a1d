"""A simulated scan as multi-page TIFF files, each with the series file that says what a TIFF cannot.

Times are in neither: a TIFF's DateTime has no time zone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml

from marspipe.simulate.acquisition import Acquisition
from marspipe.simulate.manifest_entries import manifest_heights
from marspipe.simulate.parts import Stream


def write_tiff(
    directory: Path,
    acquisition: Acquisition,
    report: Callable[[], None],
    *,
    exposures_per_file: int | None = None,
    big_endian: bool = False,
) -> list[dict[str, Any]]:
    """Write what is taken at one camera position, frame by frame; equal settings give equal bytes.

    The counters of an exposure follow each other.

    Parameters
    ----------
    directory : Path
        Where; must exist. Receives the TIFF files and a series file for each kind of frames.
    acquisition : Acquisition
        The scan.
    report : callable
        Called after every exposure.
    exposures_per_file : int, optional
        Must divide the exposures of every kind; by default all of a kind are in one file.
    big_endian : bool
        Byte order.

    Returns
    -------
    list of dict
        The ``files`` of a scan manifest.
    """
    settings = acquisition.settings
    n_counters = len(settings.counters)
    dtype = np.dtype(np.uint16 if settings.counter_depth_bits <= 16 else np.uint32)
    entries = []
    for part in acquisition.parts:
        name, count = f"{acquisition.prefix}{part.name}", part.count
        per_file = count if exposures_per_file is None else exposures_per_file
        frames = acquisition.frames_of(part)
        for number in range(count // per_file):
            # A large file needs the 64-bit form; the smaller one is what every program reads.
            big = per_file * n_counters * (dtype.itemsize * int(np.prod(settings.detector_shape)) + 512) > 2**32 - 2**25
            with tifffile.TiffWriter(
                directory / f"{name}_{number:05d}.tif", bigtiff=big, byteorder=">" if big_endian else "<"
            ) as file:
                for _ in range(per_file):
                    for frame in next(frames):
                        file.write(
                            frame.astype(dtype),
                            photometric="minisblack",
                            software="marspipe",
                            metadata=None,
                            contiguous=False,
                        )
                    report()
        series: dict[str, Any] = {
            "marspipe_series": 1,
            "files": {"pattern": f"{name}_#####.tif", "first": 0, "count": count // per_file},
            "frames_per_file": per_file * n_counters,
            "counters": n_counters,
            "exposure_s": float(part.exposure_s),
            "thresholds_kev": [counter.threshold_kev for counter in settings.counters],
        }
        entry = {"path": f"{name}.yaml", "reader": "tiff", **part.keys}
        if part.stream is Stream.PROJECTION:
            series["angles"] = {"unit": "deg", "values": np.rad2deg(acquisition.geometry.angles_rad).tolist()}
            entry |= {"angles_rad": {"dataset": "angles", "unit": "deg"}, **manifest_heights(settings)}
        text = yaml.safe_dump(series, sort_keys=False, default_flow_style=None, width=120)
        (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
        entries.append(entry)
    return entries
