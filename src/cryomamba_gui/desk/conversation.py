"""A session as a window uses it: what is asked is noted, and it ends in good order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cryomamba_core.errors import ServerUnreachable
from cryomamba_core.interfaces import ServerInfo, Session

if TYPE_CHECKING:
    from cryomamba_core.artifacts import Artifact
    from cryomamba_core.events import JobEvent
    from cryomamba_core.files import FileRecord
    from cryomamba_core.interfaces.transports import OnProgress
    from cryomamba_core.jobs import JobConfig, JobRecord
    from cryomamba_core.models import ModelInfo
    from cryomamba_core.plans import JobPlan
    from cryomamba_gui.desk.journal import Journal

#: Seconds that what was cancelled has to come to its end.
CLOSING = 5.0


class Conversation(Session):
    """Asks another session, until it is closed: then whatever is being asked ends first.

    Parameters
    ----------
    session
        The other one.
    journal
        Hears what is asked, and how long it takes.
    """

    def __init__(self, session: Session, journal: Journal) -> None:
        self._session = session
        self._journal = journal
        self._open = True
        self._asking: set[trio.CancelScope] = set()
        self._left = trio.Event()

    async def close(self) -> None:
        """Cancel what is being asked, which raises `ServerUnreachable` there, and wait for its end."""
        self._open = False
        with trio.move_on_after(CLOSING, shield=True):
            while self._asking:
                for scope in self._asking:
                    scope.cancel()
                self._left = trio.Event()
                await self._left.wait()

    async def server_info(self) -> ServerInfo:
        """What the engine is and can do."""
        with self._inside():  # it is asked all the time, and not worth an entry
            return await self._session.server_info()

    async def models(self) -> Sequence[ModelInfo]:
        """Models of all runners."""
        with self._asked("models"):
            return await self._session.models()

    async def upload(
        self, path: Path, *, on_progress: OnProgress | None = None, on_known: OnProgress | None = None
    ) -> FileRecord:
        """Send a file."""
        with self._asked(f"upload {path.name}"):
            return await self._session.upload(path, on_progress=on_progress, on_known=on_known)

    async def plan(self, config: JobConfig) -> JobPlan:
        """Say what a job would cost."""
        with self._asked(f"plan {config.label}"):
            return await self._session.plan(config)

    async def submit(self, config: JobConfig, *, idempotency_key: str | None = None) -> JobRecord:
        """Queue a job."""
        with self._asked(f"submit {config.label}"):
            return await self._session.submit(config, idempotency_key=idempotency_key)

    async def job(self, job_id: str) -> JobRecord:
        """A job's record."""
        with self._asked(f"job {job_id}"):
            return await self._session.job(job_id)

    async def jobs(self, *, limit: int = 100, before: str | None = None) -> Sequence[JobRecord]:
        """The newest jobs first."""
        with self._asked("jobs"):
            return await self._session.jobs(limit=limit, before=before)

    async def cancel(self, job_id: str) -> JobRecord:
        """Stop a job."""
        with self._asked(f"cancel {job_id}"):
            return await self._session.cancel(job_id)

    async def retry(self, job_id: str) -> JobRecord:
        """Queue a job again."""
        with self._asked(f"retry {job_id}"):
            return await self._session.retry(job_id)

    async def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """A job's events."""
        self._journal.note("call", f"events of {job_id} behind {after}")
        async with aclosing(self._session.events(job_id, after=after)) as events:  # type: ignore[type-var]  # they are generators
            while True:
                with self._inside():
                    try:
                        event = await anext(events)
                    except StopAsyncIteration:
                        return
                yield event

    async def download(
        self, job_id: str, artifact: Artifact | str, target: Path, *, on_progress: OnProgress | None = None
    ) -> None:
        """Fetch an artifact."""
        name = artifact if isinstance(artifact, str) else artifact.name
        with self._asked(f"download {name} of {job_id}"):
            await self._session.download(job_id, artifact, target, on_progress=on_progress)

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        with self._inside(), self._journal.timing("call", what):
            yield

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Ask, unless it is over; it may be over at any moment."""
        if not self._open:
            raise _over()
        with trio.CancelScope() as scope:
            self._asking.add(scope)
            try:
                yield
            finally:
                self._asking.discard(scope)
                self._left.set()
        if scope.cancelled_caught:
            raise _over()


def _over() -> ServerUnreachable:
    return ServerUnreachable("the connection with the engine has ended", hint="connect again; no job is lost")
