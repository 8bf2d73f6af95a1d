"""Raw files that are damaged: the rest is ingested, and the list says what is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from marspipe.errors import ScanError
from marspipe.pipeline.frames.quarantine import LIST_FILE, SUMMARY_FILE
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.ingest import Ingested, RawScan, ingest_into, open_scan
from tests.pipeline.scans import VIEWS, quiet

RECORD = 384 + 96 * 96 * 4


@pytest.fixture
def copied(raw_scan: RawScan, tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(raw_scan.manifest_uri).parent, tmp_path / "copy"))


def put_in(spark: SparkSession, raw: Path, out: str) -> Ingested:
    return ingest_into(spark, open_scan(str(raw), spark, tolerant=True), out, progress=quiet())


def hash_of(out: str) -> str:
    return str(FramesTable.open(out).metadata["content_hash"])


def test_a_damaged_record_and_its_repair(spark: SparkSession, copied: Path, out: str, frames_uri: str) -> None:
    path = copied / "projections.mib"
    sound = path.read_bytes()
    path.write_bytes(sound[: 41 * RECORD] + b"XXX" + sound[41 * RECORD + 3 :])
    done = put_in(spark, copied, out)
    # Counter 1 of view 20; its counter 0 goes too, its neighbors stay.
    assert done.missing_views == [20]
    (row,) = pq.read_table(Path(out) / LIST_FILE).to_pylist()
    assert (row["uri"], row["offset"]) == (str(path), 40 * RECORD)
    assert (row["frame_type"], row["first_view"], row["exposures"]) == ("projection", 20, 1)
    assert "record 41" in row["reason"]
    assert (Path(out) / SUMMARY_FILE).read_text() == (f"{path}, byte {40 * RECORD}, projection 20: {row['reason']}\n")
    with pytest.raises(ScanError, match=rf"lacks view 20 of {VIEWS} views"):
        FramesTable.open(out)

    path.write_bytes(sound)
    mended = put_in(spark, copied, out)
    assert (mended.added, mended.missing_views, mended.damages) == (2, [], [])
    assert hash_of(out) == hash_of(frames_uri)
    assert not (Path(out) / LIST_FILE).exists()


def test_the_view_after_a_damaged_one_keeps_its_place(spark: SparkSession, copied: Path, out: str) -> None:
    path = copied / "projections.mib"
    sound = path.read_bytes()
    path.write_bytes(sound[: 40 * RECORD] + b"XXX" + sound[40 * RECORD + 3 :])
    put_in(spark, copied, out)
    rows = [
        row
        for file in Path(out).glob("*.parquet")
        if file.name[0] != "_"
        for row in pq.read_table(file).to_pylist()
        if (row["frame_type"], row["view"], row["counter"]) == ("projection", 21, 1)
    ]
    assert [row["source_offset"] for row in rows] == [43 * RECORD + 384]
    stored = sound[43 * RECORD + 384 : 44 * RECORD]
    assert rows[0]["pixels"] == b"".join(stored[i : i + 4][::-1] for i in range(0, len(stored), 4))


def test_truncated_last_record(spark: SparkSession, copied: Path, out: str) -> None:
    path = copied / "projections.mib"
    path.write_bytes(path.read_bytes()[:-1000])
    done = put_in(spark, copied, out)
    assert done.missing_views == [VIEWS - 1]
    (damage,) = done.damages
    assert (damage.offset, damage.first_view, damage.exposures) == ((2 * VIEWS - 2) * RECORD, VIEWS - 1, 1)
    assert "is truncated" in damage.reason


def test_damaged_open_beam_leaves_the_scan_complete(
    spark: SparkSession, copied: Path, out: str, frames_uri: str
) -> None:
    beams = next(f for f in open_scan(str(copied)).files if f.entry.frame_type == "open_beam")
    path = copied / beams.entry.path
    path.write_bytes(path.read_bytes()[:-10])
    done = put_in(spark, copied, out)
    assert done.missing_views == []
    (damage,) = done.damages
    assert (damage.uri, damage.first_view, damage.exposures) == (str(path), beams.n_exposures - 1, 1)
    group = next(g for g in FramesTable.open(out).metadata["groups"] if g["frame_type"] == "open_beam")
    whole = next(g for g in FramesTable.open(frames_uri).metadata["groups"] if g["frame_type"] == "open_beam")
    # The numbers of the open beams behind it have not changed.
    assert (group["frames"], group["view_last"]) == (whole["frames"] - 1, whole["view_last"])


@pytest.mark.parametrize("fault", ["missing", "empty", "foreign"])
def test_a_file_that_is_lost(spark: SparkSession, copied: Path, out: str, fault: str) -> None:
    path = copied / "projections.mib"
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if fault == "empty" else b"no Merlin file at all" * 40)
    scan = open_scan(str(copied), tolerant=True)
    assert [(d.uri, d.offset, d.first_view, d.exposures) for d in scan.damages] == [(str(path), 0, 0, VIEWS)]
    with pytest.raises(ScanError, match="no projection frames"):
        ingest_into(spark, scan, out, progress=quiet())
    assert "projections.mib, byte 0, projection 0 to" in (Path(out) / SUMMARY_FILE).read_text()
