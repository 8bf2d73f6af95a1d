"""The truth that is too long for ``truth.json``: what each exposure was, which pixels were hit, maps of the pixels.

- ``exposures.csv``: camera position, kind and number of every exposure in the order of time, its start (s after that of
  the scan), exposure time (s), tube output (1 on average), share of the gain drift, counts of the beam monitor;
- ``zingers.csv``: camera position, kind and number of the exposure, row, column, counts that were added;
- ``gain_drift.npy``, ``ring_gain.npy``: maps [row v, column u], float64.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from marspipe.simulate.acquisition import Acquisition

EXPOSURES = "exposures.csv"
ZINGERS = "zingers.csv"
GAIN_DRIFT = "gain_drift.npy"
RING_GAIN = "ring_gain.npy"


def write_truth_files(directory: Path, acquisition: Acquisition) -> None:
    """Write what the defects did to every exposure and pixel, line by line; nothing if there are none.

    Parameters
    ----------
    directory : Path
        Where; must exist. Files of an earlier scan are removed.
    acquisition : Acquisition
        The scan.
    """
    defects = acquisition.settings.defects
    for name in (EXPOSURES, ZINGERS, GAIN_DRIFT, RING_GAIN):
        (directory / name).unlink(missing_ok=True)
    if not defects.any:
        return
    if defects.gain_drift_spread:
        np.save(directory / GAIN_DRIFT, acquisition.gain_drift)
    if defects.ring_fraction:
        np.save(directory / RING_GAIN, acquisition.ring_gain)
    _write_exposures(directory / EXPOSURES, acquisition)
    if defects.zingers_per_frame:
        _write_zingers(directory / ZINGERS, acquisition)


def _write_exposures(path: Path, acquisition: Acquisition) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = _table(file, ["tile", "part", "exposure", "time_s", "exposure_s", "flux", "drift", "monitor"])
        for tile in range(len(acquisition.settings.camera_positions_mm)):
            here = acquisition.at(tile)
            for part in here.parts:
                for number in range(part.count):
                    shot = here.shot(part.stream, part.first + number)
                    values = (shot.time_s, shot.exposure_s, shot.flux, shot.drift, shot.monitor)
                    table.writerow([tile, part.name, number, *values])


def _write_zingers(path: Path, acquisition: Acquisition) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = _table(file, ["tile", "part", "exposure", "row", "col", "counts"])
        for tile in range(len(acquisition.settings.camera_positions_mm)):
            here = acquisition.at(tile)
            for part in here.parts:
                for number in range(part.count):
                    hit = here.zingers(part.stream, part.first + number)
                    for row, col, counts in zip(hit.rows, hit.cols, hit.counts, strict=True):
                        table.writerow([tile, part.name, number, int(row), int(col), int(counts)])


def _table(file: Any, header: list[str]) -> Any:
    table = csv.writer(file, lineterminator="\n")
    table.writerow(header)
    return table
