"""The corrections in their order, for one exposure after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError, ScanError
from marspipe.preprocess.bad_pixels import saturated
from marspipe.preprocess.beam_hardening import correct_beam_hardening
from marspipe.preprocess.calibration import Calibration
from marspipe.preprocess.chain_calibration import ChainCalibration, amount_of_beam, without_dead_time
from marspipe.preprocess.chain_settings import ChainSettings
from marspipe.preprocess.counts import bin_counts
from marspipe.preprocess.flux import Region, flux_from_air
from marspipe.preprocess.inpaint import BinFillers
from marspipe.preprocess.scatter import scatter_in_shadow, subtract_scatter
from marspipe.preprocess.signal_to_thickness import thickness_mm
from marspipe.preprocess.zingers import remove_zingers_in_frames
from marspipe.scan.energy import CounterBin

__all__ = ["STEPS", "Calibration", "ChainSettings", "Preprocessor", "Step"]

# All of them, in their order.
STEPS = (
    "dead-time",
    "zingers",
    "dark",
    "bins",
    "scatter",
    "log",
    "flux",
    "thickness",
    "beam-hardening",
    "inpaint",
)  # fmt: skip

# Means of equal exposure times differ by rounding; line integrals in float32 do not see less than this.
_SAME_FLUX = 1e-9

Masks = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Step:
    """What one correction does to a frame.

    Attributes
    ----------
    before, after : ndarray, shape (n_counters or n_bins, v, u), float32
        Counts or line integrals.
    """

    before: NDArray[np.float32]
    after: NDArray[np.float32]


@dataclass(eq=False)
class _Frame:
    """An exposure on its way: images of counters, later of bins, and what is not believed in this one alone."""

    images: NDArray[Any]
    bad: Masks | None
    time: float
    exposure_s: float | None
    monitor: float | None
    log_flux: NDArray[np.float64] | None = None  # per bin, from a strip of air


class Preprocessor:
    """Turns the counter images of one exposure into line integrals per energy bin.

    In this order, as far as they are switched on:

    - dead time, on raw counters; zingers, per counter; dark subtraction
    - counters to bins; scatter
    - -log against the open beam at the frame's time; flux
    - calibration to thickness, scaled by the median over the good pixels of the slope at zero, ``1 / a_1``, so that
      the result is a line integral again and means what thin layers of the plates' material attenuate; or beam
      hardening
    - filling of bad pixels

    An object serves one thread; it keeps scratch memory from frame to frame, and nothing that shows.

    Parameters
    ----------
    calibration : Calibration
        Open beams, darks and absorbers of the camera position.
    bins : sequence of CounterBin
        Energy bins.
    settings : ChainSettings, optional
        What is corrected.

    Attributes
    ----------
    flags : ndarray, shape (n_bins, v, u), uint8
        Bits of :class:`~marspipe.preprocess.bad_pixels.PixelFlag` of every bin: those of either counter; dead where a
        group of open beams has no counts; unstable where plates gave no calibration.
    settings : ChainSettings
        What is corrected.
    attenuation_per_mm : tuple of float, or None
        By what thicknesses become line integrals, per bin, 1/mm; None if that is off.
    steps : tuple of str
        Names of the active steps, in order, out of :data:`STEPS`.

    Raises
    ------
    ScanError
        If a bin has no good pixel, or the settings do not fit the calibration.
    """

    def __init__(
        self, calibration: Calibration, bins: Sequence[CounterBin], settings: ChainSettings | None = None
    ) -> None:
        self.settings = settings or ChainSettings()
        self.bins = tuple(bins)
        self._shape = (calibration.n_counters, *calibration.shape)
        self._counter_bits = calibration.counter_bits
        self._require_fit()
        self._known = ChainCalibration(calibration, self.bins, self.settings)
        self.flags = self._known.flags
        self.attenuation_per_mm = self._known.attenuation_per_mm
        self._bad = self.flags != 0
        labels = [energy_bin.energy.label for energy_bin in self.bins]
        self._fillers = BinFillers(self._bad, labels, self.settings.inpaint_radius_px, self.settings.gap_px)
        active = self._active()
        self._steps = [(name, active[name]) for name in STEPS if name in active]
        self.steps = (*(name for name, _ in self._steps), "inpaint")

    def _active(self) -> dict[str, Callable[[_Frame], NDArray[Any]]]:
        settings = self.settings
        active: dict[str, Callable[[_Frame], NDArray[Any]]] = {"bins": self._to_bins, "log": self._log}
        if any(settings.dead_time.tau_s):
            active["dead-time"] = self._without_dead_time
        if settings.zingers.mode == "frame":
            active["zingers"] = self._without_zingers
        if self._known.dark is not None:
            active["dark"] = self._without_dark
        if settings.scatter.shadow is not None or any(settings.scatter.counts):
            active["scatter"] = self._without_scatter
        if settings.flux.by == "air" or self._known.reference is not None:
            active["flux"] = self._at_one_flux
        if self._known.thickness:
            active["thickness"] = self._to_thickness
        if settings.beam_hardening is not None:
            active["beam-hardening"] = self._without_beam_hardening
        return active

    def _require_fit(self) -> None:
        """Refuse settings per counter or bin for another number of them, and regions that are not on the camera."""
        settings, n_bins = self.settings, len(self.bins)
        hardening, slopes = settings.beam_hardening, settings.attenuation_per_mm
        for name, n, expected, noun in (
            ("dead_time.tau_s", len(settings.dead_time.tau_s), self._shape[0], "counters"),
            ("scatter.counts", len(settings.scatter.counts), n_bins, "energy bins"),
            ("beam_hardening", n_bins if hardening is None else len(hardening.coefficients), n_bins, "energy bins"),
            ("attenuation_per_mm", n_bins if slopes is None else len(slopes), n_bins, "energy bins"),
        ):
            one_for_all = n == 1 and name in ("dead_time.tau_s", "scatter.counts")
            if n != expected and not one_for_all:
                raise ScanError(f"{name} is given for {n}, but there are {expected} {noun}")
        for name, region in (("flux.air", settings.flux.air), ("scatter.shadow", settings.scatter.shadow)):
            if region is not None:
                self._require_region(name, region)

    def _require_region(self, name: str, region: Region) -> None:
        try:
            region.of(self._shape[1:])
        except InputError as error:
            raise ScanError(f"{name}: {error}") from error

    def __call__(
        self,
        counters: NDArray[Any],
        *,
        time: float = 0.0,
        exposure_s: float | None = None,
        monitor: float | None = None,
    ) -> NDArray[np.float32]:
        """Return line integrals, bad pixels filled.

        Parameters
        ----------
        counters : ndarray, shape (n_counters, v, u), any real dtype
            Raw counter images of one exposure; left as they are.
        time : float
            When, on the clock of the open beams.
        exposure_s : float, optional
            Exposure time, s.
        monitor : float, optional
            Reading of the beam monitor.

        Returns
        -------
        ndarray, shape (n_bins, v, u), float32, dimensionless

        Raises
        ------
        ScanError
            If the frame does not fit the calibration, or lacks what a correction needs.
        """
        integrals, bad = self.unfilled(counters, time=time, exposure_s=exposure_s, monitor=monitor)
        self._fillers.fill(integrals, bad)
        return integrals

    def unfilled(
        self,
        counters: NDArray[Any],
        *,
        time: float = 0.0,
        exposure_s: float | None = None,
        monitor: float | None = None,
    ) -> tuple[NDArray[np.float32], Masks | None]:
        """Return line integrals with something finite in bad pixels, and which these are.

        Returns
        -------
        integrals : ndarray, shape (n_bins, v, u), float32
            Line integrals.
        bad : ndarray, shape (n_bins, v, u), bool, or None
            Where pixels are bad, saturated or beyond the dead-time model's end in this frame; None if those are
            ``flags != 0``.
        """
        return self._run(counters, time, exposure_s, monitor, None)

    def trace(
        self,
        counters: NDArray[Any],
        *,
        time: float = 0.0,
        exposure_s: float | None = None,
        monitor: float | None = None,
    ) -> dict[str, Step]:
        """Return what every active step does to an exposure, in order; see :meth:`__call__`."""
        steps: dict[str, Step] = {}
        integrals, bad = self._run(counters, time, exposure_s, monitor, steps)
        before = integrals.copy()
        self._fillers.fill(integrals, bad)
        steps["inpaint"] = Step(before, integrals)
        return steps

    def _run(
        self,
        counters: NDArray[Any],
        time: float,
        exposure_s: float | None,
        monitor: float | None,
        trace: dict[str, Step] | None,
    ) -> tuple[NDArray[np.float32], Masks | None]:
        if counters.shape != self._shape:
            raise ScanError(f"counters must be of shape (n_counters, v, u) = {self._shape}, got {counters.shape}")
        if not math.isfinite(time):
            raise ScanError(f"the time of a frame must be finite, got {time!r}")
        images, bad = self._believed(counters)
        frame = _Frame(images, bad, time, exposure_s, monitor)
        for name, step in self._steps:
            before = None if trace is None else frame.images.astype(np.float32)
            try:
                frame.images = step(frame)
            except ScanError:
                raise
            except InputError as error:
                raise ScanError(f"{name}: {error}") from error
            if trace is not None and before is not None:
                trace[name] = Step(before, frame.images.astype(np.float32))
        return frame.images, None if frame.bad is None else frame.bad | self._bad

    def _believed(self, counters: NDArray[Any]) -> tuple[NDArray[Any], Masks | None]:
        """Return the counters, finite, and which counts of this frame mean nothing."""
        bad: Masks | None = None
        if counters.dtype.kind == "f" and not math.isfinite(float(counters.sum(dtype=np.float64))):
            bad = ~np.isfinite(counters)
            counters = np.where(bad, counters.dtype.type(0), counters)
        if self._counter_bits is not None and counters.max() >= 2**self._counter_bits - 1:
            full = saturated(counters, self._counter_bits)
            bad = full if bad is None else bad | full
        return counters, bad

    def _without_dead_time(self, frame: _Frame) -> NDArray[Any]:
        counts, beyond = without_dead_time("frame", frame.images, frame.exposure_s, self.settings.dead_time)
        if beyond.any():
            frame.bad = beyond if frame.bad is None else frame.bad | beyond
        return counts

    def _without_zingers(self, frame: _Frame) -> NDArray[Any]:
        zingers = self.settings.zingers
        result = np.empty(frame.images.shape, dtype=np.float32)
        for counter, image in enumerate(frame.images):
            mask = self._known.counter_flags[counter] != 0
            if frame.bad is not None:
                mask |= frame.bad[counter]
            found = remove_zingers_in_frames(image, sigmas=zingers.sigmas, size_px=zingers.size_px, mask=mask)
            result[counter] = found.counts
        return result

    def _without_dark(self, frame: _Frame) -> NDArray[Any]:
        assert self._known.dark is not None
        counts: NDArray[np.float32] = np.subtract(frame.images, self._known.dark, dtype=np.float32)
        return counts

    def _to_bins(self, frame: _Frame) -> NDArray[np.float32]:
        if frame.bad is not None:
            pairs = [(b.plus, b.plus if b.minus is None else b.minus) for b in self.bins]
            bad = np.stack([frame.bad[plus] | frame.bad[minus] for plus, minus in pairs]) & ~self._bad
            # A hot pixel that is always full is not news.
            frame.bad = bad if bad.any() else None
        return bin_counts(frame.images, self.bins)

    def _masks(self, frame: _Frame) -> Masks:
        return self._bad if frame.bad is None else np.asarray(self._bad | frame.bad)

    def _without_scatter(self, frame: _Frame) -> NDArray[np.float32]:
        scatter = self.settings.scatter
        offsets = np.array(scatter.counts) if len(scatter.counts) > 1 else np.full(len(self.bins), scatter.counts[0])
        if scatter.shadow is not None:
            pairs = zip(frame.images, self._masks(frame), strict=True)
            found = [float(scatter_in_shadow(image, scatter.shadow, mask)) for image, mask in pairs]
            offsets = np.maximum(found, 0.0)  # the mean of noise alone
        return subtract_scatter(frame.images, offsets)

    def _log(self, frame: _Frame) -> NDArray[np.float32]:
        air = self.settings.flux.air
        if air is not None:
            parts = zip(frame.images, self._known.beam.counts(frame.time), self._masks(frame), strict=True)
            frame.log_flux = np.log([float(flux_from_air(image, beam, air, mask)) for image, beam, mask in parts])
        return self._known.beam.line_integrals(frame.images, frame.time)

    def _at_one_flux(self, frame: _Frame) -> NDArray[np.float32]:
        """Add the logarithm of the frame's flux relative to the open beam."""
        integrals: NDArray[np.float32] = frame.images
        if frame.log_flux is not None:
            integrals += frame.log_flux[:, None, None].astype(np.float32)
            return integrals
        by = self.settings.flux.by
        amount = amount_of_beam(by, frame.exposure_s, frame.monitor)
        if amount is None and by == "monitor":
            raise ScanError("flux by: monitor, but the frame has no monitor reading")
        if amount is not None and self._known.reference is not None:
            shift = math.log(amount / self._known.reference)
            if abs(shift) > _SAME_FLUX:
                integrals += np.float32(shift)
        return integrals

    def _to_thickness(self, frame: _Frame) -> NDArray[np.float32]:
        pairs = zip(frame.images, self._known.thickness, strict=True)
        return np.stack([thickness_mm(image, fitted) for image, fitted in pairs])

    def _without_beam_hardening(self, frame: _Frame) -> NDArray[np.float32]:
        hardening = self.settings.beam_hardening
        assert hardening is not None
        return correct_beam_hardening(frame.images, hardening)
