"""Ingest of other formats than Merlin: what damage costs there, and what only they tell (heights, beam monitor)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import yaml
from pyspark.sql import SparkSession

from marspipe.errors import ScanError
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.ingest import ingest, open_scan
from tests.pipeline.scans import quiet
from tests.pipeline.tiny_scans import SHAPE, VIEWS, frame, put_in, row_groups

STACK = np.stack([frame("projection", view, 0, 0) for view in range(VIEWS)])
BEAMS = np.stack([frame("open_beam", view, 0, 0) for view in range(3)])
ANGLES = {"step": 2 * np.pi / VIEWS, "count": VIEWS}


def manifest(folder: Path, files: list[dict[str, Any]], **more: Any) -> Path:
    content = {
        "marspipe_scan": 1,
        "scan_id": "formats",
        "geometry": {
            "kind": "circular",
            "source_to_isocenter_mm": 200.0,
            "source_to_detector_mm": 250.0,
            "detector_shape": list(SHAPE),
            "pixel_pitch_mm": [0.11, 0.11],
        },
        "files": files,
        **more,
    }
    (folder / "scan.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def require_views(out: str, views: set[int]) -> None:
    rows = [r for group in row_groups(out) for r in group if r["frame_type"] == "projection"]
    assert sorted(r["view"] for r in rows) == sorted(views)
    for row in rows:
        np.testing.assert_array_equal(np.frombuffer(row["pixels"], "<u2").reshape(SHAPE), STACK[row["view"]])


def nxtomo(path: Path, **options: Any) -> None:
    keys = np.array([1, *[0] * VIEWS, 1, 1, 2])
    pixels = np.concatenate([BEAMS[:1], STACK, BEAMS[1:], BEAMS[:1] // 50])
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        detector = entry.create_group("instrument/camera")
        entry["instrument"].attrs["NX_class"] = "NXinstrument"
        detector.attrs["NX_class"] = "NXdetector"
        detector.create_dataset("data", data=pixels, **options)
        detector["image_key"] = keys
        moved = entry.create_dataset(
            "sample/y_translation", data=np.where(keys == 0, np.arange(keys.size) * 500.0, 7.0)
        )
        moved.attrs["units"] = "um"
        entry["sample/rotation_angle"] = np.linspace(0, 360, keys.size)
        entry["control/data"] = 1000.0 + np.arange(keys.size)


def nxtomo_files(**more: Any) -> list[dict[str, Any]]:
    base = {"path": "scan.nxs", "reader": "nxtomo"}
    return [
        {**base, "frame_type": "projection", "angles_rad": ANGLES, **more},
        {**base, "frame_type": "open_beam"},
        {**base, "frame_type": "dark"},
    ]


def test_heights_and_monitor_of_an_nxtomo_file(spark: SparkSession, tmp_path: Path, out: str) -> None:
    nxtomo(tmp_path / "scan.nxs")
    where = {"dataset": "/entry/sample/y_translation", "unit": "um"}
    scan = open_scan(str(manifest(tmp_path, nxtomo_files(sample_z_mm=where))))
    np.testing.assert_allclose(scan.sample_z_mm, np.arange(1, VIEWS + 1) * 0.5)
    # The sample at +z is the source at -z.
    np.testing.assert_allclose(scan.geometry.source_mm[:, 2], -scan.sample_z_mm)
    ingest(spark, scan, out, progress=quiet())
    rows = [row for group in row_groups(out) for row in group]
    found = {(r["frame_type"], r["view"]): (r["sample_z_mm"], r["monitor"]) for r in rows}
    assert found["projection", 3] == (2.0, 1004.0)
    assert found["open_beam", 1] == (0.0, 1000.0 + VIEWS + 1)
    assert found["dark", 0] == (0.0, 1000.0 + VIEWS + 3)

    down = open_scan(str(manifest(tmp_path, nxtomo_files(sample_z_mm={**where, "downwards": True}))))
    np.testing.assert_array_equal(down.sample_z_mm, -scan.sample_z_mm)
    with pytest.raises(
        ScanError, match=r"/entry/sample/y_translation is stored in 'um', but the manifest says unit: mm"
    ):
        open_scan(str(manifest(tmp_path, nxtomo_files(sample_z_mm={**where, "unit": "mm"}))))


def test_an_absorber_in_an_nxtomo_file(spark: SparkSession, tmp_path: Path, out: str) -> None:
    nxtomo(tmp_path / "scan.nxs")
    nxtomo(tmp_path / "plate.nxs")
    plate = {"path": "plate.nxs", "reader": "nxtomo", "frame_type": "absorber", "absorber_mm": 1.5}
    ingest(spark, open_scan(str(manifest(tmp_path, [*nxtomo_files(), plate]))), out, progress=quiet())
    groups = {g["frame_type"]: g["frames"] for g in FramesTable.open(out).metadata["groups"]}
    assert groups == {"projection": VIEWS, "open_beam": 3, "dark": 1, "absorber": 3}


def test_damaged_chunks_of_hdf5(spark: SparkSession, tmp_path: Path, out: str) -> None:
    path = tmp_path / "scan.nxs"
    nxtomo(path, chunks=(1, *SHAPE), compression="gzip")
    with h5py.File(path) as file:
        stored = file["entry/instrument/camera/data"].id.get_chunk_info_by_coord((3, 0, 0))
    raw = bytearray(path.read_bytes())
    raw[stored.byte_offset : stored.byte_offset + 8] = b"\xff" * 8
    path.write_bytes(raw)
    done = put_in(spark, manifest(tmp_path, nxtomo_files()), out)
    assert done.missing_views == [2]
    assert [(d.uri, d.offset, d.first_view, d.exposures) for d in done.damages] == [(str(path), None, 2, 1)]
    require_views(out, set(range(VIEWS)) - {2})


def test_a_truncated_hdf5_file_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "scan.nxs"
    nxtomo(path)
    path.write_bytes(path.read_bytes()[:-100])
    scan = open_scan(str(manifest(tmp_path, nxtomo_files())), tolerant=True)
    assert [(d.frame_type, d.first_view, d.exposures) for d in scan.damages] == [
        ("projection", 0, VIEWS),
        ("open_beam", 0, None),
        ("dark", 0, None),
    ]
    # The heights would be lost with it, and there are no views without.
    where = {"dataset": "/entry/sample/y_translation", "unit": "um"}
    with pytest.raises(ScanError, match=r"scan\.nxs cannot be read, and the heights of its views lie in it"):
        open_scan(str(manifest(tmp_path, nxtomo_files(sample_z_mm=where))), tolerant=True)


def test_damaged_pages_of_a_tiff(spark: SparkSession, tmp_path: Path, out: str) -> None:
    path = tmp_path / "views ü.tif"
    with tifffile.TiffWriter(path) as tiff:
        for page in STACK:
            tiff.write(page, photometric="minisblack", compression="zlib", contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        places = [(p.dataoffsets[0], p.databytecounts[0]) for p in tiff.pages]
    raw = bytearray(path.read_bytes())
    for view in (3, 7):
        raw[places[view][0] : places[view][0] + places[view][1]] = b"\xff" * places[view][1]
    path.write_bytes(raw)
    tifffile.imwrite(tmp_path / "open.tif", BEAMS, photometric="minisblack")
    files = [
        {"path": path.name, "reader": "tiff", "frame_type": "projection", "angles_rad": ANGLES},
        {"path": "open.tif", "reader": "tiff", "frame_type": "open_beam"},
    ]
    done = put_in(spark, manifest(tmp_path, files), out)
    assert done.missing_views == [3, 7]
    assert sorted((d.first_view, d.exposures) for d in done.damages) == [(3, 1), (7, 1)]
    assert all("page" in d.reason for d in done.damages)
    require_views(out, set(range(VIEWS)) - {3, 7})


def test_a_series_of_files_tells_its_heights(tmp_path: Path) -> None:
    for view in range(VIEWS):
        tifffile.imwrite(tmp_path / f"view_{view:03d}.tif", STACK[view], photometric="minisblack")
    series = {
        "marspipe_series": 1,
        "files": {"pattern": "view_###.tif", "count": VIEWS},
        "heights": {"unit": "cm", "values": [0.1 * view for view in range(VIEWS)]},
    }
    (tmp_path / "views.yaml").write_text(yaml.safe_dump(series))
    entry = {"path": "views.yaml", "reader": "tiff", "frame_type": "projection", "angles_rad": ANGLES}
    height = {"dataset": "heights", "unit": "cm"}
    scan = open_scan(str(manifest(tmp_path, [{**entry, "sample_z_mm": height}])))
    np.testing.assert_allclose(scan.sample_z_mm, np.arange(VIEWS))
    with pytest.raises(ScanError, match="heights holds 9 heights for 5 exposures"):
        open_scan(str(manifest(tmp_path, [{**entry, "sample_z_mm": height, "angles_rad": {"step": 0.1, "count": 5}}])))
