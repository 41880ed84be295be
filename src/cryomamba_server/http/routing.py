"""Routes as a table: address, method, scope and types in one place, for the server, its tests and its OpenAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import field, frozen

from cryomamba_core.errors import CryoMambaError

if TYPE_CHECKING:
    from quart import Request, Response, Websocket

    from cryomamba_server.http.access.gate import Caller
    from cryomamba_server.http.services import Services

Handler = Callable[..., Awaitable[Any]]
H = TypeVar("H", bound=Handler)


class Scope(StrEnum):
    """What a token may allow."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    UPLOADS_WRITE = "uploads:write"
    ARTIFACTS_READ = "artifacts:read"
    METRICS_READ = "metrics:read"


class Guard(StrEnum):
    """How a route that asks for no scope is guarded."""

    #: Open to everybody: it tells nothing about anybody.
    OPEN = "open"
    #: By a signature in the address, or by a token with `Scope.ARTIFACTS_READ`.
    SIGNATURE = "signature"
    #: By the cookie of the status page.
    COOKIE = "cookie"


class Weight(StrEnum):
    """How a request counts towards its token's rate limit."""

    #: So many in a minute.
    CONTROL = "control"
    #: The status page, which looks again and again: more in a minute, counted apart.
    PAGE = "page"
    #: Parts and artifacts: limited by how many are under way at the same time instead.
    DATA = "data"


@frozen(kw_only=True)
class Query:
    """A parameter in the query string.

    Attributes
    ----------
    name, kind, description
        As in the OpenAPI document; `kind` is a JSON type.
    limits
        What JSON Schema says more of its values, e.g. ``{"minimum": 1}``.
    """

    name: str
    kind: str
    description: str
    limits: dict[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class Route:
    """An address and what answers there.

    Attributes
    ----------
    rule
        As Werkzeug writes it, converters spelled out: ``/v1/jobs/<string:job_id>``.
    method
        ``GET``, ``POST``, ``PUT``, ``DELETE``, or ``WEBSOCKET``.
    access
        The scope that is needed, or another guard.
    handler
        Called with the `Call`, the arguments in the address, and ``body`` where `takes` is a type.
    takes
        Type of the JSON body; None for none, ``bytes`` for raw bytes that the handler reads itself.
    gives
        Type of the JSON answer; None for none, ``bytes`` for anything that is not JSON.
    status
        Of a good answer.
    also
        Other good statuses → what they mean.
    errors
        Errors that are particular to the route.
    queries
        Parameters in the query string.
    headers
        Request headers → what they are for.
    body_type
        Media type of a body that is not JSON.
    media_type
        Of an answer that is not JSON.
    weight
        How it counts towards the rate limit.
    summary, description
        From the handler's docstring.
    """

    rule: str
    method: str
    access: Scope | Guard
    handler: Handler
    takes: Any = None
    gives: Any = None
    status: int = 200
    also: dict[int, str] = field(factory=dict)
    errors: tuple[type[CryoMambaError], ...] = ()
    queries: tuple[Query, ...] = ()
    headers: dict[str, str] = field(factory=dict)
    body_type: str = "application/octet-stream"
    media_type: str = "application/json"
    weight: Weight = Weight.CONTROL

    @property
    def endpoint(self) -> str:
        """A name that no other route has."""
        return f"{self.method.lower()} {self.rule}"

    @property
    def summary(self) -> str:
        """First line of the handler's docstring."""
        return (self.handler.__doc__ or "").strip().partition("\n")[0]

    @property
    def description(self) -> str:
        """The rest of the handler's docstring."""
        rest = (self.handler.__doc__ or "").strip().partition("\n")[2]
        return "\n".join(line.strip() for line in rest.strip().splitlines())


class RouteTable:
    """Routes of one module, in the order of their declaration.

    ::

        ROUTES = RouteTable()

        @ROUTES.add("GET", "/v1/jobs/<string:job_id>", access=Scope.JOBS_READ, gives=JobView)
        async def show_job(call: Call, job_id: str) -> JobView: ...
    """

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def add(self, method: str, rule: str, *, access: Scope | Guard, **values: Any) -> Callable[[H], H]:
        """Declare a handler; `values` are those of `Route`."""

        def declare(handler: H) -> H:
            self.routes.append(Route(rule=rule, method=method, access=access, handler=handler, **values))
            return handler

        return declare


@frozen(kw_only=True)
class Call:
    """One request, as a handler sees it.

    Attributes
    ----------
    services
        The server's parts.
    request
        Quart's request, or websocket.
    caller
        Who calls; None where the route asks for no token.
    """

    services: Services
    request: Request | Websocket | Any
    caller: Caller | None

    @property
    def owner(self) -> str:
        """Whom what this call makes belongs to, and whose it may see."""
        assert self.caller is not None, "the route asks for no token"
        return self.caller.subject


@frozen(kw_only=True)
class Answer:
    """An answer that is not the route's plain one.

    Attributes
    ----------
    value
        As the handler would return it: a value of the vocabulary, or a `Response`.
    status
        None for the route's.
    headers
        More headers.
    """

    value: Any | Response
    status: int | None = None
    headers: dict[str, str] = field(factory=dict)
