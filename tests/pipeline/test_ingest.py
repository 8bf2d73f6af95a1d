from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession

from marspipe.errors import OutputExistsError, RawFormatError, ScanError
from marspipe.pipeline.frames.raw_scan import fingerprint
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.ingest import RawScan, bundle, cut, ingest, open_scan
from marspipe.store.commit import COMMIT_FILE, committed
from marspipe.store.schema import table_schema
from tests.pipeline.scans import VIEWS, quiet, read_counters


def folder_of(scan: RawScan) -> Path:
    return Path(scan.manifest_uri).parent


@pytest.fixture
def copied(raw_scan: RawScan, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder_of(raw_scan), tmp_path / "copy"))


def rewrite(folder: Path, change: dict[str, object], file: int | None = None) -> None:
    manifest = yaml.safe_load((folder / "scan.yaml").read_text())
    (manifest if file is None else manifest["files"][file]).update(change)
    (folder / "scan.yaml").write_text(yaml.safe_dump(manifest))


def projections(folder: Path) -> int:
    files = yaml.safe_load((folder / "scan.yaml").read_text())["files"]
    return next(i for i, f in enumerate(files) if f["frame_type"] == "projection")


def test_pixels_bit_for_bit(frames_uri: str, raw_scan: RawScan) -> None:
    table = ds.dataset(frames_uri, format="parquet", exclude_invalid_files=True).to_table()
    assert tuple(table.schema.names) == table_schema("frames").names
    rows = table.to_pylist()
    for kind in ("projection", "open_beam", "dark"):
        raw = read_counters(raw_scan, kind)
        of_kind = [r for r in rows if r["frame_type"] == kind]
        assert len(of_kind) == raw.shape[0] * raw.shape[1]
        for row in of_kind:
            assert zlib.crc32(row["pixels"]) == row["checksum"]
            frame = np.frombuffer(row["pixels"], dtype=row["dtype"]).reshape(row["rows"], row["cols"])
            np.testing.assert_array_equal(frame, raw[row["view"], row["counter"]])


def test_provenance_leads_back_to_the_raw_bytes(frames_uri: str) -> None:
    row = ds.dataset(frames_uri, format="parquet", exclude_invalid_files=True).to_table().to_pylist()[7]
    raw = Path(row["source_uri"]).read_bytes()
    stored = raw[row["source_offset"] : row["source_offset"] + row["source_length"]]
    assert np.frombuffer(stored, ">u4").astype("<u4").tobytes() == row["pixels"]


