"""Which pixels are not believed, and why: a frame of reason bits that is stored with the volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.preprocess.pixel_statistics import PixelSums, excess_fano, fano_limits
from marspipe.scan.energy import CounterBin

__all__ = [
    "PixelFlag",
    "PixelLimits",
    "bin_flags",
    "count_flags",
    "count_reasons",
    "drift_flags",
    "edge_flags",
    "pixel_flags",
    "saturated",
    "unstable_flags",
]

Flags = NDArray[np.uint8]


class PixelFlag(IntFlag):
    """Why a pixel is not believed; the values are stored and must not change."""

    GOOD = 0
    DEAD = 1
    HOT = 2
    NOISY = 4
    UNSTABLE = 8
    DRIFTING = 16
    EDGE = 32
    SATURATED = 64
    NOT_FINITE = 128

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons in words, such as ``("dead", "edge")``; empty for a good pixel."""
        return tuple(str(flag.name).lower().replace("_", " ") for flag in PixelFlag if flag in self)


@dataclass(frozen=True)
class PixelLimits:
    """Where a good pixel ends.

    Attributes
    ----------
    dead_fraction : float
        Dead: open beam minus dark at most this fraction of the frame's median, or not positive.
    hot_fraction : float
        Hot: open beam above this multiple of the median.
    noisy_dark_fraction : float
        Noisy: dark counts above this fraction of the median open beam. A photon-counting pixel counts nothing in the
        dark unless its threshold sits in its own noise.
    fano_low, fano_high : float
        Unstable: Fano factor over the open beams outside of these.
    drift_sigmas, drift_fraction : float
        Drifting: open beams before and after differ, beyond what all pixels share, by more than this many standard
        deviations of Poisson noise and by more than this fraction.
    """

    dead_fraction: float = 0.1
    hot_fraction: float = 5.0
    noisy_dark_fraction: float = 0.01
    fano_low: float = 0.5
    fano_high: float = 2.0
    drift_sigmas: float = 5.0
    drift_fraction: float = 0.02


def count_flags(open_beam: NDArray[Any], dark: NDArray[Any], limits: PixelLimits | None = None) -> Flags:
    """Return which pixels are dead, hot, noisy or not finite, from the mean counts of one counter.

    Parameters
    ----------
    open_beam, dark : ndarray, shape (v, u)
        Mean open-beam and dark counts. Here alone NaN is no error: such pixels are flagged.
    limits : PixelLimits, optional
        Limits.

    Returns
    -------
    ndarray, shape (v, u), uint8
        Bits of :class:`PixelFlag`. Without any positive signal all pixels are dead.
    """
    limits = limits or PixelLimits()
    signal = np.asarray(open_beam, dtype=np.float64) - dark
    finite = np.isfinite(signal)
    flags = np.zeros(signal.shape, dtype=np.uint8)
    flags[~finite] |= np.uint8(PixelFlag.NOT_FINITE)
    lit = signal[finite & (signal > 0)]
    if lit.size == 0:
        flags[finite] |= np.uint8(PixelFlag.DEAD)
        return flags
    median = float(np.median(lit))
    flags[finite & ((signal <= 0) | (signal <= limits.dead_fraction * median))] |= np.uint8(PixelFlag.DEAD)
    flags[finite & (signal > limits.hot_fraction * median)] |= np.uint8(PixelFlag.HOT)
    # An integrating detector has a dark level everywhere: only what stands out of it is noise.
    excess = np.where(finite, dark, 0.0) - np.median(np.asarray(dark)[finite])
    flags[finite & (excess > limits.noisy_dark_fraction * median)] |= np.uint8(PixelFlag.NOISY)
    return flags


def unstable_flags(open_beam: PixelSums, limits: PixelLimits | None = None) -> Flags:
    """Return which pixels do not count like Poisson over the open beams of one group; none from a single frame.

    None either if most pixels never change: computed frames say nothing about noise.

    The limits widen where few frames leave the Fano factor uncertain, see
    :func:`marspipe.preprocess.pixel_statistics.fano_limits`.
    """
    limits = limits or PixelLimits()
    flags = np.zeros(open_beam.total.shape, dtype=np.uint8)
    if open_beam.n >= 2:
        low, high = fano_limits(open_beam.n, limits.fano_low, limits.fano_high)
        fano = excess_fano(open_beam)
        if not np.median(fano[np.isfinite(fano)] if np.isfinite(fano).any() else 0.0) > 0:
            return flags
        flags[(fano < low) | (fano > high)] |= np.uint8(PixelFlag.UNSTABLE)  # NaN, no opinion, is neither
    return flags


