"""The virtual camera: photons through the sample, counted.

Every photon is counted once, in its energy bin; a counter then is the sum of the bins above its threshold. The
counters of one exposure so share their photons, as on the chip: their differences are Poisson numbers and never
negative. Counters of different modes are drawn apart.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.scan.phantoms import line_integrals
from marspipe.scan.spectra import linear_attenuation, tube_spectrum
from marspipe.simulate.defects import CUT_SIGMAS
from marspipe.simulate.parts import Part, Stream, parts_of
from marspipe.simulate.response import camera_weights, ladders
from marspipe.simulate.settings import SimulationSettings

__all__ = ["Acquisition", "Shot", "Stream", "Zingers"]


class _Draw(IntEnum):
    """Random numbers of a defect, apart from those of the photons: a defect changes no other frame's noise."""

    RING = 1
    DRIFT = 2
    FLUX = 3
    ZINGERS = 4
    MONITOR = 5


@dataclass(frozen=True)
class Shot:
    """How one exposure was taken.

    Attributes
    ----------
    time_s : float
        Its start, s after the start of the scan.
    exposure_s : float
        Exposure time, s.
    flux : float
        Output of the tube, 1 on average; 0 without beam.
    drift : float
        Share of the gain drift: 0 at the middle of the scan's first open beams, 1 at that of its last.
    monitor : int
        Counts of the beam monitor.
    """

    time_s: float
    exposure_s: float
    flux: float
    drift: float
    monitor: int


