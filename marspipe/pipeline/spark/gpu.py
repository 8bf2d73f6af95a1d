"""Which stage asks Spark for a GPU: the backprojection, and nothing else."""

from __future__ import annotations

from pyspark.resource import ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import SparkSession

from marspipe.errors import EnvironmentMissingError

GPUS_KEY = "spark.executor.resource.gpu.amount"


def gpu_profile(spark: SparkSession, backend: str) -> ResourceProfile | None:
    """Return what the tasks of the backprojection stage ask for: one GPU each, or nothing in particular.

    The executors are those that the session has anyway, so that all other stages use every core, and this one as many
    tasks as there are GPUs. Spark does not schedule GPUs in local mode: there the kernel takes device 0.

    Parameters
    ----------
    spark : SparkSession
        The session.
    backend : str
        ``run.backend`` of the recipe.

    Returns
    -------
    ResourceProfile or None
        For ``mapInArrow(function, schema, False, profile)``.

    Raises
    ------
    EnvironmentMissingError
        If the backend is ``"cuda"`` and the executors have no GPUs.
    """
    gpus = require_gpus(spark, backend)
    if backend not in ("auto", "cuda") or not gpus:
        return None
    conf = spark.sparkContext.getConf()
    requests = TaskResourceRequests().cpus(int(conf.get("spark.task.cpus", "1") or 1)).resource("gpu", 1)
    profile: ResourceProfile = ResourceProfileBuilder().require(requests).build
    return profile


def require_gpus(spark: SparkSession, backend: str) -> int:
    """Return the number of GPUs that Spark schedules on each executor; 0 in local mode.

    Raises
    ------
    EnvironmentMissingError
        If the backend is ``"cuda"`` and the executors have no GPUs.
    """
    context = spark.sparkContext
    master = str(context.master)
    if master.startswith("local") and not master.startswith("local-cluster"):
        return 0
    gpus = int(context.getConf().get(GPUS_KEY, "0") or 0)
    if backend == "cuda" and not gpus:
        raise EnvironmentMissingError(
            f"run.backend is cuda, but the executors of {master} have no GPU: submit with {GPUS_KEY}=1 "
            "(see conf/spark/yarn-gpu.conf), or set run.backend=auto"
        )
    return gpus
