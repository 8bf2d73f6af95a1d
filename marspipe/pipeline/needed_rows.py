"""Line integrals of a few detector rows of a scan, brought to the driver.

The executors read whole frames and preprocess them as a reconstruction would, but send only the rows that are asked
for: views x rows x columns of float32. From raw files nothing is written anywhere; their open beams and dark frames are
averaged first, two frames per counter, which the driver hands on to the executors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from marspipe.errors import ScanError
from marspipe.pipeline.calibrate import SUMS, averages, partial_sums
from marspipe.pipeline.failures import spark_failures
from marspipe.pipeline.filter_views import FRAME_COLUMNS, FilterStage, make_preprocessor, preprocessor_of
from marspipe.pipeline.ingest import Chunk, Decode, RawScan, cut
from marspipe.pipeline.plan import ReconstructionPlan
from marspipe.pipeline.scan_frames import FramesTable
from marspipe.pipeline.session import configure, task_slots
from marspipe.pipeline.watch import watch_stages
from marspipe.preprocess.chain import Calibration, Preprocessor
from marspipe.recipe import Recipe
from marspipe.show.progress import Progress
from marspipe.store.blobs import binary_column, pixels_of
from marspipe.store.tables import read_table, spark_schema

MIB = 2**20
LARGEST_SPLIT_BYTES = 128 * MIB

_ROWS = T.StructType([T.StructField("view", T.IntegerType(), False), T.StructField("pixels", T.BinaryType(), False)])
_ROWS_ARROW = pa.schema([pa.field("view", pa.int32(), False), pa.field("pixels", pa.binary(), False)])


@dataclass(frozen=True, eq=False)
class NeededRows:
    """Which rows of which views, ascending.

    Attributes
    ----------
    views : ndarray, int64, shape (n_views,)
        View numbers.
    rows : ndarray, int64, shape (n_rows,)
        Detector rows.
    columns : int
        Detector columns.
    """

    views: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: int

    @property
    def nbytes(self) -> int:
        """Bytes that reach the driver."""
        return 4 * len(self.views) * len(self.rows) * self.columns


@dataclass(frozen=True, eq=False)
class RowsStage(FilterStage):
    """Turns frames (whole views in a row) into rows of line integrals of one bin; travels to the executors."""

    bin: int
    needed: NeededRows
    calibration: Any  # broadcast Calibration of raw files; None for a frames table, beside which it lies

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield one record per needed view."""
        preprocess: Preprocessor | None = None
        wanted = frozenset(self.needed.views.tolist())
        for view, counters in self.views(batches):
            if view not in wanted:
                if not 0 <= view < len(self.plan.geometry):
                    raise ScanError(f"view {view} is not one of the {len(self.plan.geometry)} views of the scan")
                continue
            if preprocess is None:
                preprocess = self._preprocessor()
            rows = np.ascontiguousarray(preprocess(counters)[0][self.needed.rows], dtype=np.float32)
            pixels = binary_column(rows, [rows.nbytes])
            yield pa.RecordBatch.from_arrays([pa.array([view], pa.int32()), pixels], schema=_ROWS_ARROW)

    def _preprocessor(self) -> Preprocessor:
        bins = self.plan.bins[self.bin : self.bin + 1]
        if self.calibration is None:
            return make_preprocessor(self.frames_uri, self.n_counters, bins, self.recipe)
        return preprocessor_of(self.calibration.value, bins, self.recipe)


def collect_rows(
    spark: SparkSession,
    source: RawScan | FramesTable,
    plan: ReconstructionPlan,
    recipe: Recipe,
    bin: int,
    needed: NeededRows,
    *,
    progress: Progress,
) -> NDArray[np.float32]:
    """Return the line integrals of some rows of one bin, shape (views, rows, columns), float32.

    Raises
    ------
    ScanError
        If a view is missing, doubled or damaged, or there is no open beam.
    """
    configure(spark)
    if isinstance(source, FramesTable):
        return _from_table(spark, source, plan, recipe, bin, needed, progress)
    return _from_raw(spark, source, plan, recipe, bin, needed, progress)


