"""Progress of a running Spark job, stage by stage, from Spark's own counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from uuid import uuid4

from pyspark import StatusTracker
from pyspark.sql import SparkSession

from marspipe.show.progress import Progress, Stage

_INTERVAL_S = 0.25


@contextmanager
def watch_stages(spark: SparkSession, progress: Progress, names: Sequence[str]) -> Iterator[None]:
    """Report the stages of the jobs that are run inside, named in the order in which they run.

    Parameters
    ----------
    spark : SparkSession
        The session that runs the jobs from this thread.
    progress : Progress
        Where to report.
    names : sequence of str
        Names of the stages; further stages are not reported.
    """
    group = f"marspipe-{uuid4()}"
    context = spark.sparkContext
    context.setJobGroup(group, " + ".join(names))
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(spark, progress, group, names, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]


def _follow(spark: SparkSession, progress: Progress, group: str, names: Sequence[str], stop: threading.Event) -> None:
    tracker = spark.sparkContext.statusTracker()
    shown: dict[int, tuple[Stage, ExitStack]] = {}
    with ExitStack() as still_open:
        while True:
            last = stop.is_set()
            # Stages whose results are reused from an earlier job are planned too, but never start.
            for stage in sorted({s for job in tracker.getJobIdsForGroup(group) for s in _stages_of(tracker, job)}):
                counts = tracker.getStageInfo(stage)
                if counts is None or counts.numActiveTasks + counts.numCompletedTasks == 0:
                    continue
                if stage not in shown and len(shown) < len(names):
                    closing = still_open.enter_context(ExitStack())
                    bar = progress.stage(names[len(shown)], total=counts.numTasks, unit="tasks")
                    shown[stage] = (closing.enter_context(bar), closing)
                if stage in shown:
                    shown[stage][0].update(counts.numCompletedTasks)
                    if counts.numCompletedTasks == counts.numTasks:
                        shown[stage][1].close()
            if last:
                return
            stop.wait(_INTERVAL_S)


def _stages_of(tracker: StatusTracker, job: int) -> list[int]:
    info = tracker.getJobInfo(job)
    return list(info.stageIds) if info else []
