"""The forecast of a job: its stages, what bounds it, and what to set."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any

from marspipe.errors import RecipeError
from marspipe.pipeline.forecast.cluster import Cluster
from marspipe.pipeline.forecast.stages import INGEST, Stage, stages_of, uses_device
from marspipe.pipeline.forecast.workload import Workload
from marspipe.pipeline.planning.plan import ReconstructionPlan, plan_reconstruction
from marspipe.pipeline.planning.slabs import INTERPRETER_BYTES, MIB
from marspipe.recipe import Recipe
from marspipe.scan.energy import counter_bins

# The process that forks an executor's workers.
FORKER_BYTES = 90 * MIB
# Settings are rounded up to this.
STEP_MIB = 256
# A task is never planned larger than this to make an impossible recipe possible.
LARGEST_TASK_MIB = 2**20
# Rows that are read this often are worth more memory.
WASTEFUL_OVERLAP = 1.5


@dataclass(frozen=True)
class Forecast:
    """What a job will need.

    Attributes
    ----------
    work : Workload
        The scan.
    plan : ReconstructionPlan
        Its slabs and tasks.
    memory_per_task_mib : int
        With which it was cut: the recipe's, or the least that it needs.
    cluster : Cluster
        Where.
    stages : tuple of Stage
        In their order.
    problems : tuple of str
        What makes the job impossible as it is, each with the remedy.
    advice : tuple of str
        What to set.
    """

    work: Workload
    plan: ReconstructionPlan
    memory_per_task_mib: int
    cluster: Cluster
    stages: tuple[Stage, ...]
    problems: tuple[str, ...]
    advice: tuple[str, ...]

    @property
    def task_bytes(self) -> int:
        """Python memory of the largest task of all stages."""
        return max(stage.task_bytes for stage in self.stages)

    @property
    def executor_python_bytes(self) -> int:
        """Python memory of an executor at most: its tasks, workers that wait, and the processes that fork them."""
        cores = self.cluster.cores_per_executor
        waiting = INTERPRETER_BYTES + self.plan.left_bytes
        busy = [(stage.task_bytes, min(cores, stage.tasks)) for stage in self.stages if stage.name != INGEST]
        needed = FORKER_BYTES + max(size * n + waiting * (cores - n) for size, n in busy)
        # Spark keeps the workers of ingest's RDDs apart from those of data frames, and ends them after an idle minute.
        for stage in self.stages:
            if stage.name == INGEST:
                needed += FORKER_BYTES + stage.task_bytes * min(cores, stage.tasks)
        return needed

    @property
    def start_s(self) -> float:
        """Seconds before the first stage: session and workers."""
        return self.cluster.start_up.session_s + self.cluster.start_up.worker_s

    @property
    def seconds(self) -> float:
        """Seconds of one scan, from the command to its end."""
        return self.start_s + sum(stage.seconds for stage in self.stages)

    @property
    def bound(self) -> str:
        """What bounds the job: what takes the largest part of its time."""
        parts = {"start-up": self.start_s}
        for stage in self.stages:
            parts[stage.bound] = parts.get(stage.bound, 0.0) + stage.seconds
        return max(parts, key=lambda name: parts[name])

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast, JSON-ready."""
        plan, work = self.plan, self.work
        return {
            "scan": work.name,
            "scans": work.repeats,
            "raw_bytes": work.pixel_bytes,
            "raw_bytes_of_all_scans": work.pixel_bytes * work.repeats,
            "views": len(plan.geometry),
            "detector_shape": list(plan.geometry.detector_shape),
            "camera_positions": work.camera.n_tiles,
            "bins": [b.energy.label for b in plan.bins],
            "grid": plan.grid.to_dict(),
            "cluster": self.cluster.model_dump(mode="json"),
            "slabs": len(plan.slabs),
            "slab_slices": plan.slabs[0].slab.n_slices,
            "views_per_batch": plan.views_per_batch,
            "rows_read_times": plan.overlap,
            "memory_per_task_mib": self.memory_per_task_mib,
            "stages": [asdict(stage) for stage in self.stages],
            "executor_python_bytes": self.executor_python_bytes,
            "start_s": self.start_s,
            "seconds": self.seconds,
            "seconds_of_all_scans": self.seconds * work.repeats,
            "bound": self.bound,
            "problems": list(self.problems),
            "advice": list(self.advice),
        }

    def describe(self) -> str:
        """Return the forecast as lines for people."""
        work, cluster = self.work, self.cluster
        lines = [self.plan.describe()]
        times = f", and {work.repeats} such scans" if work.repeats > 1 else ""
        lines.insert(0, f"input    {work.name}: {size_text(work.pixel_bytes)} of frames{times}")
        gpus = f", {cluster.gpus_per_executor} GPUs each" if cluster.gpus_per_executor else ""
        lines.append(
            f"cluster  {cluster.name}: {cluster.executors} x {cluster.cores_per_executor} cores, "
            f"{cluster.memory_per_executor_mib} MiB each{gpus}"
        )
        header = ("stage", "tasks", "waves", "MiB/task", "read", "shuffled", "written", "time", "bound by")
        table = [header]
        for stage in self.stages:
            table.append(
                (
                    stage.name,
                    str(stage.tasks),
                    str(stage.waves),
                    f"{stage.task_bytes / MIB:.0f}" if stage.task_bytes else "JVM",
                    size_text(stage.read_bytes),
                    size_text(stage.shuffle_bytes),
                    size_text(stage.write_bytes),
                    time_text(stage.seconds),
                    stage.bound,
                )
            )
        widths = [max(len(row[k]) for row in table) for k in range(len(header))]
        lines.append("")
        for row in table:
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:-1], widths[1:-1], strict=True))]
            lines.append("  ".join([*cells, row[-1]]))
        lines.append("")
        each = f"{time_text(self.seconds * work.repeats)} for {work.repeats} scans one after the other, " * (
            work.repeats > 1
        )
        lines.append(
            f"time     {each}{time_text(self.seconds)} a scan, {time_text(self.start_s)} of it start-up; bound by "
            f"{self.bound}"
        )
        lines.append(f"python   {self.executor_python_bytes / MIB:.0f} MiB of Python memory per executor at most")
        lines += [f"problem  {text}" for text in self.problems]
        lines += [f"advice   {text}" for text in self.advice]
        return "\n".join(lines)


