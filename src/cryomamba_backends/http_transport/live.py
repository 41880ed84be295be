"""A job's events, over as many lines as it takes: no gap, no repeat."""

from __future__ import annotations

import logging

from cryomamba_backends.http_transport.connection import Connection
from cryomamba_backends.http_transport.event_stream import hear_event_stream
from cryomamba_backends.http_transport.mailbox import Mailbox
from cryomamba_backends.http_transport.websocket import NoWebSocket, hear_websocket
from cryomamba_core.errors import CryoMambaError, RateLimited, ServerStopping, ServerUnreachable
from cryomamba_core.events import JobEvent

log = logging.getLogger(__name__)


class Listener:
    """Listens to one job until it has ended.

    It listens by WebSocket and, where no WebSocket gets through, by Server-Sent Events, which are
    an answer to a request like any other. The connection remembers which.

    Parameters
    ----------
    connection
        The server.
    job_id, after
        The job, and the number of the last event that is known.

    Attributes
    ----------
    mailbox
        What was heard and not yet taken.
    """

    def __init__(self, connection: Connection, job_id: str, after: int) -> None:
        self.mailbox = Mailbox()
        self._connection = connection
        self._job_id = job_id
        self._last = after

    async def run(self) -> None:
        """Fill the mailbox, and close it at the job's end or with what went wrong."""
        try:
            await self._listen()
        except Exception as error:  # noqa: BLE001  # whoever reads the mailbox meets it
            self.mailbox.close(error)
        else:
            self.mailbox.close()

    async def _listen(self) -> None:
        patience = self._connection.patience
        attempts = self._connection.attempts(patience.long)
        while True:
            before = self._last
            try:
                await self._hear()
            except (ServerUnreachable, ServerStopping, RateLimited) as error:
                problem: CryoMambaError = error
            else:
                return
            self._connection.missed(problem)
            if self._last > before:
                attempts = self._connection.attempts(patience.long)
            await attempts.pause(problem, at_least=getattr(problem, "retry_after", 0.0))

    async def _hear(self) -> None:
        """Hear what is not known yet, over one line; raises `ServerUnreachable` if that ends before the job."""
        if self._connection.websockets:
            try:
                return await hear_websocket(self._connection, self._job_id, self._last, self._take)
            except NoWebSocket as error:
                log.debug("trying Server-Sent Events, since no WebSocket gets through: %s", error)
        return await hear_event_stream(self._connection, self._job_id, self._last, self._take)

    def _take(self, event: JobEvent) -> None:
        if event.seq > self._last:
            self._last = event.seq
            self.mailbox.put(event)
