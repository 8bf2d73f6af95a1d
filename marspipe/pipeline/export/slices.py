"""How slices of a volume are given to tasks."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from marspipe.pipeline.spark.session import task_slots
from marspipe.store.volume import Volume

# A task works on about this many slices: seconds of work.
SLICES_PER_TASK = 128

Run = tuple[int, int, int]


def runs_of_slices(spark: SparkSession, volume: Volume, bins: tuple[int, ...] | None = None) -> list[Run]:
    """Return what each task works on: a bin, and its first and last but one slice; some runs for every task slot."""
    nz = volume.shape[0]
    wanted = range(len(volume)) if bins is None else bins
    step = max(1, min(SLICES_PER_TASK, -(-nz * len(wanted) // task_slots(spark))))
    return [(bin_, z, min(z + step, nz)) for bin_ in wanted for z in range(0, nz, step)]


def numbered(spark: SparkSession, n_tasks: int) -> DataFrame:
    """Return the numbers of tasks, one to a task."""
    return spark.range(0, n_tasks, 1, n_tasks)


def numbers(batches: Iterator[pa.RecordBatch]) -> Iterator[int]:
    """Yield the numbers that a task was given."""
    for batch in batches:
        yield from batch.column("id").to_pylist()


def run_all(rows: DataFrame) -> None:
    """Run the tasks of a data frame; its rows are dropped."""
    rows.write.format("noop").mode("overwrite").save()
