"""Sum up the open beams, absorbers and darks of a scan in its calibration table, once, when the scan is ingested.

The pixels stay on the executors: partial sums per task, one shuffle by camera position and counter, one table beside
the frames. A task that corrects frames reads from it what belongs to its camera position; the driver holds none of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from marspipe.errors import ScanError
from marspipe.pipeline.corrections.clock import Clock
from marspipe.pipeline.corrections.frame_sums import FRAME_COLUMNS, SUMS, merged, partial_sums
from marspipe.preprocess.bad_pixels import edge_flags
from marspipe.preprocess.calibration import Absorber, Calibration, OpenBeams
from marspipe.preprocess.pixel_statistics import PixelSums
from marspipe.store import storage
from marspipe.store.schema import table_schema
from marspipe.store.tables import spark_schema, write_table

CALIBRATION_FOLDER = "_calibration"


def write_calibration(frames: DataFrame, uri: str, n_tasks: int) -> None:
    """Write the calibration table of a scan.

    Parameters
    ----------
    frames : DataFrame
        The scan's frames table; it must hold open beams.
    uri : str
        Where to write; it belongs into the table's folder as :data:`CALIBRATION_FOLDER`.
    n_tasks : int
        Tasks that finish the sums.
    """
    others = frames.where(F.col("frame_type") != "projection").select(*FRAME_COLUMNS)
    place = F.pmod(F.xxhash64("tile", "counter"), F.lit(n_tasks)).cast("int")
    sums = others.mapInArrow(partial_sums, SUMS).repartitionById(n_tasks, place)
    ordered = sums.sortWithinPartitions("tile", "counter", "frame_type", "absorber_mm", "group")
    write_table(ordered.mapInArrow(finished, spark_schema("calibration")), uri, row_group_bytes=2**27, row_group_rows=1)


def finished(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn partial sums in the order of the table into its rows."""
    yield from (sums.record() for sums in merged(batches))


@dataclass(frozen=True)
class CalibrationReader:
    """Makes the calibrations of a scan's camera positions; travels to the executors.

    Attributes
    ----------
    origin : str
        The frames table, or for messages the raw scan.
    n_counters : int
        Counter images of an exposure.
    clock : Clock
        What a time is.
    chip_edges : mapping
        ``rows`` and ``columns`` at the borders of chips.
    counter_bits : int or None
        Depth of the counters.
    """

    origin: str
    n_counters: int
    clock: Clock
    chip_edges: Mapping[str, list[int]]
    counter_bits: int | None

    @classmethod
    def of(cls, uri: str, metadata: Mapping[str, Any]) -> CalibrationReader:
        """Return the reader of a frames table, given its metadata."""
        edges = metadata.get("chip_edges") or {}
        bits = metadata.get("counter_depth_bits")
        return cls(uri, len(metadata["counters"]), Clock.of(metadata), edges, bits)

    def read(self, tile: int) -> Calibration:
        """Read the calibration of one camera position from the table beside the frames, without Spark.

        Raises
        ------
        ScanError
            If a counter of it has no open beam.
        """
        filesystem, path = storage.arrow_filesystem(storage.join(self.origin, CALIBRATION_FOLDER))
        schema = table_schema("calibration").arrow()
        table = ds.dataset(path, schema=schema, filesystem=filesystem, format="parquet")
        return self.of_rows(tile, table.to_table(filter=ds.field("tile") == tile).to_batches())

    def of_rows(self, tile: int, batches: Iterable[pa.RecordBatch]) -> Calibration:
        """Return the calibration of one camera position from its rows of the calibration table."""
        found: dict[tuple[str, float, int], dict[int, dict[str, Any]]] = {}
        for batch in batches:
            for row in batch.to_pylist():
                group = found.setdefault((row["frame_type"], row["absorber_mm"], row["group"]), {})
                group[row["counter"]] = row
        for (frame_type, _, _), counters in found.items():
            self._require_whole(tile, frame_type, counters)
        groups = [found[key] for key in sorted(k for k in found if k[0] == "open_beam")]
        if not groups:
            self._require_whole(tile, "open_beam", {})
        open_beams = []
        for place, group in enumerate(groups):
            first = group[0]
            time = self.clock.of_group(place, len(groups), first["time_s"])
            open_beams.append(OpenBeams(self._sums(group), time, first["exposure_s"], first["monitor"]))
        shape = open_beams[0].sums[0].total.shape
        dark = next((found[key] for key in found if key[0] == "dark"), None)
        darks = tuple(PixelSums.empty(shape) for _ in range(self.n_counters)) if dark is None else self._sums(dark)
        absorbers = []
        for key in sorted(k for k in found if k[0] == "absorber"):
            first = found[key][0]
            absorbers.append(Absorber(key[1], self._sums(found[key]), first["exposure_s"], first["monitor"]))
        rows, columns = (list(self.chip_edges.get(name, [])) for name in ("rows", "columns"))
        edges = edge_flags((shape[0], shape[1]), rows, columns) if rows or columns else None
        return Calibration(tuple(open_beams), darks, tuple(absorbers), edges, self.counter_bits)

    def _require_whole(self, tile: int, frame_type: str, counters: Mapping[int, Any]) -> None:
        missing = sorted(set(range(self.n_counters)) - set(counters))
        if missing:
            kind = {"open_beam": "open beam", "dark": "dark frame"}.get(frame_type, frame_type)
            place = f" of camera position {tile}" if tile else ""
            raise ScanError(f"{self.origin}: no {kind} for counter {', '.join(map(str, missing))}{place}")

    def _sums(self, group: Mapping[int, dict[str, Any]]) -> tuple[PixelSums, ...]:
        sums = []
        for counter in range(self.n_counters):
            row = group[counter]
            total, squares = (
                np.frombuffer(row[name], dtype="<f8").reshape(row["rows"], row["cols"]) for name in ("total", "squares")
            )
            sums.append(PixelSums(row["n_frames"], total, squares))
        return tuple(sums)
