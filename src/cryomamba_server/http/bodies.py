"""Requests as Quart sees them, with what it leaves open closed.

Touches private parts of Quart 0.22 (``Body._complete``, ``Body._has_data``, ``ASGIHTTPConnection._send_response``) and
of quart-trio 0.12 (`TrioBody`, `TrioASGIHTTPConnection`), which are pinned exactly for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import trio
from quart.wrappers.response import DataBody
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest

from cryomamba_core.errors import RequestTooSlow
from cryomamba_server.http.access.gate import UNTIL_SENT
from cryomamba_server.http.connection import ON_LEFT
from cryomamba_server.http.intake import INTAKE, Intake
from cryomamba_server.http.settings import ServeSettings
from cryomamba_server.http.traffic import Traffic

#: Bytes of a body that wait for whoever reads it, before the client has to. Where nobody reads yet, the first piece.
HIGH_WATER = 2 << 20

#: Seconds between two looks at how fast a body comes that does not pass here.
LOOK_INTERVAL = 0.5

#: How long the rest of a body that nobody wants may take to come, before the connection is closed instead.
DISCARD_SECONDS = 1.0


def mend(app: QuartTrio, serving: ServeSettings, traffic: Traffic) -> None:
    """Give an application bodies that push back, and let it count its requests."""
    limits = {"idle_seconds": serving.idle_seconds, "least_rate": serving.least_rate}
    body_class = type("LimitedPatientBody", (PatientBody,), limits)
    app.request_class = cast("type[TrioRequest]", type("PatientRequest", (TrioRequest,), {"body_class": body_class}))
    app.asgi_http_class = partial(CountedRequest, traffic)  # type: ignore[assignment]  # it is called, nothing else
    app.asgi_websocket_class = partial(CountedWebsocket, traffic)  # type: ignore[assignment]  # as above


class PatientBody(TrioBody):
    """A request's body; its reader and its sender wait for each other, but not for ever.

    Quart keeps whatever comes in memory, and waits as long as the client likes.

    Attributes
    ----------
    idle_seconds
        How long the client may send nothing while its body is waited for.
    least_rate
        Bytes that it must send in each second in which it is waited for, after the first `idle_seconds`.
    intake
        The short way from the socket into a reader's memory, where there is one.
    """

    idle_seconds: float
    least_rate: int
    intake: Intake | None = None

    def __init__(self, expected: int | None, most: int | None) -> None:
        super().__init__(expected, most)
        self._expected = expected
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._room = trio.Event()
        self._read = False
        self._unbounded = False
        self._discarding = False
        self._waited = 0.0
        self._received = 0

    async def __anext__(self) -> bytes:
        self._begin()
        if not self._pieces and not self._complete.is_set():
            await self._wait()
        if not self._pieces:
            raise StopAsyncIteration
        return self._next()

    async def read_into(self, view: memoryview) -> int:
        """Fill memory as far as the body reaches, by the shortest way; returns the bytes that came."""
        self._begin()
        filled = 0
        try:
            while filled < len(view) and (self._pieces or not self._complete.is_set()):
                if self._pieces:
                    piece = self._next(len(view) - filled)
                    view[filled : filled + len(piece)] = piece
                    filled += len(piece)
                elif self.intake is not None and self._had_everything():
                    filled += await self._pour(self.intake, view[filled:])
                else:
                    await self._wait()
        finally:
            if self.intake is not None:
                self.intake.release()
        return filled

    def __await__(self) -> Generator[Any, None, Any]:
        self._unbounded = True
        self._make_room()
        yield from self._complete.wait().__await__()
        return b"".join(self._pieces)

    def append(self, data: bytes) -> None:
        """Take what came; it is handed on as it is, without a copy."""
        if data and not self._discarding:
            self._received += len(data)
            self._held += len(data)
            self._pieces.append(data)
            self._has_data.set()

    def clear(self) -> None:
        """Forget what came."""
        self._pieces.clear()
        self._held = 0

    def discard(self) -> None:
        """Keep nothing from now on: nobody reads it."""
        self._discarding = True
        self.clear()
        self._make_room()

    async def ended(self) -> bool:
        """Discard the rest, and say whether its end came: an answer amid a body costs its sender the connection."""
        self.discard()
        with trio.move_on_after(DISCARD_SECONDS):
            await self._complete.wait()
        return self._complete.is_set()

    async def room(self) -> None:
        """Wait until there is room for more."""
        while self._held >= (HIGH_WATER if self._read else 1) and not self._unbounded and not self._discarding:
            await self._room.wait()

    def _begin(self) -> None:
        """Note that somebody reads."""
        if not self._read:
            self._read = True
            self._make_room()

    def _next(self, most: int | None = None) -> bytes:
        """The next piece, or `most` bytes of it."""
        piece = self._pieces.popleft()
        if most is not None and len(piece) > most:
            self._pieces.appendleft(piece[most:])
            piece = piece[:most]
        self._held -= len(piece)
        if not self._pieces:
            self._has_data.clear()
        self._make_room()
        return piece

    def _had_everything(self) -> bool:
        """Whether the connection waits to fill memory, and nothing is on its usual way; asks for it if not."""
        assert self.intake is not None
        if not self.intake.wanted:
            self.intake.want(self._has_data.set)
        return self.intake.parked and self._expected == self._received + self.intake.left

    async def _pour(self, intake: Intake, view: memoryview) -> int:
        """Have memory filled, and see that it does not take too long."""
        intake.fill(view)
        counted, silent_since = 0, trio.current_time()
        while not intake.finished.is_set():
            began = trio.current_time()
            with trio.move_on_after(min(LOOK_INTERVAL, self.idle_seconds / 2)):
                await intake.finished.wait()
            self._waited += trio.current_time() - began
            if intake.filled > counted:
                self._received += intake.filled - counted
                counted, silent_since = intake.filled, trio.current_time()
            silent = trio.current_time() - silent_since
            if not intake.finished.is_set() and (silent >= self.idle_seconds or self._allowance() <= 0):
                raise self._too_slow()
        self._received += intake.filled - counted
        return intake.filled

    def _make_room(self) -> None:
        self._room.set()
        self._room = trio.Event()

    async def _wait(self) -> None:
        began = trio.current_time()
        self._has_data.clear()
        with trio.move_on_after(min(self.idle_seconds, self._allowance())) as scope:
            await self._has_data.wait()
        self._waited += trio.current_time() - began
        if scope.cancelled_caught:
            raise self._too_slow()

    def _allowance(self) -> float:
        """Seconds for which it may still be waited."""
        return self.idle_seconds + self._received / max(1, self.least_rate) - self._waited

    def _too_slow(self) -> RequestTooSlow:
        return RequestTooSlow(
            "the body comes too slowly",
            hint=f"send at least {self.least_rate} bytes a second, and pause for less than {self.idle_seconds:g} s",
        )


class CountedRequest(TrioASGIHTTPConnection):
    """One request, from its first byte to the last of its answer."""

    def __init__(self, traffic: Traffic, app: QuartTrio, scope: Any) -> None:
        super().__init__(app, scope)
        self._traffic = traffic

    async def __call__(self, receive: Any, send: Any) -> None:
        with self._traffic.under_way(), ExitStack() as until_sent:
            cast("dict[str, Any]", self.scope)[UNTIL_SENT] = until_sent
            await super().__call__(receive, send)

    async def handle_messages(self, nursery: trio.Nursery, request: Any, receive: Any) -> None:  # type: ignore[override]  # by duck
        """Take the body as fast as it is read, until the client leaves."""
        request.body.intake = cast("dict[str, Any]", self.scope).get(INTAKE)
        cast("dict[str, Any]", self.scope)[ON_LEFT] = request.body.discard  # or nobody would hear of it in `room`
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            request.body.append(message.get("body", b""))
            if message.get("more_body", False):
                await request.body.room()
            else:
                request.body.set_complete()
        nursery.cancel_scope.cancel()

    async def handle_request(self, nursery: trio.Nursery, request: Any, send: Any) -> None:  # type: ignore[override]  # by duck
        """Answer; what is left of the body is then thrown away."""
        response: Any = await self.app.handle_request(request)
        headers = response.headers
        if not await request.body.ended():
            headers["Connection"] = "close"
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Cache-Control", "no-store")
        if self._traffic.ending:
            headers["Connection"] = "close"
        if request.method == "HEAD":
            async with response.response:
                response.response = DataBody(b"")  # nothing is read that would not be sent
        await self._send_response(send, response)
        nursery.cancel_scope.cancel()


class CountedWebsocket(TrioASGIWebsocketConnection):
    """One WebSocket."""

    def __init__(self, traffic: Traffic, app: QuartTrio, scope: Any) -> None:
        super().__init__(app, scope)
        self._traffic = traffic

    async def __call__(self, receive: Any, send: Any) -> None:
        with self._traffic.under_way():
            await super().__call__(receive, send)
