"""An open WebSocket: the few kilobytes that are left of it once the request that opened it has ended.

Neither hypercorn nor Quart has a part in it any more: the connection hands over what the client sends, and writes
what it is to get.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from wsproto.connection import Connection as WebSocket
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError

if TYPE_CHECKING:
    from cryomamba_server.http.connection import Connection

#: Words whole messages; of these no trace is left in it.
_WORDING = WebSocket(ConnectionType.SERVER)


class Hearer(Protocol):
    """Who hears what a client says."""

    def heard(self, size: int) -> None:
        """The client has said so many bytes of a message so far."""

    def leave(self) -> None:
        """The client has left."""


class Line:
    """One client's open WebSocket.

    Parameters
    ----------
    websocket
        As the handshake has left it.
    connection
        To the client.

    Attributes
    ----------
    hearer
        Who hears what the client says.
    ended
        Whether the client has said its last word.
    """

    __slots__ = ("_connection", "_said", "_websocket", "ended", "hearer")

    def __init__(self, websocket: WebSocket, connection: Connection) -> None:
        self._websocket = websocket
        self._connection = connection
        self._said = 0
        self.hearer: Hearer | None = None
        self.ended = websocket.state is ConnectionState.CLOSED

    async def say(self, frame: bytes) -> None:
        """Send a message, a `frame_of` it; no checkpoint where the line has room for it."""
        if self._websocket.state is ConnectionState.OPEN:
            await self._connection.talk(frame)

    async def close(self, code: int, reason: str) -> None:
        """Say the last word; the client has a moment for its own."""
        await self._send(CloseConnection(code=code, reason=reason))
        self._connection.part()

    async def ping(self) -> None:
        """Ask whether the client is there."""
        await self._send(Ping())

    async def take(self, data: bytes) -> None:
        """Do what the client's bytes ask for."""
        self._websocket.receive_data(data)
        for event in self._websocket.events():
            if isinstance(event, TextMessage | BytesMessage):
                self._hear(event)
            elif isinstance(event, Ping):
                await self._send(event.response())
            elif isinstance(event, CloseConnection):  # the client's, or what is wrong with its bytes
                await self._send(event.response())
                self.ended = True
                return

    def leave(self) -> None:
        """Tell that the client has left."""
        if self.hearer is not None:
            self.hearer.leave()

    def _hear(self, event: TextMessage | BytesMessage) -> None:
        self._said += len(event.data.encode() if isinstance(event.data, str) else event.data)
        if self.hearer is not None:
            self.hearer.heard(self._said)
        if event.message_finished:
            self._said = 0

    async def _send(self, event: Event) -> None:
        with suppress(LocalProtocolError):  # the last word is said
            await self._connection.talk(self._websocket.send(event))


def frame_of(message: str | bytes) -> bytes:
    """A text or binary message as a server sends it, to any client."""
    event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
    return bytes(_WORDING.send(event))
