"""Real servers on loopback: HDFS and YARN by conf/hdfs/*.sh, and spark-submit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import pyspark

from marspipe.pipeline.benchmarks.standalone import Worker
from marspipe.store import storage

PROJECT = Path(__file__).resolve().parents[2]
SPARK_HOME = Path(pyspark.__file__).parent
# Executors have a cache of compiled kernels of their own, which is empty at first. Here one does for all of them.
COMPILED_ONCE = {
    "spark.executorEnv.NUMBA_CACHE_DIR": str(Path(tempfile.gettempdir(), f"marspipe-tests-{os.getuid()}", "numba"))
}
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NotAvailableError(Exception):
    """The machine lacks what the servers need; the message is one sentence."""


def until(done: Callable[[], bool], what: str, give_up_s: float = 60.0) -> None:
    """Wait until something holds; TimeoutError names it if it does not."""
    deadline = time.monotonic() + give_up_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {give_up_s:g} s")
        time.sleep(0.1)


def bean(port: int, name: str) -> dict[str, Any]:
    """Return a JMX bean of a Hadoop server, empty if it does not answer."""
    with suppress(OSError, ValueError, IndexError):
        with _DIRECT.open(f"http://127.0.0.1:{port}/jmx?qry={name}", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)["beans"][0]
            return found
    return {}


class Hdfs:
    """A NameNode and DataNodes, replication 2, as separate processes in a folder.

    Attributes
    ----------
    folder : Path
        Everything of theirs: conf, log, pid, stored blocks.
    datanodes : list of int
        Numbers of the DataNodes.
    """

    def __init__(self, folder: Path, datanodes: int = 3) -> None:
        self.folder = folder
        self.datanodes = list(range(datanodes))

    @property
    def uri(self) -> str:
        """The root, ``hdfs://127.0.0.1:PORT``."""
        return f"hdfs://127.0.0.1:{self._port('NAMENODE')}"

    @property
    def conf_dir(self) -> Path:
        """What HADOOP_CONF_DIR should be."""
        return self.folder / "conf"

    def start(self, *options: str) -> None:
        """Start what does not run; NotAvailableError if the machine lacks something."""
        command = ["bash", str(PROJECT / "conf/hdfs/start.sh"), str(self.folder)]
        command += ["--datanodes", str(len(self.datanodes)), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotAvailableError((done.stderr.strip().splitlines() or ["start.sh failed"])[-1])

    def stop(self) -> None:
        """Stop every server."""
        subprocess.run(["bash", str(PROJECT / "conf/hdfs/stop.sh"), str(self.folder)], check=True)

    def kill_datanode(self, number: int) -> None:
        """End a DataNode at once (SIGKILL), as a power cut would."""
        os.kill(int((self.folder / "pid" / f"datanode-{number}").read_text()), signal.SIGKILL)

    def data_port(self, number: int) -> int:
        """Return the port at which a DataNode gives its blocks."""
        return self._port(f"DATA_{number}")

    def start_datanode(self, number: int) -> None:
        """Start a DataNode that was killed, with the blocks it had, and wait until all DataNodes live."""
        del number  # whichever does not run
        self.start()

    def state(self) -> dict[str, Any]:
        """Return what the NameNode says of its DataNodes and blocks."""
        return bean(self._port("NAMENODE_HTTP"), "Hadoop:service=NameNode,name=FSNamesystem") | bean(
            self._port("NAMENODE_HTTP"), "Hadoop:service=NameNode,name=FSNamesystemState"
        )

    def wait_healthy(self, live: int | None = None, give_up_s: float = 90.0) -> None:
        """Wait until DataNodes live (all by default), the others are known dead, and every block has its copies."""
        wanted = len(self.datanodes) if live is None else live

        def healthy() -> bool:
            state = self.state()
            counts = (
                "UnderReplicatedBlocks",
                "PendingReplicationBlocks",
                "ScheduledReplicationBlocks",
                "MissingBlocks",
            )
            return (
                state.get("NumLiveDataNodes") == wanted
                and state.get("NumDeadDataNodes") == len(self.datanodes) - wanted
                and all(state.get(count) == 0 for count in counts)
            )

        until(healthy, f"a healthy HDFS with {wanted} DataNodes", give_up_s)

    def _port(self, name: str) -> int:
        return int(re.search(rf"(?m)^{name}=(\d+)$", (self.folder / "ports").read_text())[1])  # type: ignore[index]


class Yarn:
    """ResourceManager and NodeManager beside an HDFS."""

    def __init__(self, hdfs: Hdfs) -> None:
        self.hdfs = hdfs

    @property
    def conf_dir(self) -> Path:
        """What HADOOP_CONF_DIR should be."""
        return self.hdfs.conf_dir

    def start(self) -> None:
        """Start what does not run."""
        self.hdfs.start("--yarn")

    def log_of(self, submitted: str) -> str:
        """Return what the containers of an application wrote; its id is looked up in the output of spark-submit."""
        found = re.search(r"application_\d+_\d+", submitted)
        assert found, submitted
        logs = sorted((self.hdfs.folder / "log" / "containers" / found[0]).glob("*/*"))
        return "\n".join(f"== {p.parent.name} {p.name}\n{p.read_text(errors='replace')}" for p in logs)


def gpu_worker(folder: Path, addresses: Sequence[str]) -> Worker:
    """Return a worker of two cores that claims to have GPUs."""
    script = folder / f"gpus-{'-'.join(addresses)}.sh"
    folder.mkdir(parents=True, exist_ok=True)
    script.write_text(f"#!/bin/sh\necho '{json.dumps({'name': 'gpu', 'addresses': list(addresses)})}'\n")
    script.chmod(0o755)
    options = f"-Dspark.worker.resource.gpu.amount={len(addresses)} "
    options += f"-Dspark.worker.resource.gpu.discoveryScript={script}"
    return Worker(cores=2, java_options=options)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what a Spark session of it has left there."""
    drop = ("PYSPARK_", "SPARK_", "HADOOP_")
    return {key: value for key, value in os.environ.items() if not key.startswith(drop)}


def put(folder: Path, uri: str) -> None:
    """Copy a local folder to HDFS."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.write_bytes(storage.join(uri, *path.relative_to(folder).parts), path.read_bytes())


def instances(uri: str) -> dict[str, pydicom.Dataset]:
    """Return the DICOM files of a folder on HDFS and of those below it, by SOP Instance UID."""
    found = {}
    for name in storage.list_dir(uri):
        inner = storage.join(uri, name)
        if storage.is_dir(inner):
            found |= instances(inner)
        elif name.endswith(".dcm"):
            with storage.open_input(inner) as file:
                dataset = pydicom.dcmread(file)
            assert str(dataset.SOPInstanceUID) not in found
            found[str(dataset.SOPInstanceUID)] = dataset
    return found


def marspipe(hdfs: Hdfs, *arguments: str) -> str:
    """Run a command of marspipe's to its good end, and return what it printed."""
    command = [sys.executable, "-m", "marspipe", *arguments]
    environment = {**clean_environment(), "HADOOP_CONF_DIR": str(hdfs.conf_dir)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def spark_submit(
    *arguments: str, conf: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run spark-submit, the driver in little memory; PYSPARK_PYTHON is this interpreter unless ``environment`` says."""
    settings = {"spark.ui.enabled": "false", **(conf or {})}
    command = [str(SPARK_HOME / "bin" / "spark-submit")]
    for key, value in settings.items():
        command += ["--conf", f"{key}={value}"]
    base = {**clean_environment(), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    base |= environment or {}
    return subprocess.run(
        [*command, *arguments], env={k: v for k, v in base.items() if v}, capture_output=True, text=True, check=False
    )
