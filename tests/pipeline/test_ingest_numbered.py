"""Very many files of one exposure each, named by a pattern: nothing but the pattern is held, missing ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from marspipe.errors import InputError, ScanError
from marspipe.pipeline.ingest import cut, ingest, open_scan
from tests.pipeline.scans import quiet
from tests.pipeline.tiny_scans import COUNTERS, HEADER, POSITIONS, RECORD, VIEWS, mib, put_in, require_true, write_scan


def test_one_file_stands_for_all(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "raw {1}", "numbered", POSITIONS)
    scan = open_scan(str(folder))
    files = [file for file in scan.files if file.entry.frame_type == "projection"]
    assert [(file.n_exposures, file.is_numbered, file.tile) for file in files] == [
        (VIEWS, True, tile) for tile in range(len(POSITIONS))
    ]
    assert files[1].uri_of(7) == str(folder / "höhe {0}" / "view_00007_tile_1.mib")
    text = (folder / "scan.yaml").read_text(encoding="utf-8")
    (folder / "scan.yaml").write_text(text.replace(f"count: {VIEWS}", "count: 9100000"), encoding="utf-8")
    large = open_scan(str(folder))
    assert len(large.files) == len(scan.files)
    assert len(cut(large, 4)) < 200


def test_missing_and_damaged_files(spark: SparkSession, tmp_path: Path, out: str) -> None:
    folder = write_scan(tmp_path / "raw", "numbered")
    names = [folder / "höhe {0}" / f"view_{view:05d}_tile_0.mib" for view in range(VIEWS)]
    sound = [name.read_bytes() for name in names]
    names[0].unlink()
    names[3].write_bytes(sound[3][:-1])
    names[5].write_bytes(sound[5] + sound[6])
    names[7].write_bytes(b"")
    with pytest.raises(ScanError, match=r"view_00000_tile_0\.mib does not exist"):
        open_scan(str(folder))
    done = put_in(spark, folder, out)
    assert done.missing_views == [0, 3, 5, 7]
    found = sorted(done.damages, key=lambda damage: damage.uri)
    assert [(d.uri, d.first_view, d.exposures) for d in found] == [(str(names[v]), v, 1) for v in (0, 3, 5, 7)]
    assert [d.reason.removeprefix(f"{d.uri}: ")[:24] for d in found] == [
        "the file does not exist",
        "record 1 is truncated: e",
        "record 2 restarts at seq",
        "the file is empty, expec",
    ]
    require_true(out, missing=(0, 3, 5, 7))
    names[0].write_bytes(sound[0])
    with pytest.raises(InputError, match=r"view_00003_tile_0\.mib: record 1 is truncated"):
        ingest(spark, open_scan(str(folder)), out + "2", progress=quiet())
    for name, raw in zip(names, sound, strict=True):
        name.write_bytes(raw)
    assert put_in(spark, folder, out).added == 4 * COUNTERS
    require_true(out)


def test_the_numbers_are_those_of_the_names(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "raw")
    for number in (10, 15, 20):
        mib(folder / f"dark-{number}.mib", "dark", 0, 1, 0)
    manifest = yaml.safe_load((folder / "scan.yaml").read_text(encoding="utf-8"))
    numbered = {"first": 10, "step": 5, "count": 3}
    manifest["files"].append(
        {"path": "dark-{number}.mib", "reader": "merlin", "frame_type": "dark", "numbered": numbered}
    )
    (folder / "scan.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    file = open_scan(str(folder)).files[-1]
    assert (file.first_view, file.n_exposures) == (2, 3)  # behind the two of the other file
    assert [Path(file.uri_of(i)).name for i in range(3)] == ["dark-10.mib", "dark-15.mib", "dark-20.mib"]
    assert file.exposure_bytes == COUNTERS * (RECORD - HEADER)
    mib(folder / "dark-10.mib", "dark", 0, 2, 0)
    with pytest.raises(
        ScanError, match=r"dark-10\.mib holds 4 frames, but a numbered file must hold one exposure of 2"
    ):
        open_scan(str(folder))
