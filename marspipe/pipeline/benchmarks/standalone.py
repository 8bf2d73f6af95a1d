"""Spark's own cluster on this machine: a master and workers, for measurements; and the memory of its executors."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyspark

from marspipe.errors import RunError

_GIVE_UP_S = 60.0
_POLL_S = 0.2
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Worker:
    """A worker of the cluster.

    Attributes
    ----------
    cores : int
        Tasks at once.
    memory : str
        What it may give to the JVMs of its executors, as Spark writes it.
    host : str
        A loopback address.
    java_options : str
        Of the worker's own JVM: Spark's settings as ``-Dspark...``.
    """

    cores: int = 1
    memory: str = "1g"
    host: str = _LOOPBACK
    java_options: str = ""


@dataclass
class StandaloneCluster:
    """A master and workers, as processes of their own; use it in a ``with`` statement.

    Attributes
    ----------
    folder : Path
        For logs (``master.log``, ``worker-0.log``, ...) and the workers' files (``worker-0/``, ...).
    workers : sequence of Worker
        Two of one core, by default.
    url : str
        ``spark://``, once it runs.
    """

    folder: Path
    workers: Sequence[Worker] = (Worker(), Worker())
    url: str = ""
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> StandaloneCluster:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def worker_pids(self) -> list[int]:
        """Process numbers of the workers; their children are the executors."""
        return [process.pid for process in self._processes[1:]]

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        port, web = _free_port(), _free_port()
        self.url = f"spark://{_LOOPBACK}:{port}"
        at = ["--host", _LOOPBACK, "--port", str(port), "--webui-port", str(web)]
        self._launch("master", "org.apache.spark.deploy.master.Master", at)
        self._wait(web, 0)
        for number, worker in enumerate(self.workers):
            given = ["-h", worker.host, "-c", str(worker.cores), "-m", worker.memory, "--webui-port", "0"]
            given += ["--work-dir", str(self.folder / f"worker-{number}"), self.url]
            main = "org.apache.spark.deploy.worker.Worker"
            self._launch(f"worker-{number}", main, given, SPARK_WORKER_OPTS=worker.java_options)
        self._wait(web, len(self.workers))

    def _launch(self, name: str, main: str, arguments: Sequence[str], **more: str) -> None:
        home = Path(pyspark.__file__).parent
        # What a Spark session of this process has left in its environment is not the servers' business.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "PYSPARK_"))}
        environment |= {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": _LOOPBACK, "SPARK_DAEMON_MEMORY": "192m"}
        environment |= {"SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC", **more}
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [str(home / "bin" / "spark-class"), main, *arguments],
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=environment,
                )
            )

    def _wait(self, web_port: int, workers: int) -> None:
        """Wait until the master knows a number of workers."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end = time.monotonic() + _GIVE_UP_S
        while time.monotonic() < end:
            with suppress(OSError, ValueError), direct.open(f"http://{_LOOPBACK}:{web_port}/json/", timeout=5) as page:
                state: dict[str, Any] = json.load(page)
                if len(state["workers"]) >= workers:
                    return
            if any(process.poll() is not None for process in self._processes):
                break
            time.sleep(_POLL_S)
        raise RunError(f"Spark's master or a worker did not start; its log is in {self.folder}")

    def _stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class ExecutorMemory:
    """Samples the resident memory of each executor: its JVM and its Python workers.

    Pages that Python workers share with the process they were forked from count in each, so that the sum is never
    below what the executor takes.

    Parameters
    ----------
    worker_pids : list of int
        Process numbers of the workers.
    """

    def __init__(self, worker_pids: list[int]) -> None:
        self.peak_bytes = 0  # of one executor, all its processes together
        self.jvm_peak_bytes = 0
        self.python_peak_bytes = 0
        self._workers = worker_pids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> ExecutorMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._stop.wait(0.05):
            children: dict[int, list[int]] = {}
            resident: dict[int, int] = {}
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    parent = int((folder / "stat").read_text().rpartition(") ")[2].split()[1])
                    resident[int(folder.name)] = int((folder / "statm").read_text().split()[1]) * page
                except (OSError, ValueError, IndexError):
                    continue  # ended meanwhile
                children.setdefault(parent, []).append(int(folder.name))
            for executor in (pid for worker in self._workers for pid in children.get(worker, [])):
                below, new = set[int](), set(children.get(executor, []))
                while new:
                    below |= new
                    new = {pid for parent in new for pid in children.get(parent, [])}
                python = sum(resident.get(pid, 0) for pid in below)
                jvm = resident.get(executor, 0)
                self.peak_bytes = max(self.peak_bytes, jvm + python)
                self.jvm_peak_bytes = max(self.jvm_peak_bytes, jvm)
                self.python_peak_bytes = max(self.python_peak_bytes, python)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])
