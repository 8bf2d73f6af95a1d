"""Metadata as frames tables and volumes have them, small."""

from __future__ import annotations

from typing import Any

from marspipe.store.catalog import Catalog


def frames_metadata(scan_id: str, *, content: str = "f" * 16, **changes: Any) -> dict[str, Any]:
    """Return the ``_marspipe.json`` of a frames table: 12 views, two counters, open beams and darks."""
    groups = [
        {"frame_type": kind, "counter": counter, "frames": n, "views": n, "view_first": 0, "view_last": n - 1}
        | {"untimed": 0, "tiles": 1}
        for kind, n in (("dark", 4), ("open_beam", 5), ("projection", 12))
        for counter in (0, 1)
    ]
    return {
        "kind": "frames",
        "format": 1,
        "version": "0.1.0",
        "scan_id": scan_id,
        "description": f"description of {scan_id}",
        "geometry": {"kind": "circular", "detector_shape": [32, 40], "angles_rad": [0.5 * n for n in range(12)]},
        "counters": [{"index": n, "mode": "SPM", "threshold_kev": 20.0 + 10 * n} for n in (0, 1)],
        "camera_positions_mm": [[0.0, 0.0]],
        "acquired_at": "2026-03-04T05:06:07.123456789Z",
        "source": f"/raw/{scan_id}/scan.yaml",
        "fingerprint": "a" * 16,
        "content_hash": content,
        "pixel_bytes": 32 * 40 * 2 * 42,
        "missing_views": [],
        "groups": groups,
        **changes,
    }


def volume_metadata(scan_id: str, *, created_at: str = "2026-03-05T00:00:00.000+00:00", **changes: Any) -> Any:
    """Return the ``_marspipe.json`` of a version of a volume."""
    return {
        "kind": "volume",
        "format": 1,
        "version": "0.1.0",
        "scan_id": scan_id,
        "description": f"description of {scan_id}",
        "acquired_at": "2026-03-04T05:06:07.123456789Z",
        "units": "1/mm",
        "bins": [{"low_kev": 20.0, "high_kev": 30.0, "label": "20-30 keV", "mode": "SPM"}],
        "grid": {"shape": [8, 16, 16], "voxel_mm": [0.1, 0.2, 0.2], "center_mm": [0.0, 0.0, 0.0]},
        "recipe": {"name": "stones", "filter": {"window": "hann"}},
        "recipe_hash": "b" * 16,
        "frames_uri": "/out/frames",
        "frames_hash": "f" * 16,
        "content_hash": "c" * 16,
        "statistics": [{"min": 0.0, "max": 1.0, "mean": 0.5}],
        "files": [{"path": "part-0.parquet", "bin": 0}],
        "created_at": created_at,
        "run_id": "1" * 32,
        **changes,
    }


def stored(catalog: Catalog) -> tuple[Any, ...]:
    """Return all that can be made again from the stores."""
    return (catalog.scans(), catalog.frames(), catalog.calibrations(), catalog.recipes(), catalog.volumes())
