"""Fixtures of the tests that disturb jobs; a test module names this one in ``pytest_plugins``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from marspipe.pipeline.benchmarks.standalone import StandaloneCluster, Worker
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan
from tests.cluster.faults import SIDE, Driver, Gate, make_frames, make_volume


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A raw scan of 40 views."""
    folder = tmp_path_factory.mktemp("raw") / "scan"
    simulate_scan(
        folder,
        settings=SimulationSettings(
            scan_id="faults",
            views=40,
            detector_shape=(SIDE, SIDE),
            phantom=mars_phantom(SIDE / 128),
            thresholds_kev=(25.0, 50.0),
            seed=3,
        ),
    )
    return str(folder)


@pytest.fixture(scope="session")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    """Two workers of one core on two addresses: Spark starts no copy of a task on the host that runs it already."""
    with StandaloneCluster(tmp_path_factory.mktemp("two hosts"), [Worker(), Worker(host="127.0.0.2")]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def driver(two_hosts: StandaloneCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver on that cluster."""
    driver = Driver(two_hosts.url, tmp_path_factory.mktemp("driver"))
    yield driver
    driver.stop()


@pytest.fixture(scope="session")
def undisturbed(spark: SparkSession, raw: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The frames table of the scan and its volume, made on one machine without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    make_frames(spark, raw, str(folder / "frames"))
    make_volume(spark, str(folder / "frames"), str(folder))
    return str(folder / "frames"), str(folder / "volume")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate that is open when the test ends."""
    folder = tmp_path / "gate"
    folder.mkdir()
    gate = Gate(str(folder))
    yield gate
    gate.open()
