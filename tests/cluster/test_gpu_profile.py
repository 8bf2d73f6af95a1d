"""GPUs on a cluster whose workers claim to have one each: only the backprojection asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marspipe.pipeline.benchmarks.standalone import StandaloneCluster
from tests.cluster.servers import COMPILED_ONCE, gpu_worker, spark_submit

EXECUTORS = {
    "spark.executor.memory": "512m",
    "spark.driver.memory": "512m",
    "spark.executor.cores": "2",
    "spark.executor.resource.gpu.amount": "1",
    "spark.eventLog.enabled": "true",
    "spark.eventLog.rolling.enabled": "false",
    "spark.eventLog.compress": "false",
    **COMPILED_ONCE,
}

# Two stages, of which the second asks; every task says what it was given.
DRIVER = """
import json, sys
import pyarrow as pa
from pyspark import TaskContext
from marspipe.pipeline.spark.gpu import gpu_profile
from marspipe.pipeline.spark.session import command_session, task_slots

def given(name):
    def run(batches):
        for batch in batches:
            addresses = [gpu.addresses for kind, gpu in TaskContext.get().resources().items() if kind == "gpu"]
            column = pa.array([json.dumps(addresses)] * batch.num_rows)
            yield pa.RecordBatch.from_arrays([*batch.columns, column], names=[*batch.schema.names, name])
    return run

answer = {}
with command_session("gpus") as spark:
    slots = task_slots(spark)
    for backend in sys.argv[2:]:
        rows = spark.range(0, 16, 1, 4).mapInArrow(given("before"), "id long, before string")
        rows = rows.repartitionById(4, rows.id.cast("int") % 4)
        profile = gpu_profile(spark, backend)
        rows = rows.mapInArrow(given("during"), "id long, before string, during string", False, profile)
        answer[backend] = [row.asDict() for row in rows.collect()]
with open(sys.argv[1], "w") as file:
    json.dump([slots, answer], file)
"""


def cluster_of(folder: Path, gpus: list[str]) -> StandaloneCluster:
    """Return a cluster of workers of two cores, one for each GPU."""
    return StandaloneCluster(folder, [gpu_worker(folder, [gpu]) for gpu in gpus])


def stages(folder: Path) -> list[dict[str, Any]]:
    """Return the stages of a run from Spark's event log: name of the last RDD's scope, tasks, resource profile."""
    (log,) = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [event["Stage Info"] for event in events if event["Event"] == "SparkListenerStageSubmitted"]


def test_only_the_stage_with_the_profile_is_given_gpus(tmp_path: Path) -> None:
    backends = ["auto", "cuda", "cpu"]
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "events").mkdir()
    conf = EXECUTORS | {"spark.eventLog.dir": (tmp_path / "events").as_uri()}
    arguments = [str(tmp_path / "driver.py"), str(tmp_path / "answer.json"), *backends]
    with cluster_of(tmp_path / "gpus", ["0", "1"]) as cluster:
        done = spark_submit("--master", cluster.url, *arguments, conf=conf)
    assert done.returncode == 0, done.stderr
    slots, answers = json.loads((tmp_path / "answer.json").read_text())
    assert slots == 4
    for backend in backends:
        rows = answers[backend]
        assert len(rows) == 16
        assert {row["before"] for row in rows} == {"[]"}
        given = {row["during"] for row in rows}
        assert given == ({"[]"} if backend == "cpu" else {'[["0"]]', '[["1"]]'})
    profiles = [stage["Resource Profile Id"] for stage in stages(tmp_path / "events")]
    assert [profile != 0 for profile in profiles] == [False, True, False, True, False, False]


def test_the_device_of_the_task_reaches_the_kernel_of_a_reconstruction(
    project: Path, small_scans: Callable[[str], Path], tmp_path: Path
) -> None:
    """CUDA is numba's simulator, which has a device 0 only, and the one worker gives out device 1."""
    (tmp_path / "events").mkdir()
    conf = EXECUTORS | {
        "spark.eventLog.dir": (tmp_path / "events").as_uri(),
        "spark.executorEnv.NUMBA_ENABLE_CUDASIM": "1",
        "spark.task.maxFailures": "1",
    }
    arguments = [str(project / "jobs" / "reconstruct.py"), "--raw", str(small_scans("merlin")), "--out", str(tmp_path)]
    # Voxels few enough for the simulator.
    small = ["grid.shape=[4, 6, 6]", "grid.voxel_mm=[0.4, 0.4, 0.4]", "run.slab_slices=1", "run.backend=cuda"]
    overrides = [word for value in small for word in ("--set", value)]
    with cluster_of(tmp_path / "gpus", ["1"]) as cluster:
        done = spark_submit("--master", cluster.url, *arguments, *overrides, conf=conf)
    assert done.returncode == 2
    assert "device must be 0..0, the CUDA devices there are, got 1" in done.stdout + done.stderr
    profiles = [stage["Resource Profile Id"] for stage in stages(tmp_path / "events")]
    assert len(profiles) > 2
    assert [profile != 0 for profile in profiles] == [False] * (len(profiles) - 1) + [True]


def test_cuda_on_a_cluster_without_gpus_is_refused(
    standalone: StandaloneCluster, project: Path, small_scans: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = [str(project / "jobs" / "reconstruct.py"), "--raw", str(small_scans("merlin")), "--out", str(tmp_path)]
    conf = {"spark.executor.memory": "512m", "spark.driver.memory": "512m"}
    done = spark_submit("--master", standalone.url, *arguments, "--set", "run.backend=cuda", conf=conf)
    assert done.returncode == 2
    assert "run.backend is cuda, but the executors of spark://" in done.stdout + done.stderr
    assert "have no GPU: submit with spark.executor.resource.gpu.amount=1" in done.stdout + done.stderr
