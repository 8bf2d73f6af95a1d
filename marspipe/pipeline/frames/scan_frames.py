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
from marspipe.store.tables import read_files


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
    """Frames of one type and counter, counted.

    Attributes
    ----------
    frame_type, counter
        Which frames.
    frames : int
        How many, of all views and camera positions.
    views, view_first, view_last : int
        Different views, the first and the last one.
    untimed : int
        Frames without an acquisition time.
    tiles : int
        Different camera positions.
    """

    frame_type: str
    counter: int
    frames: int
    views: int
    view_first: int
    view_last: int
    untimed: int
    tiles: int


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
        Views that lack a counter or a camera position.
    """

    groups: list[FrameGroup]
    content: str
    pixel_bytes: int
    missing_views: list[int]


def read_frames(spark: SparkSession, paths: list[str]) -> DataFrame:
    """Return the frames in some files, committed or not."""
    return read_files(spark, paths, "frames")


def survey(
    spark: SparkSession,
    uri: str,
    paths: list[str],
    geometry: ScanGeometry,
    counters: tuple[Counter, ...],
    *,
    n_tiles: int = 1,
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
    n_tiles : int
        Camera positions.
    incomplete : bool
        Whether views may be missing.

    Raises
    ------
    ScanError
        If a view is missing or doubled, a camera position or a counter is missing, or frames differ in shape from the
        detector.
    """
    if not paths:
        raise ScanError(f"{uri}: no frame could be read")
    with many_rows(spark):
        return _survey(spark, uri, paths, geometry, counters, n_tiles, incomplete)


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
    n_tiles: int,
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
            F.countDistinct("tile").alias("tiles"),
            F.sum(F.when(F.col("acquired_at").isNull(), 1).otherwise(0)).alias("untimed"),
            F.min(F.struct("rows", "cols", "source_uri")).alias("smallest"),
            F.max(F.struct("rows", "cols", "source_uri")).alias("largest"),
            F.min("threshold_kev").alias("low"),
            F.max("threshold_kev").alias("high"),
            F.sum(F.col("rows").cast("long") * F.col("cols") * bytes_per_pixel).cast("long").alias("pixel_bytes"),
            F.sum(
                F.xxhash64(
                    *("frame_type", "view", "tile", "counter", "group", "absorber_mm", "monitor"),
                    *("rows", "cols", "dtype", "checksum"),
                ).cast("decimal(38,0)")
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
        whole = row["frames"] == n_tiles * len(geometry)
        if row["frame_type"] == "projection" and not whole and not incomplete:
            _explain_missing(spark, frames, uri, row["counter"], len(geometry), n_tiles)
    expected = {c.index for c in counters}
    present = {row["counter"] for row in counted if row["frame_type"] == "projection"}
    if present != expected:
        raise ScanError(f"{uri}: projections have counters {sorted(present)}, expected {sorted(expected)}")
    names = ("frame_type", "counter", "frames", "views", "first", "last", "untimed", "tiles")
    groups = [FrameGroup(*(row[name] for name in names)) for row in counted]
    pixel_bytes = sum(int(r["pixel_bytes"]) for r in counted)
    of_sample = [g for g in groups if g.frame_type == "projection"]
    whole = all(g.frames == n_tiles * len(geometry) for g in of_sample)
    missing = [] if whole else _missing(spark, frames, len(geometry), n_tiles * len(counters))
    return Survey(groups, content_hash([str(r["content"]) for r in counted]), pixel_bytes, missing)


def _missing(spark: SparkSession, frames: DataFrame, n_views: int, n_images: int) -> list[int]:
    """Return the views that lack one of their images, of all counters and camera positions."""
    of_sample = frames.where(F.col("frame_type") == "projection")
    present = of_sample.groupBy("view").agg(F.count("*").alias("n")).where(F.col("n") == n_images)
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
    place = f" at camera position {doubled['tile']}" if doubled["tile"] else ""
    raise ScanError(
        f"{uri}: view {doubled['view']}{place}, counter {counter} is doubled: {doubled['n']} {frame_type} frames from "
        + ", ".join(sorted(doubled["sources"]))
    )


def _explain_missing(
    spark: SparkSession, frames: DataFrame, uri: str, counter: int, n_views: int, n_tiles: int
) -> None:
    present = frames.where((F.col("frame_type") == "projection") & (F.col("counter") == counter))
    every = spark.range(n_views * n_tiles).select(
        (F.col("id") / n_tiles).cast("long").alias("at_view"), (F.col("id") % n_tiles).alias("at_tile")
    )
    there = (F.col("at_view") == F.col("view")) & (F.col("at_tile") == F.col("tile"))
    missing = every.join(present, there, "left_anti").orderBy("at_view", "at_tile")
    first = missing.limit(5).collect()
    views = [f"{row['at_view']}" + (f" (camera position {row['at_tile']})" if n_tiles > 1 else "") for row in first]
    raise ScanError(
        f"{uri}: counter {counter} has no frame of view {', '.join(views)}"
        + (f" and others ({missing.count()} missing of {n_views * n_tiles})" if len(views) == 5 else "")
    )