def size_text(n_bytes: float) -> str:
    """Return a number of bytes with three digits and a decimal unit."""
    if n_bytes <= 0:
        return "-"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.4g} PB"


def time_text(seconds: float) -> str:
    """Return a time with two or three digits."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 48 * 3600 else f"{seconds / 86400:.4g} days"


def forecast(work: Workload, recipe: Recipe, cluster: Cluster) -> Forecast:
    """Plan a job for a cluster and say what it will need.

    A recipe whose memory does not suffice for one slice is planned with the least that does, and that is a problem.

    Raises
    ------
    RecipeError, GeometryError, ScanError
        If recipe and scan do not fit each other whatever the memory.
    """
    bins = tuple(counter_bins(work.counters, recipe.bins.kind))
    slots = cluster.slots if not uses_device(recipe, cluster) else cluster.gpu_slots
    problems: list[str] = []
    asked = memory = recipe.run.memory_per_task_mib
    with warnings.catch_warnings():
        if work.repeats > 1:
            # A circle of several sees a little less than its share at the rim; the neighbors see the rest.
            warnings.simplefilter("ignore")
        while True:
            try:
                plan = plan_reconstruction(work.geometry, bins, recipe, slots)
                stages = tuple(stages_of(work, plan, recipe, cluster))
                break
            except RecipeError as error:
                if memory >= LARGEST_TASK_MIB or "memory_per_task_mib" not in str(error):
                    raise
                if not problems:
                    problems.append(str(error))
                memory = STEP_MIB * math.ceil(memory * 1.25 / STEP_MIB)
                recipe = recipe.model_copy(
                    update={"run": recipe.run.model_copy(update={"memory_per_task_mib": memory})}
                )
    if problems:
        problems = [f"{problems[0]}; planned here with run.memory_per_task_mib = {memory} instead of {asked}"]
    found = Forecast(work, plan, memory, cluster, stages, (), ())
    problems += _memory_problems(found)
    found = Forecast(work, plan, memory, cluster, stages, tuple(problems), ())
    return replace(found, advice=tuple(_advice(found, recipe)))


def _memory_problems(found: Forecast) -> list[str]:
    cluster = found.cluster
    room = cluster.python_mib * MIB
    if found.executor_python_bytes <= room:
        return []
    worst = max(found.stages, key=lambda stage: stage.task_bytes * min(cluster.cores_per_executor, stage.tasks))
    fits = room // max(1, worst.task_bytes)
    fewer = (
        f"or spark.executor.cores {fits}"
        if fits
        else "or executors with more memory: not even one such task fits into these"
    )
    return [
        f"executors of {cluster.memory_per_executor_mib} MiB leave {cluster.python_mib} MiB to Python, but "
        f"{cluster.cores_per_executor} tasks of stage {worst.name} need {found.executor_python_bytes / MIB:.0f} MiB: "
        f"set spark.executor.memoryOverhead {overhead_mib(found)}m, {fewer}"
    ]


def overhead_mib(found: Forecast) -> int:
    """Return spark.executor.memoryOverhead: Python of all cores and the JVM beside its heap, MiB."""
    needed = found.executor_python_bytes / MIB + found.cluster.jvm_beyond_heap_mib
    return STEP_MIB * math.ceil(needed / STEP_MIB)


def _advice(found: Forecast, recipe: Recipe) -> list[str]:
    cluster, plan = found.cluster, found.plan
    advice = [
        f"spark.executor.memory {cluster.heap_mib}m and spark.executor.memoryOverhead {overhead_mib(found)}m; leave "
        "spark.executor.pyspark.memory unset"
    ]
    room = STEP_MIB * (cluster.python_mib // cluster.cores_per_executor // STEP_MIB)
    if found.task_bytes > found.memory_per_task_mib * MIB:
        worst = max(found.stages, key=lambda stage: stage.task_bytes)
        advice.append(
            f"tasks of stage {worst.name} need {found.task_bytes / MIB:.0f} MiB, more than run.memory_per_task_mib "
            f"{found.memory_per_task_mib}: whole views and their corrections cannot be cut; the overhead above counts "
            "them"
        )
    if found.executor_python_bytes <= cluster.python_mib * MIB and room > found.memory_per_task_mib:
        thin = f"rows are read {plan.overlap:.2f} times because slabs are thin: " * (plan.overlap > WASTEFUL_OVERLAP)
        advice.append(
            f"{thin}run.memory_per_task_mib up to {room} fits into these executors; planned with "
            f"{found.memory_per_task_mib}"
        )
    thickness = "set by the recipe" if recipe.run.slab_slices else "chosen by memory and slots"
    advice.append(f"run.slab_slices {plan.slabs[0].slab.n_slices} ({thickness})")
    if cluster.gpu_slots and cluster.gpu.kernel_gups is None:
        advice.append(
            "gpu.kernel_gups of the cluster description is not measured: the backprojection is planned for CPU cores; "
            "measure it with marspipe bench kernel --backend cuda and fill it in"
        )
    return advice