def test_views_stay_together(frames_uri: str) -> None:
    for path in Path(frames_uri).glob("*.parquet"):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            part = file.read_row_group(group, columns=["frame_type", "view", "counter"]).to_pylist()
            keys = [(r["frame_type"], r["view"]) for r in part]
            assert [r["counter"] for r in part] == [0, 1] * (len(part) // 2)
            assert keys[::2] == keys[1::2]


def test_metadata(frames_uri: str, raw_scan: RawScan) -> None:
    table = FramesTable.open(frames_uri)
    assert len(table.geometry) == VIEWS
    assert table.scan_id == "pipeline"
    assert [c.threshold_kev for c in table.counters] == [25.0, 50.0]
    assert table.pixel_bytes == raw_scan.pixel_bytes
    assert table.metadata["acquired_at"].startswith("2025-01-01T12:")


def test_chunks_cover_every_exposure_once(raw_scan: RawScan) -> None:
    for slots in (1, 3, 1000):
        chunks = [c for part in cut(raw_scan, slots) for c in part.chunks]
        seen = [(c.file.uri, e) for c in chunks for e in range(c.first, c.first + c.count)]
        assert len(seen) == len(set(seen)) == sum(f.n_exposures for f in raw_scan.files)


def test_content_hash_does_not_depend_on_the_cut(
    spark: SparkSession, raw_scan: RawScan, frames_uri: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marspipe.pipeline.ingest.task_slots", lambda _: 200)
    monkeypatch.setattr("marspipe.pipeline.frames.scan_parts.SMALLEST_PART_BYTES", 1)
    ingest(spark, raw_scan, out, progress=quiet())
    assert FramesTable.open(out).metadata["content_hash"] == FramesTable.open(frames_uri).metadata["content_hash"]


def test_committed_table_is_not_replaced_unasked(spark: SparkSession, raw_scan: RawScan, frames_uri: str) -> None:
    with pytest.raises(OutputExistsError, match="already holds a committed frames"):
        ingest(spark, raw_scan, frames_uri, progress=quiet())


def test_unwritable_output(spark: SparkSession, raw_scan: RawScan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputExistsError, match="cannot be written"):
        ingest(spark, raw_scan, str(tmp_path / "file" / "frames"), progress=quiet())


# --- raw scans that must never become a table ------------------------------------------------------------------------


def test_missing_manifest_and_missing_file(copied: Path) -> None:
    with pytest.raises(ScanError, match=r"there is no scan manifest"):
        open_scan(str(copied / "nowhere"))
    (copied / "projections.mib").unlink()
    with pytest.raises(ScanError, match=r"projection file .*projections.mib does not exist"):
        open_scan(str(copied))


def test_the_fingerprint_is_that_of_the_scan_wherever_it_lies(
    raw_scan: RawScan, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fingerprint(raw_scan)
    monkeypatch.chdir(copied.parent)
    for uri in (str(copied), copied.as_uri(), "copy", "./copy/../copy/scan.yaml"):
        assert fingerprint(open_scan(uri)) == expected
    (copied / "projections.mib").rename(copied / "others.mib")
    rewrite(copied, {"path": "others.mib"}, projections(copied))
    assert fingerprint(open_scan(str(copied))) != expected


def test_truncated_file(copied: Path) -> None:
    path = copied / "projections.mib"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(RawFormatError, match=r"projections.mib"):
        open_scan(str(copied))


def test_missing_view(copied: Path) -> None:
    path = copied / "projections.mib"
    record = 384 + 96 * 96 * 4
    path.write_bytes(path.read_bytes()[: -2 * record])
    with pytest.raises(ScanError, match=rf"projections.mib holds {VIEWS - 1} exposures .* {VIEWS} angles"):
        open_scan(str(copied))


def test_missing_counter(copied: Path) -> None:
    path = copied / "projections.mib"
    record = 384 + 96 * 96 * 4
    path.write_bytes(path.read_bytes()[:-record])
    with pytest.raises(RawFormatError, match=r"last exposure is incomplete: 183 records do not divide"):
        open_scan(str(copied))


def test_doubled_view(copied: Path) -> None:
    manifest = yaml.safe_load((copied / "scan.yaml").read_text())
    manifest["files"].append(dict(manifest["files"][projections(copied)]))
    (copied / "scan.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(ScanError, match=r"view 0 is doubled"):
        open_scan(str(copied))


def test_thresholds_out_of_order(copied: Path) -> None:
    ladder = [
        {"counter": 0, "mode": "CSM", "threshold_kev": 50.0},
        {"counter": 1, "mode": "CSM", "threshold_kev": 25.0},
    ]
    rewrite(copied, {"counters": ladder})
    with pytest.raises(ScanError, match=r"counter 0 is at 50 keV and counter 1 at 25 keV"):
        open_scan(str(copied))


def test_nan_angles(copied: Path) -> None:
    rewrite(copied, {"angles_rad": [float("nan")] * VIEWS}, projections(copied))
    with pytest.raises(ScanError, match=r"scan.yaml.*angles_rad"):
        open_scan(str(copied))


def test_unknown_key_names_the_nearest(copied: Path) -> None:
    rewrite(copied, {"frame_tipe": "dark"}, 0)
    with pytest.raises(ScanError, match=r"files.0: unknown key 'frame_tipe'; did you mean 'frame_type'"):
        open_scan(str(copied))


def test_frames_of_another_shape(spark: SparkSession, copied: Path, out: str) -> None:
    manifest = yaml.safe_load((copied / "scan.yaml").read_text())
    manifest["geometry"]["detector_shape"] = [96, 95]
    manifest["geometry"].pop("principal_point_px", None)
    (copied / "scan.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(ScanError, match=r"\.mib: .* have 96 x 96 px, expected the detector's 96 x 95 px"):
        ingest(spark, open_scan(str(copied)), out, progress=quiet())
    assert committed(out) is None
    assert not (Path(out) / COMMIT_FILE).exists()


def test_a_file_that_breaks_in_the_middle(spark: SparkSession, copied: Path, out: str) -> None:
    path = copied / "projections.mib"
    raw = bytearray(path.read_bytes())
    record = 384 + 96 * 96 * 4
    raw[40 * record : 40 * record + 3] = b"XXX"
    path.write_bytes(raw)
    with pytest.raises(RawFormatError, match=r"projections.mib"):
        ingest(spark, open_scan(str(copied)), out, progress=quiet())
    assert committed(out) is None


def test_the_executors_look_at_many_files(
    spark: SparkSession, raw_scan: RawScan, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marspipe.pipeline.frames.look_at_files.FILES_ON_DRIVER", 0)
    assert open_scan(raw_scan.manifest_uri, spark).files == raw_scan.files
    (copied / "projections.mib").unlink()
    with pytest.raises(ScanError, match=r"projection file .*projections.mib does not exist"):
        open_scan(str(copied), spark)


def test_small_files_share_a_file_of_the_table(raw_scan: RawScan) -> None:
    parts = cut(raw_scan, 1)
    tasks = bundle(parts, 1)
    assert len(tasks) == 1
    assert [id(part) for task in tasks for part in task] == [id(part) for part in parts]
