"""One client's connection: read with back-pressure, written with patience that ends, closed without losing an answer.

Takes the place of hypercorn's own TCP server, which waits for ever for a client that has stopped reading, and
waits for ever for an application that has ended. Uses of hypercorn 0.18, pinned exactly for that: `TaskGroup`,
``_handle``, `WorkerContext`, and the protocol's events.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import trio
from attrs import define, field
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup, _handle
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from cryomamba_server.http.intake import INTAKE, Intake
from cryomamba_server.http.protocol import Conversation, Protocol

#: Key of a WebSocket's ASGI scope: its `Conversation`, for whoever goes on when the request has ended.
LINE = "cryomamba.line"

#: Key of a request's ASGI scope: what to call, if it is there, as soon as the client has left.
ON_LEFT = "cryomamba.on_left"

#: Bytes that are asked of a socket at a time; 64 KiB cost twice the processor time.
MAX_RECV = 512 << 10

#: The same at the beginning of a request, until so many have come: as long as nobody reads its body, about four
#: receipts are kept in memory.
FIRST_RECV, FIRST_BYTES = 64 << 10, 256 << 10

#: Bytes that a client must take within the time limit, at first and at most: who took a piece in a moment, of so many
#: seconds, gets one of twice the size, since each costs some processor time.
PIECE, MOST_PIECE = 128 << 10, 2 << 20
MOMENT = 0.05

#: Seconds for a handshake.
HANDSHAKE_SECONDS = 20.0

#: Seconds that an answered client may go on sending what nobody reads: a connection that is closed with
#: unread bytes takes the answer with it.
LINGER_SECONDS = 2.0

#: Seconds between pings, and how many a listener may leave unanswered.
PING_SECONDS, UNANSWERED_PINGS = 25.0, 3


@define(kw_only=True, eq=False)
class House:
    """What the connections of one server share.

    Attributes
    ----------
    app
        As hypercorn wraps it.
    config
        Of hypercorn.
    idle_seconds
        How long a peer may neither send nor take a byte.
    most
        Connections at a time: each takes a descriptor, and the engine needs some, too.
    context
        Says to the protocol when the server ends.
    connections
        Those that are open.
    """

    app: Any
    config: Config
    idle_seconds: float
    most: int
    context: WorkerContext = field(factory=lambda: WorkerContext(None))
    connections: dict[Connection, None] = field(factory=dict)
    _left: trio.Event = field(factory=trio.Event)

    def make_room(self) -> bool:
        """Whether there may be another connection; if need be, the one that was idle for the longest is closed."""
        return len(self.connections) < self.most or any(connection.leave() for connection in self.connections)

    def joined(self, connection: Connection) -> None:
        """Remember a connection, as the one that was idle for the shortest."""
        self.connections.pop(connection, None)
        self.connections[connection] = None

    def left(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.connections.pop(connection, None)
        self._left.set()
        self._left = trio.Event()

    async def empty(self) -> None:
        """Wait until there is no connection."""
        while self.connections:
            await self._left.wait()


class Connection:
    """Serves one client.

    Parameters
    ----------
    house
        Of the server.
    stream
        To the client; a TLS handshake has not yet been made.
    """

    def __init__(self, house: House, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self._house = house
        self._stream = stream
        self._writing = trio.Lock()
        self._patience = trio.CancelScope()
        self._idle = True
        self._ending = False
        self._received = 0
        self._piece = PIECE
        self._protocol: Protocol
        self._intake: Intake | None = None

    async def run(self) -> None:
        """Serve until one of the two sides leaves."""
        self._house.joined(self)
        try:
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await self._serve()
        finally:
            self._house.left(self)
            with trio.move_on_after(1, shield=True):
                await self._close()

    def leave(self) -> bool:
        """Close the connection unless a request is in progress, and say whether that was news."""
        if not self._idle or self._patience.deadline == -math.inf:
            return False
        self._patience.deadline = -math.inf
        return True

    async def ping(self) -> None:
        """Ask a listener whether it is there; nothing for other connections."""
        stream = None if self._idle or self._ending else self._protocol.stream
        if isinstance(stream, Conversation) and stream.accepted:
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await stream.ping()

    async def cut(self) -> None:
        """Close the connection, whatever is in progress."""
        await trio.aclose_forcefully(self._stream)

    async def _serve(self) -> None:
        if isinstance(self._stream, trio.SSLStream):
            with trio.move_on_after(HANDSHAKE_SECONDS) as scope:
                await self._stream.do_handshake()
            if scope.cancelled_caught:
                return
            socket = self._stream.transport_stream.socket
        else:
            socket = self._stream.socket
        peer = parse_socket_addr(socket.family, socket.getpeername())
        async with Applications() as applications:
            self._protocol = Protocol(
                self._house.app,
                self._house.config,
                self._house.context,
                applications,
                ConnectionState({}),
                isinstance(self._stream, trio.SSLStream),
                peer,
                parse_socket_addr(socket.family, socket.getsockname()),
                self._take,
            )
            if isinstance(self._stream, trio.SocketStream):
                self._intake = Intake(self._stream, self._protocol)
                cast("Applications", applications).intake = self._intake
            self._patience.deadline = trio.current_time() + self._house.idle_seconds
            with self._patience:
                await self._receive()
            await self._protocol.handle(Closed())

    async def _receive(self) -> None:
        while True:
            conversing = not self._ending and self._protocol.in_conversation
            with trio.move_on_after(PING_SECONDS * UNANSWERED_PINGS if conversing else math.inf) as scope:
                try:
                    data = await self._receive_some()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
            if scope.cancelled_caught:
                return
            self._received += len(data)
            if not self._ending:
                await self._protocol.handle(RawData(data))
            if not data:
                return

    async def _receive_some(self) -> bytes:
        """What comes next for the protocol; a body may go another way before."""
        if self._intake is not None and self._intake.wanted and not await self._intake.serve():
            return b""
        return bytes(await self._stream.receive_some(MAX_RECV if self._received >= FIRST_BYTES else FIRST_RECV))

    async def _take(self, event: Event) -> None:
        """Do what the protocol asks for."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            await self._finish()
        elif isinstance(event, Updated):
            self._idle = event.idle
            if event.idle:
                self._received = 0
                self._house.joined(self)
            if not self._ending:
                patience = self._house.idle_seconds if event.idle else math.inf
                self._patience.deadline = trio.current_time() + patience

    async def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        async with self._writing:
            try:
                while rest:
                    piece, rest = rest[: self._piece], rest[self._piece :]
                    # shielded, since a cancel would leave half a message behind
                    with trio.fail_after(self._house.idle_seconds, shield=True):
                        began = trio.current_time()
                        await self._stream.send_all(piece)
                        quick = trio.current_time() - began < MOMENT
                    self._piece = min(2 * self._piece, MOST_PIECE) if quick else PIECE
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(self._stream)
                await self._protocol.handle(Closed())

    async def _finish(self) -> None:
        """Send no more; wait for a client that is still sending, and then close."""
        if self._ending:
            return
        self._ending = self._idle = True
        lingering = self._protocol.body_is_coming
        self._patience.deadline = trio.current_time() + LINGER_SECONDS if lingering else -math.inf
        if isinstance(self._stream, trio.SocketStream):
            with (
                suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError),
                trio.CancelScope(shield=True),  # the application that has ended is cancelled just now
            ):
                await self._stream.send_eof()
        await self._protocol.handle(Closed())

    async def _close(self) -> None:
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            await self._stream.aclose()


