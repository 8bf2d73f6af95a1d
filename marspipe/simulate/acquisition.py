"""The virtual camera: photons through the sample, counted.

Every photon is counted once, in its energy bin; a counter then is the sum of the bins above its threshold. The
counters of one exposure so share their photons, as on the chip: their differences are Poisson numbers and never
negative.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum

import numba
import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.scan.phantoms import line_integrals
from marspipe.scan.spectra import bin_weights, linear_attenuation, tube_spectrum
from marspipe.simulate.settings import SimulationSettings


class Stream(IntEnum):
    """Which random numbers: every frame has its own stream, so that no frame depends on another."""

    CHIP = 0
    PROJECTION = 1
    OPEN_BEAM_BEFORE = 2
    OPEN_BEAM_AFTER = 3
    DARK = 4


class Acquisition:
    """A camera, a tube and a sample that take frames.

    Parameters
    ----------
    settings : SimulationSettings
        The scan.

    Attributes
    ----------
    energies_kev : ndarray, shape (energies,), keV
        Photon energies that some counter sees.
    weights : ndarray, shape (bins, energies)
        Mean open-beam counts of a pixel of gain 1 per energy step and bin.
    exposure_s : float
        Exposure time of a frame, s.
    gain : ndarray, shape (rows, cols)
        Sensitivity of every pixel, 1 on average.
    dead, noisy : ndarray, shape (n, 2), int
        Rows and columns of the bad pixels.
    """

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings
        self.geometry = settings.geometry()
        spectrum = tube_spectrum(
            settings.voltage_kvp, settings.filters_mm, distance_mm=settings.source_to_detector_mm, step_kev=1.0
        )
        weights = bin_weights(spectrum, settings.counters, settings.response)
        per_mas = float(weights.sum()) * math.prod(settings.pixel_pitch_mm)
        if not per_mas > 0:
            raise InputError(f"no photon passes the filters {dict(settings.filters_mm)} above the lowest threshold")
        self.exposure_s = round(1e3 * settings.open_beam_photons / per_mas / settings.current_ua, 6)
        # Below the lowest threshold almost nothing is counted: those energies cost time and change no count.
        seen = weights.sum(axis=0) > 1e-9 * weights.sum()
        self.energies_kev = spectrum.energies_kev[seen]
        self.weights = weights[:, seen] * (settings.open_beam_photons / weights[:, seen].sum())
        groups = settings.phantom.material_shapes()
        self._shapes = list(groups.values())
        self._attenuation = np.array([linear_attenuation(material, self.energies_kev) for material in groups])
        self._weights_by_energy = np.ascontiguousarray(self.weights.T)
        self._make_chip()

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

    def _rng(self, stream: Stream, frame: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((self.settings.seed, int(stream), frame)))

    def expected_bins(self, view: int | None) -> NDArray[np.float64]:
        """Return the expected counts of pixels of gain 1, without bad pixels.

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

    def frame(self, stream: Stream, index: int) -> NDArray[np.uint32]:
        """Take one exposure.

        Parameters
        ----------
        stream : Stream
            Projection, open beam or dark.
        index : int
            View of a projection, number of an open beam or dark.

        Returns
        -------
        ndarray, shape (counters, rows, cols), uint32
            Counts above every threshold.
        """
        if stream is Stream.DARK:
            expected = np.zeros((len(self.weights), *self.settings.detector_shape))
        else:
            expected = self.expected_bins(index if stream is Stream.PROJECTION else None) * self.gain
        expected[:, self.noisy[:, 0], self.noisy[:, 1]] += self._own_counts
        expected[:, self.dead[:, 0], self.dead[:, 1]] = 0.0
        if self.settings.noise:
            bins = self._rng(stream, index).poisson(expected)
            counts = np.cumsum(bins[::-1], axis=0)[::-1]
        else:
            counts = np.rint(np.cumsum(expected[::-1], axis=0)[::-1])
        return np.minimum(counts, self.settings.counter_limit).astype(np.uint32)

    def frames(self, stream: Stream, count: int) -> Iterator[NDArray[np.uint32]]:
        """Take exposures 0 to ``count - 1`` of a kind, one after the other."""
        for index in range(count):
            yield self.frame(stream, index)


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
