"""The catalog: which scans there are, what was made of them, by which recipe, when, and what went wrong.

The catalog is a small database beside the stores, never the only place of anything that a volume needs: frames tables
and volumes describe themselves in their ``_marspipe.json``, and :func:`rebuild` fills an empty catalog from these.
Only the history of runs and publications lives here alone. It knows scan ids and the descriptions of manifests, and
no patients.

A SQLite file serves one machine, PostgreSQL a cluster. Every method of :class:`Catalog` is one transaction and may be
called by many processes at once.
"""

from __future__ import annotations

from marspipe.store.catalog.catalog import KINDS, PINNED, SHIPPED, STATES, Catalog, open_catalog
from marspipe.store.catalog.migrate import Migrated
from marspipe.store.catalog.rebuild import Rebuilt, rebuild
from marspipe.store.catalog.records import (
    Calibration,
    Frames,
    Match,
    Overview,
    Publication,
    RecipeRecord,
    Run,
    Scan,
    VolumeRecord,
)

__all__ = [
    "KINDS",
    "PINNED",
    "SHIPPED",
    "STATES",
    "Calibration",
    "Catalog",
    "Frames",
    "Match",
    "Migrated",
    "Overview",
    "Publication",
    "Rebuilt",
    "RecipeRecord",
    "Run",
    "Scan",
    "VolumeRecord",
    "open_catalog",
    "rebuild",
]
