"""A simulated scan as Scientific Data Exchange HDF5: projections, white and dark fields in one file.

Layout: ``/exchange/data`` (theta, v, u), ``/exchange/data_white``, ``/exchange/data_dark``, ``/exchange/theta`` in
degrees; De Carlo et al., J. Synchrotron Rad. 21 (2014) 1224, doi:10.1107/S160057751401604X.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from marspipe.simulate.acquisition import Acquisition, Stream


def write_data_exchange(path: Path, acquisition: Acquisition, report: Callable[[], None]) -> None:
    """Write a scan of one counter, frame by frame.

    White fields before and after the projections follow each other in ``data_white``.

    Parameters
    ----------
    path : Path
        The file; replaced if there.
    acquisition : Acquisition
        The scan; its first counter is written.
    report : callable
        Called after every frame.
    """
    settings = acquisition.settings
    dtype = np.uint16 if settings.counter_depth_bits <= 16 else np.uint32
    stacks = {
        "data": [(Stream.PROJECTION, settings.views)],
        "data_white": [(Stream.OPEN_BEAM_BEFORE, settings.open_beams), (Stream.OPEN_BEAM_AFTER, settings.open_beams)],
        "data_dark": [(Stream.DARK, settings.darks)],
    }
    with h5py.File(path, "w") as file:
        file["implements"] = "exchange:measurement"
        exchange = file.create_group("exchange")
        for name, sources in stacks.items():
            shape = (sum(count for _, count in sources), *settings.detector_shape)
            stack = exchange.create_dataset(name, shape=shape, chunks=(1, *settings.detector_shape), dtype=dtype)
            stack.attrs["units"] = "counts"
            for index, frame in enumerate(_first_counters(acquisition, sources)):
                stack[index] = frame
                report()
        theta = exchange.create_dataset("theta", data=np.rad2deg(acquisition.geometry.angles_rad))
        theta.attrs["units"] = "deg"
        instrument = file.create_group("measurement/instrument")
        _write_quantity(instrument, "source/voltage", settings.voltage_kvp, "kV")
        _write_quantity(instrument, "source/current", settings.current_ua, "uA")
        _write_quantity(instrument, "detector/exposure_time", acquisition.exposure_s, "s")
        _write_quantity(instrument, "detector/threshold_energy", settings.thresholds_kev[0], "keV")


def _first_counters(acquisition: Acquisition, sources: list[tuple[Stream, int]]) -> Iterator[NDArray[np.uint32]]:
    for stream, count in sources:
        for counters in acquisition.frames(stream, count):
            yield counters[0]


def _write_quantity(group: Any, name: str, value: float, unit: str) -> None:
    group[name] = value
    group[name].attrs["units"] = unit
