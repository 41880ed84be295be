"""Alembic's steps from one schema of the job store to the next."""
