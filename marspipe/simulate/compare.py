"""A reconstructed volume held against the truth of its simulated scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from marspipe.scan.energy import EnergyBin
from marspipe.scan.grid import VolumeGrid

# Only the inside of an insert is compared: this fraction of its radius and height, away from blurred edges.
CORE_FRACTION = 0.7


class _Slices(Protocol):
    def __getitem__(self, z: int, /) -> NDArray[np.float32]: ...


class ReconstructedVolume(Protocol):
    """What is asked of a volume: :class:`marspipe.store.volume.Volume` has it."""

    @property
    def bins(self) -> Sequence[EnergyBin]: ...  # noqa: D102
    @property
    def grid(self) -> VolumeGrid: ...  # noqa: D102
    def __getitem__(self, bin: int, /) -> _Slices: ...


@dataclass(frozen=True)
class InsertMean:
    """Mean attenuation of one insert in one bin.

    Attributes
    ----------
    insert, bin : str
        Names.
    mean_per_mm, true_per_mm : float
        Reconstructed and true attenuation, 1/mm.
    standard_error_per_mm : float
        Expected error of the mean from the noise in the volume, 1/mm: scatter of the slice means, with the
        correlation of neighboring slices.
    """

    insert: str
    bin: str
    mean_per_mm: float
    true_per_mm: float
    standard_error_per_mm: float

    @property
    def error_percent(self) -> float:
        """Deviation of the mean from the truth, %."""
        return 100 * (self.mean_per_mm - self.true_per_mm) / self.true_per_mm

    @property
    def standard_error_percent(self) -> float:
        """Standard error as a percentage of the truth."""
        return 100 * self.standard_error_per_mm / self.true_per_mm


def insert_means(volume: ReconstructedVolume, truth: Mapping[str, Any]) -> list[InsertMean]:
    """Return the mean of every insert in every bin, read slice by slice.

    Parameters
    ----------
    volume : ReconstructedVolume
        The volume.
    truth : mapping
        Content of the scan's ``truth/truth.json``.

    Returns
    -------
    list of InsertMean
        Insert by insert, bin by bin; an insert that no slice shows is left out.
    """
    grid = volume.grid
    z, y, x = (grid.axis_mm(axis) for axis in "zyx")
    masks = []
    for insert in truth["inserts"]:
        cx, cy, cz = insert["center_mm"]
        core = np.hypot(x[None, :] - cx, y[:, None] - cy) <= CORE_FRACTION * insert["radius_mm"]
        inside = np.abs(z - cz) <= CORE_FRACTION * insert["height_mm"] / 2
        masks.append((insert, core, inside))
    means: list[list[list[float]]] = [[[] for _ in volume.bins] for _ in masks]
    for bin_ in range(len(volume.bins)):
        for k in range(grid.shape[0]):
            if any(inside[k] for _, _, inside in masks):
                slice_ = volume[bin_][k]
                for of_insert, (_, core, inside) in zip(means, masks, strict=True):
                    if inside[k] and core.any():
                        of_insert[bin_].append(float(slice_[core].mean(dtype=np.float64)))
    return [
        InsertMean(
            insert["name"],
            energy.label,
            float(np.mean(values)),
            float(insert["attenuation_per_mm"][bin_]),
            _standard_error(np.array(values)),
        )
        for of_insert, (insert, _, _) in zip(means, masks, strict=True)
        for bin_, (energy, values) in enumerate(zip(volume.bins, of_insert, strict=True))
        if values
    ]


def _standard_error(means: NDArray[np.float64]) -> float:
    """Return the standard error of the mean of a series whose neighbors are correlated."""
    if means.size < 3:
        return math.nan
    deviation = means - means.mean()
    variance = float(deviation @ deviation) / (means.size - 1)
    if variance == 0:
        return 0.0
    correlation = float(deviation[1:] @ deviation[:-1]) / float(deviation @ deviation)
    return math.sqrt(variance * max(1.0, 1 + 2 * correlation) / means.size)
