"""Defects through the whole pipeline: with the correction in the recipe the volume is that of a sound scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.errors import RecipeError, ScanError
from marspipe.pipeline.reconstruct import prepare
from marspipe.pipeline.run import run
from marspipe.pipeline.source import open_source
from marspipe.recipe import parse_recipe
from marspipe.recon.fdk import fdk
from marspipe.scan.phantoms import line_integrals
from marspipe.simulate import Defects, SimulationSettings, simulate_scan
from marspipe.simulate.sample import InsertPhantom
from marspipe.store.volume import open_volume
from tests.pipeline.scans import quiet

PLAIN = ("output.dicom=false", "output.preview=false")
SMALL: dict[str, Any] = {
    "views": 48,
    "detector_shape": (24, 64),
    "pixel_pitch_mm": (0.22, 0.22),
    "thresholds_kev": (20.0, 50.0),
    "open_beam_photons": 1e6,
    "noise": False,
    "open_beams": 2,
    "darks": 2,
    "dead_pixels": 3,
    "noisy_pixels": 3,
    "seed": 5,
}


def volume_of(spark: SparkSession, folder: Path, defects: Defects, *overrides: str, **settings: Any) -> NDArray[Any]:
    """Simulate a scan if it is not there, and reconstruct it; [bin, z, y, x]."""
    if not folder.exists():
        simulate_scan(folder / "raw", settings=SimulationSettings(**{**SMALL, **settings, "defects": defects}))
    recipe = parse_recipe("{}", "test", (*PLAIN, *overrides))
    source = open_source(str(folder / "raw"))
    uri = run(spark, source, str(folder / "out"), recipe, progress=quiet(), overwrite=True).volume_uri
    volume = open_volume(uri)
    return np.stack([np.asarray(volume[bin_]) for bin_ in range(len(volume.bins))])


@pytest.fixture(scope="module")
def sound(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> NDArray[Any]:
    return volume_of(spark, tmp_path_factory.mktemp("sound") / "scan", Defects())


CASES = {
    # Pixels that change by more than 2 % are not believed at all.
    "drift": (Defects(gain_drift_spread=0.005), {}, ("preprocess.open_beam.time=mean",), ()),
    "exposure": (Defects(projection_exposure_ratio=0.5), {}, ("preprocess.flux.by=none",), ()),
    "tube": (
        Defects(flux_spread=0.05),
        {},
        (),
        ("preprocess.flux={by: air, air_region_px: [0, 24, 0, 3]}",),
    ),
    "monitor": (
        Defects(flux_spread=0.05, monitor_counts=1e9),
        {"format": "nxtomo"},
        (),
        ("preprocess.flux.by=monitor",),
    ),
    "dead time": (
        Defects(dead_time_s=(2e-8,), dead_time_model="non-paralyzable"),
        {},
        (),
        ("preprocess.dead_time={tau_s: 2.0e-8, model: non-paralyzable}",),
    ),
    "zingers": (Defects(zingers_per_frame=3.0), {}, (), ("preprocess.zingers.mode=frame",)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_defect_is_undone(spark: SparkSession, sound: NDArray[Any], tmp_path: Path, name: str) -> None:
    defects, settings, without, corrected = CASES[name]
    spoiled = volume_of(spark, tmp_path / "scan", defects, *without, **settings)
    undone = volume_of(spark, tmp_path / "scan", defects, *corrected, **settings)
    before, after = (float(np.sqrt(np.mean((v - sound) ** 2))) for v in (spoiled, undone))
    assert before > 1e-4 * sound.max()
    assert after < 0.1 * before, f"{before:.3g} 1/mm before, {after:.3g} 1/mm after"


def test_corrections_leave_a_sound_scan_alone(spark: SparkSession, sound: NDArray[Any], tmp_path: Path) -> None:
    everything = (
        "preprocess.zingers.mode=frame",
        "preprocess.flux={by: air, air_region_px: [0, 24, 0, 3]}",
        "preprocess.beam_hardening={coefficients: [[1.0], [1.0]]}",
    )
    same = volume_of(spark, tmp_path / "scan", Defects(), *everything)
    # The strip of air has whole counts, each rounded by up to a half in a million.
    np.testing.assert_allclose(same, sound, rtol=0, atol=1e-4 * sound.max())


def test_thickness_straightens_the_cup(spark: SparkSession, tmp_path: Path) -> None:
    """Plates of the body's own material: PMMA then has one value, in the middle and at the rim."""
    defects = Defects(absorbers_mm=(2.0, 4.0, 6.0, 9.0, 12.0), absorber_material="PMMA")
    body = InsertPhantom("PMMA", body_radius_mm=5.0, body_height_mm=9.0, inserts=())
    ratios = []
    for overrides in ((), ("preprocess.thickness.order=3",)):
        volume = volume_of(spark, tmp_path / "scan", defects, *overrides, phantom=body, views=90)
        job = prepare(str(tmp_path / "scan" / "out" / "frames"), parse_recipe("{}", "test"), 2)
        # What the method makes of a body without beam hardening, edges and all.
        ideal = fdk(line_integrals([body.body], job.plan.geometry), job.plan.geometry, job.plan.grid)
        y, x = (job.plan.grid.axis_mm(axis) for axis in "yx")
        radius, z = np.hypot(y[:, None], x), volume.shape[1] // 2
        rings = [(radius >= inner) & (radius < inner + 0.5) for inner in np.arange(0, 4.5, 0.5)]
        ratios.append([[volume[b, z][ring].mean() / ideal[z][ring].mean() for ring in rings] for b in range(2)])
    plain, straight = (np.ptp(ratio, axis=1) / np.mean(ratio, axis=1) for ratio in ratios)
    assert plain[0] > 0.003
    assert straight.max() < 0.1 * plain[0]


def test_what_a_scan_lacks_is_said(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="absorber"):
        volume_of(spark, tmp_path / "scan", Defects(), "preprocess.thickness.order=2")
    with pytest.raises(ScanError, match="monitor"):
        volume_of(spark, tmp_path / "scan", Defects(), "preprocess.flux.by=monitor")
    with pytest.raises(RecipeError, match="given for 3 energy bins, but the scan has 2"):
        volume_of(spark, tmp_path / "scan", Defects(), "preprocess.scatter.counts_per_pixel=[1, 2, 3]")
    with pytest.raises(RecipeError, match=r"preprocess\.stripes\.method: .*did you mean 'sorting'"):
        volume_of(spark, tmp_path / "scan", Defects(), "preprocess.stripes={mode: sinogram, method: sortin}")
