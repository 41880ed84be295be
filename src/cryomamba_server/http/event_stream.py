"""Server-Sent Events, as the HTML standard defines them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType

import trio
from quart.wrappers.response import ResponseBody

from cryomamba_core.errors import CryoMambaError
from cryomamba_server.engine.following import Message
from cryomamba_server.http.listening import Outbox
from cryomamba_server.http.routing import Call

log = logging.getLogger(__name__)

#: Seconds without an event after which a comment shows that the line is good.
COMMENT_INTERVAL = 20.0
#: The comment.
COMMENT = b": still here\n\n"
#: What a browser waits before it reconnects, in milliseconds.
RECONNECT_MS = 2000


class EventStream(ResponseBody):
    """The body of an answer that goes on until the job ends, the server stops, or the client leaves.

    Parameters
    ----------
    call
        The request.
    job_id
        A job of the caller's.
    after
        Number of the event that the client has heard last.
    """

    def __init__(self, call: Call, job_id: str, after: int) -> None:
        self._call = call
        self._job_id = job_id
        self._after = after
        self._open = AsyncExitStack()

    async def __aenter__(self) -> AsyncIterator[bytes]:
        following = self._call.services.engine.following
        listening = following.listen(self._job_id, owner=self._call.owner, after=self._after)
        listener = await self._open.enter_async_context(listening)
        self._open.enter_context(self._call.services.metrics.listening("sse"))
        return self._lines(Outbox(self._call, self._job_id, listener))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, trace)

    async def _lines(self, outbox: Outbox) -> AsyncIterator[bytes]:
        yield f"retry: {RECONNECT_MS}\n\n".encode()
        while not self._call.services.stopping.is_set() and await self._may_listen():
            lines = await self._next(outbox)
            if lines is None:
                return
            yield lines

    async def _may_listen(self) -> bool:
        """Whether the token still counts; looked at when there is something to send, and between comments."""
        assert self._call.caller is not None
        return await self._call.services.gate.authenticator.counts(self._call.caller, within=COMMENT_INTERVAL)

    async def _next(self, outbox: Outbox) -> bytes | None:
        """The next message, a comment if there is none for a while, None if there will be none."""
        lines: bytes | None = COMMENT
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + COMMENT_INTERVAL
            nursery.start_soon(self._await_stop, nursery.cancel_scope)
            try:
                lines = _lines_of(await outbox.next())
            except CryoMambaError as error:
                log.warning("a listener of job %s is sent away: %s", self._job_id, error)
                lines = None
            nursery.cancel_scope.cancel()
        return lines

    async def _await_stop(self, scope: trio.CancelScope) -> None:
        await self._call.services.stopping.wait()
        scope.cancel()


def _lines_of(message: Message | None) -> bytes | None:
    if message is None:
        return None
    return f"id: {message.event.seq}\nevent: {message.event.type}\ndata: {message.text}\n\n".encode()
