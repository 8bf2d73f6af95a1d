"""Line integrals of a few detector rows of a scan, brought to the driver.

The executors read whole frames and preprocess them as a reconstruction would, but send only the rows that are asked
for: views x rows x columns of float32. From raw files nothing is written anywhere; their open beams and dark frames are
averaged first, two frames per counter, which the driver hands on to the executors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from marspipe.errors import ScanError
from marspipe.pipeline.corrections.calibrate import CalibrationReader, finished
from marspipe.pipeline.corrections.clock import Clock
from marspipe.pipeline.corrections.frame_sums import SUMS, partial_sums
from marspipe.pipeline.corrections.line_integrals import Corrections
from marspipe.pipeline.corrections.settings import settings_for
from marspipe.pipeline.frames.decode_frames import Decode
from marspipe.pipeline.frames.exposures import FRAME_COLUMNS
from marspipe.pipeline.frames.raw_scan import RawScan, camera_facts
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.frames.scan_parts import Part, cut
from marspipe.pipeline.planning.plan import ReconstructionPlan
from marspipe.pipeline.source import Measured, tube_of
from marspipe.pipeline.spark.failures import spark_failures
from marspipe.pipeline.spark.session import configure, task_slots
from marspipe.pipeline.spark.stages import as_function
from marspipe.pipeline.spark.watch import watch_stages
from marspipe.recipe import Recipe
from marspipe.show.progress import Progress
from marspipe.store.blobs import binary_column, pixels_of
from marspipe.store.tables import as_spark, read_table, spark_schema

MIB = 2**20
LARGEST_SPLIT_BYTES = 128 * MIB

_ROWS_ARROW = pa.schema([pa.field("view", pa.int32(), False), pa.field("pixels", pa.binary(), False)])
_ROWS = as_spark(_ROWS_ARROW)


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
class RowsStage:
    """Turns frames (whole views in a row) into rows of line integrals of one bin; travels to the executors."""

    corrections: Corrections
    needed: NeededRows

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield one record per needed view."""
        for view, integrals in self.corrections.views(batches, frozenset(self.needed.views.tolist())):
            rows = np.ascontiguousarray(integrals[0][self.needed.rows], dtype=np.float32)
            pixels = binary_column(rows, [rows.nbytes])
            yield pa.RecordBatch.from_arrays([pa.array([view], pa.int32()), pixels], schema=_ROWS_ARROW)


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
    calibrations = CalibrationReader.of(table.uri, table.metadata)
    _require_open_beams(table.uri, len(table.counters), table.open_beam_counters)
    corrections = _corrections(table, plan, recipe, calibrations)
    # Splits hold whole row groups, and these whole views (see ingest).
    split = max(MIB, min(LARGEST_SPLIT_BYTES, table.pixel_bytes // task_slots(spark)))
    spark.conf.set("spark.sql.files.maxPartitionBytes", str(split))
    frames = read_table(spark, table.uri, "frames", "frame_type", *FRAME_COLUMNS)
    projections = frames.where(F.col("frame_type") == "projection").drop("frame_type")
    run = as_function(RowsStage(corrections.on_one_scale().of_bin(bin), needed))
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
    parts = cut(scan, task_slots(spark))
    projections = [part for part in parts if part.frame_type == "projection"]
    others = [part for part in parts if part.frame_type != "projection"]
    if not any(part.frame_type == "open_beam" for part in others):
        _require_open_beams(scan.manifest_uri, len(scan.manifest.counters), set())
    decode = Decode.of(scan)
    with spark_failures(f"reading the raw files of {scan.manifest_uri}"):
        with watch_stages(spark, progress, ["open beams"]):
            table = _calibration_table(_on_parts(spark, others, decode, partial_sums, SUMS))
        reader = _calibration_reader(scan, table)
        tiles = range(len(scan.manifest.camera_positions_mm))
        of_tiles = {t: reader.of_rows(t, table.filter(pc.equal(table["tile"], t)).to_batches()) for t in tiles}
        handed_on = spark.sparkContext.broadcast(of_tiles)
        corrections = replace(_corrections(scan, plan, recipe, reader), broadcast=handed_on)
        with watch_stages(spark, progress, ["rows"]):
            stage = RowsStage(corrections.on_one_scale().of_bin(bin), needed)
            stack = _stacked(_on_parts(spark, projections, decode, stage, _ROWS).toArrow(), needed)
        handed_on.destroy()
    return stack


def _calibration_reader(scan: RawScan, table: pa.Table) -> CalibrationReader:
    """Return what a frames table of the scan would say of its calibrations."""
    camera = camera_facts(scan)
    timed = camera.acquired_at is not None and table.column("time_s").null_count == 0
    edges = {"rows": list(camera.edge_rows), "columns": list(camera.edge_columns)}
    clock = Clock(timed, len(scan.geometry))
    return CalibrationReader(scan.manifest_uri, len(scan.manifest.counters), clock, edges, camera.counter_depth_bits)


def _corrections(
    source: RawScan | FramesTable, plan: ReconstructionPlan, recipe: Recipe, calibrations: CalibrationReader
) -> Corrections:
    measured = Measured.by(source)
    settings = settings_for(recipe, tube_of(source), measured)
    return Corrections(measured.camera, plan.bins, settings, calibrations, str(uuid4()))


def _on_parts(spark: SparkSession, parts: list[Part], decode: Decode, work: Any, schema: T.StructType) -> DataFrame:
    """Return what a stage makes of the frames of a raw scan, one part a task; the frames never leave the worker."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column("id").to_pylist():
                yield from work(decode.frames(parts[number]))

    return spark.range(0, len(parts), 1, len(parts)).mapInArrow(run, schema)


def _calibration_table(sums: DataFrame) -> pa.Table:
    """Finish the partial sums of open beams and darks, for the driver."""
    ordered = sums.repartitionById(1, F.lit(0)).sortWithinPartitions(
        "tile", "counter", "frame_type", "absorber_mm", "group"
    )
    return ordered.mapInArrow(as_function(finished), spark_schema("calibration")).toArrow()


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
