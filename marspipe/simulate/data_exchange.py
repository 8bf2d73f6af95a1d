"""A simulated scan as Scientific Data Exchange HDF5: projections, white and dark fields in one file.

Layout: ``/exchange/data`` (theta, v, u), ``/exchange/data_white``, ``/exchange/data_dark``, ``/exchange/theta`` in
degrees; De Carlo et al., J. Synchrotron Rad. 21 (2014) 1224, doi:10.1107/S160057751401604X.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from marspipe.simulate.acquisition import Acquisition
from marspipe.simulate.manifest_entries import manifest_heights
from marspipe.simulate.parts import Part, Stream

FILE = "scan.h5"

_DATA, _WHITE, _DARK = "data", "data_white", "data_dark"


def write_data_exchange(directory: Path, acquisition: Acquisition, report: Callable[[], None]) -> list[dict[str, Any]]:
    """Write what is taken at one camera position, of one counter, frame by frame.

    White fields before and after the projections follow each other in ``data_white``; where the gain of the pixels
    drifts, those after lie in ``data_white_after``. So do plates, in ``data_absorber_0``, ... The format has a single
    exposure time, that of the projections, and no place for the times of the frames.

    Parameters
    ----------
    directory : Path
        Where; must exist. Receives one file.
    acquisition : Acquisition
        The scan; its first counter is written.
    report : callable
        Called after every frame.

    Returns
    -------
    list of dict
        The ``files`` of a scan manifest.
    """
    settings = acquisition.settings
    name = f"{acquisition.prefix}{FILE}"
    dtype = np.uint16 if settings.counter_depth_bits <= 16 else np.uint32
    apart = settings.defects.gain_drift_spread > 0
    # Projections first, as in most such files; the sort keeps the order of time.
    order = {_DATA: 0, _WHITE: 1, _DARK: 2}
    parts = sorted(acquisition.parts, key=lambda part: order.get(_stack(part, apart), 3))
    files = []
    exposure_s = acquisition.exposure_s
    with h5py.File(directory / name, "w") as file:
        file["implements"] = "exchange:measurement"
        exchange = file.create_group("exchange")
        for stack_name, group in groupby(parts, key=lambda part: _stack(part, apart)):
            of_stack = list(group)
            shape = (sum(part.count for part in of_stack), *settings.detector_shape)
            stack = exchange.create_dataset(stack_name, shape=shape, chunks=(1, *settings.detector_shape), dtype=dtype)
            stack.attrs["units"] = "counts"
            frames = (counters[0] for part in of_stack for counters in acquisition.frames_of(part))
            for index, frame in enumerate(frames):
                stack[index] = frame
                report()
            head = of_stack[0]
            entry = {"path": name, "reader": "data_exchange", "exposure_s": head.exposure_s}
            if head.stream is Stream.PROJECTION:
                angles = {"dataset": "/exchange/theta", "unit": "deg"}
                entry |= {**head.keys, "angles_rad": angles, **manifest_heights(settings)}
                exposure_s = head.exposure_s
            elif stack_name in order and not apart:
                entry["frame_type"] = head.keys["frame_type"]
            else:
                entry |= {**head.keys, "dataset": f"/exchange/{stack_name}"}
            files.append(entry)
        theta = exchange.create_dataset("theta", data=np.rad2deg(acquisition.geometry.angles_rad))
        theta.attrs["units"] = "deg"
        instrument = file.create_group("measurement/instrument")
        _write_quantity(instrument, "source/voltage", settings.voltage_kvp, "kV")
        _write_quantity(instrument, "source/current", settings.current_ua, "uA")
        _write_quantity(instrument, "detector/exposure_time", exposure_s, "s")
        _write_quantity(instrument, "detector/threshold_energy", settings.thresholds_kev[0], "keV")
    return files


def _stack(part: Part, apart: bool) -> str:
    if part.stream is Stream.ABSORBER:
        return f"data_{part.name}"
    if part.stream is Stream.OPEN_BEAM_AFTER and apart:
        return "data_white_after"
    return {Stream.PROJECTION: _DATA, Stream.DARK: _DARK}.get(part.stream, _WHITE)


def _write_quantity(group: Any, name: str, value: float, unit: str) -> None:
    group[name] = value
    group[name].attrs["units"] = unit
