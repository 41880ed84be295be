"""Tokens: signed statements of who somebody is, what they may do, and until when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jwt
from attrs import frozen

from cryomamba_core.errors import Unauthenticated
from cryomamba_server.http.access.keys import Key, KeyRing, Use
from cryomamba_server.http.routing import Scope

ISSUER = AUDIENCE = "cryomamba"

#: Characters of a token; ours have about 400.
MAX_TOKEN = 4096

#: Seconds by which clocks may differ; the clock that made a token is the one that checks it.
LEEWAY = 5

#: Seconds since 1970 that a calendar has, with room to spare: the end of the year 9998.
LAST_SECOND = 253_370_764_799

CLAIMS = ("exp", "iat", "sub", "jti", "aud", "iss", "scope")
HEADER = frozenset({"alg", "kid", "typ"})


@frozen(kw_only=True)
class Claims:
    """What a token says.

    Attributes
    ----------
    id
        The token's own id.
    subject
        Who it is about: the owner of what is made with it.
    scopes
        What it allows.
    issued_at, expires_at
        UTC, in whole seconds.
    """

    id: str
    subject: str
    scopes: frozenset[Scope]
    issued_at: datetime
    expires_at: datetime


def encode(claims: Claims, key: Key) -> str:
    """Sign a token."""
    payload = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": claims.subject,
        "jti": claims.id,
        "iat": int(claims.issued_at.timestamp()),
        "exp": int(claims.expires_at.timestamp()),
        "scope": " ".join(sorted(claims.scopes)),
    }
    return jwt.encode(payload, key.secret, algorithm=key.algorithm, headers={"kid": key.id})


def decode(token: str, keys: KeyRing) -> Claims:
    """Read a token.

    Raises
    ------
    Unauthenticated
        If it is not one of ours or has expired. It does not say why, since it might be a stranger
        who asks.
    """
    try:
        return _decode(token, keys)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise invalid_token() from None


def invalid_token() -> Unauthenticated:
    """The one answer to every token that does not count."""
    return Unauthenticated(
        "the token does not count here",
        hint="it may have expired or been revoked; whoever runs the server makes another with: cryomamba token create",
    )


def _decode(token: str, keys: KeyRing) -> Claims:
    if len(token) > MAX_TOKEN or not token.isascii():
        raise ValueError("not a token")
    header = jwt.get_unverified_header(token)
    key = keys.find(Use.TOKENS, header.get("kid"))
    if key is None or not header.keys() <= HEADER or header.get("alg") != key.algorithm:
        raise ValueError("not signed by us")
    payload: dict[str, Any] = jwt.decode(
        token,
        key.secret,
        algorithms=[key.algorithm],
        audience=AUDIENCE,
        issuer=ISSUER,
        leeway=LEEWAY,
        options={"require": list(CLAIMS), "strict_aud": True, "enforce_minimum_key_length": True},
    )
    return Claims(
        id=_text(payload["jti"]),
        subject=_text(payload["sub"]),
        scopes=frozenset(Scope(word) for word in _text(payload["scope"]).split()),
        issued_at=_time(payload["iat"]),
        expires_at=_time(payload["exp"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("not a text")
    return value


def _time(value: Any) -> datetime:
    if type(value) is not int or not 0 <= value <= LAST_SECOND:
        raise TypeError("not a time")
    return datetime.fromtimestamp(value, UTC)
