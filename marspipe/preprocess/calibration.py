"""What is known of a camera position beside its projections: open beams, darks, absorbers, chip borders.

All counts are raw: sums over frames as the counters gave them. What is corrected in them is the chain's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.preprocess.arrays import finite_float64
from marspipe.preprocess.pixel_statistics import PixelSums

Sums = tuple[PixelSums, ...]


@dataclass(frozen=True, eq=False)
class OpenBeams:
    """One group of open beams: those taken together.

    Attributes
    ----------
    sums : tuple of PixelSums
        Per counter, shape (v, u).
    time : float
        Mean time of the group on the clock of the frames: seconds, or numbers of views.
    exposure_s : float or None
        Mean exposure time, s.
    monitor : float or None
        Mean reading of the beam monitor.
    """

    sums: Sums
    time: float = 0.0
    exposure_s: float | None = None
    monitor: float | None = None


@dataclass(frozen=True, eq=False)
class Absorber:
    """Open beams through a plate of known thickness.

    Attributes
    ----------
    thickness_mm : float
        Thickness of the plate, mm.
    sums : tuple of PixelSums
        Per counter, shape (v, u).
    exposure_s : float or None
        Mean exposure time, s.
    monitor : float or None
        Mean reading of the beam monitor.
    """

    thickness_mm: float
    sums: Sums
    exposure_s: float | None = None
    monitor: float | None = None


@dataclass(frozen=True, eq=False)
class Calibration:
    """Everything that one camera position has been measured with but the sample.

    Attributes
    ----------
    open_beams : tuple of OpenBeams
        Groups in the order of time, at least one; none without frames.
    darks : tuple of PixelSums
        Per counter; without frames where there are no darks.
    absorbers : tuple of Absorber
        Plates, in any order.
    edges : ndarray, shape (v, u), uint8, or None
        Flags of the borders of chips, see :func:`marspipe.preprocess.bad_pixels.edge_flags`.
    counter_bits : int or None
        Depth of the counters; None if it is not known or the detector does not count.

    Raises
    ------
    ScanError
        If there is no open beam, times do not ascend, or numbers of counters or shapes differ.
    """

    open_beams: tuple[OpenBeams, ...]
    darks: Sums
    absorbers: tuple[Absorber, ...] = ()
    edges: NDArray[np.uint8] | None = None
    counter_bits: int | None = None

    def __post_init__(self) -> None:
        if not self.open_beams or not self.open_beams[0].sums:
            raise ScanError("a calibration needs at least one group of open beams, got none")
        parts = [(f"group {k} of the open beams", group.sums, 1) for k, group in enumerate(self.open_beams)]
        parts += [(f"the absorber of {plate.thickness_mm:g} mm", plate.sums, 1) for plate in self.absorbers]
        parts.append(("the darks", self.darks, 0))
        for name, sums, least in parts:
            if len(sums) != self.n_counters:
                raise ScanError(f"{name}: {len(sums)} counters, expected {self.n_counters}")
            for counter, of_counter in enumerate(sums):
                if of_counter.n < least:
                    raise ScanError(f"{name}: no frame of counter {counter}")
                if of_counter.total.shape != self.shape:
                    raise ScanError(
                        f"{name}, counter {counter}: frames of {of_counter.total.shape} px, expected {self.shape}"
                    )
        if self.edges is not None and self.edges.shape != self.shape:
            raise ScanError(f"chip borders: flags of {self.edges.shape} px, expected {self.shape}")
        for earlier, later in pairwise(self.open_beams):
            if not earlier.time < later.time:
                raise ScanError(
                    f"groups of open beams must follow each other in time, got {earlier.time} and then {later.time}"
                )
        if not all(math.isfinite(group.time) for group in self.open_beams):
            raise ScanError(f"times of open beams must be finite, got {[group.time for group in self.open_beams]}")

    @classmethod
    def of_means(cls, open_beam: NDArray[Any], dark: NDArray[Any], n_open_beam: int) -> Calibration:
        """Return the calibration of averaged frames whose scatter from frame to frame is not known.

        Parameters
        ----------
        open_beam, dark : ndarray, shape (n_counters, v, u)
            Mean counts per counter.
        n_open_beam : int
            Open-beam frames per counter.

        Returns
        -------
        Calibration
            With one group, whose frames scatter as Poisson's would.
        """
        flats, darks = finite_float64("open_beam", open_beam), finite_float64("dark", dark)
        if flats.ndim != 3 or flats.shape != darks.shape:
            raise ScanError(
                f"open_beam and dark must be of one shape (n_counters, v, u), got {flats.shape}, {darks.shape}"
            )
        n = n_open_beam
        # The sum of squares whose unbiased variance is the mean.
        sums = tuple(PixelSums(n, n * mean, n * mean**2 + (n - 1) * mean) for mean in flats)
        return cls((OpenBeams(sums),), tuple(PixelSums(1, mean, mean**2) for mean in darks))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the camera."""
        rows, columns = self.open_beams[0].sums[0].total.shape
        return rows, columns

    @property
    def n_counters(self) -> int:
        """Counter images of an exposure."""
        return len(self.open_beams[0].sums)

    def rows(self, index: slice | Sequence[int] | NDArray[np.int64]) -> Calibration:
        """Return the calibration of some detector rows, by a slice or by their numbers."""
        chosen = index if isinstance(index, slice) else np.asarray(index, dtype=np.int64)

        def cut(sums: Sums) -> Sums:
            return tuple(PixelSums(s.n, s.total[chosen], s.squares[chosen]) for s in sums)

        return Calibration(
            tuple(replace(group, sums=cut(group.sums)) for group in self.open_beams),
            cut(self.darks),
            tuple(replace(plate, sums=cut(plate.sums)) for plate in self.absorbers),
            None if self.edges is None else self.edges[chosen],
            self.counter_bits,
        )
