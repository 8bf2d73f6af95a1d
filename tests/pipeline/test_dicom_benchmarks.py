"""The benchmarks of DICOM files, on small volumes: they run, and count what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from marspipe.pipeline.benchmarks.dicom_export import bench_dicom_export
from marspipe.pipeline.benchmarks.dicom_objects import bench_dicom_objects


def test_objects() -> None:
    results = bench_dicom_objects(side=64, slices=2, repeat=1)
    assert [r.name for r in results] == [f"CT images, {s}" for s in ("uncompressed", "jpeg-ls", "jpeg-2000", "rle")]
    assert results[0].figures["times_uncompressed"] == 1 > results[1].figures["times_uncompressed"] > 0.3
    assert [r.bars for r in results if r.bars] == [{"slices_per_s_per_core": ">= 60"}]
    assert all(r.figures["slices_per_s_per_core"] * r.seconds == pytest.approx(2) for r in results)


def test_export(spark: SparkSession, tmp_path: Path) -> None:
    results = bench_dicom_export(spark, tmp_path, side=64, slices=6, repeat=1)
    assert [r.name for r in results] == ["export to DICOM, uncompressed", "export to DICOM, jpeg-ls"]
    assert all(r.figures["slices_per_s"] * r.seconds == pytest.approx(6) for r in results)
    assert len(list((tmp_path / "jpeg-ls").rglob("*.dcm"))) == 6
    assert results[0].bars == {"slices_per_s": ">= 100"}
