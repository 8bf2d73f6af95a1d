"""Frames to line integrals, in the tasks: corrections per camera position, positions put together to views."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.pipeline.corrections.calibrate import CalibrationReader
from marspipe.pipeline.corrections.camera import Camera
from marspipe.pipeline.frames.exposures import Exposure, exposures, name_of
from marspipe.preprocess.chain import Preprocessor
from marspipe.preprocess.chain_settings import ChainSettings
from marspipe.preprocess.stitching import Stitcher
from marspipe.scan.energy import CounterBin

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Corrections:
    """How the frames of a scan become line integrals; travels to the executors.

    Attributes
    ----------
    camera : Camera
        Shape, counters and positions of the camera.
    bins : tuple of CounterBin
        Energy bins to make.
    settings : ChainSettings
        What is corrected, and how.
    calibrations : CalibrationReader
        Open beams and darks.
    run_id : str
        Differs between runs, so that a reused worker never takes another run's calibration.
    broadcast : Broadcast of dict, optional
        Calibrations by camera position, of raw files that no table has been made of.
    """

    camera: Camera
    bins: tuple[CounterBin, ...]
    settings: ChainSettings
    calibrations: CalibrationReader
    run_id: str
    broadcast: Any = None

    def of_bin(self, bin_: int) -> Corrections:
        """Return the corrections of one bin only."""
        one = slice(bin_, bin_ + 1)
        return replace(self, bins=self.bins[one], settings=self.settings.of_bins(one), run_id=f"{self.run_id}-{bin_}")

    def on_one_scale(self) -> Corrections:
        """Return the corrections with one scale for all camera positions, where a position would find its own.

        Thickness becomes a line integral by the median of its pixels; medians of positions differ, and show as seams.
        """
        if self.camera.n_tiles == 1 or not self.settings.thickness_order:
            return self
        scale = self.preprocessor(0).attenuation_per_mm
        return replace(self, settings=replace(self.settings, attenuation_per_mm=scale))

    def preprocessor(self, tile: int) -> Preprocessor:
        """Return the corrections of one camera position."""
        calibration = self.calibrations.read(tile) if self.broadcast is None else self.broadcast.value[tile]
        return Preprocessor(calibration, self.bins, self.settings)

    def correct(self, exposure: Exposure, preprocessor: Preprocessor) -> tuple[FloatArray, NDArray[np.bool_] | None]:
        """Return the line integrals of an exposure with holes, and these where they are not those of all frames."""
        with self._named(exposure):
            return preprocessor.unfilled(
                exposure.counters,
                time=self._time_of(exposure),
                exposure_s=exposure.exposure_s,
                monitor=exposure.monitor,
            )

    def _whole(self, exposure: Exposure, preprocessor: Preprocessor) -> FloatArray:
        """Return the line integrals of an exposure that is all of its view."""
        with self._named(exposure):
            return preprocessor(
                exposure.counters,
                time=self._time_of(exposure),
                exposure_s=exposure.exposure_s,
                monitor=exposure.monitor,
            )

    def _time_of(self, exposure: Exposure) -> float:
        return self.calibrations.clock.of_frame(exposure.view, exposure.acquired_at)

    @contextmanager
    def _named(self, exposure: Exposure) -> Iterator[None]:
        try:
            yield
        except ScanError as error:
            raise ScanError(f"{name_of(exposure.view, exposure.tile, self.camera)}: {error}") from error

    def views(
        self, batches: Iterator[pa.RecordBatch], wanted: Container[int] | None = None
    ) -> Iterator[tuple[int, FloatArray]]:
        """Turn frames, whole views in a row, into line integrals of the wide detector.

        Parameters
        ----------
        batches : iterator of RecordBatch
            Frames.
        wanted : container of int, optional
            Views to correct; by default all.

        Yields
        ------
        view : int
            View number.
        integrals : ndarray, shape (n_bins, v, u), float32
            Line integrals; the caller's until the next view.
        """
        wide = _wide(self)
        found = (e for e in exposures(batches, self.camera) if wanted is None or e.view in wanted)
        if wide.stitcher is None:
            for exposure in found:
                yield exposure.view, self._whole(exposure, wide.preprocessors[0])
            return
        corrected = ((e.view, e.tile, *self.correct(e, wide.preprocessors[e.tile])) for e in found)
        yield from stitched(corrected, self.camera, wide.stitcher)


def stitched(
    pieces: Iterable[tuple[int, int, FloatArray, NDArray[np.bool_] | None]], camera: Camera, stitcher: Stitcher
) -> Iterator[tuple[int, FloatArray]]:
    """Put the camera positions of every view together; those of a view come in a row.

    Parameters
    ----------
    pieces : iterable of (view, tile, line integrals of shape (n_bins, v, u), bad or None)
        One exposure after the other.
    camera : Camera
        Its positions.
    stitcher : Stitcher
        Does it.

    Raises
    ------
    ScanError
        If a position is missing or doubled.
    """
    view, held = -1, dict[int, tuple[FloatArray, NDArray[np.bool_] | None]]()
    for found, tile, integrals, bad in pieces:
        if found != view:
            _require_positions(view, held, camera)
            view, held = found, {}
        if tile in held:
            raise ScanError(f"view {view}, camera position {tile} is doubled")
        held[tile] = integrals, bad
        if len(held) == camera.n_tiles:
            in_order = [held[t] for t in range(camera.n_tiles)]
            yield view, stitcher([part for part, _ in in_order], [mask for _, mask in in_order])
    _require_positions(view, held, camera)


def _require_positions(view: int, held: dict[int, Any], camera: Camera) -> None:
    if view >= 0 and len(held) != camera.n_tiles:
        missing = sorted(set(range(camera.n_tiles)) - set(held))
        raise ScanError(f"view {view} has no frame of camera position {', '.join(map(str, missing))}")


@dataclass(frozen=True, eq=False)
class _Wide:
    """What a worker keeps of a run: the corrections of every camera position, and what joins them."""

    preprocessors: list[Preprocessor]
    stitcher: Stitcher | None


_kept: dict[str, _Wide] = {}  # of this worker, for its next task


def _wide(corrections: Corrections) -> _Wide:
    if corrections.run_id not in _kept:
        _kept.clear()
        camera = corrections.camera
        parts = [corrections.preprocessor(tile) for tile in range(camera.n_tiles)]
        stitcher = None
        if camera.moves:
            stitcher = Stitcher(camera.layout, [part.flags for part in parts], corrections.settings)
        _kept[corrections.run_id] = _Wide(parts, stitcher)
    return _kept[corrections.run_id]
