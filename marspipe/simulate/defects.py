"""What can be wrong with a scan: defects of known size, each off by default."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from marspipe.errors import InputError
from marspipe.scan.spectra import Material

DeadTimeModel = Literal["paralyzable", "non-paralyzable"]

# Deviations that are drawn from a normal distribution are cut at this many standard deviations.
CUT_SIGMAS = 3.0
_LARGEST_SPREAD = 0.2


@dataclass(frozen=True)
class Defects:
    """Defects of a simulated scan; the truth lists what each of them did.

    Counts of a frame are Poisson numbers around their expectation, whatever the defect: a real counter with dead time
    scatters a little less.

    Attributes
    ----------
    gain_drift_spread : float
        Standard deviation over the pixels of the relative change of their gain, from the open beams before the
        projections to those after; linear in time.
    dead_time_s : tuple of float
        Dead time of every counter, or one for all, s; empty for none. Inside a mode it must not fall with the
        threshold.
    dead_time_model : {"paralyzable", "non-paralyzable"}
        Measured rate ``n exp(-n tau)``, or ``n / (1 + n tau)``, of the true rate ``n``.
    flux_spread : float
        Standard deviation of the tube's output from frame to frame, relative.
    projection_exposure_ratio : float
        Exposure time of projections in units of that of open beams.
    scatter_fraction : float
        Counts that are added in every pixel and bin of the projections, in units of the bin's open beam.
    zingers_per_frame : float
        Mean number of pixels of an exposure that a stray particle hits; each counts 0.5 to 2 open beams more, in every
        counter. Also in dark frames.
    ring_fraction, ring_spread : float
        Share of the pixels whose gain in the projections differs from that in the open beams, and the standard
        deviation of the relative difference.
    absorbers_mm : tuple of float
        Thicknesses of plates of which open beams are taken too, mm: the path of every ray inside the plate.
    absorber_material : str or Solution
        What the plates are made of.
    absorber_frames : int
        Open beams through each plate.
    monitor_counts : float
        Mean counts of a beam monitor in one open-beam frame; 0 for none. Written in NXtomo files, the only format here
        with a place for it.

    Raises
    ------
    InputError
        If a number is out of range.
    """

    gain_drift_spread: float = 0.0
    dead_time_s: tuple[float, ...] = ()
    dead_time_model: DeadTimeModel = "paralyzable"
    flux_spread: float = 0.0
    projection_exposure_ratio: float = 1.0
    scatter_fraction: float = 0.0
    zingers_per_frame: float = 0.0
    ring_fraction: float = 0.0
    ring_spread: float = 0.0
    absorbers_mm: tuple[float, ...] = ()
    absorber_material: Material = "PMMA"
    absorber_frames: int = 16
    monitor_counts: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (
            ("gain_drift_spread", _LARGEST_SPREAD),
            ("flux_spread", _LARGEST_SPREAD),
            ("ring_spread", _LARGEST_SPREAD),
            ("ring_fraction", 1.0),
            ("scatter_fraction", 1.0),
            ("zingers_per_frame", 1e6),
            ("monitor_counts", 1e15),
        ):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name} must be within 0 to {most:g}, got {getattr(self, name)!r}")
        if (self.ring_fraction > 0) != (self.ring_spread > 0):
            raise InputError(
                f"rings need both ring_fraction and ring_spread, got {self.ring_fraction!r} and {self.ring_spread!r}"
            )
        if not 1e-3 <= self.projection_exposure_ratio <= 1e3:
            raise InputError(
                f"projection_exposure_ratio must be within 0.001 to 1000, got {self.projection_exposure_ratio!r}"
            )
        if self.dead_time_model not in ("paralyzable", "non-paralyzable"):
            raise InputError(
                f"dead_time_model must be 'paralyzable' or 'non-paralyzable', got {self.dead_time_model!r}"
            )
        for name, unit in (("dead_time_s", "s"), ("absorbers_mm", "mm")):
            if not all(0 < value < math.inf for value in getattr(self, name)):
                raise InputError(f"{name} must be positive and finite ({unit}), got {getattr(self, name)}")
        if self.absorber_frames < 1:
            raise InputError(f"absorber_frames must be at least 1, got {self.absorber_frames!r}")

    @property
    def any(self) -> bool:
        """Whether anything is wrong."""
        return self != Defects()

    @property
    def brightest(self) -> float:
        """The largest factor by which a pixel may exceed its open beam, without noise and zingers."""
        factor = 1 + CUT_SIGMAS * self.flux_spread
        factor *= 1 + CUT_SIGMAS * self.gain_drift_spread
        projection = self.projection_exposure_ratio * (1 + self.scatter_fraction) * (1 + CUT_SIGMAS * self.ring_spread)
        return factor * max(1.0, projection)
