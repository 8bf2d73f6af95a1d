"""Noise of voxels: predicted from Poisson counts, and found in reconstructions of simulated counts, bin by bin."""

from __future__ import annotations

import numpy as np
import pytest

from marspipe.errors import GeometryError, InputError
from marspipe.preprocess.counts import bin_counts
from marspipe.preprocess.logarithm import line_integrals as to_line_integrals
from marspipe.preprocess.logarithm import log_open_beam
from marspipe.preprocess.open_beam import line_integral_variance
from marspipe.recon.fdk import fdk
from marspipe.recon.noise import voxel_variance
from marspipe.scan.energy import CounterBin, EnergyBin
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.phantoms import Cylinder, line_integrals


def small_scan(kind: str) -> ScanGeometry:
    angles = {"short": np.deg2rad(np.arange(7) * 35.0), "parallel": np.arange(6) * np.pi / 6}
    if kind == "parallel":
        return ScanGeometry.parallel(detector_shape=(4, 10), pixel_pitch_mm=(1.0, 1.2), angles_rad=angles[kind])
    return ScanGeometry.circular(
        source_to_isocenter_mm=40.0,
        source_to_detector_mm=60.0,
        detector_shape=(4, 10),
        pixel_pitch_mm=(1.5, 1.5),
        angles_rad=angles.get(kind, np.arange(6) * np.pi / 3),
        principal_point_px=(1.3, 6.0) if kind == "offset" else None,
    )


@pytest.mark.parametrize(
    ("kind", "window", "cutoff"),
    [
        ("circle", "ram-lak", 1.0),
        ("circle", "hann", 0.7),
        ("short", "ram-lak", 1.0),
        ("offset", "shepp-logan", 1.0),
        ("parallel", "ram-lak", 1.0),
    ],
)
@pytest.mark.filterwarnings("ignore::marspipe.recon.field_of_view.FieldOfViewWarning")
def test_the_variance_is_the_sum_of_squared_responses(kind: str, window: str, cutoff: float) -> None:
    geometry, grid = small_scan(kind), VolumeGrid((3, 4, 4), (0.9, 1.1, 1.3), (0.2, -0.7, 0.4))
    variances = np.random.default_rng(1).random((len(geometry), *geometry.detector_shape)).astype(np.float32)
    expected = np.zeros(grid.shape)
    for index in np.ndindex(variances.shape):
        impulse = np.zeros(variances.shape, np.float32)
        impulse[index] = 1.0
        response = fdk(impulse, geometry, grid, window=window, cutoff=cutoff)
        expected += variances[index] * response.astype(np.float64) ** 2
    found = voxel_variance(variances, geometry, grid, window=window, cutoff=cutoff)
    assert expected.min() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4)


# Water and PMMA at about 25, 37, 50 and 75 keV, 1/mm, and counts of the open beam in the bins.
WATER_PER_MM = (0.052, 0.030, 0.0227, 0.0187)
PMMA_PER_MM = (0.047, 0.0305, 0.0245, 0.0208)
EDGES_KEV = ((20.0, 30.0), (30.0, 45.0), (45.0, 60.0), (60.0, None))
OPEN_BEAM = (2500.0, 4000.0, 1800.0, 700.0)
OPEN_BEAM_FRAMES = 100


def test_noise_of_a_water_insert_is_the_propagated_poisson_noise_in_every_bin() -> None:
    """Counters above thresholds, differences, logarithm, FDK: within 10 % per bin."""
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=200.0,
        source_to_detector_mm=250.0,
        detector_shape=(24, 128),
        pixel_pitch_mm=(0.25, 0.25),
        angles_rad=np.arange(240) * 2 * np.pi / 240,
    )
    grid = VolumeGrid((16, 28, 28), (0.2, 0.2, 0.2), (0.0, 3.0, 4.0))  # around the insert
    y, x = grid.axis_mm("y"), grid.axis_mm("x")
    insert = np.hypot(y[:, None] - 3.0, x[None, :] - 4.0) < 2.5
    rng = np.random.default_rng(23)
    expected, flat = [], []
    for water, pmma, open_beam in zip(WATER_PER_MM, PMMA_PER_MM, OPEN_BEAM, strict=True):
        phantom = [Cylinder((0, 0, 0), 10.0, 100, pmma), Cylinder((4.0, 3.0, 0), 3.0, 100, water - pmma)]
        beam = open_beam * rng.uniform(0.8, 1.2, geometry.detector_shape)  # every pixel has a gain of its own
        expected.append(beam * np.exp(-line_integrals(phantom, geometry).astype(np.float64)))
        flat.append(beam)
    counts, beams = rng.poisson(np.array(expected)), rng.poisson(np.array(flat) * OPEN_BEAM_FRAMES)
    # A counter counts what is above its threshold: all bins from its own on.
    counters = np.cumsum(counts[::-1], axis=0)[::-1].astype(np.uint16)
    open_counters = np.cumsum(beams[::-1], axis=0)[::-1] / OPEN_BEAM_FRAMES

    bins = [
        CounterBin(EnergyBin(low, high), plus, None if high is None else plus + 1, "SPM")
        for plus, (low, high) in enumerate(EDGES_KEV)
    ]
    open_bins = bin_counts(open_counters, bins)
    log_open = log_open_beam(open_bins, OPEN_BEAM_FRAMES)
    for k, (energy_bin, water) in enumerate(zip(bins, WATER_PER_MM, strict=True)):
        in_bin = bin_counts(counters, [energy_bin])[0]
        variance = line_integral_variance(in_bin, open_bins[k], open_bins[k] / OPEN_BEAM_FRAMES)
        image = fdk(to_line_integrals(in_bin, log_open[k]), geometry, grid)[:, insert]
        predicted = np.sqrt(voxel_variance(variance, geometry, grid)[:, insert].mean())
        noise = image.std()
        print(k, noise / predicted, image.mean() / water)
        assert noise == pytest.approx(predicted, rel=0.1)
        assert image.mean() == pytest.approx(water, rel=0.02)


def test_what_has_no_variance_is_refused() -> None:
    geometry, grid = small_scan("circle"), VolumeGrid((2, 2, 2), (1.0, 1.0, 1.0))
    ones = np.ones((len(geometry), *geometry.detector_shape), np.float32)
    with pytest.raises(InputError, match=r"shape \(6, 4, 10\) \(views, rows, columns\), got \(4, 10\)"):
        voxel_variance(ones[0], geometry, grid)
    for bad in (-1.0, np.inf, np.nan):
        with pytest.raises(InputError, match="finite and not negative"):
            voxel_variance(ones * np.float32(bad), geometry, grid)
    with pytest.raises(GeometryError, match="turned in its plane"):
        voxel_variance(ones, geometry.with_tilted_detector(in_plane_rad=0.02), grid)
