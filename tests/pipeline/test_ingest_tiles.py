"""Several camera positions, groups of open beams and absorbers, in whatever files they lie."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession

from marspipe.errors import RawFormatError, ScanError
from marspipe.pipeline.frames.frame_files import FrameWriter
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.ingest import Decode, cut, ingest, open_scan
from tests.pipeline.scans import quiet
from tests.pipeline.tiny_scans import (
    COUNTERS,
    POSITIONS,
    RECORD,
    VIEWS,
    mib,
    put_in,
    require_true,
    row_groups,
    write_scan,
)

TILES = len(POSITIONS)


def rewrite(folder: Path, file: int, change: dict[str, object]) -> None:
    manifest = yaml.safe_load((folder / "scan.yaml").read_text(encoding="utf-8"))
    manifest["files"][file].update(change)
    (folder / "scan.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")


def number_of(folder: Path, name: str) -> int:
    files = yaml.safe_load((folder / "scan.yaml").read_text(encoding="utf-8"))["files"]
    return next(i for i, file in enumerate(files) if file["path"] == name)


def test_views_stay_together_in_any_layout_of_files(
    spark: SparkSession, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marspipe.pipeline.frames.scan_parts.SMALLEST_PART_BYTES", 4 * TILES * COUNTERS * 48)
    monkeypatch.setattr("marspipe.pipeline.ingest.SMALLEST_ROW_GROUP_BYTES", 2 * TILES * COUNTERS * 48)
    hashes = set()
    for layout in ("long", "listed", "numbered"):
        scan = open_scan(str(write_scan(tmp_path / layout, layout, POSITIONS)))
        table = f"{out} {layout}"
        ingest(spark, scan, table, progress=quiet())
        require_true(table, tiles=TILES)
        assert len(row_groups(table)) > 4
        assert len(list(Path(table).glob("part-*.parquet"))) > 1
        hashes.add(FramesTable.open(table).metadata["content_hash"])
    assert len(hashes) == 1


def test_a_block_is_cut_where_memory_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = open_scan(str(write_scan(tmp_path / "raw", "long", POSITIONS)))
    view = TILES * COUNTERS * 48
    (part,) = [part for part in cut(scan, 1) if part.frame_type == "projection"]
    blocks = part.blocks(2 * view)
    assert [[(c.file.tile, c.first, c.count) for c in block] for block in blocks[-2:]] == [
        [(tile, 6, 2) for tile in range(TILES)],
        [(tile, 8, 1) for tile in range(TILES)],
    ]
    assert [len(block) for block in part.blocks(1)] == [TILES] * VIEWS
    # A view larger than all memory is cut, too, but stays in one file.
    monkeypatch.setattr("marspipe.pipeline.frames.frame_files.LARGEST_ROW_GROUP_BYTES", 2 * COUNTERS * 48)
    with FrameWriter(str(tmp_path), 1) as writer:
        for exposure in Decode.of(scan).exposures(part):
            writer.add(exposure)
    assert [len(rows) for rows in row_groups(str(tmp_path))] == [2 * COUNTERS, COUNTERS] * VIEWS


def test_rows_and_metadata(spark: SparkSession, tmp_path: Path, out: str) -> None:
    folder = write_scan(tmp_path / "raw", "long", POSITIONS)
    rewrite(folder, number_of(folder, "before 1.mib"), {"group": 4, "time": None})
    ingest(spark, open_scan(str(folder)), out, progress=quiet())
    rows = [row for group in row_groups(out) for row in group]
    assert {(r["tile"], r["tile_v_mm"], r["tile_u_mm"]) for r in rows} == {
        (tile, v, u) for tile, (v, u) in enumerate(POSITIONS)
    }
    assert {(r["frame_type"], r["absorber_mm"]) for r in rows} == {
        ("projection", 0.0),
        ("open_beam", 0.0),
        ("dark", 0.0),
        ("absorber", 2.5),
    }
    beams = Counter((r["tile"], r["group"], r["view"]) for r in rows if r["frame_type"] == "open_beam")
    first = {0: 0, 1: 4, 2: 0}
    assert beams == {
        (tile, first[tile] if view < 2 else 1, view): COUNTERS for tile in range(TILES) for view in range(5)
    }
    assert {r["group"] for r in rows if r["frame_type"] == "projection"} == {0}
    assert {r["monitor"] for r in rows} == {None}

    metadata = FramesTable.open(out).metadata
    assert metadata["camera_positions_mm"] == POSITIONS
    assert metadata["counter_depth_bits"] == 12
    assert metadata["chip_edges"] == {"rows": [], "columns": []}
    counted = {(g["frame_type"], g["counter"]): g for g in metadata["groups"]}
    assert len(counted) == 4 * COUNTERS
    assert counted["projection", 1] == {
        "frame_type": "projection",
        "counter": 1,
        "frames": TILES * VIEWS,
        "views": VIEWS,
        "view_first": 0,
        "view_last": VIEWS - 1,
        "untimed": 0,
        "tiles": TILES,
    }
    sums = pq.read_table(Path(out) / "_calibration").to_pylist()
    found = Counter((r["tile"], r["frame_type"], r["group"], r["absorber_mm"], r["n_frames"]) for r in sums)
    assert found[1, "open_beam", 4, 0.0, 2] == found[1, "open_beam", 1, 0.0, 3] == COUNTERS
    assert found[2, "absorber", 0, 2.5, 2] == found[2, "dark", 0, 0.0, 2] == COUNTERS
    assert len(sums) == 4 * TILES * COUNTERS


def test_a_view_without_one_of_its_positions(spark: SparkSession, tmp_path: Path, out: str) -> None:
    folder = write_scan(tmp_path / "raw", "long", POSITIONS)
    path = folder / "long_1.mib"
    sound = path.read_bytes()
    path.write_bytes(sound[: 4 * COUNTERS * RECORD] + b"XXX" + sound[4 * COUNTERS * RECORD + 3 :])
    done = put_in(spark, folder, out)
    assert done.missing_views == [4]
    assert [(d.uri, d.first_view, d.exposures) for d in done.damages] == [(str(path), 4, 1)]
    assert len([r for group in row_groups(out) for r in group]) == TILES * (VIEWS + 9) * COUNTERS - COUNTERS
    with pytest.raises(ScanError, match="lacks view 4 of 9 views"):
        FramesTable.open(out)
    with pytest.raises(RawFormatError, match=r"long_1\.mib: record 8: not a Merlin record"):
        ingest(spark, open_scan(str(folder)), out + "2", progress=quiet())

    assert put_in(spark, folder, out).added == 0
    path.write_bytes(sound)
    mended = put_in(spark, folder, out)
    assert (mended.added, mended.missing_views, mended.damages) == (COUNTERS, [], [])
    require_true(out, tiles=TILES)  # the positions that were there have moved to the one that was not
    whole = out + "3"
    ingest(spark, open_scan(str(folder)), whole, progress=quiet())
    assert FramesTable.open(out).metadata["content_hash"] == FramesTable.open(whole).metadata["content_hash"]

    # What is stored stays whole when another position of the view can no longer be read.
    flipped = bytearray((folder / "long_0.mib").read_bytes())
    flipped[4 * COUNTERS * RECORD + 400] ^= 1
    (folder / "long_0.mib").write_bytes(flipped)
    with pytest.raises(ScanError, match="projection view 4, camera position 0, counter 0 differs"):
        put_in(spark, folder, out)
    path.write_bytes(sound[: 4 * COUNTERS * RECORD] + b"XXX" + sound[4 * COUNTERS * RECORD + 3 :])
    done = put_in(spark, folder, out, replace=True)
    assert (done.added, done.missing_views) == (0, [])
    require_true(out, tiles=TILES)


def test_manifests_that_contradict_themselves(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "raw", "long", POSITIONS)
    text = (folder / "scan.yaml").read_text(encoding="utf-8")
    number = number_of(folder, "long_1.mib")

    def refused(change: dict[str, object], message: str) -> None:
        (folder / "scan.yaml").write_text(text, encoding="utf-8")
        rewrite(folder, number, change)
        with pytest.raises(ScanError, match=message):
            open_scan(str(folder))

    step = 0.6981317007977318
    angles = {"angles_rad": [0.1 + step * i for i in range(VIEWS)]}
    refused(angles, "angle of view 0 is 0 rad at camera position 0 and 0.1 rad at camera position 1")
    refused({"sample_z_mm": 1.0}, "sample_z_mm of view 0 is 0 mm at camera position 0 and 1 mm at camera position 1")
    refused({"tile": 3}, r"'long_1.mib' is of tile 3, but camera_positions_mm lists 3 positions")
    refused({"tile": 2}, "view 0 is doubled at camera position 2")
    angles = {"angles_rad": [step * i for i in range(1, VIEWS)]}
    refused(angles | {"first_view": 1}, "9 exposures of 2 counters, but .* gives 8 angles")
    mib(folder / "long_1.mib", "projection", 1, VIEWS - 1, 1)
    refused(angles | {"first_view": 1}, "view 0 is in no projection file of camera position 1")
