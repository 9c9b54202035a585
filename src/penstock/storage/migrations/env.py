"""Alembic's environment: runs migrations in the transaction `migrate` has opened."""

from __future__ import annotations

from alembic import context

from penstock.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # true of SQLite too, once a transaction is really begun
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
