"""How fast one process makes DICOM files of slices, in every transfer syntax. No Spark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from marspipe.bench.measure import Result, best_of_each
from marspipe.dicom.compression import TRANSFER_SYNTAXES, TransferSyntax
from marspipe.dicom.ct import series_files
from marspipe.dicom.series import series_header
from marspipe.scan.energy import EnergyBin
from marspipe.scan.grid import VolumeGrid

JPEG_LS_BAR_PER_S = 60
WATER_PER_MM = 0.02
# Of a voxel, relative to water, and how far neighbors share it: what a ramp filter with a Hann window leaves.
NOISE, CORRELATION_PX = 0.05, 0.7


@dataclass
class _Slices:
    """A volume of one bin in memory, as an export reads it."""

    pixels: NDArray[np.float32]
    bins: list[EnergyBin]
    grid: VolumeGrid
    metadata: dict[str, Any]
    statistics: list[dict[str, float]] = field(default_factory=list)

    def __getitem__(self, bin: int) -> NDArray[np.float32]:
        return self.pixels


def bench_dicom_objects(side: int = 512, slices: int = 16, repeat: int = 3) -> list[Result]:
    """Measure slices with noise as CT images, from float32 pixels to the bytes of a file, on one core.

    Parameters
    ----------
    side : int
        Pixels along x and y.
    slices : int
        Slices of a run.
    repeat : int
        Runs, of which the fastest counts.
    """
    volume = _phantom(side, slices)
    written: dict[str, int] = {}

    def make(transfer_syntax: str) -> None:
        syntax: TransferSyntax = transfer_syntax  # type: ignore[assignment]
        header = series_header(volume, 0, transfer_syntax=syntax)
        written[transfer_syntax] = sum(len(file.content) for file in series_files(volume, header))

    works = [lambda name=name: make(name) for name in TRANSFER_SYNTAXES]
    times = best_of_each(repeat, works)
    size = f"{slices} slices of {side} x {side}, int16"
    results = []
    for name, (wall, cpu) in zip(TRANSFER_SYNTAXES, times, strict=True):
        figures = {
            "slices_per_s_per_core": slices / wall,
            "times_uncompressed": written[name] / written["uncompressed"],
        }
        bars = {"slices_per_s_per_core": f">= {JPEG_LS_BAR_PER_S}"} if name == "jpeg-ls" else {}
        results.append(Result(f"CT images, {name}", size, wall, cpu, figures, bars))
    return results


def _phantom(side: int, slices: int) -> _Slices:
    """Return a water cylinder with rods in air, with correlated noise."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    body = WATER_PER_MM * (np.hypot(x, y) < 0.8)
    for k in range(6):
        turn = 2 * np.pi * k / 6
        body += 0.1 * (k + 1) * WATER_PER_MM * (np.hypot(x - 0.5 * np.cos(turn), y - 0.5 * np.sin(turn)) < 0.1)
    pixels = np.empty((slices, side, side), np.float32)
    for z in range(slices):
        noise = gaussian_filter(rng.normal(size=body.shape), CORRELATION_PX)
        pixels[z] = body + NOISE * WATER_PER_MM / noise.std() * noise
    metadata = {"scan_id": "bench", "recipe_hash": "0" * 16, "acquired_at": "2024-01-01T00:00:00"}
    statistics = [{"min": float(pixels.min()), "max": float(pixels.max()), "mean": float(pixels.mean())}]
    grid = VolumeGrid(pixels.shape, (0.1, 0.1, 0.1))
    return _Slices(pixels, [EnergyBin(20.0, 120.0)], grid, metadata, statistics)
