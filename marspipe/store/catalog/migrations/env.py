"""Run by Alembic: hands the connection and the models over; the transaction is the caller's."""

from __future__ import annotations

from alembic import context

from marspipe.store.catalog.migrate import VERSION_TABLE
from marspipe.store.catalog.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
    # SQLite cannot alter most of a table: it is copied instead.
    render_as_batch=True,
)
context.run_migrations()
