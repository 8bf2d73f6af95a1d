"""The tables of the catalog, as SQLAlchemy models.

A scan has frames tables (usually one), which carry calibrations; a recipe applied to frames gives volumes; runs are
what was tried, with whatever outcome; publications are where volumes were sent. Frames, calibrations, recipes and
volumes are copies of what lies in the stores and can be made again from there; runs and publications are not.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Float, ForeignKey, Integer, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class UtcTime(TypeDecorator[datetime]):
    """A moment: time zones are required on the way in, and UTC on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC; SQLite keeps no time zone."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CleanText(TypeDecorator[str]):
    """Text; what a database cannot hold (NUL, broken file names) is written out as escapes."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return text that every database takes."""
        del dialect
        return None if value is None else value.replace("\0", r"\x00").encode("utf-8", "backslashreplace").decode()


class Base(DeclarativeBase):
    """Base of the models; constraints have names, so that migrations can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: CleanText, datetime: UtcTime, int: BigInteger, float: Float}  # noqa: RUF012


class ScanRow(Base):
    """What was scanned: named by the manifest, wherever its files lie."""

    __tablename__ = "scans"

    scan_id: Mapped[str] = mapped_column(primary_key=True)
    description: Mapped[str | None]
    acquired_at: Mapped[datetime | None]
    raw_uri: Mapped[str | None]
    frames_uri: Mapped[str | None]
    out_uri: Mapped[str | None]
    recipe_uri: Mapped[str | None]
    priority: Mapped[int] = mapped_column(Integer)
    added_at: Mapped[datetime]


class FramesRow(Base):
    """A frames table."""

    __tablename__ = "frames"

    uri: Mapped[str] = mapped_column(primary_key=True)
    scan_id: Mapped[str] = mapped_column(ForeignKey("scans.scan_id"), index=True)
    content_hash: Mapped[str] = mapped_column(index=True)
    fingerprint: Mapped[str | None]
    version: Mapped[str | None]
    n_views: Mapped[int] = mapped_column(Integer)
    n_missing_views: Mapped[int] = mapped_column(Integer)
    rows: Mapped[int] = mapped_column(Integer)
    cols: Mapped[int] = mapped_column(Integer)
    n_positions: Mapped[int] = mapped_column(Integer)
    counters: Mapped[Any] = mapped_column(JSON, nullable=False)
    n_frames: Mapped[int]
    pixel_bytes: Mapped[int]


class CalibrationRow(Base):
    """The open-beam, absorber or dark frames of a counter in a frames table."""

    __tablename__ = "calibrations"

    frames_uri: Mapped[str] = mapped_column(ForeignKey("frames.uri", ondelete="CASCADE"), primary_key=True)
    frame_type: Mapped[str] = mapped_column(primary_key=True)
    counter: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    n_frames: Mapped[int]
    n_views: Mapped[int] = mapped_column(Integer)
    n_untimed: Mapped[int]
    frames_hash: Mapped[str]


class RecipeRow(Base):
    """A recipe by the hash of what shapes the voxels; name and content are those of its latest use."""

    __tablename__ = "recipes"

    recipe_hash: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    content: Mapped[Any] = mapped_column(JSON, nullable=False)


class RunRow(Base):
    """One attempt at something: kept whatever becomes of its results."""

    __tablename__ = "runs"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    scan_id: Mapped[str] = mapped_column(ForeignKey("scans.scan_id"), index=True)
    out_uri: Mapped[str]
    recipe_hash: Mapped[str | None]
    content_hash: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]
    error: Mapped[str | None]
    details: Mapped[Any] = mapped_column(JSON, nullable=False)
    version: Mapped[str]
    results_version: Mapped[int | None] = mapped_column(Integer)
    application_id: Mapped[str | None]
    host: Mapped[str]
    machine: Mapped[str]
    pid: Mapped[int]
    process_started: Mapped[str | None]


class VolumeRow(Base):
    """A version of a volume."""

    __tablename__ = "volumes"

    uri: Mapped[str] = mapped_column(primary_key=True)
    out_uri: Mapped[str] = mapped_column(index=True)
    scan_id: Mapped[str] = mapped_column(ForeignKey("scans.scan_id"), index=True)
    content_hash: Mapped[str]
    recipe_hash: Mapped[str] = mapped_column(ForeignKey("recipes.recipe_hash"), index=True)
    frames_hash: Mapped[str]
    version: Mapped[str]
    results_version: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime | None]
    bins: Mapped[Any] = mapped_column(JSON, nullable=False)
    shape: Mapped[Any] = mapped_column(JSON, nullable=False)
    voxel_mm: Mapped[Any] = mapped_column(JSON, nullable=False)
    n_bytes: Mapped[int | None]
    run_id: Mapped[str | None]


class PublicationRow(Base):
    """A volume sent somewhere."""

    __tablename__ = "publications"

    publication_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    volume_uri: Mapped[str] = mapped_column(index=True)
    destination: Mapped[str]
    state: Mapped[str]
    n_instances: Mapped[int]
    details: Mapped[Any] = mapped_column(JSON, nullable=False)
    published_at: Mapped[datetime]