class Applications(TaskGroup):
    """Runs the application for each request, and tells it when the client has left, even if it does not listen.

    Attributes
    ----------
    intake
        The short way for bodies, where the connection has one.
    """

    intake: Intake | None = None

    async def spawn_app(
        self, app: Any, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """Start the application; the result hands it what the client sends."""
        if scope["type"] == "websocket":
            scope[LINE] = getattr(send, "__self__", None)
        elif self.intake is not None:
            scope[INTAKE] = self.intake
        inward, outward = trio.open_memory_channel[Any](config.max_app_queue_size)
        running = trio.CancelScope()

        async def run(scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any) -> None:
            async with outward:
                with running:
                    await app(scope, receive, send, sync_spawn, call_soon)

        async def hand_over(message: Any) -> None:
            try:
                if message["type"].endswith(".disconnect"):
                    scope.get(ON_LEFT, _nothing)()
                    inward.send_nowait(message)
                else:
                    await inward.send(message)
            except trio.WouldBlock:
                running.cancel()
            except trio.BrokenResourceError:
                return

        assert self._nursery is not None
        self._nursery.start_soon(
            _handle,
            run,
            config,
            scope,
            outward.receive,
            send,
            trio.to_thread.run_sync,
            trio.from_thread.run,
        )
        return hand_over


def _nothing() -> None:
    """What is called where nothing is to be done."""
