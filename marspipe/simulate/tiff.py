"""A simulated scan as multi-page TIFF files, each with the series file that says what a TIFF cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml

from marspipe.simulate.acquisition import Acquisition, Stream


def streams_in_order(acquisition: Acquisition) -> list[tuple[str, Stream, int, dict[str, Any]]]:
    """Return name, stream, number of exposures and manifest keys of every file, in the order of acquisition."""
    settings = acquisition.settings
    return [
        ("dark", Stream.DARK, settings.darks, {"frame_type": "dark", "time": "before"}),
        (
            "open_beam_before",
            Stream.OPEN_BEAM_BEFORE,
            settings.open_beams,
            {"frame_type": "open_beam", "time": "before"},
        ),
        ("projections", Stream.PROJECTION, settings.views, {"frame_type": "projection"}),
        ("open_beam_after", Stream.OPEN_BEAM_AFTER, settings.open_beams, {"frame_type": "open_beam", "time": "after"}),
    ]


def write_tiff(
    directory: Path,
    acquisition: Acquisition,
    report: Callable[[], None],
    *,
    exposures_per_file: int | None = None,
    big_endian: bool = False,
) -> list[dict[str, Any]]:
    """Write a scan frame by frame; the counters of an exposure follow each other. Equal settings give equal bytes.

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
    for name, stream, count, keys in streams_in_order(acquisition):
        per_file = count if exposures_per_file is None else exposures_per_file
        frames = acquisition.frames(stream, count)
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
            "exposure_s": float(acquisition.exposure_s),
            "thresholds_kev": [counter.threshold_kev for counter in settings.counters],
        }
        entry = {"path": f"{name}.yaml", "reader": "tiff", **keys}
        if stream is Stream.PROJECTION:
            series["angles"] = {"unit": "deg", "values": np.rad2deg(acquisition.geometry.angles_rad).tolist()}
            entry["angles_rad"] = {"dataset": "angles", "unit": "deg"}
        text = yaml.safe_dump(series, sort_keys=False, default_flow_style=None, width=120)
        (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
        entries.append(entry)
    return entries