def _from_table(
    spark: SparkSession,
    table: FramesTable,
    plan: ReconstructionPlan,
    recipe: Recipe,
    bin: int,
    needed: NeededRows,
    progress: Progress,
) -> NDArray[np.float32]:
    _require_open_beams(table.uri, len(table.counters), table.open_beam_counters)
    stage = RowsStage(plan, recipe, table.uri, str(uuid4()), len(table.counters), bin, needed, None)
    # Splits hold whole row groups, and these whole views (see ingest).
    split = max(MIB, min(LARGEST_SPLIT_BYTES, table.pixel_bytes // task_slots(spark)))
    spark.conf.set("spark.sql.files.maxPartitionBytes", str(split))
    frames = read_table(spark, table.uri, "frames", "frame_type", *FRAME_COLUMNS)
    projections = frames.where(F.col("frame_type") == "projection").drop("frame_type")

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from stage(batches)

    with spark_failures(f"reading {table.uri}"), watch_stages(spark, progress, ["rows"]):
        return _stacked(projections.mapInArrow(run, _ROWS).toArrow(), needed)


def _from_raw(
    spark: SparkSession,
    scan: RawScan,
    plan: ReconstructionPlan,
    recipe: Recipe,
    bin: int,
    needed: NeededRows,
    progress: Progress,
) -> NDArray[np.float32]:
    chunks = cut(scan, task_slots(spark))
    projections = [c for c in chunks if c.file.entry.frame_type == "projection"]
    others = [c for c in chunks if c.file.entry.frame_type != "projection"]
    counters = tuple(scan.manifest.camera_counters())
    if not any(c.file.entry.frame_type == "open_beam" for c in others):
        _require_open_beams(scan.manifest_uri, len(counters), set())
    decode = Decode([], scan.manifest.scan_id, counters, scan.angles_rad, scan.sample_z_mm)
    with spark_failures(f"reading the raw files of {scan.manifest_uri}"):
        with watch_stages(spark, progress, ["open beams"]):
            calibration = _calibration(_on_chunks(spark, others, decode, partial_sums, SUMS), len(counters))
        handed_on = spark.sparkContext.broadcast(calibration)
        stage = RowsStage(plan, recipe, "", str(uuid4()), len(counters), bin, needed, handed_on)
        with watch_stages(spark, progress, ["rows"]):
            stack = _stacked(_on_chunks(spark, projections, decode, stage, _ROWS).toArrow(), needed)
        handed_on.destroy()
    return stack


def _on_chunks(spark: SparkSession, chunks: list[Chunk], decode: Decode, work: Any, schema: T.StructType) -> DataFrame:
    """Return what a stage makes of the frames of raw chunks, one task each; the frames never leave the worker."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column("id").to_pylist():
                yield from work(decode.frames(chunks[number]))

    return spark.range(0, len(chunks), 1, len(chunks)).mapInArrow(run, schema)


def _calibration(sums: DataFrame, n_counters: int) -> Calibration:
    """Average the partial sums of open beams and darks."""
    table = sums.repartitionById(n_counters, "counter").mapInArrow(averages, spark_schema("calibration")).toArrow()
    rows = {row["counter"]: row for row in table.to_pylist()}
    shape = (rows[0]["rows"], rows[0]["cols"])
    open_beam, dark = (
        np.stack([np.frombuffer(rows[c][name], dtype="<f4").reshape(shape) for c in range(n_counters)])
        for name in ("open_beam", "dark")
    )
    return Calibration(open_beam, dark, min(row["n_open_beam"] for row in rows.values()))


def _require_open_beams(origin: str, n_counters: int, present: set[int]) -> None:
    missing = sorted(set(range(n_counters)) - present)
    if missing:
        raise ScanError(f"{origin}: no open beam for counter {', '.join(map(str, missing))}")


def _stacked(table: pa.Table, needed: NeededRows) -> NDArray[np.float32]:
    """Return the rows in the order of the views, each view once."""
    shape = (len(needed.rows), needed.columns)
    stack = np.empty((len(needed.views), *shape), np.float32)
    missing = {int(view): place for place, view in enumerate(needed.views)}
    for batch in table.to_batches():
        for number, view in enumerate(batch.column("view").to_pylist()):
            if view not in missing:
                raise ScanError(f"view {view} is doubled: the scan must have each view once")
            stack[missing.pop(view)] = pixels_of(batch.column("pixels"), number, "<f4", shape)
    if missing:
        found = len(needed.views) - len(missing)
        raise ScanError(f"view {min(missing)} is missing: only {found} of {len(needed.views)} views came")
    return stack
