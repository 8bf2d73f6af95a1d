"""Every raw format, camera positions, heights and eight counters: real files in, the simulated truth out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from marspipe.pipeline.run import run
from marspipe.pipeline.source import open_source
from marspipe.recipe import parse_recipe
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan
from marspipe.simulate.compare import insert_means
from marspipe.store.volume import Volume, open_volume
from tests.pipeline.scans import quiet

PLAIN = ("output.dicom=false", "output.preview=false")
SMALL: dict[str, Any] = {
    "views": 90,
    "detector_shape": (48, 64),
    "pixel_pitch_mm": (0.22, 0.22),
    "thresholds_kev": (20.0, 50.0),
    "open_beam_photons": 1e6,
    "noise": False,
    "open_beams": 2,
    "darks": 2,
    "seed": 5,
}


def reconstructed(spark: SparkSession, folder: Path, settings: dict[str, Any], *overrides: str) -> Volume:
    """Simulate a scan, and reconstruct it from its raw files."""
    if not (folder / "raw").exists():
        simulate_scan(folder / "raw", settings=SimulationSettings(**{**SMALL, **settings}))
    recipe = parse_recipe("{}", "test", (*PLAIN, *overrides))
    out = str(folder / f"out-{len(list(folder.iterdir()))}")
    return open_volume(run(spark, open_source(str(folder / "raw")), out, recipe, progress=quiet()).volume_uri)


def errors_percent(folder: Path, volume: Volume) -> dict[str, float]:
    """Return how far every insert is from the truth, all bins together by the largest."""
    truth = json.loads((folder / "raw" / "truth" / "truth.json").read_text())
    found: dict[str, float] = {}
    for row in insert_means(volume, truth):
        found[row.insert] = max(found.get(row.insert, 0.0), abs(row.error_percent))
    return found


# Discretization alone: coarse voxels and 90 views leave up to 2 % in rods of 9 pixels.
LARGEST_ERROR_PERCENT = 2.5


@pytest.mark.parametrize("format_", ["merlin", "data_exchange", "nxtomo", "tiff", "dicom"])
def test_every_format(spark: SparkSession, tmp_path: Path, format_: str) -> None:
    volume = reconstructed(spark, tmp_path, {"format": format_})
    assert len(volume.bins) == (1 if format_ == "data_exchange" else 2)
    assert max(errors_percent(tmp_path, volume).values()) < LARGEST_ERROR_PERCENT


def test_raw_records_of_four_chips(spark: SparkSession, tmp_path: Path) -> None:
    """The read-out stream of 2x2 chips: 512 columns, of which a low strip of rows is enough."""
    settings = {
        "merlin_layout": "2x2",
        "merlin_raw": True,
        "detector_shape": (512, 512),
        "pixel_pitch_mm": (0.0275, 0.0275),
        "views": 60,
    }
    volume = reconstructed(spark, tmp_path, settings, "grid.shape=[24, 64, 64]", "grid.voxel_mm=[0.176, 0.176, 0.176]")
    assert max(errors_percent(tmp_path, volume).values()) < 2 * LARGEST_ERROR_PERCENT
    assert volume.metadata["bad_pixels"][0]["edge"] == 4 * 512 - 4


def test_eight_counters_of_two_modes(spark: SparkSession, tmp_path: Path) -> None:
    settings = {
        "thresholds_kev": (20.0, 33.0, 50.0, 80.0) * 2,
        "modes": ("CSM",) * 4 + ("SPM",) * 4,
        "views": 60,
    }
    volume = reconstructed(spark, tmp_path, settings)
    assert [b["mode"] for b in volume.metadata["bins"]] == ["CSM"] * 4 + ["SPM"] * 4
    assert [b.label for b in volume.bins] == ["20-33 keV", "33-50 keV", "50-80 keV", "80+ keV"] * 2
    assert max(errors_percent(tmp_path, volume).values()) < 2 * LARGEST_ERROR_PERCENT


TILES: dict[str, Any] = {
    "detector_shape": (28, 26),
    # Neither whole pixels nor in order; six positions overlap in rows and columns.
    "camera_positions_mm": tuple((v, u) for v in (2.31, -2.2) for u in (4.41, -0.12, -4.55)),
    "format": "merlin",
}


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiled")


def test_camera_positions_make_one_detector(spark: SparkSession, tiled: Path) -> None:
    volume = reconstructed(spark, tiled, TILES)
    rows, cols = volume.geometry.detector_shape
    assert (rows, cols) == (28 + math.floor(4.51 / 0.22), 26 + math.floor(8.96 / 0.22))
    assert max(errors_percent(tiled, volume).values()) < LARGEST_ERROR_PERCENT
    assert volume.metadata["camera_positions_mm"][5] == [-2.2, -4.55]
    # The same chip in every position: the same dead and noisy pixels.
    truth = json.loads((tiled / "raw" / "truth" / "truth.json").read_text())
    known = {tuple(place) for place in truth["dead_pixels"] + truth["noisy_pixels"]}
    for tile in range(6):
        assert known <= {tuple(place) for place in np.argwhere(volume.pixel_flags(0, tile)).tolist()}
    assert volume.metadata["bad_pixels"][0]["pixels"] == 6 * 28 * 26


def test_open_beams_joined_by_camera_position_give_the_same_bits(spark: SparkSession, tiled: Path) -> None:
    saturating = ("preprocess.zingers.mode=frame", "preprocess.tiles.equalize=offset")
    whole = reconstructed(spark, tiled, TILES, *saturating, "run.open_beams=in-every-task")
    joined = reconstructed(spark, tiled, TILES, *saturating, "run.open_beams=joined")
    assert whole.metadata["content_hash"] == joined.metadata["content_hash"]
    for bin_ in range(2):
        np.testing.assert_array_equal(np.asarray(joined[bin_]), np.asarray(whole[bin_]))


def test_open_beams_that_are_too_large_are_joined(spark: SparkSession, tiled: Path, monkeypatch: Any) -> None:
    from marspipe.pipeline.corrections import views

    seen = []
    by_position = views.corrected_by_position
    monkeypatch.setattr(views, "LARGEST_SHARE", 1e-9)
    monkeypatch.setattr(
        "marspipe.pipeline.reconstruct.corrected_by_position",
        lambda *arguments, **options: seen.append(1) or by_position(*arguments, **options),
    )
    reconstructed(spark, tiled, TILES)
    assert seen == [1]


def test_positions_and_heights_together(spark: SparkSession, tmp_path: Path) -> None:
    """Two circles, one above the other, each of two camera positions."""
    settings = {
        "detector_shape": (24, 36),
        "camera_positions_mm": ((0.0, 3.1), (0.0, -3.07)),
        "sample_z_mm": (-2.0, 2.0),
        "phantom": mars_phantom(0.9),
        "views": 60,
    }
    volume = reconstructed(spark, tmp_path, settings)
    assert len(volume.geometry) == 120
    assert max(errors_percent(tmp_path, volume).values()) < 2 * LARGEST_ERROR_PERCENT
