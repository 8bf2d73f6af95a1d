"""Ingest into a table that is there already: nothing new, new views, frames that differ, interrupted changes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.errors import ScanError
from marspipe.pipeline.corrections.calibrate import CalibrationReader
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.ingest import Ingested, RawScan, ingest, ingest_into, open_scan
from marspipe.store.commit import COMMIT_FILE, JOURNAL_FILE, committed
from tests.pipeline.scans import VIEWS, quiet

RECORD = 384 + 96 * 96 * 4


@pytest.fixture
def copied(raw_scan: RawScan, tmp_path: Path) -> Path:
    """Return a scan whose projections lie in two files."""
    folder = Path(shutil.copytree(Path(raw_scan.manifest_uri).parent, tmp_path / "copy"))
    manifest = yaml.safe_load((folder / "scan.yaml").read_text())
    whole = next(f for f in manifest["files"] if f["frame_type"] == "projection")
    raw = (folder / whole["path"]).read_bytes()
    half = VIEWS // 2
    angles = raw_scan.angles_rad.tolist()
    (folder / "first.mib").write_bytes(raw[: 2 * half * RECORD])
    (folder / "second.mib").write_bytes(raw[2 * half * RECORD :])
    manifest["files"].remove(whole)
    manifest["files"].append({**whole, "path": "first.mib", "angles_rad": angles[:half]})
    manifest["files"].append({**whole, "path": "second.mib", "angles_rad": angles[half:], "first_view": half})
    (folder / "scan.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def half_of(folder: Path) -> Path:
    """Write a manifest without the second file of projections."""
    manifest = yaml.safe_load((folder / "scan.yaml").read_text())
    manifest["files"] = [f for f in manifest["files"] if f["path"] != "second.mib"]
    (folder / "half.yaml").write_text(yaml.safe_dump(manifest))
    return folder / "half.yaml"


def again(spark: SparkSession, raw: Path, out: str, replace: bool = False) -> Ingested:
    return ingest_into(spark, open_scan(str(raw), spark, tolerant=True), out, progress=quiet(), replace=replace)


def snapshot(out: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(out).iterdir() if p.is_file()}


def flip(path: Path, byte: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[byte] ^= 1
    path.write_bytes(raw)


def hash_of(out: str) -> str:
    return str(FramesTable.open(out).metadata["content_hash"])


def test_the_same_scan_adds_nothing(spark: SparkSession, copied: Path, out: str, frames_uri: str) -> None:
    assert again(spark, copied, out).added == FramesTable.open(frames_uri).pixel_bytes // (96 * 96 * 4)
    assert hash_of(out) == hash_of(frames_uri)
    before = snapshot(out)
    assert again(spark, copied, out).added == 0
    assert snapshot(out) == before


def test_new_views_are_added(spark: SparkSession, copied: Path, out: str, frames_uri: str) -> None:
    assert again(spark, half_of(copied), out).missing_views == []
    assert len(FramesTable.open(out).geometry) == VIEWS // 2
    before = snapshot(out)
    assert again(spark, copied, out).added == VIEWS
    assert hash_of(out) == hash_of(frames_uri)
    assert len(FramesTable.open(out).geometry) == VIEWS
    after = snapshot(out)
    assert all(after[name] == content for name, content in before.items() if name.endswith(".parquet"))
    with pytest.raises(ScanError, match=rf"holds {VIEWS} views, but .*half.yaml lists only {VIEWS // 2}"):
        again(spark, copied / "half.yaml", out)


def test_a_frame_that_differs(spark: SparkSession, copied: Path, out: str) -> None:
    again(spark, copied, out)
    before = snapshot(out)
    flip(copied / "second.mib", 7 * RECORD + 384 + 50)
    with pytest.raises(ScanError, match=rf"projection view {VIEWS // 2 + 3}, counter 1 differs .*--replace"):
        again(spark, copied, out)
    assert snapshot(out) == before
    assert again(spark, copied, out, replace=True).added == 2
    ingest(spark, open_scan(str(copied)), out + " anew", progress=quiet())
    assert hash_of(out) == hash_of(out + " anew")
    assert again(spark, copied, out).added == 0


def test_the_calibration_follows(spark: SparkSession, copied: Path, out: str) -> None:
    again(spark, copied, out)
    old = summed(out)
    name = next(f.entry.path for f in open_scan(str(copied)).files if f.entry.frame_type == "open_beam")
    # The second lowest byte of the first pixel of counter 0.
    flip(copied / name, 384 + 2)
    again(spark, copied, out, replace=True)
    changed = summed(out) - old
    assert abs(changed[0, 0, 0]) == 256
    assert np.count_nonzero(changed) == 1


def summed(out: str) -> NDArray[np.float64]:
    """Return the sum of all open beams, shape (counters, v, u)."""
    groups = CalibrationReader.of(out, FramesTable.open(out).metadata).read(0).open_beams
    return np.sum([[sums.total for sums in group.sums] for group in groups], axis=0)


def test_another_scan_or_geometry(spark: SparkSession, copied: Path, out: str) -> None:
    again(spark, half_of(copied), out)
    manifest = yaml.safe_load((copied / "scan.yaml").read_text())
    manifest["files"][-2]["angles_rad"][5] += math.radians(1)
    (copied / "angles.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(ScanError, match=r"another geometry \(angles_rad\)"):
        again(spark, copied / "angles.yaml", out)
    manifest["scan_id"] = "other"
    (copied / "other.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(ScanError, match=r"holds scan pipeline, but .*other.yaml is other"):
        again(spark, copied / "other.yaml", out)


def test_a_crash_leaves_the_old_table_or_the_new_one(
    spark: SparkSession, copied: Path, out: str, frames_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    again(spark, half_of(copied), out)
    old = hash_of(out)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("marspipe.pipeline.ingest.publish", dies)
        with pytest.raises(KeyboardInterrupt):
            again(spark, copied, out)
    assert hash_of(out) == old
    assert rows(out) == VIEWS + others(out)

    with monkeypatch.context() as patch:
        # After the journal is written, and before anything is moved.
        patch.setattr("marspipe.store.commit._carry_out", dies)
        patch.setattr("marspipe.pipeline.ingest.storage.remove_tree", dies)  # a dead process does not tidy up
        with pytest.raises(KeyboardInterrupt):
            again(spark, copied, out)
    assert (Path(out) / JOURNAL_FILE).exists()
    assert json.loads((Path(out) / COMMIT_FILE).read_text())["content_hash"] == old
    assert hash_of(out) == hash_of(frames_uri)
    assert rows(out) == 2 * VIEWS + others(out)
    assert not (Path(out) / JOURNAL_FILE).exists()
    assert not list(Path(out).glob("_staging-*"))
    assert committed(out) is not None


def rows(out: str) -> int:
    return int(ds.dataset(out, format="parquet", exclude_invalid_files=True).count_rows())


def others(out: str) -> int:
    groups = FramesTable.open(out).metadata["groups"]
    return sum(g["frames"] for g in groups if g["frame_type"] != "projection")
