"""The frames table of a scan: what it says of itself, and whether it is whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from marspipe.errors import ScanError
from marspipe.recipe import content_hash
from marspipe.scan.energy import Counter
from marspipe.scan.geometry import ScanGeometry
from marspipe.store.commit import require_committed
from marspipe.store.tables import read_table


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
    def open(cls, uri: str) -> FramesTable:
        """Open a frames table; ScanError if none is committed there."""
        metadata = require_committed(uri, "frames")
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


@dataclass(frozen=True)
class FrameGroup:
    """Frames of one type and counter, counted."""

    frame_type: str
    counter: int
    frames: int
    views: int
    view_first: int
    view_last: int


def survey(
    spark: SparkSession, uri: str, geometry: ScanGeometry, counters: tuple[Counter, ...]
) -> tuple[list[FrameGroup], str, int]:
    """Count a frames table and check that it is a whole scan.

    Returns
    -------
    groups : list of FrameGroup
        Per frame type and counter.
    content : str
        Hash over all pixels and their places, independent of the order of rows.
    pixel_bytes : int
        Bytes of all pixels.

    Raises
    ------
    ScanError
        If a view is missing or doubled, a counter is missing, or frames differ in shape from the detector.
    """
    frames = read_table(
        spark, uri, "frames", "frame_type", "view", "tile", "counter", "rows", "cols", "dtype", "threshold_kev",
        "checksum", "source_uri",
    )  # fmt: skip
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
            _explain_double(spark, uri, row["frame_type"], row["counter"])
        if row["frame_type"] == "projection" and row["views"] != len(geometry):
            _explain_missing(spark, uri, row["counter"], len(geometry))
    expected = {c.index for c in counters}
    present = {row["counter"] for row in counted if row["frame_type"] == "projection"}
    if present != expected:
        raise ScanError(f"{uri}: projections have counters {sorted(present)}, expected {sorted(expected)}")
    groups = [
        FrameGroup(r["frame_type"], r["counter"], r["frames"], r["views"], r["first"], r["last"]) for r in counted
    ]
    pixel_bytes = sum(int(r["pixel_bytes"]) for r in counted)
    return groups, content_hash([str(r["content"]) for r in counted]), pixel_bytes


def _explain_double(spark: SparkSession, uri: str, frame_type: str, counter: int) -> None:
    doubled = (
        read_table(spark, uri, "frames", "frame_type", "counter", "view", "tile", "source_uri", "source_offset")
        .where((F.col("frame_type") == frame_type) & (F.col("counter") == counter))
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


def _explain_missing(spark: SparkSession, uri: str, counter: int, n_views: int) -> None:
    present = read_table(spark, uri, "frames", "frame_type", "counter", "view").where(
        (F.col("frame_type") == "projection") & (F.col("counter") == counter)
    )
    missing = spark.range(n_views).join(present, F.col("id") == F.col("view"), "left_anti").orderBy("id")
    views = [str(row["id"]) for row in missing.limit(5).collect()]
    raise ScanError(
        f"{uri}: counter {counter} has no frame of view {', '.join(views)}"
        + (f" and others ({missing.count()} views missing of {n_views})" if len(views) == 5 else "")
    )
