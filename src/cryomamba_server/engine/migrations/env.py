"""Runs the steps on the connection that `cryomamba_server.engine.database` hands over."""

from alembic import context

from cryomamba_server.engine.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite can hardly alter a table
)
context.run_migrations()
