"""One sentence for each way in which Spark gives up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from marspipe.errors import RunError
from marspipe.pipeline.spark.failures import spark_failures
from tests.cluster.faults import Driver

pytest_plugins = ["tests.cluster.fault_fixtures"]


def kill_self(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        os.kill(os.getpid(), signal.SIGKILL)
        yield batch


def kill_executor(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    from tests.cluster.faults import parent

    for batch in batches:
        os.kill(parent(parent(os.getpid())), signal.SIGKILL)
        yield batch


def said(spark: SparkSession, executor: bool) -> str:
    with pytest.raises(RunError) as failed, spark_failures("the reconstruction"):
        spark.range(0, 1, 1, 1).mapInArrow(kill_executor if executor else kill_self, "id long").collect()
    return str(failed.value)


def test_a_python_worker_that_dies_again_and_again(driver: Driver) -> None:
    assert driver.run(said, False) == (
        "the reconstruction failed: a Python worker of Spark died, killed or for want of memory "
        "(run.memory_per_task_mib bounds what it takes)"
    )


def test_executors_that_die_again_and_again(driver: Driver) -> None:
    text = driver.run(said, True)
    assert text.startswith("the reconstruction failed: executors died under the same task 4 times: ")
    assert "\n" not in text and "\tat" not in text