@dataclass(frozen=True, eq=False)
class Zingers:
    """Pixels that stray particles hit in one exposure: rows, columns, and the counts they add to every counter."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    counts: NDArray[np.int64]


class Acquisition:
    """A camera, a tube and a sample that take frames.

    Parameters
    ----------
    settings : SimulationSettings
        The scan.
    tile : int
        Camera position.

    Attributes
    ----------
    energies_kev : ndarray, shape (energies,), keV
        Photon energies that some counter sees.
    weights : ndarray, shape (bins, energies)
        Mean open-beam counts of a pixel of gain 1 per energy step and bin.
    exposure_s : float
        Exposure time of an open-beam frame, s.
    gain : ndarray, shape (rows, cols)
        Sensitivity of every pixel, 1 on average.
    dead, noisy : ndarray, shape (n, 2), int
        Rows and columns of the bad pixels.
    gain_drift : ndarray, shape (rows, cols)
        Relative change of the gain over the scan.
    ring_gain : ndarray, shape (rows, cols)
        Gain in the projections relative to that in the open beams.
    """

    def __init__(self, settings: SimulationSettings, tile: int = 0) -> None:
        self.settings = settings
        spectrum = tube_spectrum(
            settings.voltage_kvp, settings.filters_mm, distance_mm=settings.source_to_detector_mm, step_kev=1.0
        )
        self._ladders = ladders(settings.counters)
        weights = camera_weights(spectrum, settings.counters, settings.response, settings.shared_charge_fraction)
        per_mas = self._brightest_ladder(weights) * math.prod(settings.pixel_pitch_mm)
        if not per_mas > 0:
            raise InputError(f"no photon passes the filters {dict(settings.filters_mm)} above the lowest threshold")
        self.exposure_s = round(1e3 * settings.open_beam_photons / per_mas / settings.current_ua, 6)
        # Below the lowest threshold almost nothing is counted: those energies cost time and change no count.
        seen = weights.sum(axis=0) > 1e-9 * weights.sum()
        self.energies_kev = spectrum.energies_kev[seen]
        self.weights = weights[:, seen] * (settings.open_beam_photons / self._brightest_ladder(weights[:, seen]))
        groups = settings.phantom.material_shapes()
        self._shapes = list(groups.values())
        self._attenuation = np.array([linear_attenuation(material, self.energies_kev) for material in groups])
        self._weights_by_energy = np.ascontiguousarray(self.weights.T)
        self._plate = linear_attenuation(settings.defects.absorber_material, self.energies_kev)
        self._make_chip()
        self._refuse_too_long_dead_times()
        self._set_tile(tile)
        first, last = self.parts, parts_of(settings, self.exposure_s, len(settings.camera_positions_mm) - 1)
        self._drift_from_s = _middle_s(self, next(p for p in first if p.stream is Stream.OPEN_BEAM_BEFORE))
        self._drift_to_s = _middle_s(self, next(p for p in last if p.stream is Stream.OPEN_BEAM_AFTER))

    def at(self, tile: int) -> Acquisition:
        """Return the same camera at another position."""
        moved = copy.copy(self)
        moved._set_tile(tile)
        return moved

    def _set_tile(self, tile: int) -> None:
        self.tile = tile
        self.geometry = self.settings.geometry(tile)
        self.parts = parts_of(self.settings, self.exposure_s, tile)
        several = len(self.settings.camera_positions_mm) > 1
        self.prefix = f"tile_{tile}_" if several else ""

    def _brightest_ladder(self, weights: NDArray[np.float64]) -> float:
        """Return the counts of the lowest counter; of two modes, of the one that counts more."""
        if len(self._ladders) == 1:
            return float(weights.sum())
        return max(float(weights[members].sum()) for members in self._ladders)

    def _make_chip(self) -> None:
        settings = self.settings
        rng = self._rng(Stream.CHIP, 0)
        self.gain = 1.0 + settings.gain_spread * np.clip(rng.standard_normal(settings.detector_shape), -3.0, 3.0)
        bad = rng.choice(self.gain.size, size=settings.dead_pixels + settings.noisy_pixels, replace=False)
        places = np.stack(np.unravel_index(bad, settings.detector_shape), axis=1)
        self.dead, self.noisy = places[: settings.dead_pixels], places[settings.dead_pixels :]
        # A noisy pixel counts 10 to 50 % of the open beam by itself, from the lowest bin up to some bin.
        n_bins = len(self.weights)
        strength = rng.uniform(0.1, 0.5, size=settings.noisy_pixels)
        reach = rng.integers(1, n_bins + 1, size=settings.noisy_pixels)
        self._own_counts = self.weights.sum(axis=1)[:, None] * strength * (np.arange(n_bins)[:, None] < reach)
        self._gaps = settings.gap_mask
        self._counting = np.ones(settings.detector_shape, np.bool_) if self._gaps is None else ~self._gaps
        self._counting[self.dead[:, 0], self.dead[:, 1]] = False
        defects = settings.defects
        self.gain_drift = defects.gain_drift_spread * self._deviations(_Draw.DRIFT)
        rng = self._draw_rng(Stream.CHIP, 0, _Draw.RING, tile=0)
        hit = rng.permutation(self.gain.size) < round(defects.ring_fraction * self.gain.size)
        ring = self._deviations(_Draw.RING) * hit.reshape(self.gain.shape)
        self.ring_gain = 1.0 + defects.ring_spread * ring

    def _deviations(self, draw: _Draw) -> NDArray[np.float64]:
        rng = self._draw_rng(Stream.CHIP, 1, draw, tile=0)
        return np.clip(rng.standard_normal(self.settings.detector_shape), -CUT_SIGMAS, CUT_SIGMAS)

    def _refuse_too_long_dead_times(self) -> None:
        defects = self.settings.defects
        # Beyond n tau = 1 a paralyzed counter counts the less, the more photons come.
        per_s = self.settings.open_beam_photons / self.exposure_s
        # A longer exposure is no higher rate. Noisy pixels count half an open beam more.
        brightest = defects.brightest / max(1.0, defects.projection_exposure_ratio)
        load = (
            per_s * (brightest * (1 + CUT_SIGMAS * self.settings.gain_spread) + 0.5) * max(self.settings.dead_times_s)
        )
        if defects.dead_time_model == "paralyzable" and load >= 1:
            raise InputError(
                f"dead_time_s = {max(self.settings.dead_times_s):g} s paralyzes the counters: up to {load:.2f} photons "
                f"come in a dead time at {per_s:.3g} photons per pixel and s, expected less than 1; lower current_ua"
            )

    def _rng(self, stream: Stream, frame: int) -> np.random.Generator:
        place = () if stream is Stream.CHIP or self.tile == 0 else (self.tile,)
        return np.random.default_rng(np.random.SeedSequence((self.settings.seed, int(stream), frame, *place)))

    def _draw_rng(self, stream: Stream, frame: int, draw: _Draw, tile: int | None = None) -> np.random.Generator:
        place = self.tile if tile is None else tile
        return np.random.default_rng(np.random.SeedSequence((self.settings.seed, int(stream), frame, place, int(draw))))

    def expected_bins(self, view: int | None) -> NDArray[np.float64]:
        """Return the expected counts of pixels of gain 1 in the exposure of an open beam, without any defect.

        Parameters
        ----------
        view : int or None
            The view; None for an open beam.

        Returns
        -------
        ndarray, shape (bins, rows, cols), float64
        """
        shape = self.settings.detector_shape
        if view is None:
            return np.broadcast_to(self.weights.sum(axis=1)[:, None, None], (len(self.weights), *shape)).copy()
        here = self.geometry[view]
        lengths = np.stack([line_integrals(shapes, here)[0].ravel() for shapes in self._shapes])
        expected = np.empty((len(self.weights), lengths.shape[1]))
        _transmit(lengths, self._attenuation, self._weights_by_energy, expected)
        return expected.reshape(-1, *shape)

    def behind_plate(self, thickness_mm: float) -> NDArray[np.float64]:
        """Return the expected counts of a pixel of gain 1 in every bin behind a plate, shape (bins,)."""
        counts: NDArray[np.float64] = self.weights @ np.exp(-thickness_mm * self._plate)
        return counts

    def shot(self, stream: Stream, index: int) -> Shot:
        """Return how an exposure is taken: when, how long, with how much beam."""
        defects = self.settings.defects
        part = next(p for p in self.parts if p.stream is stream and p.first <= index < p.first + p.count)
        time_s = self._seconds(part, index - part.first)
        flux = 0.0 if stream is Stream.DARK else 1.0
        if flux and defects.flux_spread:
            deviation = self._draw_rng(stream, index, _Draw.FLUX).standard_normal()
            flux += defects.flux_spread * float(np.clip(deviation, -CUT_SIGMAS, CUT_SIGMAS))
        monitor = defects.monitor_counts * flux * part.exposure_s / self.exposure_s
        if self.settings.noise and monitor:
            monitor = self._draw_rng(stream, index, _Draw.MONITOR).poisson(monitor)
        drift = (time_s - self._drift_from_s) / (self._drift_to_s - self._drift_from_s)
        return Shot(time_s, part.exposure_s, flux, drift, round(monitor))

    def _seconds(self, part: Part, number: int) -> float:
        return (part.start - self.settings.start_time).total_seconds() + number * part.exposure_s

    def zingers(self, stream: Stream, index: int) -> Zingers:
        """Return the pixels of an exposure that stray particles hit, without those that count nothing."""
        rng = self._draw_rng(stream, index, _Draw.ZINGERS)
        count = int(rng.poisson(self.settings.defects.zingers_per_frame))
        rows, cols = (rng.integers(0, n, size=count) for n in self.settings.detector_shape)
        counts = np.rint(rng.uniform(0.5, 2.0, size=count) * self.settings.open_beam_photons).astype(np.int64)
        counting = self._counting[rows, cols]
        return Zingers(rows[counting], cols[counting], counts[counting])

    def expected_counters(self, stream: Stream, index: int) -> NDArray[np.float64]:
        """Return the expected counts of every counter with all defects but zingers.

        Returns
        -------
        ndarray, shape (counters, rows, cols), float64
        """
        return self._counters(self._expected(stream, index))

    def _expected(self, stream: Stream, index: int) -> NDArray[np.float64]:
        """Return the expected counts of every bin with all defects but zingers."""
        settings, defects = self.settings, self.settings.defects
        if stream is Stream.DARK:
            expected = np.zeros((len(self.weights), *settings.detector_shape))
        elif stream is Stream.ABSORBER:
            plate = self.behind_plate(defects.absorbers_mm[index // defects.absorber_frames])
            expected = plate[:, None, None] * self.gain
        elif stream is Stream.PROJECTION:
            expected = self.expected_bins(index)
            if defects.scatter_fraction:
                expected += defects.scatter_fraction * self.weights.sum(axis=1)[:, None, None]
            expected *= self.gain
        else:
            expected = self.expected_bins(None) * self.gain
        shot = self.shot(stream, index) if defects.any else None
        if shot is not None:
            expected *= shot.flux * (shot.exposure_s / self.exposure_s)
            if defects.gain_drift_spread:
                expected *= 1.0 + shot.drift * self.gain_drift
            if stream is Stream.PROJECTION:
                expected *= self.ring_gain
        exposures = 1.0 if shot is None else shot.exposure_s / self.exposure_s
        expected[:, self.noisy[:, 0], self.noisy[:, 1]] += exposures * self._own_counts
        expected[:, self.dead[:, 0], self.dead[:, 1]] = 0.0
        if self._gaps is not None:
            expected[:, self._gaps] = 0.0
        if shot is not None and any(settings.dead_times_s):
            expected = self._bins(self._with_dead_time(self._counters(expected), shot.exposure_s))
        return expected

    def _with_dead_time(self, counters: NDArray[np.float64], exposure_s: float) -> NDArray[np.float64]:
        load = counters * (np.array(self.settings.dead_times_s)[:, None, None] / exposure_s)
        if self.settings.defects.dead_time_model == "paralyzable":
            measured: NDArray[np.float64] = counters * np.exp(-load)
        else:
            measured = counters / (1.0 + load)
        return measured

    def _counters(self, bins: NDArray[Any]) -> NDArray[Any]:
        """Return the counts above every threshold from those between them."""
        if len(self._ladders) == 1:
            above: NDArray[Any] = np.cumsum(bins[::-1], axis=0)[::-1]
            return above
        counters = np.empty_like(bins)
        for members in self._ladders:
            counters[members] = np.cumsum(bins[members][::-1], axis=0)[::-1]
        return counters

    def _bins(self, counters: NDArray[np.float64]) -> NDArray[np.float64]:
        bins = counters.copy()
        for members in self._ladders:
            bins[members[:-1]] -= counters[members[1:]]
        return np.maximum(bins, 0.0)  # below 0 by rounding only

    def frame(self, stream: Stream, index: int) -> NDArray[np.uint32]:
        """Take one exposure.

        Parameters
        ----------
        stream : Stream
            Projection, open beam, dark or open beam behind a plate.
        index : int
            View of a projection, number of another frame; plates follow each other.

        Returns
        -------
        ndarray, shape (counters, rows, cols), uint32
            Counts above every threshold.
        """
        expected = self._expected(stream, index)
        if self.settings.noise:
            counts = self._counters(self._rng(stream, index).poisson(expected))
        else:
            counts = np.rint(self._counters(expected))
        if self.settings.defects.zingers_per_frame:
            hit = self.zingers(stream, index)
            for row, col, more in zip(hit.rows, hit.cols, hit.counts, strict=True):
                counts[:, row, col] += more
        stored: NDArray[np.uint32] = np.minimum(counts, self.settings.counter_limit).astype(np.uint32)
        return stored

    def frames(self, stream: Stream, count: int, first: int = 0) -> Iterator[NDArray[np.uint32]]:
        """Take ``count`` exposures of a kind, one after the other."""
        for index in range(first, first + count):
            yield self.frame(stream, index)

    def frames_of(self, part: Part) -> Iterator[NDArray[np.uint32]]:
        """Take the exposures of a part of the scan."""
        return self.frames(part.stream, part.count, part.first)


def _middle_s(acquisition: Acquisition, part: Part) -> float:
    return acquisition._seconds(part, 0) + 0.5 * (part.count - 1) * part.exposure_s


def _transmit_pixels(lengths, attenuation, weights, expected):  # type: ignore[no-untyped-def]
    n_materials, n_energies = attenuation.shape
    n_bins = weights.shape[1]
    for pixel in numba.prange(lengths.shape[1]):
        for k in range(n_bins):
            expected[k, pixel] = 0.0
        for e in range(n_energies):
            integral = 0.0
            for m in range(n_materials):
                integral += attenuation[m, e] * lengths[m, pixel]
            transmitted = math.exp(-integral) if integral != 0.0 else 1.0
            for k in range(n_bins):
                expected[k, pixel] += weights[e, k] * transmitted


# Serial sums inside a pixel: the counts do not depend on the number of threads.
_transmit = numba.njit(parallel=True, cache=True)(_transmit_pixels)
