"""Addresses of artifacts, as clients get them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve

from cryomamba_core.artifacts import Artifact
from cryomamba_server.http.access.authentication import Caller
from cryomamba_server.http.routing import Call, Scope

if TYPE_CHECKING:
    from cryomamba_server.http.services import Services

#: Headers that a proxy adds: the client reached the server at another address than the request names.
FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")

_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?", re.ASCII)
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def with_links(call: Call, job_id: str, artifacts: Sequence[Artifact]) -> tuple[Artifact, ...]:
    """Artifacts of the caller's job with signed addresses, which work without a token until they expire.

    Without addresses for whoever may not fetch artifacts.
    """
    origin = origin_of(call.request, call.services.serving.public_url)
    return signed(call.services, call.caller, origin, job_id, artifacts)


def signed(
    services: Services, caller: Caller | None, origin: str, job_id: str, artifacts: Sequence[Artifact]
) -> tuple[Artifact, ...]:
    """The same for who is known to have reached the server at `origin`."""
    if caller is None or Scope.ARTIFACTS_READ not in caller.scopes:
        return tuple(artifacts)
    linked = []
    for artifact in artifacts:
        address, expires_at = services.gate.addresses.sign(job_id, artifact, caller.subject)
        linked.append(evolve(artifact, url=f"{origin}{address}", url_expires_at=expires_at))
    return tuple(linked)


def origin_of(request: Any, public_url: str) -> str:
    """Scheme and host under which the client reaches the server, e.g. ``https://gpu7:8765``.

    Empty where that cannot be known: behind a proxy, unless `public_url` says it. An address without
    it is one relative to the server's.
    """
    if public_url:
        return public_url.rstrip("/")
    host = request.headers.get("Host", "")
    if any(header in request.headers for header in FORWARDED) or _HOST.fullmatch(host) is None:
        return ""
    return f"{_SCHEMES[request.scheme]}://{host}"
