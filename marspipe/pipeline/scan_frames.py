"""The frames table of a scan: what it says of itself, and whether it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from marspipe.errors import ScanError
from marspipe.recipe import content_hash
from marspipe.scan.energy import Counter
from marspipe.scan.geometry import ScanGeometry
from marspipe.store.commit import require_committed
from marspipe.store.tables import spark_schema


@dataclass(frozen=True)
class FramesTable:
    """A committed frames table.

    Attributes
    ----------
    uri : str
        Folder.
    scan_id : str
        Name of the scan.
    geometry : ScanGeometry
        One view per projection.
    counters : tuple of Counter
        Counters of the camera.
    metadata : dict
        All of ``_marspipe.json``.
    """

    uri: str
    scan_id: str
    geometry: ScanGeometry
    counters: tuple[Counter, ...]
    metadata: dict[str, Any]

    @classmethod
    def open(cls, uri: str, *, incomplete: bool = False) -> FramesTable:
        """Open a frames table.

        Parameters
        ----------
        uri : str
            Folder.
        incomplete : bool
            Whether views may be missing.

        Raises
        ------
        ScanError
            If none is committed there, or views are missing.
        """
        metadata = require_committed(uri, "frames")
        missing = metadata.get("missing_views", [])
        if missing and not incomplete:
            raise ScanError(
                f"{uri} lacks {some(missing)} of {len(metadata['geometry']['angles_rad'])} views: raw files were "
                "damaged when it was ingested; repair them and run marspipe ingest again"
            )
        return cls(
            uri,
            metadata["scan_id"],
            ScanGeometry.from_dict(metadata["geometry"]),
            tuple(Counter(**c) for c in metadata["counters"]),
            metadata,
        )

    @property
    def open_beam_counters(self) -> set[int]:
        """Counters that have open-beam frames."""
        return {g["counter"] for g in self.metadata["groups"] if g["frame_type"] == "open_beam"}

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels in the table."""
        return int(self.metadata["pixel_bytes"])


def some(views: list[int]) -> str:
    """Return a few view numbers for a message: ``view 3, 4 and 12 others``."""
    rest = f" and {len(views) - 5} others" if len(views) > 5 else ""
    return "view " + ", ".join(map(str, views[:5])) + rest


@dataclass(frozen=True)
class FrameGroup:
    """Frames of one type and counter, counted."""

    frame_type: str
    counter: int
    frames: int
    views: int
    view_first: int
    view_last: int


@dataclass(frozen=True)
class Survey:
    """What the files of a frames table hold.

    Attributes
    ----------
    groups : list of FrameGroup
        Per frame type and counter.
    content : str
        Hash over all pixels and their places, independent of the order of rows.
    pixel_bytes : int
        Bytes of all pixels.
    missing_views : list of int
        Views that a counter lacks.
    """

    groups: list[FrameGroup]
    content: str
    pixel_bytes: int
    missing_views: list[int]


def read_frames(spark: SparkSession, paths: list[str]) -> DataFrame:
    """Return the frames in some files, committed or not."""
    return spark.read.schema(spark_schema("frames")).parquet(*paths)


def survey(
    spark: SparkSession,
    uri: str,
    paths: list[str],
    geometry: ScanGeometry,
    counters: tuple[Counter, ...],
    *,
    incomplete: bool = False,
) -> Survey:
    """Count the frames of a table and check that they are a whole scan.

    Parameters
    ----------
    spark : SparkSession
        The session.
    uri : str
        The table, for messages.
    paths : list of str
        Its files.
    geometry : ScanGeometry
        Of the whole scan.
    counters : tuple of Counter
        Of the camera.
    incomplete : bool
        Whether views may be missing.

    Raises
    ------
    ScanError
        If a view is missing or doubled, a counter is missing, or frames differ in shape from the detector.
    """
    if not paths:
        raise ScanError(f"{uri}: no frame could be read")
    with many_rows(spark):
        return _survey(spark, uri, paths, geometry, counters, incomplete)


@contextmanager
def many_rows(spark: SparkSession) -> Iterator[None]:
    """Let Spark read many rows at a time inside: for all columns but the pixels."""
    key = "spark.sql.parquet.columnarReaderBatchSize"
    few = spark.conf.get(key) or "4096"
    spark.conf.set(key, "4096")
    try:
        yield
    finally:
        spark.conf.set(key, few)


