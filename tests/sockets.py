"""Lines to a server: bare ones, and a stock WebSocket client whose line is closed for sure, not left to chance."""

from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import engines
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, wrap_client_stream


@asynccontextmanager
async def connected(server, *, room=None):
    """A connection on which nothing was said; with `room`, its buffer for answers takes so many bytes."""
    socket = trio.socket.socket()
    if room is not None:
        socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, room)
    await socket.connect(("127.0.0.1", urlsplit(server.url).port))
    async with trio.SocketStream(socket) as stream:
        with trio.fail_after(engines.DEADLINE):
            yield stream


@asynccontextmanager
async def open_socket(url, headers=(), *, subprotocols=None):
    """A WebSocket at an address, ``ws:`` or ``http:``; raises `ConnectionRejected`, not in a group."""
    parts = urlsplit(url)
    resource = f"{parts.path}?{parts.query}" if parts.query else parts.path
    headers = [(name.encode(), value.encode()) for name, value in dict(headers).items()]
    refused = []
    try:
        async with trio.open_nursery() as nursery, await trio.open_tcp_stream(parts.hostname, parts.port) as stream:
            connection = await wrap_client_stream(
                nursery,
                stream,
                parts.netloc,
                resource,
                subprotocols=subprotocols,
                extra_headers=headers,
                max_message_size=64 << 20,
                receive_buffer_size=1 << 18,
            )
            yield connection
            with trio.move_on_after(1):
                await connection.aclose()
            nursery.cancel_scope.cancel()
    except* ConnectionRejected as group:
        refused.extend(group.exceptions)
    if refused:
        raise refused[0]


async def hear(connection, until=lambda message: False):
    """Messages up to the first that `until` accepts, or to the close, and its code."""
    messages = []
    with trio.fail_after(engines.DEADLINE):
        try:
            while True:
                messages.append(await connection.get_message())
                if until(messages[-1]):
                    return messages, None
        except ConnectionClosed as closed:
            return messages, closed.reason.code
