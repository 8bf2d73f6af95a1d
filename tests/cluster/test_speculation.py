"""Copies of slow tasks that Spark starts on its own: whichever attempt is quicker, every row is there once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from marspipe.pipeline.benchmarks.standalone import StandaloneCluster
from marspipe.store.volume import open_volume
from tests.cluster.faults import Driver, Fault, SlowFirstAttempt, make_frames, make_volume
from tests.cluster.same_volume import assert_same_volume

pytest_plugins = ["tests.cluster.fault_fixtures"]

SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "100ms",
    "spark.speculation.minTaskRuntime": "100ms",
    "spark.speculation.multiplier": "1.1",
    "spark.speculation.quantile": "0.1",
    # Of a stage with so few tasks there is no median: what takes longer than this is slow.
    "spark.speculation.task.duration.threshold": "1s",
}
FRAME = ["frame_type", "view", "tile", "counter"]


@pytest.fixture(scope="module")
def speculative(two_hosts: StandaloneCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver that starts copies of slow tasks."""
    driver = Driver(two_hosts.url, tmp_path_factory.mktemp("driver"), SPECULATION)
    yield driver
    driver.stop()


def rows(uri: str, columns: list[str]) -> list[tuple[object, ...]]:
    """Return the values of some columns in all files of a table's folder, sorted."""
    tables = [pq.read_table(path, columns=columns) for path in sorted(Path(uri).glob("*.parquet"))]
    return sorted(tuple(row.values()) for table in tables for row in table.to_pylist())


@pytest.mark.parametrize("stage", ["filter", "backproject"])
def test_a_volume(speculative: Driver, undisturbed: tuple[str, str], tmp_path: Path, stage: str) -> None:
    fault, out = Fault(stage, SlowFirstAttempt(str(tmp_path))), str(tmp_path / "out")
    counted = speculative.run(make_volume, undisturbed[0], out, fault)
    assert counted["speculative"] >= 1
    assert counted["executors lost"] == counted["stages repeated"] == 0
    assert_same_volume(f"{out}/volume", undisturbed[1])
    keys = rows(open_volume(f"{out}/volume").data_uri, ["bin", "z", "tile"])
    assert keys == rows(open_volume(undisturbed[1]).data_uri, ["bin", "z", "tile"])
    assert len(keys) == len(set(keys)) == 2 * 48


def test_frames(speculative: Driver, raw: str, undisturbed: tuple[str, str], tmp_path: Path) -> None:
    frames = str(tmp_path / "frames")
    counted = speculative.run(make_frames, raw, frames, SlowFirstAttempt(str(tmp_path)))
    assert counted["speculative"] >= 1
    keys = rows(frames, FRAME)
    assert keys == rows(undisturbed[0], FRAME)
    assert len(keys) == len(set(keys))
    assert not list(Path(frames).glob("_staging*"))
    speculative.run(make_volume, frames, str(tmp_path))
    assert_same_volume(f"{tmp_path}/volume", undisturbed[1])
