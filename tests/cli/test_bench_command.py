"""``marspipe bench``: what it prints; never how fast the machine of the tests is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from marspipe.bench.reconstruction import bench_memory
from marspipe.cli import cli, run_command
from marspipe.recon.backprojection.cpu import avx512_available


def call(*arguments: str) -> int:
    return run_command(cli, ["bench", *arguments], "marspipe")


def test_json_has_every_kernel_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("kernel", "filter", "--size", "small", "--threads", "1", "--backend", "cpu", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {"date", "cpu", "cores", "load", "numpy", "numba", "marspipe"} <= set(report["machine"])
    names = [result["name"] for result in report["results"]]
    fast = "kernel AVX-512, 1 thread" if avx512_available() else "kernel portable, 1 thread"
    weighted = fast.replace(", ", " with slice weights, ")
    portable = ["kernel portable, 1 thread"] if avx512_available() else []
    filtering = ["weights and ramp filter, 1 thread", "its bare transforms, 1 thread"]
    assert names == [
        fast,
        weighted,
        *portable,
        "general kernel, 1 thread",
        "kernel of thin grids, 1 thread",
        *filtering,
    ]
    assert report["results"][len(portable) + 3]["size"].startswith("1 x 128 x 128, 384 views")
    for result in report["results"]:
        assert result["seconds"] > 0
        assert all(math.isfinite(value) and value > 0 for value in result["figures"].values())
    ramp, bare = report["results"][-2:]
    assert ramp["figures"]["times_bare"] == pytest.approx(ramp["cpu_seconds"] / bare["cpu_seconds"])
    assert report["notes"] == []


def test_table_is_no_wider_than_140_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("filter", "--size", "small", "--backend", "cpu") == 0
    text = capsys.readouterr().out
    assert "x bare (<= 1.3)" in text
    assert "Mpixel/s" in text
    assert "cores" in text
    assert max(map(len, text.splitlines())) <= 140


def test_cuda_measures_no_host_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("filter", "--backend", "cuda") == 2
    assert "--backend cuda measures kernel, fdk, peers, not filter" in capsys.readouterr().err


def test_memory_of_one_call_stays_within_its_limit() -> None:
    free, held = bench_memory(voxels=128, views=64, detector=320, threads=1)
    # Beside the volume: 64 filtered views of 320 x 320, transforms of a block of rows.
    batch = 64 * 320 * 320 * 4 / 2**20
    assert free.figures["volume_mib"] == 8
    assert batch < free.figures["growth_mib"] - 8 < batch + 16
    assert 8 <= held.figures["growth_mib"] <= held.figures["max_memory_mib"] < free.figures["growth_mib"]


def test_retrieval_beside_a_dicom_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("retrieval", "--size", "small", "--backend", "cpu", "--hdfs", str(tmp_path), "--json") == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [r["name"] for r in results] == [
        "slice: open the volume and read",
        "slice: volume is open",
        "slice: DICOM file",
        "series: volume",
        "series: DICOM files",
    ]
    assert all(r["size"] == "512 x 512 of 64 slices, local disk" for r in results)
    assert all(0 < r["figures"]["median_ms"] <= r["figures"]["p95_ms"] for r in results)
    assert results[1]["bars"] == {"median_ms": "< 50", "p95_ms": "< 150"}
    assert list(tmp_path.iterdir()) == []
