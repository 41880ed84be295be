"""The application: every route of every table, behind one door that checks who comes and says what is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import werkzeug.exceptions
from quart import Response, g, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing import WebsocketMismatch

from cryomamba_core.errors import (
    BadRequest,
    CryoMambaError,
    MethodNotAllowed,
    RequestTooLarge,
    ServerStopping,
    UnknownAddress,
)
from cryomamba_core.wire import dump_json, from_plain
from cryomamba_server.http.access.gate import ANSWER_HEADERS
from cryomamba_server.http.bodies import mend
from cryomamba_server.http.errors import error_answer
from cryomamba_server.http.observation import note_caller, note_route, observe
from cryomamba_server.http.routes import route_tables
from cryomamba_server.http.routing import Answer, Call, Route
from cryomamba_server.http.services import Services

log = logging.getLogger(__name__)

#: Bytes of a JSON body; a job's request has a few hundred.
MAX_JSON = 1 << 20


def create_app(services: Services) -> QuartTrio:
    """Make the application. A factory, since an application starts once only."""
    app = QuartTrio(__name__, static_folder=None)
    app.config.update(
        RESPONSE_TIMEOUT=None, BODY_TIMEOUT=None, MAX_CONTENT_LENGTH=None, PROVIDE_AUTOMATIC_OPTIONS=False
    )
    app.url_map.merge_slashes = False
    mend(app, services.serving, services.traffic)
    for route in all_routes():
        if route.method == "WEBSOCKET":
            app.add_websocket(route.rule, route.endpoint, _websocket_door(services, route), strict_slashes=True)
        else:
            app.add_url_rule(
                route.rule,
                route.endpoint,
                _door(services, route),
                methods=[route.method],
                provide_automatic_options=False,
                strict_slashes=True,
            )
    app.register_error_handler(Exception, _on_error)
    app.after_request(_tell_limits)
    observe(app, services)
    return app


def all_routes() -> list[Route]:
    """The routes of all tables, in the order of the documentation."""
    return [route for table in route_tables() for route in table.routes]


def _door(services: Services, route: Route) -> Callable[..., Awaitable[Response]]:
    async def enter(**arguments: Any) -> Response:
        note_route(route, arguments)
        async with services.gate.admit(route, request) as admission:
            note_caller(admission.caller)
            if route.method != "GET":
                _refuse_when_stopping(services)
            call = Call(services=services, request=_itself(request), caller=admission.caller)
            if route.takes not in (None, bytes):
                arguments["body"] = await _read_json(route.takes)
            return _answer(route, await route.handler(call, **arguments))

    return enter


def _websocket_door(services: Services, route: Route) -> Callable[..., Awaitable[None]]:
    async def enter(**arguments: Any) -> None:
        note_route(route, arguments)
        async with services.gate.admit(route, websocket) as admission:
            note_caller(admission.caller)
            _refuse_when_stopping(services)
            call = Call(services=services, request=_itself(websocket), caller=admission.caller)
            await route.handler(call, **arguments)

    return enter


def _refuse_when_stopping(services: Services) -> None:
    if services.stopping.is_set():
        raise ServerStopping("the server is about to stop", hint="try again when it is back")


def _itself(proxy: Any) -> Any:
    """What a proxy of the context stands for: a body that is streamed outlives the context."""
    return proxy._get_current_object()


async def _read_json(kind: Any) -> Any:
    """The body as a value of `kind`."""
    if request.mimetype not in ("application/json", ""):
        raise BadRequest(
            f"the body is {request.mimetype}, not JSON", hint="send it with the header Content-Type: application/json"
        )
    data = bytearray()
    async for piece in request.body:
        data += piece
        if len(data) > MAX_JSON:
            raise RequestTooLarge(f"the body is larger than {MAX_JSON} bytes")
    try:
        plain = json.loads(data, parse_constant=_refuse_constant)
        json.dumps(plain, ensure_ascii=False).encode()  # halves of surrogate pairs, which nothing can store
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(plain, dict):
        raise BadRequest("the body is not a JSON object")
    return from_plain(plain, kind)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _answer(route: Route, given: Any) -> Response:
    wrapped = given if isinstance(given, Answer) else Answer(value=given)
    status = wrapped.status or route.status
    value = wrapped.value
    if isinstance(value, Response):
        answer = value
    elif value is None:
        answer = Response(b"", status)
        del answer.headers["Content-Type"]
    else:
        answer = Response(dump_json(value), status, content_type="application/json")
    answer.headers.extend(wrapped.headers)
    return answer


async def _tell_limits(answer: Response) -> Response:
    """Add the headers that the gate has for the caller, to good answers and to others."""
    answer.headers.update(g.get(ANSWER_HEADERS, {}))
    return answer


async def _on_error(error: Exception) -> Response:
    """Say what is wrong in our own envelope, whoever found it."""
    if isinstance(error, HTTPException):
        answer = error_answer(_translated(error))
        if isinstance(error, werkzeug.exceptions.MethodNotAllowed):
            answer.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        return answer
    if isinstance(error, ExceptionGroup) and isinstance(own := _only(error), CryoMambaError):
        error = own
    if not isinstance(error, CryoMambaError):
        log.error("a request failed unexpectedly", exc_info=error)
    return error_answer(error)


def _only(group: ExceptionGroup[Exception]) -> Exception:
    inner: Exception = group
    while isinstance(inner, ExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner


def _translated(error: HTTPException) -> CryoMambaError:
    if isinstance(error, WebsocketMismatch):
        return BadRequest(
            "the request and its address do not agree on whether this is a WebSocket",
            hint="see /v1/docs; without WebSocket, events are at /v1/jobs/JOB/events",
        )
    if error.code == 404:
        return UnknownAddress("there is nothing at this address", hint="see /v1/docs")
    if error.code == 405:
        return MethodNotAllowed("this address does not take this method", hint="see /v1/docs")
    if error.code == 413:
        return RequestTooLarge("the request is too large")
    return BadRequest(" ".join((error.description or error.name).split()))
