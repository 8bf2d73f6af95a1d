"""Fixtures that several rooms share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from tests.store.postgres import Postgres, running

PROJECT = Path(__file__).resolve().parents[1]
CASES = PROJECT.parent / "shared" / "cases"


def pytest_configure() -> None:
    """Let SIGTERM end a test run as Ctrl-C does, so that the servers it has started are stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in a hook of its own
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a folder in one process under ``-n``, those with an HDFS apart: they share what they start."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            folder = item.path.relative_to(PROJECT / "tests").parts[0]
            servers = "-hdfs" if "hdfs" in getattr(item, "fixturenames", ()) else ""
            item.add_marker(pytest.mark.xdist_group(folder + servers))


@pytest.fixture(scope="session", autouse=True)
def catalog_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the runs of the tests out of the user's own catalog."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARSPIPE_CATALOG", f"sqlite:///{tmp_path_factory.mktemp('catalog') / 'catalog.sqlite'}")
        yield


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """One Spark session, local[2], for all tests."""
    from marspipe.pipeline.spark.session import local_session

    session = local_session("local[2]")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server."""
    with running() as server:
        yield server


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers; the seed is printed when the test fails, MARSPIPE_TEST_SEED repeats it."""
    seed = int(os.environ.get("MARSPIPE_TEST_SEED", np.random.SeedSequence().generate_state(1)[0]))
    print(f"MARSPIPE_TEST_SEED={seed}")
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def project() -> Path:
    """The top of the checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``marspipe demo`` makes; its output is in ``demo.txt`` beside it."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "marspipe", "demo"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder / "demo.txt").write_text(done.stdout)
    return folder / "marspipe-demo"
