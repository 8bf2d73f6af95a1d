"""The jobs on a real YARN, driver and all: ``spark-submit --master yarn --deploy-mode cluster``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from marspipe.store import storage
from tests.cluster.environments import packed_environment
from tests.cluster.same_volume import assert_same_volume
from tests.cluster.servers import COMPILED_ONCE, SPARK_HOME, Yarn, put, spark_submit

# Small enough for one machine; the rest is as in conf/spark/yarn.conf.
SMALL = {
    "spark.yarn.jars": f"local:{SPARK_HOME}/jars/*",
    "spark.executor.cores": "1",
    "spark.executor.memory": "512m",
    "spark.executor.memoryOverhead": "1536m",
    "spark.driver.memory": "512m",
}


def submit(
    yarn: Yarn, project: Path, *arguments: str, conf: dict[str, str], options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    job = project / "jobs" / "reconstruct.py"
    spark = ["--master", "yarn", "--deploy-mode", "cluster", *options]
    spark += ["--properties-file", str(project / "conf" / "spark" / "yarn.conf")]
    environment = {"HADOOP_CONF_DIR": str(yarn.conf_dir), "PYSPARK_PYTHON": ""}
    return spark_submit(*spark, str(job), *arguments, conf=SMALL | conf, environment=environment)


@pytest.fixture
def raw(yarn: Yarn, hdfs_folder: str, small_scans: Callable[[str], Path]) -> str:
    del yarn
    uri = storage.join(hdfs_folder, "raw")
    put(small_scans("merlin"), uri)
    return uri


def test_the_environment_at_an_absolute_path(
    yarn: Yarn, project: Path, raw: str, hdfs_folder: str, local_volume: Callable[[str], str]
) -> None:
    out = storage.join(hdfs_folder, "out")
    python = {"spark.pyspark.python": sys.executable, **COMPILED_ONCE}
    done = submit(yarn, project, "--raw", raw, "--out", out, conf=python)
    log = yarn.log_of(done.stderr)
    assert done.returncode == 0, log
    assert f"volume     {out}/volume" in log
    assert_same_volume(storage.join(out, "volume"), local_volume("merlin"))
    # The same again is refused by the driver; its exit code and its sentence reach whoever submitted or looks.
    again = submit(yarn, project, "--raw", raw, "--out", out, conf=python)
    assert again.returncode != 0
    assert "User application exited with status 2" in again.stderr
    assert "already holds a committed volume" in yarn.log_of(again.stderr)


def test_the_environment_as_an_archive(
    yarn: Yarn,
    project: Path,
    raw: str,
    hdfs_folder: str,
    local_volume: Callable[[str], str],
    tmp_path: Path,
) -> None:
    archive = packed_environment(tmp_path)
    uri = storage.join(hdfs_folder, "environment.tar.gz")
    storage.write_bytes(uri, archive.read_bytes())
    archive.unlink()
    out = storage.join(hdfs_folder, "out")
    options = ("--archives", f"{uri}#environment")
    done = submit(yarn, project, "--raw", raw, "--out", out, conf={}, options=options)
    log = yarn.log_of(done.stderr)
    assert done.returncode == 0, log
    assert_same_volume(storage.join(out, "volume"), local_volume("merlin"))


def test_bad_input_fails_with_the_reason_in_the_log(yarn: Yarn, project: Path, hdfs_folder: str) -> None:
    arguments = ["--raw", storage.join(hdfs_folder, "none"), "--out", storage.join(hdfs_folder, "out")]
    done = submit(yarn, project, *arguments, conf={"spark.pyspark.python": sys.executable})
    assert done.returncode != 0
    assert "User application exited with status 2" in done.stderr
    assert f"marspipe: {hdfs_folder}/none" in yarn.log_of(done.stderr)
    assert not storage.exists(storage.join(hdfs_folder, "out"))
