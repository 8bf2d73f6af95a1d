"""What the same counts must give until RESULTS_VERSION is raised: nightly reprocessing relies on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import marspipe
from marspipe.preprocess.calibration import Calibration
from marspipe.preprocess.chain import Preprocessor
from marspipe.preprocess.stripes import AngularStripes, remove_stripes_by_angle, stripe_offsets
from marspipe.recon.fdk import fdk
from marspipe.scan.energy import Counter, counter_bins
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid

DATA = Path(__file__).parents[1] / "data" / "results"


def voxels_of(counts: np.ndarray, open_beam: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """Return two bins of a scan by the default recipe with stripes removed by angle."""
    bins = counter_bins((Counter(0, "CSM", 20.0), Counter(1, "CSM", 45.0)))
    preprocess = Preprocessor(Calibration.of_means(open_beam, dark, 16), bins)
    integrals = np.stack([preprocess(frame) for frame in counts], axis=1)
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=40.0,
        source_to_detector_mm=50.0,
        detector_shape=integrals.shape[2:],
        pixel_pitch_mm=(0.11, 0.11),
        angles_rad=np.linspace(0, 2 * np.pi, len(counts), endpoint=False),
    )
    grid = VolumeGrid((16, 20, 20), (0.09, 0.09, 0.09))
    return np.stack([fdk(_without_stripes(of_bin), geometry, grid, window="hann") for of_bin in integrals])


def _without_stripes(integrals: np.ndarray) -> np.ndarray:
    offsets = stripe_offsets(integrals.mean(axis=0, dtype=np.float64), AngularStripes())
    return np.stack([remove_stripes_by_angle(view[None], offsets[None])[0] for view in integrals])


def test_the_same_counts_give_the_same_voxels() -> None:
    with np.load(DATA / f"version-{marspipe.RESULTS_VERSION}.npz") as kept:
        voxels = voxels_of(kept["counts"], kept["open_beam"], kept["dark"])
        largest = float(np.abs(kept["voxels"]).max())
        difference = float(np.abs(voxels - kept["voxels"]).max())
    assert difference <= 1e-5 * largest, (
        f"voxels differ by {difference / largest:.2g} of the largest: if that is meant, raise marspipe.RESULTS_VERSION "
        "and keep the new voxels in tests/data/results"
    )
