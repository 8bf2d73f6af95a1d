"""Servers that live for a whole test session, and the scan that is sent through them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marspipe.pipeline.benchmarks.standalone import StandaloneCluster
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan
from tests.cluster.servers import Hdfs, NotAvailableError, Yarn
from tests.lacking import lacking


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    """A NameNode and three DataNodes, replication 2."""
    servers = Hdfs(tmp_path_factory.mktemp("hdfs"))
    try:
        try:
            servers.start()
        except NotAvailableError as problem:
            lacking("HDFS", str(problem))
        yield servers
    finally:
        servers.stop()


@pytest.fixture(scope="session")
def yarn(hdfs: Hdfs) -> Yarn:
    """A ResourceManager and a NodeManager; they stop with the HDFS."""
    servers = Yarn(hdfs)
    try:
        servers.start()
    except NotAvailableError as problem:
        lacking("YARN", str(problem))
    return servers


@pytest.fixture(scope="session")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    """Spark's own cluster: a master and two workers of one core."""
    with StandaloneCluster(tmp_path_factory.mktemp("standalone")) as cluster:
        yield cluster


@pytest.fixture
def hdfs_folder(hdfs: Hdfs, request: pytest.FixtureRequest) -> str:
    """A folder on HDFS that no other test uses."""
    from marspipe.store import storage

    uri = storage.join(hdfs.uri, "tests", re.sub(r"\W+", "-", request.node.name))
    storage.make_dirs(uri)
    return uri


@pytest.fixture(scope="session")
def small_scans(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Raw scans of 32 x 32 pixels and 24 views, simulated once per format."""
    made: dict[str, Path] = {}

    def scan(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("raw") / kind
            settings = SimulationSettings(
                views=24, detector_shape=(32, 32), phantom=mars_phantom(0.25), thresholds_kev=(20.0, 50.0), format=kind
            )
            simulate_scan(made[kind], settings=settings)
        return made[kind]

    return scan


@pytest.fixture(scope="session")
def local_volume(small_scans: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The volume of a small scan, made on the local disk, by format."""
    made: dict[str, str] = {}

    def volume(kind: str) -> str:
        if kind not in made:
            out = tmp_path_factory.mktemp("local")
            command = [
                sys.executable,
                "-m",
                "marspipe",
                "reconstruct",
                "--raw",
                str(small_scans(kind)),
                "--out",
                str(out),
            ]
            done = subprocess.run([*command, "--master", "local[2]"], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            made[kind] = str(out / "volume")
        return made[kind]

    return volume
