"""The OpenAPI 3.1 document, made of the table of routes and the types that they take and give."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

from attrs import frozen

from cryomamba_core import errors
from cryomamba_core.errors import CryoMambaError
from cryomamba_core.events import JobEvent
from cryomamba_server.http.access.addresses import PARAMETERS
from cryomamba_server.http.access.sessions import COOKIE
from cryomamba_server.http.errors import status_of
from cryomamba_server.http.openapi_examples import command, example_of
from cryomamba_server.http.openapi_schemas import Schema, Schemas, summary
from cryomamba_server.http.routing import Guard, Route, Scope, Weight

Json = dict[str, Any]

INTRODUCTION = """\
Segment tomograms on a server: send a file in parts, queue a job, watch it by WebSocket or Server-Sent Events,
fetch what it made.

Requests carry a token, `Authorization: Bearer TOKEN`, which `cryomamba token create` makes; it has scopes and an
expiry. What belongs to another owner is not found (404).

Every answer that is no good one is `{"error": {"code", "message", "hint", "retryable"}}`. Codes are stable. What is
`retryable` may be sent again after the seconds in `Retry-After`.

Control requests are counted for each token, `RateLimit` says how many are left. Parts of uploads and artifacts are
not counted: they are limited by how many are under way.
"""

#: Module of a route → what it is about.
TAGS = {
    "uploads": "Send a file in parts, in any order and several at a time; go on after an interruption.",
    "jobs": "Say what a job would cost, queue it, follow it, cancel it, try it again.",
    "live": "Messages of a job while it runs, numbered: `after=N` goes on after message N.",
    "artifacts": "What a job made, by an address that is signed and expires.",
    "server": "What the server is and has, and how it is.",
    "documents": "This document.",
    "pages": "The status page, for browsers.",
}

#: Converter of a rule → schema of the argument.
_CONVERTERS: dict[str, Schema] = {
    "string": {"type": "string", "minLength": 1},
    "path": {"type": "string", "minLength": 1},
    "int": {"type": "integer", "minimum": 0},
    "uuid": {"type": "string", "format": "uuid"},
}

_DIGEST: Schema = {"pattern": "^sha-256=:[A-Za-z0-9+/]{43}=:$"}

#: Request header → what its values keep to.
_HEADERS: dict[str, Schema] = {
    "Content-Digest": _DIGEST,
    "Idempotency-Key": {"pattern": "^[!#-~]{1,128}$"},
    "Last-Event-ID": {"pattern": "^[0-9]{1,15}$"},
    "Repr-Digest": _DIGEST,
}

#: Request headers that may not be left out.
_NEEDED = frozenset({"Content-Digest"})

_REQUEST_ID: Json = {"description": "Names the request in the server's log.", "schema": {"type": "string"}}
_RETRY_AFTER: Json = {"description": "Seconds until it is worth trying again.", "schema": {"type": "integer"}}
_RATE_LIMIT: Json = {
    "RateLimit": {"description": "How many requests are left, and until when.", "schema": {"type": "string"}},
    "RateLimit-Policy": {"description": "How many requests there are to a minute.", "schema": {"type": "string"}},
}
_AUTHENTICATE: Json = {"description": "How to say who one is.", "schema": {"type": "string"}}

#: Schemas of answers that are not JSON: text is text, and of other bytes nothing is said.
_RAW: dict[str, Schema] = {"text": {"type": "string"}}

_FORM = "application/x-www-form-urlencoded"

#: Media type of a body that is not JSON → schema.
_BODIES: dict[str, Schema] = {
    "application/octet-stream": {"type": "string", "format": "binary"},
    _FORM: {
        "type": "object",
        "properties": {"token": {"type": "string"}},
        "required": ["token"],
    },
}

#: Statuses whose answers have no body.
_BARE = frozenset({204, 303, 304})


def openapi_document(routes: Sequence[Route]) -> Json:
    """The document that describes `routes`."""
    schemas = Schemas(requests=[route.takes for route in routes if _is_json(route.takes)])
    schemas.of(JobEvent)
    paths: dict[str, Json] = {}
    for route in routes:
        method = "get" if route.method == "WEBSOCKET" else route.method.lower()
        paths.setdefault(path_template(route.rule), {})[method] = _Operation(route=route, schemas=schemas).describe()
    used = {operation["tags"][0] for path in paths.values() for operation in path.values()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CryoMamba",
            "version": metadata.version("cryomamba"),
            "summary": "Segment cryo-electron tomograms on a server.",
            "description": INTRODUCTION,
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "servers": [{"url": "/", "description": "The server that this document comes from."}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items() if name in used],
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.components.items())), "securitySchemes": _SECURITY},
    }


def path_template(rule: str) -> str:
    """A rule as the document writes it: ``/v1/jobs/<string:job_id>`` is ``/v1/jobs/{job_id}``."""
    return re.sub(r"<\w+(?:\(.*?\))?:(\w+)>", r"{\1}", rule)


def _is_json(kind: Any) -> bool:
    return kind is not None and kind is not bytes


_SECURITY: Json = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of `cryomamba token create`; each operation names the scope that it needs.",
    },
    "signature": {
        "type": "apiKey",
        "in": "query",
        "name": "signature",
        "description": "With the other parameters of the address that a job's record gives; good for minutes.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "Given by the status page to whoever logs in there.",
    },
}


@frozen(kw_only=True)
class _Operation:
    """One route, and where the schemas of its types go."""

    route: Route
    schemas: Schemas

    def describe(self) -> Json:
        route = self.route
        operation: Json = {
            "operationId": route.handler.__name__,
            "tags": [route.handler.__module__.rpartition(".")[2]],
            "summary": route.summary.rstrip("."),
            "description": _paragraphs(route),
            "security": self._security(),
            "parameters": [*self._path_parameters(), *self._queries(), *self._headers()],
            "responses": {**self._good_answers(), **self._errors()},
            "x-codeSamples": [{"lang": "Shell", "source": command(route)}],
        }
        if route.takes is not None:
            operation["requestBody"] = {"required": True, "content": self._body()}
        if route.method == "WEBSOCKET" or route.media_type == "text/event-stream":
            operation["x-messages"] = self.schemas.of(JobEvent)
        return operation

    def _body(self) -> Json:
        if not _is_json(self.route.takes):
            return {self.route.body_type: {"schema": _BODIES[self.route.body_type]}}
        return {"application/json": self._with_example(self.route.takes)}

    def _with_example(self, kind: Any) -> Json:
        described: Json = {"schema": self.schemas.of(kind)}
        example = example_of(kind)
        return described if example is None else {**described, "example": example}

    def _security(self) -> list[Json]:
        access = self.route.access
        if isinstance(access, Scope):
            return [{"token": [access.value]}]
        if access is Guard.SIGNATURE:
            return [{"signature": []}, {"token": [Scope.ARTIFACTS_READ.value]}]
        return [{"session": []}, {"token": []}] if access is Guard.COOKIE else []

    def _path_parameters(self) -> Iterable[Json]:
        for converter, name in re.findall(r"<(\w+)(?:\(.*?\))?:(\w+)>", self.route.rule):
            yield {"name": name, "in": "path", "required": True, "schema": dict(_CONVERTERS[converter])}

    def _queries(self) -> Iterable[Json]:
        if self.route.access is Guard.SIGNATURE:
            for name in sorted(PARAMETERS - {"signature"}):
                meaning = "Part of a signed address; take it as it is."
                yield {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}
        for query in self.route.queries:
            schema = {"type": query.kind, **query.limits}
            yield {"name": query.name, "in": "query", "description": query.description, "schema": schema}

    def _headers(self) -> Iterable[Json]:
        for name, meaning in self.route.headers.items():
            schema = {"type": "string", **_HEADERS.get(name, {})}
            header = {"name": name, "in": "header", "description": meaning, "schema": schema}
            yield {**header, "required": True} if name in _NEEDED else header

    def _good_answers(self) -> Json:
        route = self.route
        if route.method == "WEBSOCKET":
            return {"101": {"description": "The connection is a WebSocket from here on.", "headers": self._common()}}
        meanings = {route.status: "What was asked for.", **route.also}
        return {str(status): self._good_answer(status, meaning) for status, meaning in sorted(meanings.items())}

    def _good_answer(self, status: int, meaning: str) -> Json:
        answer: Json = {"description": meaning, "headers": self._common()}
        route = self.route
        if status in _BARE:
            return answer
        if route.media_type == "text/event-stream":
            answer["content"] = {route.media_type: {"schema": self._sent_event()}}
        elif route.gives is bytes:
            answer["content"] = {route.media_type: {"schema": _RAW.get(route.media_type.partition("/")[0], {})}}
        elif route.gives is not None:
            answer["content"] = {route.media_type: self._with_example(route.gives)}
        return answer

    def _sent_event(self) -> Schema:
        """One of the events in a stream of them."""
        data = {"type": "string", "contentMediaType": "application/json", "contentSchema": self.schemas.of(JobEvent)}
        properties = {"id": {"type": "string"}, "event": {"type": "string"}, "data": data}
        return {"type": "object", "properties": properties, "required": list(properties)}

    def _common(self) -> Json:
        counted = self.route.weight is Weight.CONTROL and self.route.access is not Guard.OPEN
        return {"X-Request-ID": _REQUEST_ID, **(_RATE_LIMIT if counted else {})}

    def _errors(self) -> Json:
        found: dict[int, list[type[CryoMambaError]]] = {}
        for kind in dict.fromkeys((*self.route.errors, *_errors_of_all(self.route))):
            found.setdefault(status_of(kind), []).append(kind)
        found.setdefault(500, [])
        return {str(status): self._error(status, found[status]) for status in sorted(found)}

    def _error(self, status: int, kinds: list[type[CryoMambaError]]) -> Json:
        headers = {"X-Request-ID": _REQUEST_ID}
        if status == 401:
            headers["WWW-Authenticate"] = _AUTHENTICATE
        if any(kind.retryable for kind in kinds):
            headers["Retry-After"] = _RETRY_AFTER
        said = [f"- `{kind.code}`: {summary(kind)}" for kind in kinds]
        if status == 500:
            said.append("- `internal/fault`: A defect of the server; its log says more.")
        content: Json = {"application/json": {"schema": self.schemas.error_envelope()}}
        if self.route.body_type == _FORM:  # an error that a person reads stands beside the form
            content[self.route.media_type] = {"schema": {"type": "string"}}
        return {"description": "\n".join(said), "headers": headers, "content": content}


def _errors_of_all(route: Route) -> Iterable[type[CryoMambaError]]:
    """Errors that come from what a route has in common with others."""
    yield errors.BadRequest
    if route.access is not Guard.OPEN:
        yield errors.Unauthenticated
        yield errors.Forbidden
    yield errors.RateLimited
    if route.takes is not None:
        yield errors.RequestTooLarge
    if _is_json(route.takes):
        yield errors.InputError
    if route.method != "GET":
        yield errors.ServerStopping


def _paragraphs(route: Route) -> str:
    """The description in Markdown; literals have one backtick there."""
    return route.description.replace("``", "`")
