"""Making tokens, and the keys that sign them. Everything here blocks, and works beside a running server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import uuid_utils
from attrs import frozen

from cryomamba_core.errors import InvalidParameter
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.records import now
from cryomamba_server.http.access.addresses import MAX_SECONDS
from cryomamba_server.http.access.claims import Claims, encode
from cryomamba_server.http.access.keys import Key, KeyRing, Use
from cryomamba_server.http.access.token_store import TokenRecord, TokenStore
from cryomamba_server.http.routing import Scope

#: What a token allows unless one says otherwise: all that a client needs.
DEFAULT_SCOPES = (Scope.JOBS_READ, Scope.JOBS_WRITE, Scope.UPLOADS_WRITE, Scope.ARTIFACTS_READ)
DEFAULT_TTL = timedelta(days=30)
MAX_TTL = timedelta(days=366)

SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@frozen(kw_only=True)
class Issued:
    """A new token, which is shown once, and what is kept of it."""

    token: str
    record: TokenRecord


class Issuer:
    """Makes tokens and keys of a data directory.

    Parameters
    ----------
    keys, store
        Of the data directory.
    """

    def __init__(self, keys: KeyRing, store: TokenStore) -> None:
        self._keys = keys
        self._store = store

    def create(self, *, subject: str, scopes: Iterable[Scope] = DEFAULT_SCOPES, ttl: timedelta = DEFAULT_TTL) -> Issued:
        """Make a token that counts from now on.

        Raises
        ------
        InvalidParameter
            If the subject is no name, there is no scope, or the time is not between a second and
            `MAX_TTL`.
        """
        allowed = frozenset(scopes)
        _check(subject, allowed, ttl)
        with self._keys.changing():
            key = self._keys.current(Use.TOKENS)
            issued_at = now().replace(microsecond=0)
            claims = Claims(
                id=str(uuid_utils.uuid7()),
                subject=subject,
                scopes=allowed,
                issued_at=issued_at,
                expires_at=issued_at + ttl,
            )
            record = TokenRecord(
                id=claims.id,
                subject=subject,
                scopes=tuple(sorted(allowed)),
                key_id=key.id,
                created_at=issued_at,
                expires_at=claims.expires_at,
            )
            self._store.add(record)
            return Issued(token=encode(claims, key), record=record)

    def rotate(self) -> Key:
        """Sign with new keys from now on; what the old ones signed counts until it expires."""
        with self._keys.changing():
            at = now()
            last = self._store.last_expiry(self._keys.current(Use.TOKENS).id)
            self._keys.rotate(Use.ADDRESSES, ends_at=at + timedelta(seconds=MAX_SECONDS))
            return self._keys.rotate(Use.TOKENS, ends_at=last or at)

    def end(self) -> Key:
        """Sign with new keys, and let nothing count that the old ones signed."""
        with self._keys.changing():
            self._keys.end(Use.ADDRESSES)
            return self._keys.end(Use.TOKENS)


@contextmanager
def open_issuer(data_dir: Path) -> Iterator[tuple[Issuer, TokenStore]]:
    """The issuer of a data directory and its table of tokens, whether a server runs on it or not."""
    database = Database(data_dir)
    try:
        store = TokenStore(database)
        yield Issuer(KeyRing(data_dir), store), store
    finally:
        database.close()


def create_token(
    data_dir: Path, *, subject: str, scopes: Iterable[Scope] = DEFAULT_SCOPES, ttl: timedelta = DEFAULT_TTL
) -> str:
    """Make a token for the server of a data directory; raises as `Issuer.create`."""
    with open_issuer(data_dir) as (issuer, _):
        return issuer.create(subject=subject, scopes=scopes, ttl=ttl).token


def _check(subject: str, scopes: frozenset[Scope], ttl: timedelta) -> None:
    if SUBJECT.fullmatch(subject) is None:
        raise InvalidParameter(
            f"{subject!r} is no name for a token",
            hint="use up to 64 letters, digits and . _ @ + - and begin with a letter or a digit",
        )
    if not scopes:
        raise InvalidParameter("the token would allow nothing", hint=f"scopes are: {' '.join(Scope)}")
    if not timedelta(seconds=1) <= ttl <= MAX_TTL:
        raise InvalidParameter(
            "no token can live for so long, or for no time", hint=f"name a time of at most {MAX_TTL.days} days"
        )
