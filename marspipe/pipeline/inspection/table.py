"""A look into a frames table without Spark: columns and row groups that are not needed are not read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from marspipe.pipeline.corrections.calibrate import CalibrationReader
from marspipe.pipeline.frames.scan_frames import FramesTable, some
from marspipe.pipeline.inspection.look import Look, merged_tallies
from marspipe.pipeline.source import Measured
from marspipe.preprocess.calibration import Calibration
from marspipe.show.scan_report import FrameTally
from marspipe.store import storage
from marspipe.store.schema import table_schema

_KEY = ("frame_type", "counter", "tile", "group", "absorber_mm")
_RANGED = ("exposure_s", "acquired_at")


@dataclass(frozen=True, eq=False)
class TableLook(Look):
    """A committed frames table."""

    table: FramesTable

    @classmethod
    def of(cls, table: FramesTable) -> TableLook:
        """Return a look into a table."""
        metadata = table.metadata
        return cls(
            table.uri,
            table.scan_id,
            metadata["description"],
            Measured.by(table),
            table.geometry,
            metadata.get("tube"),
            metadata.get("counter_depth_bits"),
            table.pixel_bytes,
            table,
        )

    def _scan(self, columns: list[str], chosen: ds.Expression | None = None) -> Iterator[pa.RecordBatch]:
        filesystem, path = storage.arrow_filesystem(self.uri)
        schema = table_schema("frames").arrow()
        data = ds.dataset(path, schema=schema, filesystem=filesystem, format="parquet")
        # Reading ahead would hold many row groups of pixels.
        yield from data.to_batches(columns=columns, filter=chosen, batch_readahead=1, fragment_readahead=1)

    def tallies(self) -> list[FrameTally]:
        """Count the frames."""
        ranges = [(name, how) for name in _RANGED for how in ("min", "max")]
        found = []
        for batch in self._scan([*_KEY, *_RANGED]):
            counted = pa.Table.from_batches([batch]).group_by(list(_KEY)).aggregate([("counter", "count"), *ranges])
            found += counted.to_pylist()
        return merged_tallies(
            FrameTally(
                row["frame_type"],
                row["counter"],
                row["tile"],
                row["group"],
                row["absorber_mm"],
                row["counter_count"],
                _pair(row, "exposure_s"),
                _pair(row, "acquired_at"),
            )
            for row in found
        )

    def frames(
        self, frame_types: Iterable[str], view: int | None = None, tile: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield frames as rows of the frames table."""
        chosen = ds.field("frame_type").isin(list(frame_types))
        for name, value in (("view", view), ("tile", tile)):
            if value is not None:
                chosen &= ds.field(name) == value
        yield from self._scan(list(table_schema("frames").names), chosen)

    def spread(self, frame_type: str, count: int) -> list[tuple[int, int]]:
        """Return (view, tile) of a few exposures."""
        group = next((g for g in self.table.metadata["groups"] if g["frame_type"] == frame_type), None)
        if group is None:
            return []
        missing = set(self.table.metadata.get("missing_views", [])) if frame_type == "projection" else set()
        views = [v for v in range(group["view_first"], group["view_last"] + 1) if v not in missing]
        tiles, places = self.measured.camera.n_tiles, len(views)
        numbers = np.unique(np.linspace(0, places * tiles - 1, min(count, places * tiles)).round().astype(int))
        # Neighbors in time at different positions: all positions have a turn.
        return [(views[n // tiles], int(n % tiles)) for n in numbers.tolist()]

    def calibrations(self) -> CalibrationReader:
        """Return what reads the calibrations."""
        return CalibrationReader.of(self.uri, self.table.metadata)

    def calibration(self, tile: int) -> Calibration:
        """Return the calibration of a camera position."""
        return self.calibrations().read(tile)

    def notes(self) -> list[tuple[str, str]]:
        """Return where the frames come from, and what is missing."""
        lines = [("pixels", f"{self.pixel_bytes / 2**20:.1f} MiB, from {self.table.metadata['source']}")]
        missing = self.table.metadata.get("missing_views", [])
        if missing:
            lines.append(("missing", f"{some(missing)} of {len(self.geometry)} views"))
        return lines


def _pair(row: dict[str, Any], name: str) -> tuple[Any, Any] | None:
    return None if row[f"{name}_min"] is None else (row[f"{name}_min"], row[f"{name}_max"])
