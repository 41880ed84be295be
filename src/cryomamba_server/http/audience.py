"""Those who listen by WebSocket: one task and a few kilobytes each, however many there are.

The request that opened a WebSocket ends as soon as it is open, and what it had in memory goes, Quart's part and ours.
From then on the audience talks to the connection itself.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from contextvars import Context
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, field

from cryomamba_core.errors import ErrorInfo
from cryomamba_server.http.access import authentication
from cryomamba_server.http.access.authentication import Authenticator, Caller
from cryomamba_server.http.listening import Outbox
from cryomamba_server.http.metrics import Metrics
from cryomamba_server.http.traffic import Traffic

if TYPE_CHECKING:
    from cryomamba_server.http.protocol import Conversation

log = logging.getLogger(__name__)

#: Close codes of RFC 6455 and of its registry.
ENDED, REFUSED, TOO_BIG, FAULT, STOPPING = 1000, 1008, 1009, 1011, 1012
#: Bytes of a message from the client; clients have nothing to say.
MOST_HEARD = 4096
#: Bytes of the reason in a close frame.
MOST_REASON = 123


@define(kw_only=True, eq=False)
class Seat:
    """One listener.

    Attributes
    ----------
    line
        To its client.
    caller
        Who listens.
    outbox
        What there is to hear.
    binary
        Whether messages are binary frames instead of JSON text.
    held
        Let go of when the seat is empty.
    """

    line: Conversation
    caller: Caller
    outbox: Outbox
    binary: bool
    held: AsyncExitStack
    code: int = ENDED
    reason: str = ""
    left: bool = False
    scope: trio.CancelScope = field(factory=trio.CancelScope)

    def hear(self, message: Any) -> None:
        """Take what the client says, and its leaving."""
        if message["type"] == "websocket.disconnect":
            self.left = True
            self.scope.cancel()
        elif len(message.get("bytes") or (message.get("text") or "").encode()) > MOST_HEARD:
            self.end(TOO_BIG, f"messages have at most {MOST_HEARD} bytes")

    def end(self, code: int, reason: str) -> None:
        """Send it away."""
        self.code, self.reason = code, reason.encode()[:MOST_REASON].decode(errors="ignore")
        self.scope.cancel()


class Audience:
    """Everybody who listens by WebSocket.

    Parameters
    ----------
    authenticator
        Says whose token still counts.
    metrics, traffic
        Listeners are counted, and waited for at the end.
    stopping
        Set when the server is about to stop.
    """

    def __init__(
        self, *, authenticator: Authenticator, metrics: Metrics, traffic: Traffic, stopping: trio.Event
    ) -> None:
        self._authenticator = authenticator
        self._metrics = metrics
        self._traffic = traffic
        self._stopping = stopping
        self._seats: set[Seat] = set()
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be there for listeners until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._await_stop)
            self._nursery.start_soon(self._look_at_tokens)
            task_status.started()
            await trio.sleep_forever()

    def seat(self, seat: Seat) -> None:
        """Take over an accepted WebSocket from the request that opened it."""
        assert self._nursery is not None, "nobody is heard before `run`"
        seat.line.keep(seat.hear)
        self._seats.add(seat)
        # in a context of its own: that of the request holds all of Quart's objects
        Context().run(self._nursery.start_soon, self._talk, seat)

    async def _talk(self, seat: Seat) -> None:
        """Send messages until the job ends, the listener leaves, or is sent away.

        One message is under way at a time: what a client that does not read keeps waiting is its own.
        """
        with self._metrics.listening("websocket"), self._traffic.under_way():
            try:
                with seat.scope:
                    while (message := await seat.outbox.next()) is not None:
                        kind = {"bytes": message.frame} if seat.binary else {"text": message.text}
                        await seat.line.talk({"type": "websocket.send", **kind})
            except Exception as error:  # the connection is accepted: no status can say it
                log.exception("a listener is sent away")
                seat.end(FAULT, ErrorInfo.of(error).code)
            finally:
                self._seats.discard(seat)
                with trio.CancelScope(shield=True):
                    await seat.held.aclose()
            if not seat.left:
                await seat.line.talk({"type": "websocket.close", "code": seat.code, "reason": seat.reason})
            await seat.line.talk(None)

    async def _await_stop(self) -> None:
        await self._stopping.wait()
        for seat in self._seats.copy():
            seat.end(STOPPING, "the server is about to stop")

    async def _look_at_tokens(self) -> None:
        while True:
            await trio.sleep(authentication.RECHECK_INTERVAL)
            for seat in self._seats.copy():
                if not await self._authenticator.counts(seat.caller, within=authentication.RECHECK_INTERVAL / 2):
                    seat.end(REFUSED, "the token does not count any more")
