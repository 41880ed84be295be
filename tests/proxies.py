"""Lines that fail: a TCP proxy that cuts, stalls and throttles what goes through it, and one that is the only way."""

import re
import socket
import struct
from contextlib import asynccontextmanager, suppress
from functools import partial
from urllib.parse import urlsplit

import trio

PIECE = 16 << 10
#: Says to the kernel: drop what is not sent, and tell the peer so.
ABORT = struct.pack("ii", 1, 0)


class Fault:
    """What happens to one connection, once `after` bytes have gone through it in a direction.

    Parameters
    ----------
    kind
        ``cut`` drops the connection, ``end`` closes it in good order, ``stall`` lets nothing more through.
    up
        Whether bytes to the server are counted, else those to the client.
    after
        How many.
    """

    def __init__(self, kind, *, up, after):
        self.kind, self.up, self.after = kind, up, after
        self.struck = False


class Proxy:
    """Forwards connections to a server.

    Attributes
    ----------
    url
        The server's, through the proxy.
    sent, received
        Bytes that clients have sent, and got, in all.
    connections
        How many there have been.
    faults
        Each strikes one connection, the first that reaches its number of bytes.
    rate
        Bytes a second of each connection to the server; None for any.
    refusing
        Whether new connections are dropped at once.
    websockets
        Whether it knows what a WebSocket is; else it keeps the wish for one to itself.
    upgrade_answer
        What it answers itself to the wish for a WebSocket, before it cuts the line; None to hand the wish on.
    """

    def __init__(self, url, nursery):
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._nursery = nursery
        self._scheme = parts.scheme
        self._open = set()
        self._moved = trio.Event()
        self.sent = self.received = self.connections = 0
        self.faults = []
        self.rate = None
        self.refusing = False
        self.websockets = True
        self.upgrade_answer = None

    async def listen(self):
        listeners = await self._nursery.start(partial(trio.serve_tcp, self._forward, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        self.url = f"{self._scheme}://127.0.0.1:{port}"

    def fail(self, kind, *, up=True, after=0):
        """Arrange for a fault."""
        self.faults.append(Fault(kind, up=up, after=after))
        return self.faults[-1]

    def cut_all(self):
        """Drop every connection there is."""
        for scope in list(self._open):
            scope.cancel()

    async def until(self, condition):
        """Wait until `condition` holds, which is looked at whenever bytes have gone through."""
        while not condition():
            await self._moved.wait()

    async def until_idle(self):
        """Wait until no connection is open."""
        await self.until(lambda: not self._open)

    async def _forward(self, client):
        self.connections += 1
        if self.refusing:
            abort(client)
            return
        try:
            server = await self._connect(client)
        except OSError:
            abort(client)
            return
        try:
            with trio.CancelScope() as scope:
                self._open.add(scope)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, client, server, True, scope)
                    nursery.start_soon(self._pump, server, client, False, scope)
        finally:
            self._open.discard(scope)
            abort(client)
            abort(server)
            self._wake()

    async def _connect(self, client):
        """A connection to whom the client wants to talk."""
        return await trio.open_tcp_stream(*self._target)

    def _rewritten(self, data):
        """What a client says, as the server is to hear it."""
        return data if self.websockets else data.replace(b"Upgrade: websocket", b"X-Gone: websockets")

    async def _pump(self, source, target, up, scope):
        done = 0
        while True:
            try:
                data = await source.receive_some(PIECE)
                if not data:
                    await target.send_eof()
                    return
                if up and self.upgrade_answer is not None and b"Upgrade: websocket" in data:
                    await source.send_all(self.upgrade_answer)
                    await source.send_eof()
                    return
                if up:
                    data = self._rewritten(bytes(data))
                allowed, fault = self._allowed(up, done, len(data))
                await target.send_all(data[:allowed])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                scope.cancel()
                return
            done += allowed
            self._count(up, allowed)
            if fault is not None and fault.kind == "end":
                await source.aclose()
                await target.aclose()
            if fault is not None and fault.kind != "stall":
                scope.cancel()
                return
            if fault is not None:
                await trio.sleep_forever()
            if up and self.rate:
                await trio.sleep(allowed / self.rate)

    def _allowed(self, up, done, size):
        """How many of `size` bytes may go on, and the fault that strikes behind them."""
        for fault in self.faults:
            if not fault.struck and fault.up is up and done + size >= fault.after:
                fault.struck = True
                return max(0, fault.after - done), fault
        return size, None

    def _count(self, up, size):
        if up:
            self.sent += size
        else:
            self.received += size
        self._wake()

    def _wake(self):
        self._moved.set()
        self._moved = trio.Event()


class ForwardProxy(Proxy):
    """What stands between an institute and everything else: whoever wants to go out has to ask it.

    Parameters
    ----------
    names
        Name → address of a server. Nobody else knows these names.

    Attributes
    ----------
    url
        Its own.
    asked
        The first line of each connection.
    """

    def __init__(self, names, nursery):
        super().__init__("http://", nursery)
        self._names = names
        self.asked = []

    async def _connect(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            data = await client.receive_some(PIECE)
            if not data:
                raise ConnectionError("nothing was asked")
            head += data
        line = head.partition(b"\r\n")[0].decode()
        self.asked.append(line)
        method, place, _ = line.split()
        parts = urlsplit(place if method != "CONNECT" else f"//{place}")
        if parts.hostname not in self._names:
            await client.send_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            raise ConnectionError(f"nobody is called {parts.hostname}")
        server = await trio.open_tcp_stream(self._names[parts.hostname], parts.port)
        if method == "CONNECT":
            await client.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            await server.send_all(self._rewritten(head))
        return server

    def _rewritten(self, data):
        for name in self._names:
            data = re.sub(b"^([A-Z]+) http://" + re.escape(name.encode()) + b"(:[0-9]+)?/", rb"\1 /", data)
        return super()._rewritten(data)


def abort(stream):
    """Close a connection as a broken line does, unless it is closed."""
    with suppress(OSError):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    stream.socket.close()


@asynccontextmanager
async def open_proxy(url):
    """A proxy before the server at `url`."""
    async with _listening(partial(Proxy, url)) as proxy:
        yield proxy


@asynccontextmanager
async def open_forward_proxy(names):
    """A proxy that alone knows where the servers with these names are."""
    async with _listening(partial(ForwardProxy, names)) as proxy:
        yield proxy


@asynccontextmanager
async def _listening(make):
    async with trio.open_nursery() as nursery:
        proxy = make(nursery)
        await proxy.listen()
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel()
