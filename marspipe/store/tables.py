"""Tables on Spark: the schemas as Spark types, and how tables are written and read.

What commits a table is said in :mod:`marspipe.store.commit`.
"""

from __future__ import annotations

import os
import re

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from marspipe.store import storage
from marspipe.store.schema import table_schema

_SPARK_TYPES: dict[str, type[T.DataType]] = {
    "string": T.StringType,
    "int32": T.IntegerType,
    "int64": T.LongType,
    "float32": T.FloatType,
    "float64": T.DoubleType,
    "binary": T.BinaryType,
}
# Spark takes these in a path for a pattern unless a backslash is before them.
_GLOB = re.compile(r"[\[\]{}*?\\]")


def as_spark(schema: pa.Schema) -> T.StructType:
    """Return an Arrow schema as one of Spark's: for rows that pass between stages and are never stored."""
    return from_arrow_schema(schema)


def spark_schema(table: str) -> T.StructType:
    """Return the schema of a table for Spark."""
    return T.StructType(
        [T.StructField(c.name, _SPARK_TYPES[c.type](), nullable=c.nullable) for c in table_schema(table).columns]
    )


def write_table(
    data: DataFrame, uri: str, *, row_group_bytes: int, row_group_rows: int | None = None, add: bool = False
) -> None:
    """Write a table of large binary rows as uncompressed Parquet, one file per partition.

    Parameters
    ----------
    data : DataFrame
        Rows in the order in which they shall lie in the files.
    uri : str
        Folder; leftovers of a run that was never committed are replaced, unless ``add`` is set.
    row_group_bytes : int
        Row groups close after the first row that reaches this size. Parquet's writer looks at the size only after
        100 rows unless told otherwise, which would buffer gigabytes of pixels.
    row_group_rows : int, optional
        Row groups close after exactly this many rows, if the size has not closed them before.
    add : bool
        Add files to those in the folder. The file of a task appears when the task ends, and stays if others fail.
    """
    writer = (
        data.write.mode("append" if add else "overwrite")
        # Version 2 renames a task's file in place when the driver lets that attempt, and only that one, commit.
        .option("mapreduce.fileoutputcommitter.algorithm.version", "2" if add else "1")
        .option("compression", "none")  # photon noise does not compress
        .option("parquet.block.size", str(row_group_bytes))
        .option("parquet.page.size.row.check.min", "1")
        .option("parquet.page.size.row.check.max", "1")
        .option("parquet.enable.dictionary", "false")
        .option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
    )
    for field in data.schema.fields:
        if isinstance(field.dataType, T.BinaryType):
            writer = writer.option(f"parquet.column.statistics.enabled#{field.name}", "false")
    if row_group_rows is not None:
        writer = writer.option("parquet.block.row.count.limit", str(row_group_rows))
    writer.parquet(_for_hadoop(uri))


def read_table(spark: SparkSession, uri: str, table: str, *columns: str) -> DataFrame:
    """Return the given columns of a table, with its schema from ``schemas/`` instead of a look into the files."""
    return read_files(spark, [uri], table).select(*columns)


def read_files(spark: SparkSession, uris: list[str], table: str) -> DataFrame:
    """Return all columns of some files or folders of a table."""
    return spark.read.schema(spark_schema(table)).parquet(*(_GLOB.sub(r"\\\g<0>", _for_hadoop(uri)) for uri in uris))


def _for_hadoop(uri: str) -> str:
    """Return a URI for Hadoop's classes, for which a plain path is one of HDFS once they are configured for it."""
    root, path = storage.split(uri)
    return uri if root else "file://" + os.path.abspath(path)
