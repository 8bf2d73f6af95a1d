"""Calibrations of raw scans, made without Spark and without the tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.pipeline.ingest import RawScan
from marspipe.preprocess.calibration import Calibration, OpenBeams
from marspipe.preprocess.pixel_statistics import PixelSums
from marspipe.readers import READERS, orient
from marspipe.store import storage


def frames_and_times(file: Any, n_counters: int) -> tuple[NDArray[Any], list[int]]:
    """Return all frames of a raw file, [exposure, counter, v, u], and when each exposure was taken, ns since 1970."""
    reader = READERS[file.entry.reader]
    with storage.open_input(file.uri) as raw:
        entries = reader.index(raw, file.uri)
        stack = np.array([orient(frame, file.entry.orientation) for frame in reader.read_many(raw, entries)])
    times = [np.datetime64(entry.acquired_at.removesuffix("Z"), "ns").astype(np.int64) for entry in entries]
    return stack.reshape(-1, n_counters, *stack.shape[1:]), [int(time) for time in times[::n_counters]]


def calibration_of(scan: RawScan) -> Calibration:
    """Return the open beams of every file as a group at their mean time, and all darks."""
    n_counters = len(scan.manifest.counters)
    groups, darks = [], []
    for file in scan.files:
        if file.entry.frame_type != "projection":
            frames, times = frames_and_times(file, n_counters)
            sums = tuple(PixelSums.of(frames[:, counter]) for counter in range(n_counters))
            if file.entry.frame_type == "open_beam":
                groups.append(OpenBeams(sums, sum(times) / (len(times) * 10**9)))
            else:
                darks.append(sums)
    groups.sort(key=lambda group: group.time)
    assert len(darks) == 1
    return Calibration(tuple(groups), darks[0])
