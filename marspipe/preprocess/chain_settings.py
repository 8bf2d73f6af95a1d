"""What the chain corrects, and how: plain values, checked, that travel to the executors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from marspipe.errors import InputError
from marspipe.preprocess.bad_pixels import PixelLimits
from marspipe.preprocess.beam_hardening import BeamHardening
from marspipe.preprocess.dead_time import LARGEST_LOAD, DeadTimeModel
from marspipe.preprocess.flux import Region
from marspipe.preprocess.tiles import Equalize, Interpolation

FluxBy = Literal["exposure", "monitor", "air", "none"]
OpenBeamTime = Literal["interpolate", "mean"]


def _one_of(name: str, value: object, valid: Sequence[str]) -> None:
    if value not in valid:
        raise InputError(f"{name} must be one of {', '.join(valid)}, got {value!r}")


def _not_negative(name: str, values: Sequence[float], unit: str) -> None:
    if not values or not all(math.isfinite(value) and value >= 0 for value in values):
        raise InputError(f"{name} must be one or more numbers from 0 on ({unit}), got {list(values)}")


@dataclass(frozen=True)
class DeadTime:
    """Dead time of the pixels.

    Attributes
    ----------
    tau_s : tuple of float
        Dead time, s: one for all counters, or one per counter. 0 is none.
    model : {"paralyzable", "non-paralyzable"}
        See :mod:`marspipe.preprocess.dead_time`.
    """

    tau_s: tuple[float, ...] = (0.0,)
    model: DeadTimeModel = "paralyzable"

    def __post_init__(self) -> None:
        _not_negative("dead_time.tau_s", self.tau_s, "s")
        _one_of("dead_time.model", self.model, list(LARGEST_LOAD))


@dataclass(frozen=True)
class Zingers:
    """Counts of single frames that stand out; see :func:`marspipe.preprocess.zingers.remove_zingers_in_frames`."""

    mode: Literal["none", "frame"] = "none"
    sigmas: float = 8.0
    size_px: int = 5

    def __post_init__(self) -> None:
        _one_of("zingers.mode", self.mode, ["none", "frame"])
        if not (math.isfinite(self.sigmas) and self.sigmas > 0):
            raise InputError(f"zingers.sigmas must be positive (standard deviations), got {self.sigmas!r}")
        if self.size_px < 3 or self.size_px % 2 == 0:
            raise InputError(f"zingers.size_px must be an odd number from 3 on (px), got {self.size_px!r}")


@dataclass(frozen=True)
class Flux:
    """By what a frame's share of the beam is known.

    Attributes
    ----------
    by : {"exposure", "monitor", "air", "none"}
        Exposure times, where frame and open beams have one; readings of the beam monitor; the counts in a strip of
        air; or nothing.
    air : Region or None
        The strip of air.
    """

    by: FluxBy = "exposure"
    air: Region | None = None

    def __post_init__(self) -> None:
        _one_of("flux.by", self.by, ["exposure", "monitor", "air", "none"])
        if (self.by == "air") != (self.air is not None):
            raise InputError(f"flux.air is the strip for by: air, and only for it; got by: {self.by}, {self.air}")


@dataclass(frozen=True)
class Scatter:
    """Scattered photons, the same number all over a frame.

    Attributes
    ----------
    counts : tuple of float
        Counts per pixel: one for all energy bins, or one per bin.
    shadow : Region or None
        Where to measure them in every frame instead.
    """

    counts: tuple[float, ...] = (0.0,)
    shadow: Region | None = None

    def __post_init__(self) -> None:
        _not_negative("scatter.counts", self.counts, "counts per pixel")
        if self.shadow is not None and any(self.counts):
            raise InputError("scatter is either a number of counts or measured in a shadow, got both")


@dataclass(frozen=True)
class Tiles:
    """How camera positions become one wide frame; see :func:`marspipe.preprocess.tiles.stitch`."""

    interpolation: Interpolation = "bilinear"
    feather_px: float = 16.0
    equalize: Equalize = "none"

    def __post_init__(self) -> None:
        _one_of("tiles.interpolation", self.interpolation, ["bilinear", "cubic"])
        # Factors are for counts; what is stitched are line integrals.
        _one_of("tiles.equalize", self.equalize, ["none", "offset"])
        if not (math.isfinite(self.feather_px) and self.feather_px > 0):
            raise InputError(f"tiles.feather_px must be positive (px), got {self.feather_px!r}")


@dataclass(frozen=True)
class ChainSettings:
    """What the chain corrects, and how.

    Attributes
    ----------
    limits : PixelLimits
        Where a good pixel ends.
    chip_edges : bool
        Whether pixels at the borders of chips are bad.
    dead_time : DeadTime
        Off by default.
    zingers : Zingers
        Off by default.
    open_beam_time : {"interpolate", "mean"}
        Between groups of open beams in time, or the mean of all of them.
    flux : Flux
        By exposure times by default.
    scatter : Scatter
        None by default.
    thickness_order : int
        Order, 1 to 3, of the polynomial of thickness against signal; 0 is off.
    attenuation_per_mm : tuple of float, or None
        By what thicknesses become line integrals, per bin, 1/mm; by default the median over the camera position's good
        pixels of what thin layers of the plates attenuate. Several positions need one value, or their levels differ.
    beam_hardening : BeamHardening or None
        Polynomials of all energy bins.
    inpaint_radius_px, gap_px : int
        See :class:`marspipe.preprocess.inpaint.FrameFiller`.
    tiles : Tiles
        How camera positions are put together.

    Raises
    ------
    InputError
        If a value does not fit, naming it.
    """

    limits: PixelLimits = field(default_factory=PixelLimits)
    chip_edges: bool = True
    dead_time: DeadTime = field(default_factory=DeadTime)
    zingers: Zingers = field(default_factory=Zingers)
    open_beam_time: OpenBeamTime = "interpolate"
    flux: Flux = field(default_factory=Flux)
    scatter: Scatter = field(default_factory=Scatter)
    thickness_order: int = 0
    attenuation_per_mm: tuple[float, ...] | None = None
    beam_hardening: BeamHardening | None = None
    inpaint_radius_px: int = 8
    gap_px: int = 3
    tiles: Tiles = field(default_factory=Tiles)

    def __post_init__(self) -> None:
        _one_of("open_beam_time", self.open_beam_time, ["interpolate", "mean"])
        if self.thickness_order not in (0, 1, 2, 3):
            raise InputError(f"thickness_order must be 0 (off) to 3, got {self.thickness_order!r}")
        if self.thickness_order and self.beam_hardening is not None:
            raise InputError("the calibration to thickness undoes beam hardening itself: choose one of the two")
        if self.attenuation_per_mm is not None:
            _not_negative("attenuation_per_mm", self.attenuation_per_mm, "1/mm")
        for name in ("inpaint_radius_px", "gap_px"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1 (px), got {getattr(self, name)!r}")

    def of_bins(self, bins: slice) -> ChainSettings:
        """Return the settings of some of the energy bins only: what is given per bin is cut."""
        hardening, counts, slopes = self.beam_hardening, self.scatter.counts, self.attenuation_per_mm
        if hardening is not None:
            hardening = BeamHardening(hardening.coefficients[bins], hardening.largest[bins], hardening.residual[bins])
        if len(counts) > 1:
            counts = counts[bins]
        return replace(
            self,
            beam_hardening=hardening,
            scatter=replace(self.scatter, counts=counts),
            attenuation_per_mm=None if slopes is None else slopes[bins],
        )
