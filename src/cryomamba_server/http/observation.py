"""What is noted of each request, for the log and for the counters."""

from __future__ import annotations

import logging
import re
import time
import uuid
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from attrs import define, field

from cryomamba_server.engine.log_context import JOB_ID

if TYPE_CHECKING:
    from quart_trio import QuartTrio

    from cryomamba_core.jobs import JobRecord, JobState
    from cryomamba_server.http.access.gate import Caller
    from cryomamba_server.http.routing import Route
    from cryomamba_server.http.services import Services

log = logging.getLogger("cryomamba_server.access")
job_log = logging.getLogger("cryomamba_server.jobs")

#: The header that names a request; a client's own name for it is kept if it looks like one.
REQUEST_ID = "X-Request-ID"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

#: The status that is noted when the client left before it was answered.
CLIENT_LEFT = 499


@define(kw_only=True, eq=False)
class RequestNote:
    """One request.

    Attributes
    ----------
    request_id, method, path
        As in the log; the path has no query.
    route
        The rule of its route; empty where there is none.
    subject, job_id
        Who asks, and about which job, once that is known.
    status, sent
        Of the answer: its status, 0 before it has one, and bytes of its body.
    seconds
        Since it came.
    """

    request_id: str
    method: str
    path: str
    route: str = ""
    subject: str | None = None
    job_id: str | None = None
    status: int = 0
    sent: int = 0
    _began: float = field(factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self._began


_NOTE: ContextVar[RequestNote | None] = ContextVar("request note", default=None)


def current_note() -> dict[str, str]:
    """What a line of the log should say of the request and of the job that it is about."""
    note = _NOTE.get()
    found = {"request_id": note.request_id, "job_id": note.job_id} if note is not None else {"job_id": JOB_ID.get()}
    return {name: value for name, value in found.items() if value}


def note_route(route: Route, arguments: dict[str, Any]) -> None:
    """Note which route the current request takes."""
    note = _NOTE.get()
    if note is not None:
        note.route = route.rule
        note.job_id = arguments.get("job_id")


def note_caller(caller: Caller | None) -> None:
    """Note who makes the current request."""
    note = _NOTE.get()
    if note is not None and caller is not None:
        note.subject = caller.subject


def note_job(job_id: str) -> None:
    """Note which job the current request made."""
    note = _NOTE.get()
    if note is not None:
        note.job_id = job_id


def observe(app: QuartTrio, services: Services) -> None:
    """Note every request of an application, and every job of its engine."""
    services.engine.ledger.watch(services.metrics.job_changed)
    services.engine.ledger.watch(_JobLog())
    app.asgi_app = _Observed(app.asgi_app, services)  # type: ignore[method-assign]  # as Quart says


class _JobLog:
    """Writes a line for each state that a job enters."""

    def __init__(self) -> None:
        self._states: dict[str, JobState] = {}

    def __call__(self, record: JobRecord) -> None:
        if self._states.get(record.id) is record.state:
            return
        details: dict[str, Any] = {"job_id": record.id, "owner": record.owner, "state": record.state.value}
        if record.attempt:
            details["attempt"] = record.attempt
        if record.state.ended:
            self._states.pop(record.id, None)
            if record.started_at is not None and record.finished_at is not None:
                details["seconds"] = round((record.finished_at - record.started_at).total_seconds(), 3)
            if record.error is not None:
                details["error"] = record.error.code
        else:
            self._states[record.id] = record.state
        job_log.info("job", extra=details)


class _Observed:
    """An application whose requests are noted."""

    def __init__(self, inner: Any, services: Services) -> None:
        self._inner = inner
        self._metrics = services.metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        note = _note_of(scope)
        identity = (REQUEST_ID.lower().encode(), note.request_id.encode())

        async def observed(message: Any) -> None:
            kind = message["type"]
            if kind in ("http.response.start", "websocket.http.response.start"):
                note.status = message["status"]
                message = {**message, "headers": [*message["headers"], identity]}
            elif kind in ("http.response.body", "websocket.http.response.body"):
                note.sent += len(message.get("body", b""))
            elif kind == "websocket.accept":
                note.status = 101
                message = {**message, "headers": [*message.get("headers", ()), identity]}
            elif kind == "websocket.send":
                note.sent += len(message.get("bytes") or message.get("text") or b"")
            await send(message)

        token = _NOTE.set(note)
        try:
            await self._inner(scope, receive, observed)
        finally:
            self._report(note)
            _NOTE.reset(token)

    def _report(self, note: RequestNote) -> None:
        status = note.status or CLIENT_LEFT
        self._metrics.request_ended(method=note.method, route=note.route, status=status, seconds=note.seconds)
        details = {
            "method": note.method,
            "path": note.path,
            "status": status,
            "seconds": round(note.seconds, 6),
            "bytes": note.sent,
        }
        if note.subject is not None:
            details["subject"] = note.subject
        log.info("request", extra=details)


def _note_of(scope: Any) -> RequestNote:
    headers = dict(scope["headers"])
    given = headers.get(REQUEST_ID.lower().encode(), b"")
    return RequestNote(
        request_id=given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex,
        method="WEBSOCKET" if scope["type"] == "websocket" else scope["method"],
        path=(scope.get("raw_path") or b"?").partition(b"?")[0].decode("ascii", "backslashreplace"),
    )
