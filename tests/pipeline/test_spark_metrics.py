"""What Spark says that a job did, beside what is known of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from marspipe.pipeline.spark.metrics import collect_stage_metrics, measured_stages

ROWS, ROW_BYTES = 64, 20_000
PIXELS = ROWS * ROW_BYTES


def noise(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Add bytes that do not compress."""
    for batch in batches:
        pixels = pa.array([os.urandom(ROW_BYTES) for _ in range(batch.num_rows)], pa.binary())
        yield pa.RecordBatch.from_arrays([batch.column(0), pixels], names=["id", "pixels"])


def shuffle_into(spark: SparkSession, target: Path) -> None:
    data = spark.range(ROWS, numPartitions=4).mapInArrow(noise, "id bigint, pixels binary")
    data.repartition(3).write.option("compression", "none").parquet(str(target))


def test_bytes_and_tasks_of_a_shuffled_table(spark: SparkSession, tmp_path: Path) -> None:
    with measured_stages(spark) as stages:
        assert not stages
        shuffle_into(spark, tmp_path / "table")
    spark.range(5).count()
    mapped, written = stages
    assert [(s.tasks, s.attempts, s.failed_tasks) for s in stages] == [(4, 1, 0), (3, 1, 0)]
    # Beside the pixels a row has its number and, in the table, its part of the footers.
    assert PIXELS < mapped.shuffle_write_bytes < 1.02 * PIXELS
    assert mapped.shuffle_write_bytes == written.shuffle_read_bytes
    files = sum(file.stat().st_size for file in (tmp_path / "table").glob("*.parquet"))
    assert mapped.output_bytes == written.shuffle_write_bytes == 0
    assert PIXELS < written.output_bytes <= files
    for stage in stages:
        assert 0 < stage.wall_s < 600
        assert stage.executor_run_s > 0
        assert stage.spilled_bytes == 0
    with measured_stages(spark) as again:
        spark.read.parquet(str(tmp_path / "table")).selectExpr("max(length(pixels))").collect()
    assert 0 < max(stage.input_bytes for stage in again) <= files


def test_only_the_stages_of_the_group_are_returned(spark: SparkSession, tmp_path: Path) -> None:
    context = spark.sparkContext
    try:
        context.setJobGroup("marspipe-test-metrics", "measured")
        shuffle_into(spark, tmp_path / "table")
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
    spark.range(ROWS).count()
    assert [s.tasks for s in collect_stage_metrics(spark, "marspipe-test-metrics")] == [4, 3]
    assert collect_stage_metrics(spark, "marspipe-nobody") == []


def test_failed_tasks_are_counted(spark: SparkSession) -> None:
    def fail(rows: Iterator[int]) -> Iterator[int]:
        raise ValueError("no")
        yield from rows

    with measured_stages(spark) as stages, pytest.raises(PySparkException, match="ValueError: no"):
        spark.sparkContext.parallelize(range(4), 2).mapPartitions(fail).collect()
    assert sum(stage.failed_tasks for stage in stages) >= 1
