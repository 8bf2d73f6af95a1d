"""GPUs on a cluster whose workers claim to have one each: only the backprojection asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.servers import Standalone, Worker, spark_submit

EXECUTORS = {
    "spark.executor.memory": "512m",
    "spark.driver.memory": "512m",
    "spark.executor.cores": "2",
    "spark.executor.resource.gpu.amount": "1",
    "spark.eventLog.enabled": "true",
    "spark.eventLog.rolling.enabled": "false",
    "spark.eventLog.compress": "false",
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

with command_session("gpus") as spark:
    rows = spark.range(0, 16, 1, 4).mapInArrow(given("before"), "id long, before string")
    rows = rows.repartitionById(4, rows.id.cast("int") % 4)
    profile = gpu_profile(spark, sys.argv[2])
    rows = rows.mapInArrow(given("during"), "id long, before string, during string", False, profile)
    answer = [task_slots(spark), [row.asDict() for row in rows.collect()]]
with open(sys.argv[1], "w") as file:
    json.dump(answer, file)
"""


@contextmanager
def cluster_of(folder: Path, gpus: list[str]) -> Iterator[Standalone]:
    """Start workers of two cores, one for each GPU."""
    cluster = Standalone(folder, [Worker(cores=2, gpus=[gpu]) for gpu in gpus])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def gpu_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """GPU 0 and GPU 1."""
    with cluster_of(tmp_path_factory.mktemp("gpus"), ["0", "1"]) as cluster:
        yield cluster


def stages(folder: Path) -> list[dict[str, Any]]:
    """Return the stages of a run from Spark's event log: name of the last RDD's scope, tasks, resource profile."""
    (log,) = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [event["Stage Info"] for event in events if event["Event"] == "SparkListenerStageSubmitted"]


@pytest.mark.parametrize("backend", ["auto", "cuda", "cpu"])
def test_only_the_stage_with_the_profile_is_given_gpus(gpu_cluster: Standalone, tmp_path: Path, backend: str) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "events").mkdir()
    conf = EXECUTORS | {"spark.eventLog.dir": (tmp_path / "events").as_uri()}
    arguments = [str(tmp_path / "driver.py"), str(tmp_path / "answer.json"), backend]
    done = spark_submit("--master", gpu_cluster.url, *arguments, conf=conf)
    assert done.returncode == 0, done.stderr
    slots, rows = json.loads((tmp_path / "answer.json").read_text())
    assert slots == 4 and len(rows) == 16
    assert {row["before"] for row in rows} == {"[]"}
    given = {row["during"] for row in rows}
    assert given == ({"[]"} if backend == "cpu" else {'[["0"]]', '[["1"]]'})
    profiles = [stage["Resource Profile Id"] for stage in stages(tmp_path / "events")]
    assert [profile != 0 for profile in profiles] == [False, backend != "cpu"]


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
    standalone: Standalone, project: Path, small_scans: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = [str(project / "jobs" / "reconstruct.py"), "--raw", str(small_scans("merlin")), "--out", str(tmp_path)]
    conf = {"spark.executor.memory": "512m", "spark.driver.memory": "512m"}
    done = spark_submit("--master", standalone.url, *arguments, "--set", "run.backend=cuda", conf=conf)
    assert done.returncode == 2
    assert "run.backend is cuda, but the executors of spark://" in done.stdout + done.stderr
    assert "have no GPU: submit with spark.executor.resource.gpu.amount=1" in done.stdout + done.stderr
