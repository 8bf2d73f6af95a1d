"""A cluster as a file: executors, memory, and what one core or device was measured to do.

No rate is written into the code. ``marspipe plan --measure`` measures those of the machine it runs on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from marspipe.errors import InputError
from marspipe.strict import StrictModel, load_yaml, validate

Rate = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0)]


class CoreRates(StrictModel):
    """What one core does, everything else at rest; MB are 10^6 bytes."""

    kernel_gups: Rate = Field(description="Backprojection, 10^9 voxel updates per second.")
    general_kernel_gups: Rate = Field(description="The same for scans that are no circular orbit.")
    filter_mpixel_s: Rate = Field(description="Weights and ramp filter, 10^6 pixels of the wide detector per second.")
    correct_mpixel_s: Rate = Field(
        description="Counts to line integrals, 10^6 counter pixels per second, decoding not included."
    )
    stitch_mpixel_s: Rate = Field(description="Camera positions put together, 10^6 camera pixels of a bin per second.")
    ingest_mb_s: Rate = Field(description="Raw files into the frames table, MB of pixels per second.")
    read_mb_s: Rate = Field(description="Frames table into the Python workers, MB per second.")
    shuffle_mb_s: Rate = Field(description="Rows from a Python worker through a sorted shuffle into another, MB/s.")
    write_mb_s: Rate = Field(description="Volume from a Python worker into Parquet, MB per second.")
    dicom_mb_s: Rate = Field(description="Volume into DICOM files, MB of float32 voxels read per second.")


class GpuRates(StrictModel):
    """What one device does."""

    kernel_gups: Rate | None = Field(
        None,
        description="Backprojection with the copies to and from the device, 10^9 updates per second; null: not "
        "measured.",
    )


class StartUp(StrictModel):
    """What is lost before work begins, in seconds."""

    session_s: Seconds = Field(description="Spark session, once.")
    worker_s: Seconds = Field(description="First task of a Python worker: interpreter, imports, compiled kernels.")
    job_s: Seconds = Field(description="Every stage: planning, scheduling, the look at its result.")
    task_s: Seconds = Field(description="Every task.")


class ExecutorLimits(StrictModel):
    """What one executor reaches with all its cores, MB (10^6 bytes) per second; null: no limit."""

    read_mb_s: Rate | None = Field(None, description="Disks or HDFS, reading.")
    write_mb_s: Rate | None = Field(None, description="Disks or HDFS, writing; with 3 replicas a third of the disks.")
    network_mb_s: Rate | None = Field(None, description="Network: the part of a shuffle that leaves the executor.")


class Cluster(StrictModel):
    """A whole cluster description."""

    marspipe_cluster: Literal[1] = Field(1, description="Version of the format.")
    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="A name for people.")
    description: str = Field("", description="What it is, and where the rates come from.")
    executors: int = Field(ge=1, description="Executors (spark.executor.instances); 1 for local[*].")
    cores_per_executor: int = Field(ge=1, description="Cores of one executor (spark.executor.cores).")
    memory_per_executor_mib: int = Field(
        ge=1024, description="All memory an executor may use, MiB: spark.executor.memory and memoryOverhead together."
    )
    heap_mib: int = Field(2048, ge=512, description="Of that, the JVM's heap (spark.executor.memory), MiB.")
    gpus_per_executor: int = Field(0, ge=0, description="Devices of one executor.")
    tasks_per_gpu: int = Field(1, ge=1, description="Backprojection tasks that share a device.")
    core: CoreRates
    gpu: GpuRates = GpuRates()
    start_up: StartUp
    limits: ExecutorLimits = ExecutorLimits()

    @property
    def slots(self) -> int:
        """Tasks that run at once."""
        return self.executors * self.cores_per_executor

    @property
    def gpu_slots(self) -> int:
        """Tasks with a device that run at once."""
        return self.executors * min(self.cores_per_executor, self.gpus_per_executor * self.tasks_per_gpu)

    @property
    def python_mib(self) -> int:
        """Memory that an executor leaves to its Python workers, MiB."""
        return max(0, self.memory_per_executor_mib - self.heap_mib - self.jvm_beyond_heap_mib)

    @property
    def jvm_beyond_heap_mib(self) -> int:
        """Memory of the JVM beside its heap, MiB: a tenth of that, 384 at least, as Spark reserves."""
        return max(384, self.heap_mib // 10)

    def to_yaml(self) -> str:
        """Return the description as YAML."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def parse_cluster(text: str, origin: str) -> Cluster:
    """Return the cluster written in YAML.

    Raises
    ------
    InputError
        Naming the origin, the key and the value; an unknown key with the nearest valid name.
    """
    return validate(load_yaml(text, origin, InputError, "cluster description"), origin, Cluster, InputError)


def cluster_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a cluster description, as shipped in ``schemas/cluster.schema.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Cluster.model_json_schema()}
