"""Disturbed jobs: a driver in a process of its own, gates at which a task waits for the test, and Spark's own counts.

What is wrapped around a stage is made in the driver and travels to the workers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import SparkSession

from marspipe.pipeline.filter_views import FilterStage
from marspipe.pipeline.frames.frame_files import Written
from marspipe.pipeline.ingest import ingest, open_scan
from marspipe.pipeline.reconstruct import prepare, reconstruct
from marspipe.pipeline.spark.session import local_session
from marspipe.pipeline.spark.stages import Stage
from marspipe.recipe import Recipe, parse_recipe
from marspipe.store import hdfs
from tests.cluster.servers import COMPILED_ONCE, PROJECT, clean_environment, until
from tests.pipeline.scans import quiet

SIDE = 48
PITCH = 0.11 / 1.25
GRID = f"grid: {{shape: [{SIDE}, {SIDE}, {SIDE}], voxel_mm: [{PITCH}, {PITCH}, {PITCH}]}}"
# A task that is never released ends its test, not the test run.
GIVE_UP_S = 300.0


def recipe(*overrides: str) -> Recipe:
    """Return the tests' recipe: six slabs of each of two bins unless told otherwise."""
    return parse_recipe(GRID, "faults", ("run.slab_slices=8", *overrides))


class Driver:
    """A Spark driver in a process of its own that runs the functions it is sent.

    Parameters
    ----------
    master : str
        Where its tasks run.
    folder : Path
        For its log and its caches.
    settings : mapping, optional
        Further Spark settings.

    Attributes
    ----------
    log : Path
        What Spark says.
    """

    def __init__(self, master: str, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "driver.log"
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, master, str(folder), dict(settings or {})))
        self._process.start()
        theirs.close()

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Start ``function(spark, *arguments)``, a function that can be imported by name."""
        self._pipe.send((function, arguments))

    def result(self) -> Any:
        """Wait for what was started last; return its result or raise its exception."""
        if not self._pipe.poll(3 * GIVE_UP_S):
            raise TimeoutError("the driver does not answer")
        value = self._pipe.recv()
        if isinstance(value, BaseException):
            raise value
        return value

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run ``function(spark, *arguments)`` and return its result."""
        self.start(function, *arguments)
        return self.result()

    def stop(self) -> None:
        """End the driver."""
        with suppress(OSError):
            self._pipe.send(None)
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Any, master: str, folder: str, settings: dict[str, str]) -> None:
    kept = clean_environment()
    os.environ.clear()
    os.environ.update(kept)
    log = os.open(f"{folder}/driver.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 2)
    base = {
        "spark.app.name": "faults",
        "spark.driver.memory": "512m",
        "spark.executor.memory": "512m",
        "spark.executorEnv.PYTHONPATH": str(PROJECT),
        **COMPILED_ONCE,
        "spark.executorEnv.NUMBA_NUM_THREADS": "1",
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.hadoop.dfs.replication": "2",
    }
    spark = local_session(master, **{key.replace(".", "__"): value for key, value in {**base, **settings}.items()})
    while (message := pipe.recv()) is not None:
        function, arguments = message
        try:
            result = function(spark, *arguments)
        except BaseException as error:
            result = error
        pipe.send(result)
    spark.stop()


@dataclass(frozen=True)
class Gate:
    """A place in a job where it tells the test and waits; only who comes first.

    Attributes
    ----------
    folder : str
        An empty folder that test, driver and workers see.
    """

    folder: str

    def pass_through(self) -> None:
        """Tell who is here, and wait until the gate is opened, unless somebody was here before."""
        here = {"pid": os.getpid(), "jvm": parent(parent(os.getpid()))}
        try:
            descriptor = os.open(f"{self.folder}/reached", os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return
        os.close(descriptor)
        written = Path(self.folder, "facts.new")
        written.write_text(json.dumps(here))
        written.rename(written.with_name("facts"))
        opened = Path(self.folder, "open")
        until(opened.exists, "the opening of the gate", GIVE_UP_S)

    def wait(self) -> dict[str, int]:
        """Wait until somebody is at the gate; return the pid of that process and of the JVM it works for."""
        facts = Path(self.folder, "facts")
        until(facts.exists, "the gate's being reached", GIVE_UP_S)
        found: dict[str, int] = json.loads(facts.read_text())
        return found

    def open(self) -> None:
        """Let who waits go on."""
        Path(self.folder, "open").touch()


@dataclass(frozen=True)
class WaitAtGate:
    """Wait at the gate."""

    gate: Gate

    def __call__(self) -> None:
        self.gate.pass_through()


@dataclass(frozen=True)
class FailTwice:
    """Fail at the first two attempts of the task."""

    def __call__(self) -> None:
        context = TaskContext.get()
        assert context is not None
        if context.attemptNumber() < 2:
            raise OSError("the disk of this machine is going to break")


@dataclass(frozen=True)
class SlowFirstAttempt:
    """Let the first attempt wait until Spark has started a copy of it; then both go on."""

    folder: str

    def __call__(self) -> None:
        context, begun = TaskContext.get(), Path(self.folder, "copy-has-begun")
        assert context is not None
        if context.attemptNumber() > 0:
            begun.touch()
        else:
            until(begun.exists, "the start of a copy of a slow task", GIVE_UP_S)


@dataclass(frozen=True)
class WaitInUpload:
    """Let the next file that this process sends to HDFS wait at the gate after its first bytes."""

    gate: Gate

    def __call__(self) -> None:
        write = hdfs.write

        def waiting(
            root: str, path: str, temporary: str, chunks: Callable[[], Iterable[bytes | memoryview]], overwrite: bool
        ) -> None:
            def gated() -> Iterator[bytes | memoryview]:
                for chunk in chunks():
                    yield chunk
                    self.gate.pass_through()

            hdfs.write = write
            write(root, path, temporary, gated, overwrite)

        hdfs.write = waiting


@dataclass(frozen=True)
class FilterWith:
    """A filter stage that does something after the first view of its first task."""

    stage: FilterStage
    action: Callable[[], None]

    def __call__(self, views: Iterable[tuple[int, NDArray[np.float32]]]) -> Iterator[pa.RecordBatch]:
        """Filter views."""
        context = TaskContext.get()
        assert context is not None
        for number, batch in enumerate(self.stage(views)):
            yield batch
            if number == 0 and context.partitionId() == 0:
                self.action()


@dataclass(frozen=True)
class WriteFramesWith:
    """The work of ingest's tasks; before the first of them ends, it does something."""

    work: Callable[[Any], Written]
    action: Callable[[], None]

    def __call__(self, parts: Any) -> Written:
        """Write the exposures of some parts."""
        context = TaskContext.get()
        assert context is not None
        if context.partitionId() == 0:
            self.action()
        return self.work(parts)


def backproject_with(partition: int, action: Callable[[], None], *, after_slices: int = 0) -> Callable[[Any], Stage]:
    """Return what makes the backprojection's function: one task does something before or between its slices."""

    def as_function(stage: Any) -> Stage:
        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            context = TaskContext.get()
            assert context is not None
            if context.partitionId() != partition:
                yield from stage(batches)
                return
            if not after_slices:
                action()
            for batch in stage(batches):
                if after_slices:
                    yield batch.slice(0, after_slices)
                    # Of a batch the worker keeps the last bytes until the next one comes.
                    yield batch.slice(after_slices, after_slices)
                    action()
                yield batch.slice(2 * after_slices)

        return run

    return as_function


@dataclass(frozen=True)
class Fault:
    """What is to be disturbed.

    Attributes
    ----------
    stage : str
        filter, backproject or commit.
    action : callable
        What happens there.
    partition : int
        Of the backprojection.
    after_slices : int
        Twice as many slices of the slab the task has given away before.
    """

    stage: str
    action: Callable[[], None]
    partition: int = 3
    after_slices: int = 0

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        """Put it into this driver's pipeline."""
        where = "marspipe.pipeline.reconstruct"
        if self.stage == "filter":
            action = self.action
            patch.setattr(f"{where}.FilterStage", lambda *a: FilterWith(FilterStage(*a), action))
        elif self.stage == "backproject":
            made = backproject_with(self.partition, self.action, after_slices=self.after_slices)
            patch.setattr(f"{where}.as_function", made)


def _nothing() -> None:
    pass


def make_volume(
    spark: SparkSession, frames_uri: str, out: str, fault: Fault | None = None, overrides: tuple[str, ...] = ()
) -> dict[str, int]:
    """Reconstruct in a driver, disturbed; return what Spark has counted meanwhile."""
    before = counts(spark)
    with pytest.MonkeyPatch.context() as patch:
        if fault is not None:
            fault.patch(patch)
        before_commit = fault.action if fault is not None and fault.stage == "commit" else _nothing
        done = reconstruct(
            spark, prepare(frames_uri, recipe(*overrides), 2), out, progress=quiet(), before_commit=before_commit
        )
    after = counts(spark)
    return {key: after[key] - before[key] for key in after} | {"slabs": done.slabs, "kept": done.slabs_kept}


def make_frames(spark: SparkSession, raw: str, out: str, action: Callable[[], None] | None = None) -> dict[str, int]:
    """Ingest in a driver; return what Spark has counted meanwhile."""
    from marspipe.pipeline.frames.frame_files import WriteFrames

    before = counts(spark)
    with pytest.MonkeyPatch.context() as patch:
        if action is not None:
            patch.setattr("marspipe.pipeline.ingest.WriteFrames", lambda *a: WriteFramesWith(WriteFrames(*a), action))
        ingest(spark, open_scan(raw), out, progress=quiet())
    after = counts(spark)
    return {key: after[key] - before[key] for key in after}


def counts(spark: SparkSession) -> dict[str, int]:
    """Return Spark's own counts: executors lost, failed, killed and repeated tasks, speculative ones."""
    store, jvm = spark.sparkContext._jsc.sc().statusStore(), spark.sparkContext._jvm
    assert jvm is not None
    executors = store.executorList(False)
    lost = sum(not executors.apply(i).isActive() for i in range(executors.size()))
    none = spark.sparkContext._gateway.new_array(jvm.double, 0)
    stages = store.stageList(jvm.java.util.ArrayList(), False, False, none, jvm.java.util.ArrayList())
    found = {"executors lost": lost, "failed": 0, "stages repeated": 0, "killed": 0, "speculative": 0}
    for stage in (stages.apply(i) for i in range(stages.size())):
        found["failed"] += stage.numFailedTasks()
        found["killed"] += stage.numKilledTasks()
        found["stages repeated"] += stage.attemptId() > 0
        summary = store.speculationSummary(stage.stageId(), stage.attemptId())
        found["speculative"] += summary.get().numTasks() if summary.isDefined() else 0
    return found


def kill(pid: int) -> None:
    """End a process at once (SIGKILL)."""
    os.kill(pid, signal.SIGKILL)


def command_line(pid: int) -> str:
    """Return a process's command line, its words with blanks between them."""
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def parent(pid: int) -> int:
    """Return the process that has started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
