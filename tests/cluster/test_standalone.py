"""The jobs on Spark's own cluster, and on the one that Spark makes for a trial (local-cluster)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from marspipe.pipeline.benchmarks.standalone import StandaloneCluster
from tests.cluster.same_volume import assert_same_volume
from tests.cluster.servers import COMPILED_ONCE, spark_submit

SMALL = {"spark.executor.memory": "512m", "spark.executor.cores": "1", "spark.driver.memory": "512m", **COMPILED_ONCE}


def reconstruct(project: Path, master: str, raw: Path, out: Path, **conf: str) -> str:
    arguments = ["--master", master, "--properties-file", str(project / "conf" / "spark" / "standalone.conf")]
    arguments += [str(project / "jobs" / "reconstruct.py"), "--raw", str(raw), "--out", str(out)]
    done = spark_submit(*arguments, conf=SMALL | conf)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_master_and_two_workers(
    standalone: StandaloneCluster,
    project: Path,
    small_scans: Callable[[str], Path],
    local_volume: Callable[[str], str],
    tmp_path: Path,
) -> None:
    reconstruct(project, standalone.url, small_scans("merlin"), tmp_path / "out")
    assert_same_volume(str(tmp_path / "out" / "volume"), local_volume("merlin"))
    used = {log.parents[2].name for log in standalone.folder.glob("worker-*/app-*/*/stderr")}
    assert used == {"worker-0", "worker-1"}


@pytest.mark.parametrize("shape", ["2,1"])
def test_local_cluster(
    project: Path, small_scans: Callable[[str], Path], local_volume: Callable[[str], str], tmp_path: Path, shape: str
) -> None:
    reconstruct(project, f"local-cluster[{shape},1024]", small_scans("merlin"), tmp_path / "out")
    assert_same_volume(str(tmp_path / "out" / "volume"), local_volume("merlin"))
