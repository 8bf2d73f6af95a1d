"""The Spark session: the embedded local default, and what a session of a cluster must have."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import SparkSession

from marspipe import machine
from marspipe.errors import EnvironmentMissingError
from marspipe.resources import resource_path

# Arrow batches of pixels between the JVM and its Python workers.
ARROW_BATCH_BYTES = 4 * 2**20


def require_machine() -> None:
    """Raise EnvironmentMissingError, one sentence that says what to install, if Java or memory is missing."""
    for problem in (machine.java_problem(), machine.memory_problem()):
        if problem:
            raise EnvironmentMissingError(problem)


def configure(spark: SparkSession) -> None:
    """Set what the plans rely on, whoever started the session.

    Partitions are placed on purpose and must not be coalesced; pixels come in large rows, of which only a few may be
    held at once.
    """
    settings = {
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.files.openCostInBytes": "0",
        "spark.sql.parquet.columnarReaderBatchSize": "4",
        "spark.sql.execution.arrow.maxBytesPerBatch": str(ARROW_BATCH_BYTES),
    }
    for key, value in settings.items():
        spark.conf.set(key, value)


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
    require_machine()
    # Workers would otherwise take the system's python3.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    conf = read_spark_conf(resource_path("conf/spark/local.conf"))
    log4j = resource_path("conf/log4j2.properties").as_uri()
    if master is not None:
        conf["spark.master"] = master
    conf |= {key.replace("__", "."): value for key, value in settings.items()}
    java_options = conf.get("spark.driver.extraJavaOptions", "")
    conf["spark.driver.extraJavaOptions"] = f"{java_options} -Dlog4j2.configurationFile={log4j}".strip()
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
