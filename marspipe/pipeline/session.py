"""The Spark session: the embedded local default, and what a session of a cluster must have."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from pyspark.sql import SparkSession

from marspipe.errors import EnvironmentMissingError
from marspipe.resources import resource_path

JAVA_MINIMUM = 17
MEMORY_MINIMUM_GIB = 3.0


def java_major_version() -> int | None:
    """Return the major version of the Java that Spark would start, or None if there is none."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home, "bin"))) if home else shutil.which("java")
    if java is None:
        return None
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(match.group(1)) if match else None


def available_memory_gib() -> float:
    """Return the memory this process may still take, GiB: the machine's, or its control group's if that is less."""
    available = float(psutil.virtual_memory().available)
    limit = Path("/sys/fs/cgroup/memory.max")
    used = Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdigit():
        available = min(available, int(text) - int(used.read_text()))
    return available / 2**30


def require_java() -> None:
    """Raise EnvironmentMissingError, one sentence that says what to install, if Spark's Java is missing or too old."""
    version = java_major_version()
    install = f"install Java {JAVA_MINIMUM} or newer, for example the package openjdk-17-jre-headless"
    if version is None:
        raise EnvironmentMissingError(f"no Java found, which Spark runs on: {install}.")
    if version < JAVA_MINIMUM:
        raise EnvironmentMissingError(f"Java {version} found, which is too old for Spark: {install}.")


def require_memory(minimum_gib: float = MEMORY_MINIMUM_GIB) -> None:
    """Raise EnvironmentMissingError, one sentence, if too little memory is free for Spark and two tasks."""
    available = available_memory_gib()
    if available < minimum_gib:
        raise EnvironmentMissingError(
            f"{available:.1f} GiB of free memory found, at least {minimum_gib:g} GiB needed: "
            "close other programs or use a machine with at least 4 GiB."
        )


def read_spark_conf(path: Path) -> dict[str, str]:
    """Return the settings of a Spark properties file."""
    settings = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if (text := line.strip()) and not text.startswith("#"):
            key, value = re.split(r"[\s=]+", text, maxsplit=1)
            settings[key] = value
    return settings


def local_session(master: str | None = None, **settings: str) -> SparkSession:
    """Return a Spark session on this machine, starting one if none runs.

    Parameters
    ----------
    master : str, optional
        Spark master; by default ``local[*]`` from ``conf/spark/local.conf``.
    **settings : str
        Further Spark settings, with ``__`` for the dots.

    Raises
    ------
    EnvironmentMissingError
        If Java is missing or too old, or too little memory is free.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    require_java()
    require_memory()
    # Workers would otherwise take the system's python3.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    conf = read_spark_conf(resource_path("conf/spark/local.conf"))
    log4j = resource_path("conf/log4j2.properties").as_uri()
    conf["spark.driver.extraJavaOptions"] = f"-Dlog4j2.configurationFile={log4j}"
    if master is not None:
        conf["spark.master"] = master
    conf |= {key.replace("__", "."): value for key, value in settings.items()}
    builder: SparkSession.Builder = SparkSession.builder
    for key, value in conf.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


@contextmanager
def command_session(name: str, master: str | None = None) -> Iterator[SparkSession]:
    """Give a command its session: what ``spark-submit`` configured, or the local default; stopped at the end.

    A session that the caller already runs (a notebook, a test) is used and left running.

    Parameters
    ----------
    name : str
        Application name.
    master : str, optional
        Spark master of a local start.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # started by spark-submit, which has set everything
        builder: SparkSession.Builder = SparkSession.builder
        spark = builder.appName(name).getOrCreate()
    else:
        spark = local_session(master, spark__app__name=name)
    try:
        yield spark
    finally:
        spark.stop()


def task_slots(spark: SparkSession) -> int:
    """Return how many tasks run at once."""
    return max(1, int(spark.sparkContext.defaultParallelism))
