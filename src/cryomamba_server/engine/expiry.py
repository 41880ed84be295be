"""What may go, as the job store knows it. Each method is one transaction, and blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa
from attrs import frozen

from cryomamba_core.jobs import JobState
from cryomamba_server.engine import removals
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.removals import Removal
from cryomamba_server.engine.schema import files, jobs, uploads

ENDED = tuple(state.value for state in JobState if state.ended)


@frozen(kw_only=True)
class Named:
    """What the records name: keys of objects, and ids of jobs."""

    keys: frozenset[str]
    jobs: frozenset[str]


class ExpiryStore:
    """Finds and forgets jobs and files that are past their time, and notes what is to be removed then.

    Parameters
    ----------
    database
        Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writing = database.writing

    def forget_jobs(self, before: datetime, *, most: int) -> int:
        """Delete at most `most` jobs that ended before a time; returns how many there were."""
        old = sa.and_(jobs.c.state.in_(ENDED), jobs.c.finished_at < before.isoformat())
        with self._writing() as connection:
            found = list(connection.scalars(sa.select(jobs.c.id).where(old).order_by(jobs.c.id).limit(most)))
            connection.execute(jobs.delete().where(jobs.c.id.in_(found)))
            removals.note(connection, Removal.JOB, found)
        return len(found)

    def forget_files(self, before: datetime, *, most: int) -> int:
        """Delete at most `most` owners' files that nobody has used since a time; returns how many there were.

        What a job that has not ended needs stays.
        """
        last_used = sa.func.coalesce(files.c.last_used_at, files.c.created_at)
        old = sa.select(files.c.id, files.c.owner, files.c.key).where(last_used < before.isoformat())
        with self._writing() as connection:
            needed = self._needed(connection)
            due = [row for row in connection.execute(old) if (row.id, row.owner) not in needed][:most]
            for row in due:
                connection.execute(files.delete().where(files.c.id == row.id, files.c.owner == row.owner))
            removals.note(connection, Removal.CONTENT, {row.key for row in due})
        return len(due)

    def forgotten(self, kind: Removal) -> list[str]:
        """Names of what is forgotten and still to be removed."""
        with self._reading() as connection:
            return removals.noted(connection, kind)

    def removed(self, kind: Removal, name: str) -> None:
        """Note that nothing is left of it."""
        with self._writing() as connection:
            removals.forget(connection, kind, name)

    def remove_content(self, key: str, remove: Callable[[str], None]) -> None:
        """Call `remove` with the key of forgotten content, unless somebody has it or will have it after all.

        Nobody can refer to it meanwhile.
        """
        with self._writing() as connection:
            kept = connection.scalar(sa.select(files.c.id).where(files.c.key == key).limit(1))
            coming = sa.select(uploads.c.id).where(uploads.c.key == key, uploads.c.file_id.is_(None)).limit(1)
            if kept is None and connection.scalar(coming) is None:
                remove(key)
            removals.forget(connection, Removal.CONTENT, key)

    def named(self) -> Named:
        """Everything that a record names, be it to remove it."""
        with self._reading() as connection:
            keys = {*connection.scalars(sa.select(files.c.key)), *connection.scalars(sa.select(uploads.c.key))}
            ids = set(connection.scalars(sa.select(jobs.c.id)))
            return Named(
                keys=frozenset(keys.union(removals.noted(connection, Removal.CONTENT))),
                jobs=frozenset(ids.union(removals.noted(connection, Removal.JOB))),
            )

    def _needed(self, connection: sa.Connection) -> set[tuple[str, str]]:
        """Id and owner of the files of jobs that have not ended."""
        query = sa.select(jobs.c.config, jobs.c.owner).where(jobs.c.state.not_in(ENDED))
        return {(json.loads(config)["source"]["file_id"], owner) for config, owner in connection.execute(query)}
