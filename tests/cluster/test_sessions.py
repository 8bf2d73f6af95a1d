"""What a job finds out about the session it was given, and what it adds to it, on every kind of master."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from marspipe.pipeline.benchmarks.standalone import StandaloneCluster
from tests.cluster.servers import SPARK_HOME, Hdfs, Yarn, spark_submit

# A driver that asks at once, before any executor can have registered, and once more after its first job.
DRIVER = """
import json, os, sys
from marspipe.pipeline.spark.session import command_session, task_slots
from pyspark import TaskContext

def environment(_):
    import numba
    yield {key: os.environ.get(key) for key in ("NUMBA_CACHE_DIR", "OMP_NUM_THREADS", "HADOOP_CONF_DIR")} | {
        "python": sys.executable, "numba": numba.config.CACHE_DIR}

with command_session("who am I") as spark:
    first = task_slots(spark)
    seen = spark.sparkContext.parallelize(range(first), first).mapPartitions(environment).collect()
    keys = sys.argv[2:]
    conf = spark.sparkContext.getConf()
    answer = {"slots": [first, task_slots(spark)], "seen": seen, "conf": {key: conf.get(key) for key in keys}}
    with open(sys.argv[1], "w") as file:
        json.dump(answer, file)
"""
KEYS = ["spark.app.name", "spark.shuffle.compress", "spark.shuffle.sort.bypassMergeThreshold"]
KEYS += ["spark.executor.extraJavaOptions", "spark.executorEnv.NUMBA_CACHE_DIR"]
SMALL = {"spark.executor.memory": "512m", "spark.driver.memory": "512m"}


def ask(
    folder: Path, master: str, conf: dict[str, str], *options: str, environment: dict[str, str] | None = None
) -> Any:
    driver, answer = folder / "driver.py", folder / "answer.json"
    driver.write_text(DRIVER)
    arguments = ["--master", master, *options, str(driver), str(answer), *KEYS]
    done = spark_submit(*arguments, conf=SMALL | conf, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(answer.read_text())


@pytest.mark.parametrize(("master", "slots"), [("local[2]", 2), ("local-cluster[2,1,1024]", 2)])
def test_slots_on_one_machine(tmp_path: Path, master: str, slots: int) -> None:
    # Spark's own count answers spark.default.parallelism, which has nothing to do with slots
    found = ask(tmp_path, master, {"spark.default.parallelism": "7"})
    assert found["slots"] == [slots, slots]
    assert found["conf"]["spark.shuffle.compress"] == "false"
    assert found["conf"]["spark.shuffle.sort.bypassMergeThreshold"] == "1"


def test_standalone_waits_for_executors_and_completes_the_settings(
    standalone: StandaloneCluster, tmp_path: Path
) -> None:
    found = ask(tmp_path, standalone.url, {})
    assert found["slots"] == [2, 2]
    assert found["conf"]["spark.shuffle.compress"] == "false"
    assert found["conf"]["spark.executor.extraJavaOptions"].endswith("-XX:+UseParallelGC")  # after Spark's own
    for seen in found["seen"]:
        assert seen["NUMBA_CACHE_DIR"] == seen["numba"] == "numba-cache"
        assert seen["OMP_NUM_THREADS"] == "1"
        assert seen["python"] == sys.executable


def test_what_spark_submit_sets_stays(standalone: StandaloneCluster, tmp_path: Path) -> None:
    own = {
        "spark.cores.max": "1",
        "spark.shuffle.compress": "true",
        "spark.executor.extraJavaOptions": "-XX:+UseSerialGC",
        "spark.executorEnv.NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }
    found = ask(tmp_path, standalone.url, own)
    assert found["slots"] == [1, 1]
    assert found["conf"]["spark.shuffle.compress"] == "true"
    assert "UseParallelGC" not in found["conf"]["spark.executor.extraJavaOptions"]
    assert "UseSerialGC" in found["conf"]["spark.executor.extraJavaOptions"]
    assert found["seen"][0]["NUMBA_CACHE_DIR"] == str(tmp_path / "cache")


def test_yarn_promises_its_executors(yarn: Yarn, hdfs: Hdfs, project: Path, tmp_path: Path) -> None:
    del hdfs
    conf = {
        "spark.yarn.jars": f"local:{SPARK_HOME}/jars/*",
        "spark.executor.instances": "2",
        "spark.executor.cores": "2",
        "spark.executor.memoryOverhead": "1g",
        "spark.pyspark.python": sys.executable,
    }
    options = ["--deploy-mode", "client", "--properties-file", str(project / "conf" / "spark" / "yarn.conf")]
    found = ask(
        tmp_path, "yarn", conf, *options, environment={"HADOOP_CONF_DIR": str(yarn.conf_dir), "PYSPARK_PYTHON": ""}
    )
    assert found["slots"] == [4, 4]
    # Clients in the containers know what the submitting machine knows of HDFS.
    assert {seen["HADOOP_CONF_DIR"] for seen in found["seen"]} == {"__spark_conf__/__hadoop_conf__"}
