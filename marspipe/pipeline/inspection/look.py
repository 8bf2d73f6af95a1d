"""What ``marspipe inspect`` reads of a raw scan or a frames table: headers, single exposures, open beams; no Spark."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.pipeline.corrections.calibrate import CalibrationReader
from marspipe.pipeline.frames.exposures import Exposure, exposures, name_of
from marspipe.pipeline.source import Measured
from marspipe.preprocess.bad_pixels import saturated
from marspipe.preprocess.calibration import Calibration
from marspipe.preprocess.counts import bin_counts, fraction_without_counts
from marspipe.scan.energy import CounterBin
from marspipe.scan.geometry import ScanGeometry
from marspipe.show.histogram import spread_of
from marspipe.show.scan_report import TYPES, CountSurvey, FrameTally

# Exposures of each frame type that are looked at for their counts, and most pixels of a frame for percentiles.
SAMPLED = 4
_MOST_PIXELS = 2**20


@dataclass(frozen=True, eq=False)
class Look(ABC):
    """A scan, whatever it lies in.

    Attributes
    ----------
    uri : str
        Where.
    scan_id, description : str
        From its manifest.
    measured : Measured
        Camera, counters, and the geometry of the wide detector.
    geometry : ScanGeometry
        That of the camera.
    tube : dict or None
        Voltage and filters.
    counter_bits : int or None
        Depth of the counters.
    pixel_bytes : int
        Of all frames.
    """

    uri: str
    scan_id: str
    description: str
    measured: Measured
    geometry: ScanGeometry
    tube: dict[str, Any] | None
    counter_bits: int | None
    pixel_bytes: int

    @property
    def sample_z_mm(self) -> NDArray[np.float64]:
        """Height of the sample in every view, mm: where it moves up, source and camera move down."""
        return -self.geometry.source_mm[:, 2] + 0.0

    @abstractmethod
    def tallies(self) -> list[FrameTally]:
        """Count the frames; headers are read, pixels are not."""

    @abstractmethod
    def frames(
        self, frame_types: Iterable[str], view: int | None = None, tile: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield frames as rows of the frames table, those of a view in a row."""

    @abstractmethod
    def spread(self, frame_type: str, count: int) -> list[tuple[int, int]]:
        """Return (view, tile) of so many exposures of a type, evenly spread over the scan; fewer if there are."""

    @abstractmethod
    def calibrations(self) -> CalibrationReader:
        """Return what reads the calibrations."""

    @abstractmethod
    def calibration(self, tile: int) -> Calibration:
        """Return the open beams, absorbers and darks of a camera position."""

    @abstractmethod
    def notes(self) -> list[tuple[str, str]]:
        """Return lines on where the frames lie, and on what is missing."""

    def exposure(self, frame_type: str, view: int, tile: int) -> Exposure:
        """Return one exposure.

        Raises
        ------
        InputError
            If there is none, naming the option that asks for it.
        """
        camera = self.measured.camera
        if not 0 <= tile < camera.n_tiles:
            raise InputError(f"--tile must be 0..{camera.n_tiles - 1}, got {tile}")
        n_views = len(self.geometry)
        if frame_type == "projection" and not 0 <= view < n_views:
            raise InputError(f"--view must be 0..{n_views - 1}, got {view}")
        found = next(exposures(self.frames([frame_type], view, tile), camera), None)
        if found is None:
            raise InputError(f"{self.uri}: there is no {frame_type} frame of {name_of(view, tile, camera)}")
        return found

    def sample(self) -> dict[str, list[Exposure]]:
        """Return a few exposures of every type, evenly spread."""
        camera, found = self.measured.camera, {}
        for frame_type in TYPES:
            parts = [exposures(self.frames([frame_type], *place), camera) for place in self.spread(frame_type, SAMPLED)]
            kept = [exposure for part in parts if (exposure := next(part, None)) is not None]
            if kept:
                found[frame_type] = kept
        return found


def survey_counts(sample: dict[str, list[Exposure]], counter_bits: int | None) -> list[CountSurvey]:
    """Return how the counts of some exposures are spread, per frame type and counter.

    Percentiles are of at most a million pixels of a frame, evenly spread; minimum, maximum and saturation of all.
    """
    surveys = []
    for frame_type, found in sample.items():
        for counter in range(len(found[0].counters)):
            frames = [exposure.counters[counter] for exposure in found]
            full = None
            if counter_bits is not None and frames[0].dtype.kind in "iu":
                full = float(np.mean([saturated(frame, counter_bits).mean() for frame in frames]))
            spread = spread_of(np.concatenate([_thinned(frame) for frame in frames]))
            surveys.append(CountSurvey(frame_type, counter, len(found), spread, full))
    return surveys


def _thinned(frame: NDArray[Any]) -> NDArray[Any]:
    """Return at most so many pixels of a frame, the smallest and the largest among them."""
    flat = frame.ravel()
    step = -(-flat.size // _MOST_PIXELS)
    if step == 1:
        return flat
    return np.concatenate([flat[::step], [np.nanmin(flat), np.nanmax(flat)]]).astype(flat.dtype)


def empty_fractions(projections: list[Exposure], bins: list[CounterBin]) -> NDArray[np.float64]:
    """Return which part of the pixels of every energy bin has zero or negative counts, mean of some exposures."""
    fractions = [fraction_without_counts(bin_counts(exposure.counters, bins)) for exposure in projections]
    return np.asarray(np.mean(fractions, axis=0))


def merged_tallies(tallies: Iterable[FrameTally]) -> list[FrameTally]:
    """Return tallies with those of the same frames added up, in the order of the frames table."""
    held: dict[tuple[Any, ...], list[FrameTally]] = defaultdict(list)
    for t in tallies:
        held[TYPES.index(t.frame_type), t.counter, t.tile, t.group, t.absorber_mm].append(t)
    merged = []
    for (kind, counter, tile, group, absorber_mm), same in sorted(held.items()):
        times = [t.exposure_s for t in same if t.exposure_s is not None]
        spans = [t.acquired for t in same if t.acquired is not None]
        merged.append(
            FrameTally(
                TYPES[kind],
                counter,
                tile,
                group,
                absorber_mm,
                sum(t.frames for t in same),
                (min(t[0] for t in times), max(t[1] for t in times)) if times else None,
                (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else None,
            )
        )
    return merged
