"""Run a job and show what was predicted beside what it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import SparkSession
from rich.console import Console

from marspipe.pipeline.benchmarks.pipeline import PythonMemory
from marspipe.pipeline.forecast.report import Forecast, size_text, time_text
from marspipe.pipeline.frames.raw_scan import RawScan
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.planning.slabs import MIB
from marspipe.pipeline.run import run
from marspipe.pipeline.spark.metrics import measured_stages
from marspipe.recipe import Recipe
from marspipe.show.progress import Progress, Stage

# Stages that end between two looks at their progress are opened and closed at once: what they took is not known.
_SEEN_S = 0.02


class StageTimes(Progress):
    """Says nothing, and keeps how long every stage took."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, *, total: float | None = None, unit: str = "steps") -> Iterator[Stage]:
        """Open a stage and time it."""
        begin = time.perf_counter()
        try:
            with super().stage(name, total=total, unit=unit) as shown:
                yield shown
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


@dataclass(frozen=True)
class Measured:
    """What a job took.

    Attributes
    ----------
    seconds : float
        From the start of the session.
    stage_seconds : dict
        By stage; they may overlap.
    shuffle_bytes : int
        Written to shuffles by all stages, by Spark's own count.
    largest_worker_bytes, workers_bytes : int
        Peak resident memory of one Python worker, and of all together.
    """

    seconds: float
    stage_seconds: dict[str, float]
    shuffle_bytes: int
    largest_worker_bytes: int
    workers_bytes: int


def measured_run(
    spark: SparkSession, source: RawScan | FramesTable, out_uri: str, recipe: Recipe, since: float
) -> Measured:
    """Run a job; ``since`` is the ``time.perf_counter()`` before the session was started."""
    times = StageTimes()
    with measured_stages(spark) as stages, PythonMemory() as memory:
        run(spark, source, out_uri, recipe, progress=times)
    return Measured(
        time.perf_counter() - since,
        times.seconds,
        sum(stage.shuffle_write_bytes for stage in stages),
        memory.largest_bytes,
        memory.peak_bytes,
    )


def compared(predicted: Forecast, measured: Measured) -> str:
    """Return a table: predicted, measured, and their ratio; without stages too short to be seen."""
    lines = [f"{'':<24}{'predicted':>12}{'measured':>12}{'ratio':>8}"]

    def line(name: str, one: float, other: float, text: str, other_text: str) -> None:
        ratio = f"{one / other:8.2f}" if other else " " * 8
        lines.append(f"{name:<24}{text:>12}{other_text:>12}{ratio}")

    for stage in predicted.stages:
        took = measured.stage_seconds.get(stage.name)
        if took is not None and took >= _SEEN_S:
            line(stage.name, stage.seconds, took, time_text(stage.seconds), time_text(took))
    line("all", predicted.seconds, measured.seconds, time_text(predicted.seconds), time_text(measured.seconds))
    shuffled = sum(stage.shuffle_bytes for stage in predicted.stages)
    line("shuffled", shuffled, measured.shuffle_bytes, size_text(shuffled), size_text(measured.shuffle_bytes))
    for name, one, other in (
        ("largest Python worker", predicted.task_bytes, measured.largest_worker_bytes),
        ("all Python workers", predicted.executor_python_bytes, measured.workers_bytes),
    ):
        line(name, one, other, f"{one / MIB:.0f} MiB", f"{other / MIB:.0f} MiB")
    return "\n".join(lines)
