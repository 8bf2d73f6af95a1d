"""What the stages of a job did, from Spark's own status store: it is kept whether the web page is served or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from pyspark.sql import SparkSession


@dataclass(frozen=True)
class StageMetrics:
    """What a stage did, all its attempts together.

    Attributes
    ----------
    stage_id : int
        Spark's number.
    name : str
        Spark's name of it.
    tasks : int
        Tasks of the stage.
    failed_tasks : int
        Attempts of tasks that failed.
    attempts : int
        Attempts of the stage.
    wall_s : float
        From its submission to its end.
    executor_run_s : float
        Time of all tasks.
    input_bytes, output_bytes : int
        Read from and written to tables, as far as Spark counts them: of local files it misses what Parquet's vectored
        reader fetches.
    shuffle_read_bytes, shuffle_write_bytes : int
        Read from and written to shuffle files.
    spilled_bytes : int
        Written to disk for lack of memory.
    gc_s : float
        Garbage collection in all tasks.
    """

    stage_id: int
    name: str
    tasks: int
    failed_tasks: int
    attempts: int
    wall_s: float
    executor_run_s: float
    input_bytes: int
    output_bytes: int
    shuffle_read_bytes: int
    shuffle_write_bytes: int
    spilled_bytes: int
    gc_s: float


def collect_stage_metrics(spark: SparkSession, group: str) -> list[StageMetrics]:
    """Return what the stages of a job group did, in the order of their numbers; skipped stages are left out.

    Parameters
    ----------
    spark : SparkSession
        The session; Spark remembers its last ``spark.ui.retainedStages`` stages.
    group : str
        Name of the group, as given to ``SparkContext.setJobGroup``.
    """
    return _collect(spark, lambda job: bool(job.jobGroup().isDefined() and job.jobGroup().get() == group))


@contextmanager
def measured_stages(spark: SparkSession) -> Iterator[list[StageMetrics]]:
    """Give a list that at the end has what the stages of all jobs begun inside did, whatever their groups."""
    before = max((int(job.jobId()) for job in _items(_store(spark).jobsList(None))), default=-1)
    found: list[StageMetrics] = []
    yield found
    found += _collect(spark, lambda job: int(job.jobId()) > before)


def _store(spark: SparkSession) -> Any:
    scala = spark.sparkContext._jsc.sc()
    scala.listenerBus().waitUntilEmpty()
    return scala.statusStore()


def _collect(spark: SparkSession, of_interest: Callable[[Any], bool]) -> list[StageMetrics]:
    store, gateway = _store(spark), cast(Any, spark.sparkContext._gateway)
    wanted = {number for job in _items(store.jobsList(None)) if of_interest(job) for number in _items(job.stageIds())}
    no_quantiles, no_statuses = gateway.new_array(gateway.jvm.double, 0), gateway.jvm.java.util.ArrayList()
    attempts: dict[int, list[Any]] = {}
    for stage in _items(store.stageList(None, False, False, no_quantiles, no_statuses)):
        if stage.stageId() in wanted and stage.submissionTime().isDefined():
            attempts.setdefault(stage.stageId(), []).append(stage)
    return [_metrics(number, attempts[number]) for number in sorted(attempts)]


def _metrics(number: int, attempts: list[Any]) -> StageMetrics:
    def total(name: str) -> int:
        return sum(int(getattr(stage, name)()) for stage in attempts)

    begun = [stage.submissionTime().get().getTime() for stage in attempts]
    ended = [stage.completionTime().get().getTime() for stage in attempts if stage.completionTime().isDefined()]
    return StageMetrics(
        stage_id=number,
        name=str(attempts[0].name()),
        tasks=max(int(stage.numTasks()) for stage in attempts),
        failed_tasks=total("numFailedTasks"),
        attempts=len(attempts),
        wall_s=max(0, max(ended, default=0) - min(begun)) / 1e3,
        executor_run_s=total("executorRunTime") / 1e3,
        input_bytes=total("inputBytes"),
        output_bytes=total("outputBytes"),
        shuffle_read_bytes=total("shuffleReadBytes"),
        shuffle_write_bytes=total("shuffleWriteBytes"),
        spilled_bytes=total("diskBytesSpilled"),
        gc_s=total("jvmGcTime") / 1e3,
    )


def _items(sequence: Any) -> Iterator[Any]:
    """Return the items of a Scala sequence, which Python cannot walk through by itself."""
    for number in range(sequence.size()):
        yield sequence.apply(number)
