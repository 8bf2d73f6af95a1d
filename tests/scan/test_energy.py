from __future__ import annotations

import pytest

from marspipe.errors import ScanError
from marspipe.scan.energy import Counter, EnergyBin, counter_bins

LADDER = [Counter(0, "CSM", 20.0), Counter(1, "CSM", 33.0), Counter(2, "CSM", 50.0)]


def test_differences_of_neighbors() -> None:
    bins = counter_bins(LADDER)
    assert [(b.energy.low_kev, b.energy.high_kev, b.plus, b.minus) for b in bins] == [
        (20.0, 33.0, 0, 1),
        (33.0, 50.0, 1, 2),
        (50.0, None, 2, None),
    ]


def test_cumulative_bins_are_the_counters() -> None:
    assert [(b.energy.label, b.plus, b.minus) for b in counter_bins(LADDER, "cumulative")] == [
        ("20+ keV", 0, None),
        ("33+ keV", 1, None),
        ("50+ keV", 2, None),
    ]


def test_modes_are_never_mixed() -> None:
    counters = [Counter(0, "SPM", 15.0), *(Counter(c.index + 1, c.mode, c.threshold_kev) for c in LADDER)]
    bins = counter_bins(counters)
    modes = {c.index: c.mode for c in counters}
    assert bins[0].minus is None
    assert all(b.minus is None or modes[b.minus] == modes[b.plus] == b.mode for b in bins)


@pytest.mark.parametrize(
    ("counters", "message"),
    [
        ([], "at least one counter"),
        (
            [Counter(0, "CSM", 33.0), Counter(1, "CSM", 20.0)],
            "out of order in mode CSM: counter 0 at 33 keV, counter 1",
        ),
        ([Counter(0, "CSM", 20.0), Counter(1, "CSM", 20.0)], "out of order"),
        ([Counter(0, "CSM", 20.0), Counter(0, "SPM", 20.0)], "must differ"),
    ],
)
def test_wrong_ladders(counters: list[Counter], message: str) -> None:
    with pytest.raises(ScanError, match=message):
        counter_bins(counters)


def test_labels() -> None:
    assert EnergyBin(20, 33.5).label == "20-33.5 keV"
    assert EnergyBin(0).label == "all energies"
    with pytest.raises(ScanError, match="high_kev"):
        EnergyBin(20, 20)
    with pytest.raises(ScanError, match="low_kev"):
        EnergyBin(float("nan"))
