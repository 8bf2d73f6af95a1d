"""Make the tables of the first catalog."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _moment() -> sa.DateTime:
    return sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "scans",
        sa.Column("scan_id", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("acquired_at", _moment()),
        sa.Column("raw_uri", sa.Text),
        sa.Column("frames_uri", sa.Text),
        sa.Column("out_uri", sa.Text),
        sa.Column("recipe_uri", sa.Text),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("added_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("scan_id", name="pk_scans"),
    )
    op.create_table(
        "frames",
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("scan_id", sa.Text, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text),
        sa.Column("version", sa.Text),
        sa.Column("n_views", sa.Integer, nullable=False),
        sa.Column("n_missing_views", sa.Integer, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("cols", sa.Integer, nullable=False),
        sa.Column("n_positions", sa.Integer, nullable=False),
        sa.Column("counters", sa.JSON, nullable=False),
        sa.Column("n_frames", sa.BigInteger, nullable=False),
        sa.Column("pixel_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("uri", name="pk_frames"),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.scan_id"], name="fk_frames_scan_id_scans"),
    )
    op.create_index("ix_frames_scan_id", "frames", ["scan_id"])
    op.create_index("ix_frames_content_hash", "frames", ["content_hash"])
    op.create_table(
        "calibrations",
        sa.Column("frames_uri", sa.Text, nullable=False),
        sa.Column("frame_type", sa.Text, nullable=False),
        sa.Column("counter", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("n_frames", sa.BigInteger, nullable=False),
        sa.Column("n_views", sa.Integer, nullable=False),
        sa.Column("n_untimed", sa.BigInteger, nullable=False),
        sa.Column("frames_hash", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("frames_uri", "frame_type", "counter", name="pk_calibrations"),
        sa.ForeignKeyConstraint(
            ["frames_uri"], ["frames.uri"], name="fk_calibrations_frames_uri_frames", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "recipes",
        sa.Column("recipe_hash", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("recipe_hash", name="pk_recipes"),
    )
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("scan_id", sa.Text, nullable=False),
        sa.Column("out_uri", sa.Text, nullable=False),
        sa.Column("recipe_hash", sa.Text),
        sa.Column("content_hash", sa.Text),
        sa.Column("started_at", _moment(), nullable=False),
        sa.Column("ended_at", _moment()),
        sa.Column("error", sa.Text),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("results_version", sa.Integer),
        sa.Column("application_id", sa.Text),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("process_started", sa.Text),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.scan_id"], name="fk_runs_scan_id_scans"),
    )
    for column in ("scan_id", "started_at", "state"):
        op.create_index(f"ix_runs_{column}", "runs", [column])
    op.create_table(
        "volumes",
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("out_uri", sa.Text, nullable=False),
        sa.Column("scan_id", sa.Text, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("recipe_hash", sa.Text, nullable=False),
        sa.Column("frames_hash", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("results_version", sa.Integer),
        sa.Column("created_at", _moment()),
        sa.Column("bins", sa.JSON, nullable=False),
        sa.Column("shape", sa.JSON, nullable=False),
        sa.Column("voxel_mm", sa.JSON, nullable=False),
        sa.Column("n_bytes", sa.BigInteger),
        sa.Column("run_id", sa.Text),
        sa.PrimaryKeyConstraint("uri", name="pk_volumes"),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.scan_id"], name="fk_volumes_scan_id_scans"),
        sa.ForeignKeyConstraint(["recipe_hash"], ["recipes.recipe_hash"], name="fk_volumes_recipe_hash_recipes"),
    )
    for column in ("out_uri", "recipe_hash", "scan_id"):
        op.create_index(f"ix_volumes_{column}", "volumes", [column])
    op.create_table(
        "publications",
        sa.Column("publication_id", sa.Integer, nullable=False),
        sa.Column("volume_uri", sa.Text, nullable=False),
        sa.Column("destination", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("n_instances", sa.BigInteger, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("published_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("publication_id", name="pk_publications"),
    )
    op.create_index("ix_publications_volume_uri", "publications", ["volume_uri"])


def downgrade() -> None:
    """Drop the tables."""
    for table in ("publications", "volumes", "runs", "recipes", "calibrations", "frames", "scans"):
        op.drop_table(table)