def drift_flags(before: PixelSums, after: PixelSums, limits: PixelLimits | None = None) -> Flags:
    """Return which pixels changed their sensitivity between two groups of open beams.

    The ratio of the means, over its median in the frame, deviates from 1 with the variance
    ``1 / total_before + 1 / total_after`` if nothing happened. Pixels without counts in a group are left to the other
    tests.
    """
    limits = limits or PixelLimits()
    if before.total.shape != after.total.shape:
        raise InputError(f"open beams before {before.total.shape} and after {after.total.shape} differ in shape")
    flags = np.zeros(before.total.shape, dtype=np.uint8)
    lit = (before.total > 0) & (after.total > 0)
    if lit.any():
        ratio = after.mean[lit] / before.mean[lit]
        change = np.abs(ratio / np.median(ratio) - 1.0)
        sigma = np.sqrt(1.0 / before.total[lit] + 1.0 / after.total[lit])
        drifting = change > np.maximum(limits.drift_sigmas * sigma, limits.drift_fraction)
        flags[lit] = np.where(drifting, np.uint8(PixelFlag.DRIFTING), np.uint8(0))
    return flags


def edge_flags(shape: tuple[int, int], rows: Sequence[int] = (), cols: Sequence[int] = ()) -> Flags:
    """Return the flags of whole rows and columns at the borders of chips, whose pixels are larger or shared.

    Raises
    ------
    InputError
        If a row or column is not on the detector.
    """
    flags = np.zeros(shape, dtype=np.uint8)
    for name, lines, size in (("row", rows, shape[0]), ("column", cols, shape[1])):
        outside = [line for line in lines if not 0 <= line < size]
        if outside:
            raise InputError(f"chip border: {name} {outside[0]} is not on a detector of {shape[0]} x {shape[1]} pixels")
    flags[list(rows), :] |= np.uint8(PixelFlag.EDGE)
    flags[:, list(cols)] |= np.uint8(PixelFlag.EDGE)
    return flags


def saturated(counters: NDArray[Any], counter_bits: int) -> NDArray[np.bool_]:
    """Return which counts have reached the end of a counter of so many bits: they mean "at least"."""
    if not 1 <= counter_bits <= 32:
        raise InputError(f"counter_bits must be 1 to 32, got {counter_bits}")
    return np.asarray(np.asarray(counters) >= 2**counter_bits - 1)


def pixel_flags(
    open_beams: Sequence[PixelSums],
    dark: PixelSums | None = None,
    *,
    edges: Flags | None = None,
    counter_bits: int | None = None,
    limits: PixelLimits | None = None,
) -> Flags:
    """Return everything that is known against the pixels of one counter of one camera position.

    Parameters
    ----------
    open_beams : sequence of PixelSums
        The groups of open beams in the order of time: one, or before and after, or more.
    dark : PixelSums, optional
        Dark frames.
    edges : ndarray, shape (v, u), uint8, optional
        See :func:`edge_flags`.
    counter_bits : int, optional
        Depth of the counter; open beams that reach its end on average are flagged.
    limits : PixelLimits, optional
        Limits.

    Returns
    -------
    ndarray, shape (v, u), uint8
        Bits of :class:`PixelFlag`.

    Raises
    ------
    InputError
        If there is no open beam, or shapes differ.
    """
    if not open_beams or not any(group.n for group in open_beams):
        raise InputError("bad pixels need at least one open beam, got none")
    groups = [group for group in open_beams if group.n]
    everything = groups[0]
    for group in groups[1:]:
        everything = everything + group
    shape = everything.total.shape
    for name, part in (("dark frames", None if dark is None else dark.total), ("edges", edges)):
        if part is not None and part.shape != shape:
            raise InputError(f"{name} have shape {part.shape}, the open beams {shape}")
    flags = count_flags(everything.mean, np.zeros(shape) if dark is None else dark.mean, limits)
    # Each group by itself: a drift between groups is another fault than restlessness.
    for group in groups:
        flags |= unstable_flags(group, limits)
    for earlier, later in pairwise(groups):
        flags |= drift_flags(earlier, later, limits)
    if counter_bits is not None:
        flags[saturated(everything.mean, counter_bits)] |= np.uint8(PixelFlag.SATURATED)
    return flags if edges is None else flags | edges


def bin_flags(flags: Flags, bins: Sequence[CounterBin]) -> Flags:
    """Return the flags of energy bins: of a bin that is a difference, those of both counters.

    Parameters
    ----------
    flags : ndarray, shape (n_counters, v, u), uint8
        Flags per counter.
    bins : sequence of CounterBin
        The bins.

    Returns
    -------
    ndarray, shape (n_bins, v, u), uint8
    """
    result = np.empty((len(bins), *flags.shape[1:]), dtype=np.uint8)
    for out, energy_bin in zip(result, bins, strict=True):
        out[...] = flags[energy_bin.plus]
        if energy_bin.minus is not None:
            out |= flags[energy_bin.minus]
    return result


def count_reasons(flags: Flags) -> dict[str, int]:
    """Return how many pixels each reason condemns; a pixel with two reasons counts in both."""
    return {flag.reasons[0]: int(np.count_nonzero(flags & np.uint8(flag))) for flag in PixelFlag if flag}
