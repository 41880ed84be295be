"""Those who listen by WebSocket: a task and, with its connection, 14 KB each, however many there are.

The request that opened a WebSocket ends as soon as it is open, and what it had in memory goes. From then on the
audience talks to the client itself.
"""

from __future__ import annotations

import logging
from contextvars import Context
from weakref import WeakKeyDictionary

import trio
from attrs import define, field

from cryomamba_core.errors import ErrorInfo
from cryomamba_server.engine.following import Message
from cryomamba_server.http.access import authentication
from cryomamba_server.http.access.authentication import Authenticator, Caller
from cryomamba_server.http.line import Line, frame_of
from cryomamba_server.http.listening import Outbox
from cryomamba_server.http.metrics import Metrics
from cryomamba_server.http.traffic import Traffic

log = logging.getLogger(__name__)

#: Close codes of RFC 6455 and of its registry.
ENDED, REFUSED, TOO_BIG, FAULT, STOPPING = 1000, 1008, 1009, 1011, 1012
#: What listeners are told at the end of the server.
STOP = (STOPPING, "the server is about to stop")
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
    """

    line: Line
    caller: Caller
    outbox: Outbox
    binary: bool
    code: int = ENDED
    reason: str = ""
    left: bool = False
    scope: trio.CancelScope = field(factory=trio.CancelScope)

    def heard(self, size: int) -> None:
        """Send away a client that says too much."""
        if size > MOST_HEARD:
            self.end(TOO_BIG, f"messages have at most {MOST_HEARD} bytes")

    def leave(self) -> None:
        """Let go of a client that has left."""
        self.left = True
        self.scope.cancel()

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
        self._frames: dict[bool, WeakKeyDictionary[Message, bytes]] = {
            False: WeakKeyDictionary(),
            True: WeakKeyDictionary(),
        }
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be there for listeners until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._await_stop)
            self._nursery.start_soon(self._look_at_tokens)
            task_status.started()
            await trio.sleep_forever()

    def seat(self, seat: Seat) -> None:
        """Take over an open WebSocket from the request that opened it."""
        assert self._nursery is not None, "nobody is heard before `run`"
        seat.line.hearer = seat
        self._seats.add(seat)
        self._traffic.began(seat)
        self._metrics.listener_came("websocket")
        if self._stopping.is_set():
            seat.end(*STOP)
        # in a context of its own: that of the request holds all of Quart's objects
        Context().run(self._nursery.start_soon, self._talk, seat)

    async def _talk(self, seat: Seat) -> None:
        """Send messages until the job ends, the listener leaves, or is sent away.

        One message is under way at a time: what a client that does not read keeps waiting is its own.
        """
        try:
            with seat.scope:
                while (message := await seat.outbox.next()) is not None:
                    await seat.line.say(self._frame_of(message, binary=seat.binary))
        except Exception as error:  # the connection is accepted: no status can say it
            log.exception("a listener is sent away")
            seat.end(FAULT, ErrorInfo.of(error).code)
        finally:
            self._seats.discard(seat)
            seat.outbox.leave()
        try:
            if not seat.left:
                await seat.line.close(seat.code, seat.reason)
        finally:
            self._traffic.ended(seat)
            self._metrics.listener_left("websocket")

    def _frame_of(self, message: Message, *, binary: bool) -> bytes:
        """What is sent of a message: made once, for all listeners, for as long as it can be heard."""
        frames = self._frames[binary]
        frame = frames.get(message)
        if frame is None:
            frame = frames[message] = frame_of(message.frame if binary else message.text)
        return frame

    async def _await_stop(self) -> None:
        await self._stopping.wait()
        for seat in self._seats.copy():
            seat.end(*STOP)

    async def _look_at_tokens(self) -> None:
        while True:
            await trio.sleep(authentication.RECHECK_INTERVAL)
            for seat in self._seats.copy():
                try:
                    counts = await self._authenticator.counts(seat.caller, within=authentication.RECHECK_INTERVAL / 2)
                except Exception as error:  # noqa: BLE001  # the next look may succeed
                    log.error("whether a listener's token still counts cannot be told: %s", error)
                    continue
                if not counts:
                    seat.end(REFUSED, "the token does not count any more")
