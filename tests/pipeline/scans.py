"""The simulated scan that the pipeline's tests share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from marspipe.pipeline.ingest import RawScan
from marspipe.readers import READERS, orient
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.show.progress import Progress
from marspipe.simulate import SimulationSettings, mars_phantom
from marspipe.store import storage

VIEWS, SIDE = 92, 96


@dataclass(frozen=True)
class OneProcess:
    """The scan reconstructed without Spark."""

    geometry: ScanGeometry
    grid: VolumeGrid
    line_integrals: NDArray[np.float32]
    volumes: list[NDArray[np.float32]]


def quiet() -> Progress:
    return Progress(Console(quiet=True))


def settings(**changes: object) -> SimulationSettings:
    base: dict[str, object] = {
        "scan_id": "pipeline",
        "views": VIEWS,
        "detector_shape": (SIDE, SIDE),
        "phantom": mars_phantom(SIDE / 128),
        "thresholds_kev": (25.0, 50.0),
        "seed": 3,
    }
    return SimulationSettings(**{**base, **changes})  # type: ignore[arg-type]


def read_counters(scan: RawScan, frame_type: str) -> NDArray[np.uint32]:
    """Return all frames of a type as [exposure, counter, v, u]."""
    stacks = []
    for file in scan.files:
        if file.entry.frame_type == frame_type:
            reader = READERS[file.entry.reader]
            with storage.open_input(file.uri) as raw:
                entries = reader.index(raw, file.uri)
                stacks += [orient(frame, file.entry.orientation) for frame in reader.read_many(raw, entries)]
    n_counters = len(scan.manifest.counters)
    return np.array(stacks).reshape(-1, n_counters, *stacks[0].shape)
