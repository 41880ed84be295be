"""From a token to who calls: signed by us, not expired, and not taken back."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

import trio
from attrs import frozen

from cryomamba_core.errors import RateLimited, Unauthenticated
from cryomamba_server.engine.ledger import Ledger
from cryomamba_server.engine.records import now
from cryomamba_server.http.access import limits
from cryomamba_server.http.access.claims import Claims, decode, invalid_token
from cryomamba_server.http.access.keys import KeyRing, Use
from cryomamba_server.http.access.limits import RateLimit
from cryomamba_server.http.access.token_store import TokenRecord, TokenStore
from cryomamba_server.http.routing import Scope

K = TypeVar("K")
V = TypeVar("V")

#: Seconds after which whoever listens for long is looked at again.
RECHECK_INTERVAL = 10.0

#: Wrong tokens or signatures that a peer may send in a minute.
FAILURES = 30


@frozen(kw_only=True)
class Caller:
    """Who calls.

    Attributes
    ----------
    subject
        The owner of what is made, and of what may be seen.
    scopes
        What they may do.
    token_id
        Of the token; for a signed address, what it grants.
    expires_at
        UTC.
    """

    subject: str
    scopes: frozenset[Scope]
    token_id: str
    expires_at: datetime


class Authenticator:
    """Knows tokens, and who guesses.

    Parameters
    ----------
    keys, store
        What tokens are checked against; both are called in the ledger's thread.
    ledger
        The engine's.
    """

    def __init__(self, keys: KeyRing, store: TokenStore, ledger: Ledger) -> None:
        self._keys = keys
        self._store = store
        self._ledger = ledger
        self._failures = RateLimit("failures", quota=FAILURES)
        self._looked: OrderedDict[str, float] = OrderedDict()

    async def caller(self, token: str, *, peer: str | None) -> Caller:
        """Who has this token.

        Raises
        ------
        Unauthenticated
            If the token does not count.
        RateLimited
            If it does not, and the peer has sent too many of this kind.
        """
        with self.watching(peer, looks_right=lambda: decode(token, self._keys)):
            return await self._ledger.call(self._check, token)

    async def counts(self, caller: Caller, *, within: float = 0.0) -> bool:
        """Whether the caller's token has neither expired nor been taken back.

        Parameters
        ----------
        within
            Seconds for which the last look will do, so that many who listen with one token cost one.
        """
        if caller.expires_at <= now():
            return False
        looked = self._looked.get(caller.token_id)
        if looked is not None and trio.current_time() - looked < within:
            return True
        if not await self._ledger.call(self._is_kept, caller.token_id):
            self._looked.pop(caller.token_id, None)
            return False
        _remember(self._looked, caller.token_id, trio.current_time())
        return True

    @contextmanager
    def watching(self, peer: str | None, *, looks_right: Callable[[], object]) -> Iterator[None]:
        """Count what a peer is refused in the block. What is good is let in, however often the peer was wrong.

        Many may come from one address, by way of a proxy, and one of them who guesses must not keep
        the others out.

        Parameters
        ----------
        peer
            Its address.
        looks_right
            Raises `Unauthenticated` for what was not signed by us; costs next to nothing. Asked
            first, where the peer was wrong too often.

        Raises
        ------
        RateLimited
            In the place of `Unauthenticated`, if the peer was wrong too often.
        """
        network = _network(peer)
        wait = self._failures.wait(network)
        try:
            if wait > 0:
                looks_right()
            yield
        except Unauthenticated:
            if wait > 0:
                raise RateLimited(
                    "too many wrong tokens came from this address",
                    hint="wait a moment; then check the token",
                    retry_after=wait,
                ) from None
            self._failures.take(network)
            raise

    def _check(self, token: str) -> Caller:
        self._keys.refresh()
        claims = decode(token, self._keys)
        record = self._store.find(claims.id)
        if record is None or record.revoked_at is not None or not _agree(record, claims):
            raise invalid_token()
        return Caller(subject=claims.subject, scopes=claims.scopes, token_id=claims.id, expires_at=claims.expires_at)

    def _is_kept(self, token_id: str) -> bool:
        record = self._store.find(token_id)
        return record is not None and record.revoked_at is None and self._keys_has(record.key_id)

    def _keys_has(self, key_id: str) -> bool:
        self._keys.refresh()
        return self._keys.find(Use.TOKENS, key_id) is not None


def _agree(record: TokenRecord, claims: Claims) -> bool:
    """Whether a token is the one that was made under its id."""
    return record.subject == claims.subject and frozenset(record.scopes) == claims.scopes


def _remember(what: OrderedDict[K, V], key: K, value: V) -> None:
    """Keep the newest `limits.MOST` entries."""
    what[key] = value
    what.move_to_end(key)
    if len(what) > limits.MOST:
        what.popitem(last=False)


def _network(peer: str | None) -> str:
    """Whom a peer's failures are counted for: an IPv4 address, or the IPv6 network that one site has."""
    try:
        address = ipaddress.ip_address((peer or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)
