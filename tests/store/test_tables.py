"""Tables written and read by Spark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from marspipe.store.tables import read_files, spark_schema, write_table


@pytest.fixture
def configured_for_hdfs(spark: SparkSession) -> Iterator[SparkSession]:
    """A session whose default file system is an HDFS that does not answer."""
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    before = conf.get("fs.defaultFS")
    conf.set("fs.defaultFS", "hdfs://127.0.0.1:1")
    yield spark
    conf.set("fs.defaultFS", before)


@pytest.mark.parametrize("name", ["table", "a [1] {b,c} * 100%25 ü"])
def test_a_plain_path_is_local_whatever_hadoop_is_configured_for(
    configured_for_hdfs: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    spark, row = configured_for_hdfs, {"task": 3, "view": 7, "pixels": b"\1\2"}
    monkeypatch.chdir(tmp_path)
    write_table(spark.createDataFrame([tuple(row.values())], spark_schema("bands")), name, row_group_bytes=2**20)
    files = list((tmp_path / name).glob("*.parquet"))
    assert [found for file in files for found in pq.read_table(file).to_pylist()] == [row]
    for uri in (name, str(tmp_path / name), (tmp_path / name).as_uri()):
        assert read_files(spark, [uri], "bands").toArrow().to_pylist() == [row]
