"""The gate before every route: who calls, whether they may, and how often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import trio
from attrs import frozen

from cryomamba_core.errors import AccessError, Forbidden, Unauthenticated
from cryomamba_core.settings import Settings
from cryomamba_server.engine.engine import Engine
from cryomamba_server.engine.records import now
from cryomamba_server.http.access.addresses import Addresses, invalid_address
from cryomamba_server.http.access.authentication import Authenticator, Caller
from cryomamba_server.http.access.keys import KeyRing
from cryomamba_server.http.access.limits import RateLimit, UnderWay
from cryomamba_server.http.access.sessions import COOKIE, Sessions
from cryomamba_server.http.access.token_store import TokenStore
from cryomamba_server.http.access.tokens import Issuer
from cryomamba_server.http.routing import Guard, Route, Scope, Weight
from cryomamba_server.http.settings import ServeSettings

if TYPE_CHECKING:
    from quart import Request, Websocket

__all__ = ["ANSWER_HEADERS", "UNTIL_SENT", "Admission", "Caller", "Gate", "open_gate"]

#: Key of a request's ASGI scope whose `ExitStack` closes when the answer has left.
UNTIL_SENT = "cryomamba.until_sent"

#: Requests for the status page that each token may make in a minute: a few windows, which look every 2 s.
PAGES_PER_MINUTE = 600

#: Parts and artifacts that may be under way, of each owner and of all: some megabytes of memory each.
DATA_OF_EACH, DATA_TOGETHER = 24, 128

#: Name in Quart's ``g`` for headers that the answer is to have, whether it is a good one or not.
ANSWER_HEADERS = "cryomamba_answer_headers"


@frozen(kw_only=True)
class Admission:
    """A request that was let in.

    Attributes
    ----------
    caller
        Who calls; None where the route asks for nobody and nobody is known.
    """

    caller: Caller | None


async def open_gate(engine: Engine, settings: Settings, serving: ServeSettings) -> Gate:
    """Make the gate of a server: keys are read, or made if the data directory has none."""
    keys = await trio.to_thread.run_sync(partial(KeyRing, settings.data_dir))
    return Gate(engine=engine, keys=keys, serving=serving)


class Gate:
    """Lets requests in. Use `open_gate`.

    Parameters
    ----------
    engine
        Has the table of tokens, and the artifacts that signed addresses name.
    keys
        Of the data directory.
    serving
        Limits.

    Attributes
    ----------
    authenticator
        Knows tokens.
    addresses
        Signs the addresses of artifacts.
    issuer
        Makes tokens; its methods block.
    sessions
        Of the status page.
    """

    def __init__(self, *, engine: Engine, keys: KeyRing, serving: ServeSettings) -> None:
        self._engine = engine
        self._keys = keys
        store = TokenStore(engine.database)
        self.authenticator = Authenticator(keys, store, engine.ledger)
        self._limits = _limits(serving.requests_per_minute)
        self._under_way = UnderWay(each=DATA_OF_EACH, together=DATA_TOGETHER)
        self.addresses = Addresses(keys, seconds=serving.url_seconds)
        self.issuer = Issuer(keys, store)
        self.sessions = Sessions(self.authenticator, secure=_is_reached_securely(serving))

    @asynccontextmanager
    async def admit(self, route: Route, request: Request | Websocket) -> AsyncIterator[Admission]:
        """Let a request in for as long as the context lasts.

        Raises
        ------
        Unauthenticated
            If the route asks for somebody, and nobody is known.
        Forbidden
            If the token does not have the scope.
        RateLimited
            If the token is used too often, or too much is under way.
        """
        caller = await self._caller(route, request)
        if caller is not None:
            limit = self._limits.get(route.weight)
            if limit is not None:
                _count(limit, caller)
            if route.weight is Weight.DATA:
                until_sent: ExitStack = cast("dict[str, Any]", request.scope)[UNTIL_SENT]
                until_sent.enter_context(self._under_way.entered(caller.subject))
        yield Admission(caller=caller)

    async def knows(self, token: str) -> bool:
        """Whether a token counts here."""
        try:
            await self.authenticator.caller(token, peer=None)
        except AccessError:
            return False
        return True

    async def _caller(self, route: Route, request: Request | Websocket) -> Caller | None:
        if route.access is Guard.OPEN:
            return await self._visitor(request)
        if route.access is Guard.COOKIE:
            caller = await self.sessions.caller(request.cookies.get(COOKIE))
            return caller or await self._bearer(request, Scope.JOBS_READ)
        if route.access is Guard.SIGNATURE:
            if request.query_string:
                return await self._signed(request)
            return await self._bearer(request, Scope.ARTIFACTS_READ)
        assert isinstance(route.access, Scope)
        return await self._bearer(request, route.access)

    async def _visitor(self, request: Request | Websocket) -> Caller | None:
        """Whoever asks for what is open to everybody: what they show is looked at, and nothing is refused."""
        try:
            if "Authorization" in request.headers:
                return await self.authenticator.caller(_token(request), peer=request.remote_addr)
        except AccessError:
            return None
        return await self.sessions.caller(request.cookies.get(COOKIE))

    async def _bearer(self, request: Request | Websocket, scope: Scope) -> Caller:
        caller = await self.authenticator.caller(_token(request), peer=request.remote_addr)
        if scope not in caller.scopes:
            raise Forbidden(
                f"the token does not have the scope {scope}",
                hint=f"it has: {' '.join(sorted(caller.scopes))}; ask for another token",
            )
        return caller

    async def _signed(self, request: Request | Websocket) -> Caller:
        arguments = request.view_args or {}
        job_id, name = str(arguments.get("job_id")), str(arguments.get("artifact"))
        check = partial(self.addresses.check, request.method, job_id, name, request.query_string.decode("latin-1"))
        with self.authenticator.watching(request.remote_addr, looks_right=check):
            await self._engine.ledger.call(self._keys.refresh)
            grant = check()
        artifact, _ = await self._engine.artifact(job_id, name, owner=grant.owner)
        if artifact.sha256 != grant.sha256:
            raise invalid_address()
        return Caller(
            subject=grant.owner,
            scopes=frozenset({Scope.ARTIFACTS_READ}),
            token_id=f"address of {job_id}/{name}",
            expires_at=now(),
        )


def _limits(requests_per_minute: int) -> dict[Weight, RateLimit]:
    if not requests_per_minute:
        return {}
    return {
        Weight.CONTROL: RateLimit("control", quota=requests_per_minute),
        Weight.PAGE: RateLimit("pages", quota=PAGES_PER_MINUTE),
    }


def _is_reached_securely(serving: ServeSettings) -> bool:
    """Whether browsers come by TLS, to this server or to the proxy before it."""
    return serving.self_signed or serving.certificate is not None or serving.public_url.startswith("https:")


def _count(limit: RateLimit, caller: Caller) -> None:
    from quart import g

    try:
        limit.take(caller.token_id)
    finally:
        setattr(g, ANSWER_HEADERS, limit.headers(caller.token_id))


def _token(request: Request | Websocket) -> str:
    """The bearer token of a request."""
    given = request.headers.getlist("Authorization")
    scheme, _, token = given[0].strip().partition(" ") if given else ("", "", "")
    if len(given) != 1 or scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(
            "this needs a token",
            hint="send one header Authorization: Bearer TOKEN, or log in with: cryomamba login URL",
        )
    return token.strip()
