"""The nightly job as an administrator runs it: spark-submit, stores on HDFS, the catalog in PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from marspipe.pipeline.benchmarks.standalone import StandaloneCluster
from marspipe.store import storage
from marspipe.store.catalog import open_catalog
from marspipe.store.catalog.catalog import unmigrated
from marspipe.store.versions import versions
from marspipe.store.volume import open_volume
from tests.cluster.same_volume import assert_same_volume
from tests.cluster.servers import COMPILED_ONCE, Hdfs, clean_environment, put, spark_submit
from tests.store.catalog_content import stored
from tests.store.postgres import Postgres

SMALL = {
    "spark.executor.memory": "512m",
    "spark.executor.cores": "1",
    "spark.cores.max": "2",
    "spark.driver.memory": "512m",
    **COMPILED_ONCE,
}


def test_nights_on_hdfs_with_a_catalog_in_postgresql(
    hdfs: Hdfs,
    hdfs_folder: str,
    standalone: StandaloneCluster,
    postgres: Postgres,
    project: Path,
    small_scans: Callable[[str], Path],
    local_volume: Callable[[str], str],
    tmp_path: Path,
) -> None:
    raw, out = storage.join(hdfs_folder, "raw"), storage.join(hdfs_folder, "out")
    put(small_scans("merlin"), raw)
    url = postgres.fresh()
    unmigrated(url).migrate()
    catalog = open_catalog(url)
    catalog.put_scan("demo", raw_uri=raw, out_uri=out)
    environment = {"HADOOP_CONF_DIR": str(hdfs.conf_dir)}
    options = ["--catalog", url, "--lock-dir", storage.join(hdfs_folder, "lock"), "--keep", "2"]

    def night(*more: str) -> dict[str, Any]:
        summary = storage.join(hdfs_folder, "summary.json")
        arguments = ["--master", standalone.url, str(project / "jobs" / "reprocess.py"), *options, "--json", summary]
        done = spark_submit(*arguments, *more, conf=SMALL, environment=environment)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(storage.read_bytes(summary)))

    assert [scan["result"] for scan in night()["scans"]] == ["done"]
    assert_same_volume(storage.join(out, "volume"), local_volume("merlin"))
    first = np.asarray(open_volume(storage.join(out, "volume"))[0])
    (tmp_path / "hann.yaml").write_text("filter: {window: hann}\noutput: {dicom: false, preview: false}\n")
    (scan,) = night("--recipe", str(tmp_path / "hann.yaml"))["scans"]
    assert (scan["result"], [reason["kind"] for reason in scan["reasons"]]) == ("done", ["recipe"])
    newer, older = versions(storage.join(out, "volume"))
    np.testing.assert_array_equal(np.asarray(open_volume(older.uri)[0]), first)
    assert not np.array_equal(np.asarray(open_volume(newer.uri)[0]), first)
    assert not storage.list_dir(storage.join(hdfs_folder, "lock"))

    # The catalog can be lost: what the stores hold is found again.
    other = f"sqlite:///{tmp_path / 'rebuilt.sqlite'}"
    command = [sys.executable, "-m", "marspipe", "catalog", "rebuild", "--catalog", other, hdfs_folder]
    subprocess.run(command, env={**clean_environment(), **environment}, check=True, capture_output=True)
    assert stored(open_catalog(other))[1:] == stored(catalog)[1:]
    assert [v.uri for v in open_catalog(other).volumes()] == [newer.uri, older.uri]
    assert os.path.exists(tmp_path / "rebuilt.sqlite")
