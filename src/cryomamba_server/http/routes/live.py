"""Routes: a job's events as they come."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from quart import Response

from cryomamba_core.errors import BadRequest, UnknownJob
from cryomamba_core.events import JobEvent
from cryomamba_core.protocol.live import BINARY_PROTOCOL, JSON_PROTOCOL
from cryomamba_server.http.audience import Seat
from cryomamba_server.http.connection import TAKE_OVER
from cryomamba_server.http.event_stream import EventStream
from cryomamba_server.http.listening import Outbox
from cryomamba_server.http.queries import MOST, read_queries, whole_number
from cryomamba_server.http.routing import Call, Query, RouteTable, Scope

ROUTES = RouteTable()

AFTER = Query(
    name="after",
    kind="integer",
    description="Number of the event that was heard last; 0 for all that is recorded.",
    limits={"minimum": 0, "maximum": MOST},
)


@ROUTES.add(
    "WEBSOCKET",
    "/v1/ws/jobs/<string:job_id>",
    access=Scope.JOBS_READ,
    gives=JobEvent,
    status=101,
    errors=(UnknownJob, BadRequest),
    queries=(AFTER,),
    headers={"Sec-WebSocket-Protocol": f"`{JSON_PROTOCOL}`, which is the default, or `{BINARY_PROTOCOL}`."},
)
async def watch_job(call: Call, job_id: str) -> None:
    """Hear a job's events by WebSocket, from the first behind number `after` to the job's end.

    Of progress and of previews a slow listener gets the newest only, of states and ends every one.
    Messages from the client are ignored. Close codes: 1000 the job has ended, 1008 the token has
    expired or was taken back, 1012 the server stops, 1009 the client sent too much, 1011 the server met an error.
    """
    after = _after(call)
    socket: Any = call.request
    offered = socket.requested_subprotocols
    protocol = next((each for each in offered if each in (JSON_PROTOCOL, BINARY_PROTOCOL)), None)
    listener = await call.services.engine.following.join(job_id, owner=call.owner, after=after)
    with ExitStack() as unless_seated:
        unless_seated.callback(listener.leave)
        await socket.accept(subprotocol=protocol)
        line = socket.scope[TAKE_OVER]()
        if line is None:
            return
        assert call.caller is not None, "the route asks for a token"
        outbox = Outbox(call, job_id, listener)
        call.services.audience.seat(
            Seat(line=line, caller=call.caller, outbox=outbox, binary=protocol == BINARY_PROTOCOL)
        )
        unless_seated.pop_all()


@ROUTES.add(
    "GET",
    "/v1/jobs/<string:job_id>/events",
    access=Scope.JOBS_READ,
    gives=bytes,
    also={204: "The job has ended, and there is nothing to hear: a browser does not ask again."},
    errors=(UnknownJob, BadRequest),
    queries=(AFTER,),
    headers={"Last-Event-ID": "The same as `after`: browsers send it when they reconnect."},
    media_type="text/event-stream",
)
async def stream_events(call: Call, job_id: str) -> Response:
    """Hear a job's events as Server-Sent Events: the same messages, for browsers and curl.

    `id` is the event's number, `event` its type, `data` the JSON message.
    """
    after = _after(call)
    async with call.services.engine.following.listen(job_id, owner=call.owner, after=after) as listener:
        if listener.exhausted:
            answer = Response(b"", 204)
            del answer.headers["Content-Type"]
            return answer
    body = EventStream(call, job_id, after) if call.request.method == "GET" else b""
    answer = Response(body, content_type="text/event-stream; charset=utf-8")
    answer.headers["Cache-Control"] = "no-cache"
    answer.headers["X-Accel-Buffering"] = "no"
    return answer


def _after(call: Call) -> int:
    """The number of the event that the client has heard last; a browser that reconnects repeats the address."""
    asked = whole_number(read_queries(call.request, "after").get("after", "0"), "after", least=0)
    heard = call.request.headers.get("Last-Event-ID")
    return asked if heard is None else whole_number(heard, "Last-Event-ID", least=0)
