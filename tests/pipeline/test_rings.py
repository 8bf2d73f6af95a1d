"""Stripes in the reconstruction: both modes through Spark equal one process, bit for bit, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.errors import RecipeError
from marspipe.pipeline.reconstruct import prepare, reconstruct
from marspipe.preprocess.sinogram_stripes import sinogram_method
from marspipe.preprocess.stripes import AngularStripes, AngularSums, remove_stripes_by_angle, stripe_offsets
from marspipe.recipe import parse_recipe
from marspipe.recon.fdk import fdk
from marspipe.store.volume import open_volume
from tests.pipeline.scans import SIDE, VIEWS, OneProcess, quiet

GRID = f"grid: {{shape: [{SIDE}, {SIDE}, {SIDE}], voxel_mm: [0.088, 0.088, 0.088]}}"


def reconstructed(spark: SparkSession, frames: str, out: Path, *overrides: str) -> list[NDArray[np.float32]]:
    job = prepare(frames, parse_recipe(GRID, "test", overrides), 2)
    volume = open_volume(reconstruct(spark, job, str(out), progress=quiet()).volume_uri)
    assert sorted(path.name for path in out.iterdir()) == ["volume"]
    return [np.asarray(volume[bin_]) for bin_ in range(2)]


def test_by_angle(spark: SparkSession, frames_uri: str, one_process: OneProcess, tmp_path: Path) -> None:
    found = reconstructed(
        spark, frames_uri, tmp_path / "out", "preprocess.stripes={mode: by-angle, columns_px: 9, rows_px: 31}"
    )
    integrals = one_process.line_integrals.copy()
    sums = AngularSums((2, SIDE, SIDE))
    for view in range(VIEWS):
        sums.add(view, integrals[:, view])
    offsets = np.stack([stripe_offsets(mean, AngularStripes(9, 31)) for mean in sums.mean(VIEWS)])
    assert np.abs(offsets).max() > 1e-3
    for view in range(VIEWS):
        integrals[:, view] = remove_stripes_by_angle(integrals[:, view].copy(), offsets)
    for bin_ in range(2):
        np.testing.assert_array_equal(found[bin_], fdk(integrals[bin_], one_process.geometry, one_process.grid))
        assert not np.array_equal(found[bin_], one_process.volumes[bin_])


def test_in_the_sinograms(spark: SparkSession, frames_uri: str, one_process: OneProcess, tmp_path: Path) -> None:
    found = reconstructed(
        spark,
        frames_uri,
        tmp_path / "out",
        "preprocess.stripes={mode: sinogram, method: filtering, settings: {sigma: 4}}",
        "run.memory_per_task_mib=480",
    )
    method, integrals = sinogram_method("filtering", {"sigma": 4}), one_process.line_integrals.copy()
    for bin_ in range(2):
        for row in range(SIDE):
            integrals[bin_, :, row] = method(np.ascontiguousarray(integrals[bin_, :, row]))
        np.testing.assert_array_equal(found[bin_], fdk(integrals[bin_], one_process.geometry, one_process.grid))
        assert not np.array_equal(found[bin_], one_process.volumes[bin_])


def test_what_does_not_fit_is_said_before_anything_runs(frames_uri: str) -> None:
    with pytest.raises(RecipeError, match=r"preprocess\.stripes\.settings: .*sigma"):
        prepare(
            frames_uri,
            parse_recipe(
                GRID, "test", ("preprocess.stripes={mode: sinogram, method: filtering, settings: {sigma: 0}}",)
            ),
            2,
        )
