"""What goes out to one listener of a job, by WebSocket or as Server-Sent Events."""

from __future__ import annotations

from attrs import evolve

from cryomamba_core.events import Completed, PreviewReady
from cryomamba_server.engine.following import Listener, Message
from cryomamba_server.http.links import origin_of, signed
from cryomamba_server.http.routing import Call


class Outbox:
    """The messages for one listener, as it is to get them, counted.

    Parameters
    ----------
    call
        The listener's request.
    job_id, listener
        The job.
    """

    __slots__ = ("_caller", "_job_id", "_listener", "_origin", "_services", "_spared")

    def __init__(self, call: Call, job_id: str, listener: Listener) -> None:
        self._services = call.services
        self._caller = call.caller
        self._origin = origin_of(call.request, call.services.serving.public_url)
        self._job_id = job_id
        self._listener = listener
        self._spared = 0

    async def next(self) -> Message | None:
        """The next message, as soon as there is one; None when there will be none."""
        while (message := await self._listener.next()) is not None:
            if not isinstance(message.event, PreviewReady):
                return self._linked(message)
            if message.event.preview is not None:
                self._count()
                return message
        return None

    def leave(self) -> None:
        """Nothing is wanted any more."""
        self._listener.leave()

    def _linked(self, message: Message) -> Message:
        """A message as the caller is to get it: what is completed says where its artifacts are."""
        event = message.event
        if not isinstance(event, Completed):
            return message
        artifacts = signed(self._services, self._caller, self._origin, self._job_id, event.artifacts)
        return Message(evolve(event, artifacts=artifacts))

    def _count(self) -> None:
        metrics = self._services.metrics
        metrics.preview_sent()
        metrics.preview_dropped(self._listener.spared - self._spared)
        self._spared = self._listener.spared
