"""Insert a row, or update the one that is there, as one statement of either database."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from marspipe.store.catalog.models import Base


def put(
    connection: Connection,
    model: type[Base],
    values: dict[str, Any],
    *,
    update: dict[str, Any] | None = None,
    replace: bool = True,
) -> int:
    """Insert a row; one with the same key is updated, or left alone.

    Parameters
    ----------
    connection : Connection
        In a transaction.
    model : type
        Which table.
    values : dict
        Of the new row.
    update : dict or None
        What an existing row takes over; by default all.
    replace : bool
        Whether an existing row is updated at all.

    Returns
    -------
    int
        Rows that were inserted or updated.
    """
    table = cast(Table, model.__table__)
    key = [column.name for column in table.primary_key]
    changes = values if update is None else update
    changes = {name: value for name, value in changes.items() if name not in key} if replace else {}
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement: Any = insert(table).values(values)
    if changes:
        statement = statement.on_conflict_do_update(index_elements=key, set_=changes)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=key)
    return int(connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount)
