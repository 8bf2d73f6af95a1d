"""Against ITK-RTK and against a measured scan; these cases lie beside the checkout and are not part of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from marspipe.recon.fdk import fdk
from marspipe.recon.redundancy import choose_redundancy
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from tests.recon.scans import ball

CASES = Path(__file__).parents[2].parent / "shared" / "cases"
RTK, HTC = CASES / "rtk_small", CASES / "htc2022_fan"

with_rtk = pytest.mark.skipif(not RTK.is_dir(), reason=f"no {RTK.parts[-3:]} beside the checkout")
with_htc = pytest.mark.skipif(not HTC.is_dir(), reason=f"no {HTC.parts[-3:]} beside the checkout")


def rtk_geometry(case: str) -> ScanGeometry:
    description = json.loads((RTK / f"geometry_{case}.json").read_text())
    return ScanGeometry.circular(
        source_to_isocenter_mm=200.0,
        source_to_detector_mm=260.0,
        detector_shape=(96, 96),
        pixel_pitch_mm=(1.0, 1.0),
        angles_rad=np.deg2rad(description["angles_deg"]),
        principal_point_px=(47.5, 27.5 if case == "offset" else 47.5),
    )


def in_our_axes(volume: np.ndarray) -> np.ndarray:
    """Return a volume of RTK's world (axes z, y, x; y is the rotation axis) in ours."""
    return volume.transpose(1, 0, 2)[:, ::-1, :]


@with_rtk
@pytest.mark.parametrize(("case", "scheme"), [("full", "full"), ("short", "parker"), ("offset", "wang")])
def test_volumes_equal_those_of_rtk(case: str, scheme: str) -> None:
    geometry = rtk_geometry(case)
    assert choose_redundancy(geometry).name == scheme
    grid = VolumeGrid((64, 64, 64), (1.0, 1.0, 1.0))
    volume = fdk(np.load(RTK / f"proj_{case}.npy"), geometry, grid)
    expected = in_our_axes(np.load(RTK / f"rtk_{case}.npy"))
    truth = in_our_axes(np.load(RTK / "truth.npy"))
    inside = ball(grid, 18.0)

    def rmse(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(np.mean((a[inside].astype(np.float64) - b[inside]) ** 2)))

    assert rmse(volume, expected) <= 1e-6
    assert rmse(volume, truth) <= 1.0001 * rmse(expected, truth)


@with_rtk
def test_short_scan_weights_equal_those_of_rtk() -> None:
    expected = np.load(RTK / "weights_short.npy")  # twice ours: RTK halves later
    found = 2 * choose_redundancy(rtk_geometry("short")).column_weights
    np.testing.assert_allclose(found, expected, atol=2e-6)


@with_rtk
def test_offset_weights_equal_those_of_rtk() -> None:
    expected = np.load(RTK / "weights_offset.npy")[:, 96:]  # the measured columns
    redundancy = choose_redundancy(rtk_geometry("offset"))
    found = np.stack([2 * redundancy.columns(view) for view in range(120)])
    np.testing.assert_allclose(found, expected, atol=2e-6)


@with_htc
@pytest.mark.parametrize(
    ("scan", "reference"),
    [
        ("ta_full", "ta_full_recon_fbp"),
        ("solid_disc_full", "solid_disc_full_recon_fbp"),
        ("01a_full", "01a_recon_fbp"),
    ],
)
def test_a_measured_disc_has_scale_and_shape_of_its_authors_reconstruction(scan: str, reference: str) -> None:
    data = scipy.io.loadmat(HTC / f"htc2022_{scan}.mat", squeeze_me=True, struct_as_record=False)["CtDataFull"]
    stored = scipy.io.loadmat(HTC / f"htc2022_{reference}.mat", squeeze_me=True)
    image = next(value for key, value in stored.items() if not key.startswith("_"))
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=410.66,
        source_to_detector_mm=553.74,
        detector_shape=(3, 560),
        pixel_pitch_mm=(0.2, 0.2),
        angles_rad=np.deg2rad(np.asarray(data.parameters.angles[:720], np.float64)),  # the 721st repeats the first
    )
    integrals = np.repeat(data.sinogram[:720, None].astype(np.float32), 3, axis=1)
    volume = fdk(integrals, geometry, VolumeGrid((1, 512, 512), (0.148322,) * 3))
    ours = volume[0, ::-1].astype(np.float64).ravel()
    assert np.corrcoef(ours, image.ravel())[0, 1] >= 0.9999
    slope = (ours @ image.ravel()) / (ours @ ours)  # the reference is per voxel, ours per mm
    assert slope == pytest.approx(0.148322, rel=1e-3)
