"""The calibration as the chain uses it: flags and open beams per energy bin, and the fit of thickness to signal.

Open beams and absorbers go through what projections go through, as far as it concerns them: dead time, dark, bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError, ScanError
from marspipe.preprocess.bad_pixels import PixelFlag, bin_flags, pixel_flags
from marspipe.preprocess.beam_over_time import BeamOverTime
from marspipe.preprocess.calibration import Absorber, Calibration, OpenBeams, Sums
from marspipe.preprocess.chain_settings import ChainSettings, DeadTime, FluxBy
from marspipe.preprocess.dead_time import correct_dead_time
from marspipe.preprocess.signal_to_thickness import ThicknessCalibration, fit_thickness
from marspipe.scan.energy import CounterBin

FloatArray = NDArray[np.float64]


class ChainCalibration:
    """Flags and open beams of the energy bins of one camera position.

    Parameters
    ----------
    calibration : Calibration
        Raw sums.
    bins : sequence of CounterBin
        Energy bins.
    settings : ChainSettings
        What is corrected.

    Attributes
    ----------
    dark : ndarray, shape (n_counters, v, u), float32, or None
        Mean dark counts; None where there are none.
    counter_flags : ndarray, shape (n_counters, v, u), uint8
        Bits of :class:`~marspipe.preprocess.bad_pixels.PixelFlag`.
    flags : ndarray, shape (n_bins, v, u), uint8
        The same per bin; "unstable" also where plates gave no calibration to thickness.
    beam : BeamOverTime
        The open beam.
    reference : float or None
        Exposure time (s) or monitor reading of the open beam; None if frames are not compared by them.
    thickness : tuple of ThicknessCalibration
        Per bin, scaled to line integrals; empty if that is off.
    attenuation_per_mm : tuple of float, or None
        By what thicknesses were scaled, per bin, 1/mm.

    Raises
    ------
    ScanError
        If a bin has no good pixel, or something is missing that the settings ask for.
    """

    def __init__(self, calibration: Calibration, bins: Sequence[CounterBin], settings: ChainSettings) -> None:
        self._settings, self._bins = settings, tuple(bins)
        dark = np.stack([sums.mean for sums in calibration.darks])
        self.dark: NDArray[np.float32] | None = dark.astype(np.float32) if dark.any() else None
        edges = calibration.edges if settings.chip_edges else None
        self.counter_flags = np.stack(
            [
                pixel_flags(
                    [group.sums[counter] for group in calibration.open_beams],
                    calibration.darks[counter],
                    edges=edges,
                    counter_bits=calibration.counter_bits,
                    limits=settings.limits,
                )
                for counter in range(calibration.n_counters)
            ]
        )
        amounts = self._amounts(calibration.open_beams)
        self.reference = amounts[0]
        shares = [1.0 if amount is None or self.reference is None else amount / self.reference for amount in amounts]
        groups: list[FloatArray] = []
        for k, group in enumerate(calibration.open_beams):
            means, beyond = self._means(f"group {k} of the open beams", group.sums, group.exposure_s)
            if beyond is not None:
                self.counter_flags[beyond] |= np.uint8(PixelFlag.SATURATED)
            groups.append(self._of_bins(means))
        self.flags = bin_flags(self.counter_flags, self._bins)
        for group_counts in groups:
            self.flags[group_counts <= 0] |= np.uint8(PixelFlag.DEAD)
        frames = [share * self._frames(g.sums) for g, share in zip(calibration.open_beams, shares, strict=True)]
        counts = [of_group / share for of_group, share in zip(groups, shares, strict=True)]
        pooled, pooled_frames = counts[0], frames[0]
        if len(counts) > 1:
            pooled_frames = np.sum(frames, axis=0)
            weights = [(n / pooled_frames)[:, None, None] for n in frames]
            pooled = np.asarray(sum(w * of_group for w, of_group in zip(weights, counts, strict=True)))
        if settings.open_beam_time == "mean":
            self.beam = BeamOverTime([0.0], [pooled], [pooled_frames])
        else:
            self.beam = BeamOverTime([group.time for group in calibration.open_beams], counts, frames)
        self._require_good_pixels()
        self.thickness: tuple[ThicknessCalibration, ...] = ()
        self.attenuation_per_mm: tuple[float, ...] | None = None
        if settings.thickness_order:
            self.thickness = self._fit_thickness(calibration, pooled, pooled_frames)
            for flags, fitted in zip(self.flags, self.thickness, strict=True):
                flags[fitted.flagged & (flags == 0)] |= np.uint8(PixelFlag.UNSTABLE)
            self._require_good_pixels()

    def _require_good_pixels(self) -> None:
        for flags, energy_bin in zip(self.flags, self._bins, strict=True):
            if flags.all():
                raise ScanError(f"bin {energy_bin.energy.label}: every pixel of the open beam is bad or empty")

    def _amounts(self, groups: Sequence[OpenBeams]) -> list[float | None]:
        """Return how much beam each group got; None for all of them unless it is known for every one."""
        by = self._settings.flux.by
        amounts = [amount_of_beam(by, group.exposure_s, group.monitor) for group in groups]
        if by == "monitor" and None in amounts:
            raise ScanError(
                f"flux by: monitor, but group {amounts.index(None)} of the open beams has no monitor reading"
            )
        return [None] * len(amounts) if None in amounts else amounts

    def _means(self, name: str, sums: Sums, exposure_s: float | None) -> tuple[FloatArray, NDArray[np.bool_] | None]:
        """Return mean counts of counters without dead time and dark, and where the dead time leaves no answer.

        The dead time is taken out of the mean. Taken out of every frame it would give, per count, half of the
        correction's second derivative times the variance more: of the order of the dead time over the exposure, one
        part in 1e5 of 10 000 counts at a load of 10 %. Projections have the same excess.
        """
        means: NDArray[Any] = np.stack([of_counter.mean for of_counter in sums])
        beyond = None
        if any(self._settings.dead_time.tau_s):
            means, beyond = without_dead_time(name, means, exposure_s, self._settings.dead_time)
        # Dark counts are few, and few counts have no dead time.
        means = means.astype(np.float64)
        return means if self.dark is None else means - self.dark, beyond

    def _of_bins(self, counters: FloatArray) -> FloatArray:
        parts = [counters[b.plus] - (0.0 if b.minus is None else counters[b.minus]) for b in self._bins]
        return np.stack(parts)

    def _frames(self, sums: Sums) -> FloatArray:
        return np.array(
            [min(sums[b.plus].n, sums[b.plus if b.minus is None else b.minus].n) for b in self._bins], dtype=np.float64
        )

    def _fit_thickness(
        self, calibration: Calibration, open_beam: FloatArray, open_frames: FloatArray
    ) -> tuple[ThicknessCalibration, ...]:
        order, plates = self._settings.thickness_order, calibration.absorbers
        if not plates:
            raise ScanError(f"thickness of order {order} is asked for, but the scan has no absorber frames")
        log_beam = np.log(np.where(open_beam > 0, open_beam, 1.0) + 0.5 / open_frames[:, None, None])
        signals = np.stack([self._signal(plate, log_beam) for plate in plates])
        fits, slopes = [], []
        for b, energy_bin in enumerate(self._bins):
            mask = self.flags[b] != 0
            try:
                fitted = fit_thickness(signals[:, b], [plate.thickness_mm for plate in plates], order, mask)
            except InputError as error:
                raise ScanError(f"absorbers, bin {energy_bin.energy.label}: {error}") from error
            good = ~(mask | fitted.flagged)
            if not good.any():
                raise ScanError(f"absorbers, bin {energy_bin.energy.label}: no pixel has a signal that grows with them")
            given = self._settings.attenuation_per_mm
            slope = float(np.median(1.0 / fitted.coefficients[0][good])) if given is None else given[b]
            slopes.append(slope)
            fits.append(replace(fitted, coefficients=fitted.coefficients * np.float32(slope)))
        self.attenuation_per_mm = tuple(slopes)
        return tuple(fits)

    def _signal(self, plate: Absorber, log_beam: FloatArray) -> FloatArray:
        """Return ``-ln T`` of a plate per bin, at the flux of the open beam."""
        means, beyond = self._means(f"the absorber of {plate.thickness_mm:g} mm", plate.sums, plate.exposure_s)
        counts = self._of_bins(means)
        signal = log_beam - np.log(np.maximum(counts, 0.0) + 0.5 / self._frames(plate.sums)[:, None, None])
        if beyond is not None:
            for flags, energy_bin in zip(self.flags, self._bins, strict=True):
                for counter in {energy_bin.plus, energy_bin.plus if energy_bin.minus is None else energy_bin.minus}:
                    flags[beyond[counter]] |= np.uint8(PixelFlag.SATURATED)
        if self.reference is not None:
            by = self._settings.flux.by
            amount = amount_of_beam(by, plate.exposure_s, plate.monitor)
            if amount is not None:
                signal += math.log(amount / self.reference)
            elif by == "monitor":
                raise ScanError(
                    f"flux by: monitor, but the absorber of {plate.thickness_mm:g} mm has no monitor reading"
                )
        return np.asarray(signal)


def amount_of_beam(by: FluxBy, exposure_s: float | None, monitor: float | None) -> float | None:
    """Return what a frame's share of the beam is measured by, or None if that is not known.

    A strip of air says it by itself; between groups of open beams, which it is compared with, exposure times do. A time
    that is not positive is none: frames that count are exposed.

    Raises
    ------
    ScanError
        If a monitor reading is not positive.
    """
    if by == "monitor":
        if monitor is not None and not (math.isfinite(monitor) and monitor > 0):
            raise ScanError(f"flux by: monitor, but the monitor reads {monitor!r}; it must be positive")
        return monitor
    if by == "none" or exposure_s is None or not (math.isfinite(exposure_s) and exposure_s > 0):
        return None
    return exposure_s


def without_dead_time(
    name: str, counters: NDArray[Any], exposure_s: float | None, dead_time: DeadTime
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return counters, shape (n_counters, v, u), without dead time, and where the model has no answer.

    Raises
    ------
    ScanError
        If the exposure time is not known.
    """
    if exposure_s is None or not (math.isfinite(exposure_s) and exposure_s > 0):
        raise ScanError(f"{name}: the dead-time correction needs the exposure time (s), which is not known")
    taus = dead_time.tau_s * len(counters) if len(dead_time.tau_s) == 1 else dead_time.tau_s
    if len(taus) != len(counters):
        raise ScanError(f"dead_time.tau_s: {len(taus)} dead times, but the camera has {len(counters)} counters")
    result = counters.astype(np.float32)
    beyond = np.zeros(result.shape, dtype=np.bool_)
    for counter, tau_s in enumerate(taus):
        if tau_s > 0:
            corrected = correct_dead_time(result[counter], exposure_s, tau_s, dead_time.model)
            result[counter], beyond[counter] = corrected.counts, corrected.beyond
    return result, beyond
