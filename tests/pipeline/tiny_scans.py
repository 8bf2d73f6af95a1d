"""Scans of very small frames in real raw files: camera positions, counters, kinds of frames, layouts of files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.pipeline.ingest import Ingested, ingest_into, open_scan
from marspipe.simulate.merlin_writer import write_merlin
from tests.pipeline.scans import quiet

SHAPE = (4, 6)
HEADER = 384
RECORD = HEADER + 2 * SHAPE[0] * SHAPE[1]
VIEWS, COUNTERS = 9, 2
POSITIONS = [[0.0, 0.0], [0.0, 0.55], [0.33, 0.0]]
START = datetime(2025, 1, 1, tzinfo=UTC)
_KINDS = {"projection": 0, "open_beam": 1000, "dark": 2000, "absorber": 3000}


def frame(frame_type: str, view: int, tile: int, counter: int) -> NDArray[np.uint16]:
    """A frame that is like no other."""
    v, u = np.indices(SHAPE)
    number = _KINDS[frame_type] + 30 * view + 10 * tile + 5 * counter
    return (number + (7 * v + 3 * u) % 23).astype(np.uint16)


def mib(path: Path, frame_type: str, first: int, count: int, tile: int) -> None:
    """Write exposures ``first .. first + count`` of a kind."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        write_merlin(
            file,
            (frame(frame_type, view, tile, c) for view in range(first, first + count) for c in range(COUNTERS)),
            counter_depth_bits=12,
            counters_per_exposure=COUNTERS,
            thresholds_kev=(20.0, 40.0),
            exposure_s=0.1,
            start_time=START + timedelta(seconds=first),
        )


def write_scan(folder: Path, layout: str = "long", positions: list[list[float]] | None = None) -> Path:
    """Write a scan with two groups of open beams, darks and an absorber; return its folder.

    ``layout`` is how the projections lie: ``long`` (a file per position), ``listed`` (one per view and position) or
    ``numbered`` (the same, by a pattern).
    """
    folder.mkdir(exist_ok=True)
    positions = [[0.0, 0.0]] if positions is None else positions
    files: list[dict[str, Any]] = []
    for tile in range(len(positions)):
        base = {"reader": "merlin", "tile": tile}
        calibrating: list[tuple[str, str, int, int, dict[str, Any]]] = [
            ("before", "open_beam", 0, 2, {"time": "before"}),
            ("after", "open_beam", 2, 3, {"time": "after"}),
            ("dark", "dark", 0, 2, {}),
            ("plate", "absorber", 0, 2, {"absorber_mm": 2.5}),
        ]
        for name, kind, first, count, more in calibrating:
            mib(folder / f"{name} {tile}.mib", kind, first, count, tile)
            files.append({**base, "path": f"{name} {tile}.mib", "frame_type": kind, **more})
        files += _projections(folder, layout, tile, {**base, "frame_type": "projection"})
    manifest = {
        "marspipe_scan": 1,
        "scan_id": "tiny",
        "geometry": {
            "kind": "circular",
            "source_to_isocenter_mm": 200.0,
            "source_to_detector_mm": 250.0,
            "detector_shape": list(SHAPE),
            "pixel_pitch_mm": [0.11, 0.11],
        },
        "counters": [{"counter": i, "threshold_kev": kev} for i, kev in enumerate((20.0, 40.0))],
        "camera_positions_mm": positions,
        "files": files,
    }
    (folder / "scan.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True), encoding="utf-8")
    return folder


def _projections(folder: Path, layout: str, tile: int, base: dict[str, Any]) -> list[dict[str, Any]]:
    step = 2 * np.pi / VIEWS
    if layout == "long":
        mib(folder / f"long_{tile}.mib", "projection", 0, VIEWS, tile)
        return [{**base, "path": f"long_{tile}.mib", "angles_rad": {"step": step, "count": VIEWS}}]
    names = [f"höhe {{0}}/view_{view:05d}_tile_{tile}.mib" for view in range(VIEWS)]
    for view, name in enumerate(names):
        mib(folder / name, "projection", view, 1, tile)
    if layout == "numbered":
        return [
            {
                **base,
                "path": "höhe {{0}}/view_{number:05d}_tile_{tile}.mib",
                "numbered": {"count": VIEWS},
                "angles_rad": {"step": step, "count": VIEWS},
            }
        ]
    # The camera positions are listed in opposite orders.
    order = range(VIEWS) if tile % 2 else reversed(range(VIEWS))
    return [{**base, "path": names[v], "angles_rad": [step * v], "first_view": v} for v in order]


def put_in(spark: SparkSession, raw: Path, out: str, replace: bool = False) -> Ingested:
    """Ingest what can be read."""
    return ingest_into(spark, open_scan(str(raw), spark, tolerant=True), out, progress=quiet(), replace=replace)


def row_groups(out: str) -> list[list[dict[str, Any]]]:
    """Return the rows of a frames table, by row group."""
    groups = []
    for path in sorted(Path(out).glob("part-*.parquet")):
        file = pq.ParquetFile(path)
        groups += [file.read_row_group(i).to_pylist() for i in range(file.num_row_groups)]
    return groups


def require_true(out: str, missing: tuple[int, ...] = (), tiles: int = 1) -> None:
    """Check that a table holds every projection but some views: once, with its own pixels, a view in one row group."""
    seen: dict[int, int] = {}
    for number, rows in enumerate(row_groups(out)):
        places = [(r["frame_type"], r["view"], r["tile"], r["counter"]) for r in rows]
        for kind in {place[0] for place in places}:
            of_kind = [place for place in places if place[0] == kind]
            assert of_kind == sorted(set(of_kind))
        for row in rows:
            stored = np.frombuffer(row["pixels"], "<u2").reshape(SHAPE)
            expected = frame(row["frame_type"], row["view"], row["tile"], row["counter"])
            np.testing.assert_array_equal(stored, expected)
        for view in {place[1] for place in places if place[0] == "projection"}:
            assert seen.setdefault(view, number) == number
            if view not in missing:
                assert sum(p[:2] == ("projection", view) for p in places) == tiles * COUNTERS
    assert set(range(VIEWS)) - set(missing) <= set(seen)
