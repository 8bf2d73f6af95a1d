"""The main job against one process, bit for bit, and what must never give a volume."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

import marspipe
from marspipe.errors import GeometryError, OutputExistsError, RunError, ScanError
from marspipe.pipeline.ingest import RawScan, ingest
from marspipe.pipeline.reconstruct import prepare, reconstruct
from marspipe.recipe import Recipe, parse_recipe
from marspipe.scan.geometry import ScanGeometry
from marspipe.store.commit import COMMIT_FILE, committed
from marspipe.store.volume import open_volume
from tests.pipeline.scans import SIDE, VIEWS, OneProcess, quiet

GRID = "grid: {shape: [96, 96, 96], voxel_mm: [0.088, 0.088, 0.088]}"


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(GRID, "test", overrides)


def run(spark: SparkSession, frames: str, out: str, *overrides: str, **options: bool) -> str:
    return reconstruct(spark, prepare(frames, recipe(*overrides), 2), out, progress=quiet(), **options).volume_uri


def assert_equals_one_process(uri: str, expected: OneProcess) -> None:
    volume = open_volume(uri)
    assert volume.shape == (SIDE, SIDE, SIDE)
    for bin_, whole in enumerate(expected.volumes):
        np.testing.assert_array_equal(np.asarray(volume[bin_]), whole)


@pytest.mark.parametrize("slab", [4, 16, SIDE])
@pytest.mark.parametrize("batch", [1, 32])
def test_equals_one_process_bit_for_bit(
    spark: SparkSession, frames_uri: str, one_process: OneProcess, out: str, slab: int, batch: int
) -> None:
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(batch))
    try:
        uri = run(spark, frames_uri, out, f"run.slab_slices={slab}", f"run.views_per_batch={batch}")
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert_equals_one_process(uri, one_process)


def test_one_task_slot_gives_the_same_bits(frames_uri: str, one_process: OneProcess, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(GRID)
    command = [sys.executable, "-m", "marspipe", "reconstruct", "--master", "local[1]", "--raw", frames_uri]
    command += [
        "--out",
        str(tmp_path / "out"),
        "--recipe",
        str(tmp_path / "recipe.yaml"),
        "--set",
        "output.dicom=false",
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert_equals_one_process(str(tmp_path / "out" / "volume"), one_process)
    assert (tmp_path / "out" / "preview.png").read_bytes().startswith(b"\x89PNG")


def test_tiles_and_planned_slabs(spark: SparkSession, frames_uri: str, one_process: OneProcess, out: str) -> None:
    uri = run(spark, frames_uri, out, "output.tile_mib=0.01")
    volume = open_volume(uri)
    assert volume.metadata["files"][0]["path"].endswith(".parquet")
    whole = one_process.volumes[1]
    np.testing.assert_array_equal(volume[1][40], whole[40])
    np.testing.assert_array_equal(volume.slice("y", 13, bin=1), whole[:, 13])
    np.testing.assert_array_equal(volume.slice("x", -5, bin=1), whole[:, :, -5])
    window = (slice(10, 20), slice(25, 61), slice(3, 7))
    np.testing.assert_array_equal(volume.roi(*window, bin=1), whole[window])
    assert volume.statistics[1]["max"] == pytest.approx(float(whole.max()))
    assert volume.statistics[1]["mean"] == pytest.approx(float(whole.mean(dtype=np.float64)), rel=1e-9)
    file = pq.ParquetFile(Path(volume.data_uri) / volume.metadata["files"][0]["path"])
    assert max(file.read(columns=["rows"]).column(0).to_pylist()) * SIDE * 4 <= 0.01 * 2**20


def test_metadata_tells_where_the_volume_comes_from(spark: SparkSession, frames_uri: str, out: str) -> None:
    volume = open_volume(run(spark, frames_uri, out))
    meta = volume.metadata
    assert [b.label for b in volume.bins] == ["25-50 keV", "50+ keV"]
    assert meta["scan_id"] == "pipeline"
    assert meta["version"] == marspipe.__version__
    assert meta["frames_hash"] == json.loads((Path(frames_uri) / COMMIT_FILE).read_text())["content_hash"]
    assert len(volume.geometry) == VIEWS
    assert volume.units == "1/mm"


def test_same_input_same_bytes(spark: SparkSession, frames_uri: str, tmp_path: Path) -> None:
    def content(folder: Path) -> list[bytes]:
        tables = [pq.ParquetFile(p).read() for p in sorted(folder.glob("part-*.parquet"))]
        return [b"".join(t.column("pixels").to_pylist()) for t in tables]

    one, other = (run(spark, frames_uri, str(tmp_path / n)) for n in ("one", "other"))
    first, second = (content(Path(open_volume(uri).data_uri)) for uri in (one, other))
    assert first
    assert first == second
    assert committed(str(one))["content_hash"] == committed(str(other))["content_hash"]  # type: ignore[index]


def test_committed_output(spark: SparkSession, frames_uri: str, out: str) -> None:
    uri = Path(run(spark, frames_uri, out))
    before = {p: p.stat().st_mtime_ns for p in uri.rglob("*")}
    with pytest.raises(OutputExistsError, match="already holds a committed volume"):
        run(spark, frames_uri, out)
    run(spark, frames_uri, out, resume=True)
    assert {p: p.stat().st_mtime_ns for p in uri.rglob("*")} == before
    with pytest.raises(OutputExistsError):
        run(spark, frames_uri, out, "filter.window=hann", resume=True)
    run(spark, frames_uri, out, "filter.window=hann", overwrite=True)
    assert open_volume(str(uri)).metadata["recipe"]["filter"]["window"] == "hann"


# --- what must never give a volume -----------------------------------------------------------------------------------


def damaged(frames_uri: str, target: Path, change: object) -> str:
    """Copy a frames table, with one change to the rows of every file, keeping its commit."""
    shutil.copytree(frames_uri, target, ignore=shutil.ignore_patterns("*.crc"))
    for path in sorted(Path(frames_uri).glob("*.parquet")):
        table = pq.ParquetFile(path).read()
        rows = change(table.to_pylist())  # type: ignore[operator]
        rows.sort(key=lambda r: (r["frame_type"], r["view"], r["counter"]))
        with pq.ParquetWriter(target / path.name, table.schema) as writer:
            for _, view in groupby(rows, key=lambda r: (r["frame_type"], r["view"])):
                writer.write_table(pa.Table.from_pylist(list(view), table.schema))
    return str(target)


def is_frame(row: dict[str, object], view: int, counter: int) -> bool:
    return (row["frame_type"], row["view"], row["counter"]) == ("projection", view, counter)


def test_missing_view(spark: SparkSession, frames_uri: str, tmp_path: Path, out: str) -> None:
    table = damaged(frames_uri, tmp_path / "t", lambda rows: [r for r in rows if r["view"] != 17])
    with pytest.raises(ScanError, match=r"view 17 is missing"):
        run(spark, table, out)
    assert committed(f"{out}/volume") is None


def test_missing_counter_image(spark: SparkSession, frames_uri: str, tmp_path: Path, out: str) -> None:
    table = damaged(frames_uri, tmp_path / "t", lambda rows: [r for r in rows if not is_frame(r, 3, 1)])
    with pytest.raises(ScanError, match=r"view 3 has no frame of counter 1"):
        run(spark, table, out)


def test_doubled_view(spark: SparkSession, frames_uri: str, tmp_path: Path, out: str) -> None:
    table = damaged(frames_uri, tmp_path / "t", lambda rows: rows + [dict(r) for r in rows if is_frame(r, 5, 0)])
    with pytest.raises(ScanError, match=r"projections.mib at \d+: view 5, counter 0 is doubled"):
        run(spark, table, out)


def test_no_open_beam(spark: SparkSession, raw_scan: RawScan, out: str) -> None:
    flatless = replace(raw_scan, files=tuple(f for f in raw_scan.files if f.entry.frame_type != "open_beam"))
    ingest(spark, flatless, f"{out}/frames", progress=quiet())
    with pytest.raises(ScanError, match=r"no open beam for counter 0, 1"):
        run(spark, f"{out}/frames", out)


def test_changed_pixels(spark: SparkSession, frames_uri: str, tmp_path: Path, out: str) -> None:
    def flip(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            if is_frame(row, 8, 1):
                row["pixels"] = row["pixels"][:-1] + bytes([row["pixels"][-1] ^ 4])
        return rows

    with pytest.raises(ScanError, match=r"stored pixels of view 8, counter 1 do not match their checksum"):
        run(spark, damaged(frames_uri, tmp_path / "t", flip), out)


def test_a_flipped_byte_in_a_volume_is_named(spark: SparkSession, frames_uri: str, out: str) -> None:
    uri = Path(run(spark, frames_uri, out))
    whole = open_volume(str(uri))
    path = Path(whole.data_uri) / whole.metadata["files"][1]["path"]
    footer = pq.ParquetFile(path).metadata
    pixels = next(c for c in range(footer.num_columns) if footer.row_group(30).column(c).path_in_schema == "pixels")
    raw = bytearray(path.read_bytes())
    raw[footer.row_group(30).column(pixels).data_page_offset + 5000] ^= 1
    path.write_bytes(raw)
    volume = open_volume(str(uri))
    assert volume[1][29].shape == (SIDE, SIDE)
    with pytest.raises(RunError, match=r"checksum of bin 1, slice 30"):
        _ = volume[1][30]


def test_uncommitted_frames(spark: SparkSession, frames_uri: str, tmp_path: Path, out: str) -> None:
    shutil.copytree(frames_uri, tmp_path / "t", ignore=shutil.ignore_patterns(COMMIT_FILE))
    with pytest.raises(ScanError, match=r"holds no finished frames table"):
        run(spark, str(tmp_path / "t"), out)


def test_cone_misses_the_grid(spark: SparkSession, frames_uri: str, out: str) -> None:
    with pytest.raises(GeometryError, match=r"cone misses the grid"):
        run(spark, frames_uri, out, "grid.center_mm=[50, 0, 0]")
    with pytest.raises(GeometryError, match=r"behind the source"):
        run(spark, frames_uri, out, "grid.voxel_mm=[1, 5, 5]")


def test_a_task_that_fails_leaves_nothing_that_looks_whole(
    spark: SparkSession, frames_uri: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(frames_uri, recipe("run.slab_slices=32"), 2)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("marspipe.pipeline.reconstruct.take_stock", fail)
    with pytest.raises(OSError, match="disk full"):
        reconstruct(spark, job, out, progress=quiet())
    with pytest.raises(ScanError, match="holds no finished volume"):
        open_volume(f"{out}/volume")
    monkeypatch.undo()
    reconstruct(spark, job, out, progress=quiet())
    assert open_volume(f"{out}/volume").shape == (SIDE, SIDE, SIDE)


def test_a_lost_file_of_a_volume_is_named(spark: SparkSession, frames_uri: str, out: str) -> None:
    uri = run(spark, frames_uri, out, "run.slab_slices=48")
    volume = open_volume(uri)
    lost = next(f for f in volume.metadata["files"] if f["bin"] == 0 and f["z_first"] == 48)
    (Path(volume.data_uri) / lost["path"]).unlink()
    fresh = open_volume(uri)
    with pytest.raises((RunError, FileNotFoundError), match=lost["path"][:10]):
        _ = fresh[0][60]


def test_the_content_hash_follows_whatever_the_volume_is_made_of(frames_uri: str) -> None:
    job = prepare(frames_uri, recipe(), 2)
    assert prepare(frames_uri, recipe(), 16).content_hash == job.content_hash
    changed = [
        prepare(frames_uri, recipe("filter.window=hann"), 2),
        prepare(frames_uri, recipe("grid.shape=[8, 8, 8]"), 2),
    ]
    facts = job.plan.geometry.to_dict()
    turned = ScanGeometry.from_dict({**facts, "angles_rad": [angle + 1e-6 for angle in facts["angles_rad"]]})
    changed.append(replace(job, plan=replace(job.plan, geometry=turned)))
    counters = [
        {**counter, "threshold_kev": counter["threshold_kev"] + 1} for counter in job.frames.metadata["counters"]
    ]
    others = {
        "content_hash": "other",
        "counters": counters,
        "camera_positions_mm": [[0.0, 0.1]],
        "chip_edges": {"rows": [48], "columns": []},
        "counter_depth_bits": 12,
        "tube": {"kvp": 90.0},
    }
    for name, value in others.items():
        assert job.frames.metadata[name] != value
        changed.append(replace(job, frames=replace(job.frames, metadata={**job.frames.metadata, name: value})))
    hashes = {job.content_hash, *(other.content_hash for other in changed)}
    assert len(hashes) == 1 + len(changed)
    # What a person may correct later makes no other voxels.
    renamed = {**job.frames.metadata, "description": "another", "source": "hdfs://other/scan.yaml"}
    assert replace(job, frames=replace(job.frames, metadata=renamed)).content_hash == job.content_hash
