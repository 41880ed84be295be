"""Which tokens were made, and which of them were taken back. Methods block; each is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from attrs import field, frozen

from cryomamba_core.errors import UnknownToken
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.records import now
from cryomamba_server.engine.schema import tokens
from cryomamba_server.http.routing import Scope

#: Tokens that expired so long ago are forgotten; until then one can see that they existed.
KEEP = timedelta(days=30)

# Asked for with every request: it is put together once.
_FIND = sa.select(tokens).where(tokens.c.id == sa.bindparam("token"))


@frozen(kw_only=True)
class TokenRecord:
    """What is kept of a token; the token itself is not.

    Attributes
    ----------
    id
        UUID version 7.
    subject
        Who it is about.
    scopes
        What it allows.
    key_id
        The key that signed it.
    created_at, expires_at, revoked_at
        UTC; `revoked_at` is None for one that was not taken back.
    """

    id: str
    subject: str
    scopes: tuple[Scope, ...]
    key_id: str = field(repr=False)
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None

    @property
    def state(self) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.expires_at > now() else "expired"


class TokenStore:
    """The table of tokens.

    Parameters
    ----------
    database
        Where it is.
    """

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writing = database.writing

    def add(self, record: TokenRecord) -> None:
        """Record a new token, and forget those that expired long ago."""
        with self._writing() as connection:
            connection.execute(sa.delete(tokens).where(tokens.c.expires_at < (now() - KEEP).isoformat()))
            connection.execute(
                sa.insert(tokens).values(
                    id=record.id,
                    subject=record.subject,
                    scopes=" ".join(record.scopes),
                    key_id=record.key_id,
                    created_at=record.created_at.isoformat(),
                    expires_at=record.expires_at.isoformat(),
                )
            )

    def find(self, token_id: str) -> TokenRecord | None:
        """A token, or None if there was none, or it is forgotten."""
        with self._reading() as connection:
            row = connection.execute(_FIND, {"token": token_id}).mappings().first()
        return None if row is None else _record(row)

    def all(self) -> Sequence[TokenRecord]:
        """Every token, newest first."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(tokens).order_by(tokens.c.id.desc())).mappings().all()
        return [_record(row) for row in rows]

    def revoke(self, token_ids: Sequence[str]) -> Sequence[TokenRecord]:
        """Take tokens back, all or none; one that is taken back already stays so.

        Raises
        ------
        UnknownToken
            If there is no such token.
        """
        with self._writing() as connection:
            for token_id in token_ids:
                if connection.scalar(sa.select(tokens.c.id).where(tokens.c.id == token_id)) is None:
                    raise UnknownToken(f"there is no token {token_id}", hint="list them with: cryomamba token list")
            return self._revoke(connection, tokens.c.id.in_(token_ids))

    def revoke_subject(self, subject: str) -> Sequence[TokenRecord]:
        """Take back all tokens of a subject that still count."""
        at = now().isoformat()
        with self._writing() as connection:
            return self._revoke(
                connection,
                sa.and_(tokens.c.subject == subject, tokens.c.revoked_at.is_(None), tokens.c.expires_at > at),
            )

    def last_expiry(self, key_id: str) -> datetime | None:
        """When the last token that a key signed, and that was not taken back, expires."""
        with self._reading() as connection:
            found = connection.scalar(
                sa.select(sa.func.max(tokens.c.expires_at)).where(
                    tokens.c.key_id == key_id, tokens.c.revoked_at.is_(None)
                )
            )
        return None if found is None else datetime.fromisoformat(found)

    def _revoke(self, connection: sa.Connection, which: sa.ColumnElement[bool]) -> Sequence[TokenRecord]:
        ids = connection.scalars(sa.select(tokens.c.id).where(which).order_by(tokens.c.id)).all()
        connection.execute(
            sa.update(tokens)
            .where(tokens.c.id.in_(ids), tokens.c.revoked_at.is_(None))
            .values(revoked_at=now().isoformat())
        )
        rows = connection.execute(sa.select(tokens).where(tokens.c.id.in_(ids)).order_by(tokens.c.id)).mappings()
        return [_record(row) for row in rows]


def _record(row: Any) -> TokenRecord:
    return TokenRecord(
        id=row["id"],
        subject=row["subject"],
        scopes=tuple(Scope(word) for word in row["scopes"].split()),
        key_id=row["key_id"],
        created_at=datetime.fromisoformat(row["created_at"]),
        expires_at=datetime.fromisoformat(row["expires_at"]),
        revoked_at=None if row["revoked_at"] is None else datetime.fromisoformat(row["revoked_at"]),
    )
