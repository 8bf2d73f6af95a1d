"""The benchmarks of DICOM files, on small volumes: they write what they say they measure."""

from __future__ import annotations

import io
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import FileDataset, dcmread
from pyspark.sql import SparkSession

from marspipe.dicom.ct import SliceFile, series_files
from marspipe.pipeline.benchmarks import dicom_objects
from marspipe.pipeline.benchmarks.dicom_export import bench_dicom_export
from tests.dicom.written import SYNTAXES


def same_pixels(datasets: list[FileDataset], others: list[FileDataset]) -> bool:
    return all(np.array_equal(a.pixel_array, b.pixel_array) for a, b in zip(datasets, others, strict=True))


def test_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, list[bytes]] = defaultdict(list)

    def watched(volume: Any, header: Any) -> Iterator[SliceFile]:
        for file in series_files(volume, header):
            written[header.transfer_syntax].append(file.content)
            yield file

    monkeypatch.setattr(dicom_objects, "series_files", watched)
    start = time.perf_counter()
    results = dicom_objects.bench_dicom_objects(side=64, slices=2, repeat=1)
    took_s = time.perf_counter() - start
    assert [r.name for r in results] == [f"CT images, {s}" for s in SYNTAXES]
    assert [r.bars for r in results if r.bars] == [{"slices_per_s_per_core": ">= 60"}]
    files = {syntax: [dcmread(io.BytesIO(content)) for content in contents] for syntax, contents in written.items()}
    size = {syntax: sum(map(len, contents)) for syntax, contents in written.items()}
    for (syntax, uid), result in zip(SYNTAXES.items(), results, strict=True):
        assert [(d.file_meta.TransferSyntaxUID, d.Rows, d.Columns) for d in files[syntax]] == [(uid, 64, 64)] * 2
        assert same_pixels(files[syntax], files["uncompressed"])
        assert result.figures["times_uncompressed"] == size[syntax] / size["uncompressed"]
        assert result.figures["slices_per_s_per_core"] > 2 / took_s
    assert 1 > results[1].figures["times_uncompressed"] > 0.3
    assert sum(r.seconds for r in results) < took_s


def test_export(spark: SparkSession, tmp_path: Path) -> None:
    start = time.perf_counter()
    results = bench_dicom_export(spark, tmp_path, side=64, slices=6, repeat=1)
    took_s = time.perf_counter() - start
    assert [r.name for r in results] == ["export to DICOM, uncompressed", "export to DICOM, jpeg-ls"]
    assert [r.bars for r in results] == [{"slices_per_s": ">= 100"}, {}]
    files = {s: [dcmread(p) for p in sorted((tmp_path / s).rglob("*.dcm"))] for s in ("uncompressed", "jpeg-ls")}
    for (syntax, datasets), result in zip(files.items(), results, strict=True):
        found = [(d.file_meta.TransferSyntaxUID, d.Rows, d.Columns) for d in datasets]
        assert found == [(SYNTAXES[syntax], 64, 64)] * 6
        assert result.figures["slices_per_s"] > 6 / took_s
    assert same_pixels(files["jpeg-ls"], files["uncompressed"])
    assert sum(r.seconds for r in results) < took_s
