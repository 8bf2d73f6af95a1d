"""Energy bins and how Medipix counters make them.

A photon-counting counter counts every photon above its threshold. An energy bin ``[low, high)`` is therefore the
difference of two neighboring counters *of the same mode*: charge-summing (CSM) and single-pixel (SPM) counters
measure differently shaped pulses and are never subtracted from each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from marspipe.errors import ScanError

BinKind = Literal["differential", "cumulative"]


@dataclass(frozen=True)
class EnergyBin:
    """An energy window ``[low_kev, high_kev)``; ``high_kev=None`` means open above."""

    low_kev: float
    high_kev: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low_kev) and self.low_kev >= 0):
            raise ScanError(f"EnergyBin.low_kev must be finite and not negative (keV), got {self.low_kev!r}")
        if self.high_kev is not None and not self.high_kev > self.low_kev:
            raise ScanError(f"EnergyBin.high_kev must be above low_kev = {self.low_kev} keV, got {self.high_kev!r}")

    @property
    def label(self) -> str:
        """Short name, such as ``20-33 keV`` or ``80+ keV``; ``all energies`` for a detector without threshold."""
        if self.high_kev is None:
            return f"{self.low_kev:g}+ keV" if self.low_kev > 0 else "all energies"
        return f"{self.low_kev:g}-{self.high_kev:g} keV"


@dataclass(frozen=True)
class Counter:
    """One counter of the camera: its number in the frames, its mode and its threshold."""

    index: int
    mode: str
    threshold_kev: float


@dataclass(frozen=True)
class CounterBin:
    """An energy bin and the counters it is made of: ``counts = counter[plus] - counter[minus]``."""

    energy: EnergyBin
    plus: int
    minus: int | None
    mode: str


def counter_bins(counters: Sequence[Counter], kind: BinKind = "differential") -> list[CounterBin]:
    """Return the energy bins that a set of counters gives, in the order of the counters.

    Parameters
    ----------
    counters : sequence of Counter
        All counters of the scan. Inside a mode the thresholds must ascend with the counter index.
    kind : {"differential", "cumulative"}
        Differences of neighboring counters, or each counter by itself (open bins: less noise, less separation).

    Raises
    ------
    ScanError
        If counters are doubled, thresholds do not ascend, or the kind is unknown.

    Examples
    --------
    >>> bins = counter_bins([Counter(0, "CSM", 20.0), Counter(1, "CSM", 33.0), Counter(2, "SPM", 15.0)])
    >>> [(b.energy.label, b.plus, b.minus) for b in bins]
    [('20-33 keV', 0, 1), ('33+ keV', 1, None), ('15+ keV', 2, None)]
    """
    if kind not in ("differential", "cumulative"):
        raise ScanError(f"kind of bins must be 'differential' or 'cumulative', got {kind!r}")
    if not counters:
        raise ScanError("a scan needs at least one counter, got none")
    ordered = sorted(counters, key=lambda c: c.index)
    indices = [c.index for c in ordered]
    if len(set(indices)) != len(indices):
        raise ScanError(f"counter numbers must differ, got {indices}")
    next_in_mode: dict[int, Counter | None] = {}
    for position, counter in enumerate(ordered):
        following = next((c for c in ordered[position + 1 :] if c.mode == counter.mode), None)
        if following is not None and not following.threshold_kev > counter.threshold_kev:
            raise ScanError(
                f"thresholds out of order in mode {counter.mode}: counter {counter.index} at {counter.threshold_kev:g} "
                f"keV, counter {following.index} at {following.threshold_kev:g} keV; they must ascend"
            )
        next_in_mode[counter.index] = following
    bins = []
    for counter in ordered:
        above = next_in_mode[counter.index] if kind == "differential" else None
        window = EnergyBin(counter.threshold_kev, None if above is None else above.threshold_kev)
        bins.append(CounterBin(window, counter.index, None if above is None else above.index, counter.mode))
    return bins
