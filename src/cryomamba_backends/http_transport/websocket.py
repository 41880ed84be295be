"""A job's events by WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import quote

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from cryomamba_backends.http_transport.connection import LATER, Connection
from cryomamba_backends.http_transport.failures import envelope_of, line_failed, refusal
from cryomamba_backends.http_transport.groups import leaves
from cryomamba_backends.http_transport.lines import Line, open_line
from cryomamba_backends.http_transport.messages import heard
from cryomamba_core.errors import (
    BadRequest,
    BrokenProtocol,
    CryoMambaError,
    MethodNotAllowed,
    ServerUnreachable,
    UnknownAddress,
)
from cryomamba_core.events import JobEvent
from cryomamba_core.protocol.live import BINARY_PROTOCOL

#: Bytes of a message; a preview of 1 M voxels has at most 2 MiB.
MAX_MESSAGE = 64 << 20
#: Bytes that are taken from the socket at a time.
RECEIVE = 256 << 10
#: Close code (RFC 6455) of a job that has ended, and of a message that was too big.
ENDED, TOO_BIG = 1000, 1009
#: Seconds that closing a line may take.
CLOSING = 1.0


class NoWebSocket(Exception):
    """No WebSocket got through to the server; requests may, by a proxy or past one that knows requests only."""


async def hear_websocket(connection: Connection, job_id: str, after: int, take: Callable[[JobEvent], None]) -> None:
    """Hand every event behind number `after` to `take`; returns when the job has ended.

    Raises
    ------
    ServerUnreachable
        If the line ends before the job, or is silent for too long.
    NoWebSocket
        If there is no line: nobody answers, or whoever does lets no WebSocket through.
    """
    path = f"/v1/ws/jobs/{quote(job_id, safe='')}?after={after}"
    opened = False
    try:
        async with _open(connection, path) as websocket:
            opened = True
            connection.heard()
            while True:
                message = await websocket.get_message()
                connection.heard()
                take(heard(message))
    except (Exception, BaseExceptionGroup) as error:
        found = list(leaves(error))
        if any(isinstance(each, trio.Cancelled) for each in found):
            raise
        if _ended(found[0]):
            return
        meaning = _meaning(found[0], connection)
        if not opened and isinstance(meaning, ServerUnreachable):
            meaning = NoWebSocket(str(meaning))
        raise meaning from error


def _ended(error: BaseException) -> bool:
    return isinstance(error, ConnectionClosed) and error.reason is not None and error.reason.code == ENDED


@asynccontextmanager
async def _open(connection: Connection, path: str) -> AsyncIterator[WebSocketConnection]:
    """A WebSocket, and the task that reads from it."""
    async with trio.open_nursery() as nursery:
        try:
            async with connection.turns.turn(), _line(connection) as line:
                websocket = await _shake_hands(nursery, line, connection, path)
            try:
                yield websocket
            finally:
                with trio.move_on_after(CLOSING, shield=True):
                    await websocket.aclose()
                await trio.aclose_forcefully(line)
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _line(connection: Connection) -> AsyncIterator[Line]:
    """A line to the server, which is closed if anything goes wrong."""
    with trio.fail_after(connection.patience.connect):
        line = await open_line(connection.address, connection.fingerprint, silence=connection.patience.silence)
    try:
        yield line
    except BaseException:
        await trio.aclose_forcefully(line)
        raise


async def _shake_hands(nursery: trio.Nursery, line: Line, connection: Connection, path: str) -> WebSocketConnection:
    with trio.fail_after(connection.patience.connect):
        return await line.until_over(
            partial(
                wrap_client_stream,
                nursery,
                line,  # type: ignore[arg-type]  # any stream will do
                connection.address.authority,
                f"{connection.address.prefix}{path}",
                subprotocols=[BINARY_PROTOCOL],
                extra_headers=[(name.encode(), value.encode()) for name, value in connection.identity.items()],
                max_message_size=MAX_MESSAGE,
                receive_buffer_size=RECEIVE,
            )
        )


def _meaning(error: BaseException, connection: Connection) -> Exception:
    """What the end of a line means."""
    if isinstance(error, CryoMambaError):
        return error
    if isinstance(error, ConnectionRejected):
        return _rejection(error, connection)
    if isinstance(error, ConnectionClosed):
        if error.reason and error.reason.code == TOO_BIG:
            return BrokenProtocol("the server sent a message that is too large")
        return ServerUnreachable(
            f"the line to {connection.address.authority} was cut", hint="ask for the rest: nothing of it is lost"
        )
    if isinstance(error, Exception):
        return line_failed(error, connection.address, heard=True)
    raise error


def _rejection(error: ConnectionRejected, connection: Connection) -> Exception:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in error.headers}
    body = error.body or b""
    problem, delay = refusal(error.status_code, headers, body, connection.address)
    connection.turns.note(error.status_code, headers, delay)
    of_ours = envelope_of(body) is not None and not isinstance(problem, UnknownAddress | MethodNotAllowed | BadRequest)
    return problem if of_ours or error.status_code in LATER else NoWebSocket(str(problem))
