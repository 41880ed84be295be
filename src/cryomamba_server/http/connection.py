"""One client's connection: read with back-pressure, written with patience that ends, closed without losing an answer.

It serves one request after another, until one of them makes it a WebSocket: then all that served requests goes.

Takes the place of hypercorn's own TCP server, which waits for ever for a client that has stopped reading, and
waits for ever for an application that has ended. Uses of hypercorn 0.18, pinned exactly for that: `TaskGroup`,
``_handle``, `WorkerContext`, and the protocol's events.
"""

from __future__ import annotations

import math
import os
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
from cryomamba_server.http.line import Line
from cryomamba_server.http.outlet import SENDS_FILES, FilePiece, pour
from cryomamba_server.http.protocol import Conversation, Protocol

#: Key of the ASGI scope of a WebSocket: makes its `Line`, for whoever goes on when the request has ended; None if the
#: client has left.
TAKE_OVER = "cryomamba.take_over"

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
#: unread bytes takes the answer with it. A WebSocket's client answers the last word in that time.
LINGER_SECONDS = 2.0

#: Seconds between pings, and how many a listener may leave unanswered.
PING_SECONDS, UNANSWERED_PINGS = 25.0, 3

#: Bytes that are asked of a listener at a time.
HEARD = 4 << 10


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
        self._line: Line | None = None

    async def run(self) -> None:
        """Serve until one of the two sides leaves."""
        self._house.joined(self)
        try:
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await self._serve()
                if self._line is not None:
                    await self._converse(self._line)
        finally:
            self._house.left(self)
            if self._line is not None:
                self._line.leave()
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
        if self._line is not None:
            await self._line.ping()

    async def talk(self, data: bytes) -> None:
        """Write on a WebSocket, at once if there is room: hundreds who are told the same do not wait at the same time.

        There is no checkpoint unless the client is slow, or has TLS. Errors end the connection, and are not raised.
        """
        if isinstance(self._stream, trio.SSLStream) or self._writing.locked():
            async with self._writing:
                await self._send(memoryview(data))
            return
        self._writing.acquire_nowait()
        try:
            try:
                sent = os.write(self._stream.socket.fileno(), data)
            except OSError:  # no room, or worse: the other way will tell
                sent = 0
            if sent < len(data):
                await self._send(memoryview(data)[sent:])
        finally:
            self._writing.release()

    def part(self) -> None:
        """Give the client of a WebSocket, which has got the last word, a moment for its own."""
        self._ending = self._idle = True
        self._patience.deadline = min(self._patience.deadline, trio.current_time() + LINGER_SECONDS)

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
        async with Applications(self._take_over) as applications:
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
            if self._line is None:
                await self._protocol.handle(Closed())

    def _take_over(self) -> Line | None:
        """Make an open WebSocket of a request that asked for one; from now on the application has no part in it."""
        conversation = self._protocol.stream
        if self._ending or not isinstance(conversation, Conversation) or not conversation.accepted:
            return None
        self._line = Line(conversation.leave(), self)
        self._patience.cancel()  # nothing is received as a request any more, see `_converse`
        return self._line

    async def _converse(self, line: Line) -> None:
        """Hear the client of a WebSocket until it leaves, falls silent, or has had its moment for the last word."""
        del self._protocol
        self._intake = None
        seconds = LINGER_SECONDS if self._ending else PING_SECONDS * UNANSWERED_PINGS
        self._patience = trio.CancelScope(deadline=trio.current_time() + seconds)
        with self._patience:
            while not line.ended:
                data = bytes(await self._stream.receive_some(HEARD))
                if not data:
                    return
                if not self._ending:
                    self._patience.deadline = trio.current_time() + PING_SECONDS * UNANSWERED_PINGS
                await line.take(data)

    async def _receive(self) -> None:
        while True:
            try:
                data = await self._receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
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

    async def _write(self, data: bytes | FilePiece) -> None:
        async with self._writing:
            taken = await (self._pour(data) if isinstance(data, FilePiece) else self._send(memoryview(data)))
            if not taken:
                await self._protocol.handle(Closed())

    async def _pour(self, piece: FilePiece) -> bool:
        """Send a piece of a file, and say whether the client has taken it; the connection is closed if not."""
        assert isinstance(self._stream, trio.SocketStream), "others are not told that files can be sent"
        try:
            await pour(piece, self._stream, idle_seconds=self._house.idle_seconds)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            await self._give_up()
            return False
        except BaseException:
            await self._give_up()  # half a message is left behind
            raise
        return True

    async def _give_up(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    async def _send(self, rest: memoryview) -> bool:
        """Send everything, and say whether the client has taken it; the connection is closed if not."""
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
            await self._give_up()
            return False
        return True

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

    Parameters
    ----------
    take_over
        Makes a `Line` of a request that is an open WebSocket.

    Attributes
    ----------
    intake
        The short way for bodies, where the connection has one; without TLS, and files are sent the short way as well.
    """

    intake: Intake | None = None

    def __init__(self, take_over: Callable[[], Line | None]) -> None:
        super().__init__()
        self._take_over = take_over

    async def spawn_app(
        self, app: Any, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """Start the application; the result hands it what the client sends."""
        if scope["type"] == "websocket":
            scope[TAKE_OVER] = self._take_over
        elif self.intake is not None:
            scope[INTAKE] = self.intake
            scope[SENDS_FILES] = hasattr(os, "sendfile")
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
