"""The files of an owner, as they are listed."""

from __future__ import annotations

import sqlalchemy as sa

from cryomamba_core.errors import UnknownObject
from cryomamba_core.files import FileRecord
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.records import stored_file
from cryomamba_server.engine.schema import files


def list_files(database: Database, *, owner: str, limit: int, before: str | None = None) -> list[FileRecord]:
    """An owner's newest files first, at most `limit`, only those older than the file `before`. Blocks.

    Raises
    ------
    UnknownObject
        If the owner has no file `before`.
    """
    query = sa.select(files).where(files.c.owner == owner)
    query = query.order_by(files.c.created_at.desc(), files.c.id.desc()).limit(limit)
    with database.reading() as connection:
        if before is not None:
            place = sa.select(files.c.created_at, files.c.id).where(files.c.owner == owner, files.c.id == before)
            last = connection.execute(place).first()
            if last is None:
                raise UnknownObject(f"no file has the id {before}", hint="start the list anew")
            query = query.where(sa.tuple_(files.c.created_at, files.c.id) < sa.tuple_(*last))
        return [stored_file(row).record for row in connection.execute(query).mappings()]
