"""The table schemas, loaded from ``schemas/*.json``: the one place where columns are named and typed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from marspipe.resources import resource_path

ARROW_TYPES = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "binary": pa.binary(),
}


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    type: str
    nullable: bool
    doc: str
    unit: str | None = None


@dataclass(frozen=True)
class TableSchema:
    """Name, columns and sort order of a table."""

    table: str
    doc: str
    columns: tuple[Column, ...]
    sort: tuple[str, ...]

    def arrow(self) -> pa.Schema:
        """Return the schema for Arrow."""
        return pa.schema([pa.field(c.name, ARROW_TYPES[c.type], nullable=c.nullable) for c in self.columns])

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(c.name for c in self.columns)


@cache
def table_schema(table: str) -> TableSchema:
    """Return the schema of ``frames``, ``calibration``, ``pixel_flags``, ``bands`` or ``volume``."""
    raw: dict[str, Any] = json.loads(resource_path(f"schemas/{table}.json").read_text(encoding="utf-8"))
    columns = tuple(Column(**column) for column in raw["columns"])
    unknown = {c.type for c in columns} - set(ARROW_TYPES)
    if unknown:
        raise ValueError(f"schemas/{table}.json has unknown types {sorted(unknown)}; known are {sorted(ARROW_TYPES)}")
    return TableSchema(raw["table"], raw["doc"], columns, tuple(raw["sort"]))