def _survey(
    spark: SparkSession,
    uri: str,
    paths: list[str],
    geometry: ScanGeometry,
    counters: tuple[Counter, ...],
    incomplete: bool,
) -> Survey:
    frames = read_frames(spark, paths)
    bytes_per_pixel = F.regexp_extract("dtype", r"(\d+)$", 1).cast("long") / 8
    counted = (
        frames.groupBy("frame_type", "counter")
        .agg(
            F.count("*").alias("frames"),
            F.countDistinct("view", "tile").alias("distinct"),
            F.countDistinct("view").alias("views"),
            F.min("view").alias("first"),
            F.max("view").alias("last"),
            F.min(F.struct("rows", "cols", "source_uri")).alias("smallest"),
            F.max(F.struct("rows", "cols", "source_uri")).alias("largest"),
            F.min("threshold_kev").alias("low"),
            F.max("threshold_kev").alias("high"),
            F.sum(F.col("rows").cast("long") * F.col("cols") * bytes_per_pixel).cast("long").alias("pixel_bytes"),
            F.sum(
                F.xxhash64("frame_type", "view", "tile", "counter", "rows", "cols", "dtype", "checksum").cast(
                    "decimal(38,0)"
                )
            ).alias("content"),
        )
        .orderBy("frame_type", "counter")
        .collect()
    )
    if not any(row["frame_type"] == "projection" for row in counted):
        raise ScanError(f"{uri}: the scan has no projection frames")
    for row in counted:
        what = f"{row['frame_type']} frames of counter {row['counter']}"
        for extreme in (row["smallest"], row["largest"]):
            shape = (extreme["rows"], extreme["cols"])
            if shape != geometry.detector_shape:
                raise ScanError(
                    f"{extreme['source_uri']}: {what} have {shape[0]} x {shape[1]} px, expected the detector's "
                    f"{geometry.detector_shape[0]} x {geometry.detector_shape[1]} px"
                )
        if row["frames"] != row["distinct"]:
            _explain_double(frames, uri, row["frame_type"], row["counter"])
        if row["frame_type"] == "projection" and row["views"] != len(geometry) and not incomplete:
            _explain_missing(spark, frames, uri, row["counter"], len(geometry))
    expected = {c.index for c in counters}
    present = {row["counter"] for row in counted if row["frame_type"] == "projection"}
    if present != expected:
        raise ScanError(f"{uri}: projections have counters {sorted(present)}, expected {sorted(expected)}")
    groups = [
        FrameGroup(r["frame_type"], r["counter"], r["frames"], r["views"], r["first"], r["last"]) for r in counted
    ]
    pixel_bytes = sum(int(r["pixel_bytes"]) for r in counted)
    of_sample = [g for g in groups if g.frame_type == "projection"]
    missing = [] if all(g.views == len(geometry) for g in of_sample) else _missing(spark, frames, len(geometry))
    return Survey(groups, content_hash([str(r["content"]) for r in counted]), pixel_bytes, missing)


def _missing(spark: SparkSession, frames: DataFrame, n_views: int) -> list[int]:
    """Return the views without any frame; a view has all its counters or none."""
    present = frames.where(F.col("frame_type") == "projection").select("view")
    missing = spark.range(n_views).join(present, F.col("id") == F.col("view"), "left_anti").orderBy("id")
    return [int(row["id"]) for row in missing.collect()]


def _explain_double(frames: DataFrame, uri: str, frame_type: str, counter: int) -> None:
    doubled = (
        frames.where((F.col("frame_type") == frame_type) & (F.col("counter") == counter))
        .groupBy("view", "tile")
        .agg(F.count("*").alias("n"), F.collect_set("source_uri").alias("sources"))
        .where("n > 1")
        .orderBy("view")
        .first()
    )
    assert doubled is not None
    raise ScanError(
        f"{uri}: view {doubled['view']}, counter {counter} is doubled: {doubled['n']} {frame_type} frames from "
        + ", ".join(sorted(doubled["sources"]))
    )


def _explain_missing(spark: SparkSession, frames: DataFrame, uri: str, counter: int, n_views: int) -> None:
    present = frames.where((F.col("frame_type") == "projection") & (F.col("counter") == counter))
    missing = spark.range(n_views).join(present, F.col("id") == F.col("view"), "left_anti").orderBy("id")
    views = [str(row["id"]) for row in missing.limit(5).collect()]
    raise ScanError(
        f"{uri}: counter {counter} has no frame of view {', '.join(views)}"
        + (f" and others ({missing.count()} views missing of {n_views})" if len(views) == 5 else "")
    )
