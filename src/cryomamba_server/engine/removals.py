"""What is to be removed: noted in the transaction that makes it so, and forgotten when nothing is left of it.

A crash in between costs nothing: whoever comes next goes on from the notes. Nothing else is ever removed.
That no record names something does not mean that nobody needs it: the records may be younger than what
they should speak of, as after a job store that was moved away, or restored from a backup.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from cryomamba_server.engine.schema import removals


class Removal(StrEnum):
    """What is removed: a job's results and directory, an object, or what only the worker of a job needed."""

    JOB = "job"
    CONTENT = "content"
    WORK = "work"


def note(connection: sa.Connection, kind: Removal, names: Iterable[str]) -> None:
    """Note what is to be removed."""
    rows = [{"kind": kind.value, "name": name} for name in names]
    if rows:
        connection.execute(sqlite.insert(removals).on_conflict_do_nothing(), rows)


def noted(connection: sa.Connection, kind: Removal) -> list[str]:
    """Names of what is still to be removed."""
    query = sa.select(removals.c.name).where(removals.c.kind == kind.value).order_by(removals.c.name)
    return list(connection.scalars(query))


def forget(connection: sa.Connection, kind: Removal, name: str) -> None:
    """Nothing is left of it."""
    connection.execute(removals.delete().where(removals.c.kind == kind.value, removals.c.name == name))
