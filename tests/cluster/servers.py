"""Real servers on loopback: HDFS and YARN by conf/hdfs/*.sh, Spark's own cluster by spark-class."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyspark

PROJECT = Path(__file__).resolve().parents[2]
SPARK_HOME = Path(pyspark.__file__).parent
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


@dataclass
class Worker:
    """A worker of Spark's own cluster: cores, memory, and the addresses of the GPUs it claims to have."""

    cores: int = 1
    memory: str = "1g"
    gpus: Sequence[str] = ()


@dataclass
class Standalone:
    """A master and workers of Spark's own cluster, by spark-class."""

    folder: Path
    workers: Sequence[Worker] = (Worker(), Worker())
    environment: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _http: int = 0

    def start(self) -> None:
        """Start master and workers and wait until all are registered."""
        self.folder.mkdir(parents=True, exist_ok=True)
        port, self._http = free_port(), free_port()
        self.url = f"spark://127.0.0.1:{port}"
        master = ["--host", "127.0.0.1", "--port", str(port), "--webui-port", str(self._http)]
        self._launch("master", "org.apache.spark.deploy.master.Master", *master)
        until(lambda: self._state() is not None, "the start of Spark's master")
        for number, worker in enumerate(self.workers):
            options = ""
            if worker.gpus:
                script = discovery_script(self.folder / f"gpus-of-worker-{number}.sh", worker.gpus)
                options = f"-Dspark.worker.resource.gpu.amount={len(worker.gpus)} "
                options += f"-Dspark.worker.resource.gpu.discoveryScript={script}"
            arguments = ["-h", "127.0.0.1", "-c", str(worker.cores), "-m", worker.memory, "--webui-port", "0"]
            arguments += ["--work-dir", str(self.folder / f"worker-{number}"), self.url]
            main = "org.apache.spark.deploy.worker.Worker"
            self._launch(f"worker-{number}", main, *arguments, SPARK_WORKER_OPTS=options)
        until(
            lambda: len((self._state() or {}).get("workers", [])) == len(self.workers), "the start of Spark's workers"
        )

    def stop(self) -> None:
        """Stop workers and master."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def logs(self) -> str:
        """Return what the executors wrote to standard error."""
        return "\n".join(p.read_text(errors="replace") for p in sorted(self.folder.glob("worker-*/app-*/*/stderr")))

    def _launch(self, name: str, main: str, *arguments: str, **environment: str) -> None:
        java = {
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC",
            "SPARK_LOCAL_IP": "127.0.0.1",
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [str(SPARK_HOME / "bin" / "spark-class"), main, *arguments],
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env={**clean_environment(), **java, **self.environment, **environment},
                )
            )

    def _state(self) -> dict[str, Any] | None:
        with suppress(OSError, ValueError), _DIRECT.open(f"http://127.0.0.1:{self._http}/json/", timeout=5) as answer:
            state: dict[str, Any] = json.load(answer)
            return state
        return None


def discovery_script(path: Path, addresses: Sequence[str]) -> Path:
    """Write a GPU discovery script that claims devices."""
    path.write_text(f"#!/bin/sh\necho '{json.dumps({'name': 'gpu', 'addresses': list(addresses)})}'\n")
    path.chmod(0o755)
    return path


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what a Spark session of it has left there."""
    drop = ("PYSPARK_", "SPARK_", "HADOOP_")
    return {key: value for key, value in os.environ.items() if not key.startswith(drop)}


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
