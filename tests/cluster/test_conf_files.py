"""conf/spark/*.conf: every key is one that Spark knows, and the rules of their sizes hold."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from marspipe.pipeline.spark.session import read_spark_conf
from tests.cluster.servers import SPARK_HOME

PROJECT = Path(__file__).resolve().parents[2]
FILES = sorted((PROJECT / "conf" / "spark").glob("*.conf"))
CLUSTERS = [path for path in FILES if path.stem != "local"]
# Keys that carry a name of the user's own, which Spark cannot know.
FREE = re.compile(
    r"spark\.(executorEnv|yarn\.appMasterEnv|hadoop)\.\S+|spark\.executor\.resource\.gpu\.(amount|discoveryScript)"
)


def mebibytes(size: str) -> int:
    return int(size[:-1]) * {"m": 1, "g": 1024}[size[-1]]


def test_there_are_all() -> None:
    assert {path.stem for path in FILES} == {"local", "standalone", "yarn", "yarn-gpu"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_spark_knows_every_key(spark: SparkSession, path: Path) -> None:
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    for settings in ("org.apache.spark.internal.config.package$", "org.apache.spark.deploy.yarn.config.package$"):
        jvm.java.lang.Class.forName(settings)
    find = jvm.org.apache.spark.internal.config.ConfigEntry.findEntry
    assert find("spark.no.such.key") is None
    conf = read_spark_conf(path)
    # Commented keys are suggestions: they have to be right as well.
    suggested = re.findall(r"(?m)^# (spark\.\S+)\s{2,}(\S+)$", path.read_text())
    unknown = [key for key in [*conf, *(key for key, _ in suggested)] if find(key) is None and not FREE.fullmatch(key)]
    assert set(unknown) <= {"spark.master", "spark.app.name"}  # older than Spark's register of keys


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_clusters_have_what_the_local_session_has(path: Path) -> None:
    here, local = read_spark_conf(path), read_spark_conf(PROJECT / "conf" / "spark" / "local.conf")
    own = {"spark.master", "spark.app.name", "spark.ui.enabled", "spark.ui.showConsoleProgress"}
    own |= {"spark.driver.host", "spark.driver.bindAddress", "spark.driver.memory"}
    own |= {"spark.python.unix.domain.socket.enabled"}  # not in the long names of container folders
    assert {key: here.get(key) for key in local.keys() - own} == {key: local[key] for key in local.keys() - own}
    assert here["spark.executor.extraJavaOptions"] == local["spark.driver.extraJavaOptions"]
    assert "spark.executor.pyspark.memory" not in here


@pytest.mark.parametrize("path", [path for path in CLUSTERS if path.stem.startswith("yarn")], ids=lambda p: p.stem)
def test_overhead_holds_the_python_memory_of_the_tasks(path: Path) -> None:
    from marspipe.recipe import Recipe

    conf = read_spark_conf(path)
    tasks = int(conf["spark.executor.cores"]) * Recipe().run.memory_per_task_mib
    assert mebibytes(conf["spark.executor.memoryOverhead"]) >= tasks + 512


def test_gpu_discovery_lists_what_the_driver_or_the_environment_says(tmp_path: Path) -> None:
    script = PROJECT / "conf" / "spark" / "discover-gpus.sh"
    (tmp_path / "nvidia-smi").write_text('#!/bin/sh\n[ "$1" = --query-gpu=index ] && printf "0\\n1\\n"\n')
    (tmp_path / "nvidia-smi").chmod(0o755)

    def found(**environment: str) -> object:
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run([str(script)], env={"PATH": path, **environment}, capture_output=True, check=True)
        return json.loads(done.stdout)

    assert found() == {"name": "gpu", "addresses": ["0", "1"]}
    assert found(CUDA_VISIBLE_DEVICES="5,7,GPU-3b") == {"name": "gpu", "addresses": ["0", "1", "2"]}


def test_pip_brings_what_the_yarn_client_needs() -> None:
    assert list((SPARK_HOME / "jars").glob("spark-yarn_*.jar"))
