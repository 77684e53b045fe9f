"""Alembic's entry: always called from `locum.coordinator.store`, which hands over a locked transaction."""

from alembic import context

from locum.coordinator.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
