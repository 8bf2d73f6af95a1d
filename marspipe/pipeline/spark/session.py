"""The Spark session: the embedded local default, and what a session of a cluster must have."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from marspipe import machine
from marspipe.errors import EnvironmentMissingError
from marspipe.resources import resource_path

# Arrow batches of pixels between the JVM and its Python workers.
ARROW_BATCH_BYTES = 4 * 2**20

# Of conf/spark/local.conf, what every session must have, wherever it runs; conf/spark/*.conf say why.
_EVERYWHERE = (
    "spark.shuffle.compress",
    "spark.shuffle.spill.compress",
    "spark.shuffle.sort.bypassMergeThreshold",
    "spark.sql.shuffle.partitions",
    "spark.sql.execution.arrow.pyspark.validateSchema.enabled",
    "spark.hadoop.fs.file.impl",
)
# What the executors of a cluster need beside it. A task runs in one thread; numba keeps what it compiles in the
# executor's own folder, since the environment may be read-only, and its user without a home.
_EXECUTORS = {
    "spark.executorEnv.NUMBA_CACHE_DIR": "numba-cache",
    "spark.executorEnv.NUMBA_NUM_THREADS": "1",
    "spark.executorEnv.OMP_NUM_THREADS": "1",
}

# How long a job waits for the executors of a cluster before it cuts the work for those that are there.
EXECUTORS_WAIT_S = 30.0
_SETTLED_S = 10.0
_POLL_S = 0.25
_slots: dict[str, int] = {}

# Rows of megabytes are what the default collector handles worst.
_JAVA_OPTIONS = "spark.executor.extraJavaOptions"
_COLLECTOR = "-XX:+UseParallelGC"


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
        spark = submitted_session(name)
    else:
        spark = local_session(master, spark__app__name=name)
    try:
        yield spark
    finally:
        spark.stop()


def submitted_session(name: str) -> SparkSession:
    """Start the session that ``spark-submit`` configured, completed by what it left open."""
    # Without the JVM that spark-submit has started, a SparkConf is empty.
    SparkContext._ensure_initialized()
    submitted = SparkConf()
    local = read_spark_conf(resource_path("conf/spark/local.conf"))
    wanted = {key: local[key] for key in _EVERYWHERE}
    if _is_cluster(submitted.get("spark.master", "local") or "local"):
        wanted |= _EXECUTORS
        # spark-submit may have put options of its own there.
        java_options = submitted.get(_JAVA_OPTIONS, "") or ""
        if re.search(r"-XX:\+Use\w+GC", java_options) is None:
            wanted[_JAVA_OPTIONS] = f"{java_options} {_COLLECTOR}".strip()
    builder: SparkSession.Builder = SparkSession.builder
    if not submitted.contains("spark.app.name") or submitted.get("spark.submit.deployMode", "client") == "client":
        builder = builder.appName(name)
    for key, value in wanted.items():
        if key == _JAVA_OPTIONS or not submitted.contains(key):
            builder = builder.config(key, value)
    return builder.getOrCreate()


def _is_cluster(master: str) -> bool:
    return not master.startswith("local") or master.startswith("local-cluster")


def task_slots(spark: SparkSession) -> int:
    """Return how many tasks run at once, the same number for the life of a session.

    Spark's own ``defaultParallelism`` counts the cores of the executors that have registered so far, so that a job
    which asks early cuts its work for the first of them. This asks what the session was promised; where no number was
    promised, it waits until the executors are there.
    """
    application = str(spark.sparkContext.applicationId)
    if application not in _slots:
        _slots[application] = max(1, _count_slots(spark))
    return _slots[application]


def _count_slots(spark: SparkSession) -> int:
    context = spark.sparkContext
    conf, master = context.getConf(), str(context.master)

    def number(key: str, default: int) -> int:
        return int(conf.get(key, str(default)) or default)

    task_cpus = number("spark.task.cpus", 1)
    if not _is_cluster(master):
        threads = re.fullmatch(r"local\[(\d+|\*)(?:,\s*\d+)?\]", master)
        cores = 1 if threads is None else os.cpu_count() or 1 if threads[1] == "*" else int(threads[1])
        return cores // task_cpus
    dynamic = conf.get("spark.dynamicAllocation.enabled", "false") == "true"
    if master == "yarn" or master.startswith("k8s://"):
        executors = number("spark.executor.instances", 0 if dynamic else 2)
        if dynamic:
            executors = max(executors, number("spark.dynamicAllocation.maxExecutors", 0))
        if executors:
            return executors * (number("spark.executor.cores", 1) // task_cpus)
    promised = number("spark.cores.max", 0) or None
    if cluster := re.fullmatch(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*\d+\s*\]", master):
        promised = min(promised or sys.maxsize, int(cluster[1]) * int(cluster[2]))
    return _wait_for_slots(spark, task_cpus, promised)


def _wait_for_slots(spark: SparkSession, task_cpus: int, promised_cores: int | None) -> int:
    """Return the task slots of the executors, once they have the promised cores or no more of them come."""
    start = changed = time.monotonic()
    cores: list[int] = []
    while (now := time.monotonic()) - start < EXECUTORS_WAIT_S:
        found = _executor_cores(spark)
        if len(found) != len(cores):
            cores, changed = found, now
        if promised_cores is not None and sum(cores) >= promised_cores:
            break
        # Executors come seconds apart; a cluster may have fewer cores than the job may use at most.
        if cores and now - changed >= _SETTLED_S:
            break
        time.sleep(_POLL_S)
    return sum(n // task_cpus for n in cores)


def _executor_cores(spark: SparkSession) -> list[int]:
    """Return the cores of each executor that has registered."""
    executors = spark.sparkContext._jsc.sc().statusStore().executorList(True)
    found = [executors.apply(i) for i in range(executors.size())]
    return [int(executor.totalCores()) for executor in found if executor.id() != "driver"]
