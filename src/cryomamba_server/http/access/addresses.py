"""Signed addresses: whoever has one may fetch one artifact for a few minutes, without a token."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, urlencode

from attrs import frozen

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import Unauthenticated
from cryomamba_server.engine.records import now
from cryomamba_server.http.access.keys import Key, KeyRing, Use

#: Seconds for which an address counts at most.
MAX_SECONDS = 900

PARAMETERS = frozenset({"expires", "key", "owner", "sha256", "signature"})

#: Characters of a query string; ours have about 250.
MAX_QUERY = 2048


@frozen(kw_only=True)
class Grant:
    """What a signed address allows: this content of this artifact, on behalf of its owner."""

    owner: str
    sha256: str


class Addresses:
    """Signs and checks addresses.

    Parameters
    ----------
    keys
        Has the keys, which sign nothing else.
    seconds
        How long an address counts, at most `MAX_SECONDS`.
    """

    def __init__(self, keys: KeyRing, *, seconds: int) -> None:
        self._keys = keys
        self._seconds = max(1, min(seconds, MAX_SECONDS))

    def sign(self, job_id: str, artifact: Artifact, owner: str) -> tuple[str, datetime]:
        """The address of an artifact, relative to the server's root, and until when it counts (UTC)."""
        key = self._keys.current(Use.ADDRESSES)
        expires_at = now().replace(microsecond=0) + timedelta(seconds=self._seconds)
        fields = {
            "expires": str(int(expires_at.timestamp())),
            "key": key.id,
            "owner": owner,
            "sha256": artifact.sha256,
        }
        signature = _signature(key, "GET", job_id, artifact.name, fields)
        path = f"/v1/files/{quote(job_id, safe='')}/{quote(artifact.name, safe='')}"
        return f"{path}?{urlencode({**fields, 'signature': signature})}", expires_at

    def check(self, method: str, job_id: str, name: str, query: str) -> Grant:
        """What an address allows.

        Raises
        ------
        Unauthenticated
            If it was not signed by us for exactly this, or has expired. It does not say why.
        """
        fields = _fields(query)
        key = self._keys.find(Use.ADDRESSES, fields.get("key"))
        if key is None:
            raise invalid_address()
        given = fields.pop("signature")
        expected = _signature(key, "GET" if method == "HEAD" else method, job_id, name, fields)
        if not hmac.compare_digest(expected.encode(), given.encode()):
            raise invalid_address()
        left = datetime.fromtimestamp(int(fields["expires"]), UTC) - now()
        if not timedelta(0) < left <= timedelta(seconds=MAX_SECONDS):
            raise invalid_address()
        return Grant(owner=fields["owner"], sha256=fields["sha256"])


def invalid_address() -> Unauthenticated:
    """The one answer to every signed address that does not count."""
    return Unauthenticated(
        "the signature of this address does not count", hint="ask for the job again: it has new ones"
    )


def redacted(target: str) -> str:
    """An address for a log: the names of its parameters, not their values, which may be secret."""
    path, question, query = target.partition("?")
    if not question:
        return path
    pairs = [pair.partition("=") for pair in query[:MAX_QUERY].split("&") if pair]
    return f"{path}?{'&'.join(f'{name}=…' if equals else '…' for name, equals, _ in pairs)}"


def _fields(query: str) -> dict[str, str]:
    if len(query) > MAX_QUERY:
        raise invalid_address()
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=len(PARAMETERS)
        )
    except ValueError:
        raise invalid_address() from None
    fields = dict(pairs)
    if len(pairs) != len(fields) or fields.keys() != PARAMETERS:
        raise invalid_address()
    return fields


def _signature(key: Key, method: str, job_id: str, name: str, fields: Mapping[str, str]) -> str:
    values = [method, job_id, name, *(fields[each] for each in sorted(PARAMETERS - {"signature"}))]
    return hmac.new(key.secret, json.dumps(values).encode(), "sha256").hexdigest()
