"""A conversation with a server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import trio

from cryomamba_backends.http_transport.connection import Connection
from cryomamba_backends.http_transport.downloading import Download
from cryomamba_backends.http_transport.known_files import KnownFiles
from cryomamba_backends.http_transport.live import Listener
from cryomamba_backends.http_transport.uploading import Upload
from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import ErrorInfo, SubmissionInFlight, UnknownModel
from cryomamba_core.events import JobEvent
from cryomamba_core.files import FileRecord
from cryomamba_core.interfaces import ServerInfo, Session
from cryomamba_core.interfaces.transports import OnProgress
from cryomamba_core.jobs import JobConfig, JobRecord
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import JobPlan
from cryomamba_core.protocol.jobs import JobPage, JobView
from cryomamba_core.protocol.server import ModelList

#: Jobs that are asked for at a time; servers give no more.
PAGE = 500


class HttpSession(Session):
    """The interface of a server, as `Session`.

    Every question is asked again, with growing pauses, until the server answers, as long as asking
    twice does no harm.

    Parameters
    ----------
    connection
        The server.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        connection.on_waiting = self._wait
        self._known_files = KnownFiles(server=connection.address.url)
        self._listening = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Self:
        self._nursery = await self._listening.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._nursery is not None, "it was entered"
        self._nursery.cancel_scope.cancel()
        await self._listening.__aexit__(None, None, None)  # an error of the block's leaves it in no group

    async def server_info(self) -> ServerInfo:
        """What the server is and can do."""
        return await self._connection.server_info()

    async def models(self) -> Sequence[ModelInfo]:
        """Models of all runners."""
        return (await self._connection.ask(ModelList, "GET", "/v1/models")).models

    async def upload(
        self, path: Path, *, on_progress: OnProgress | None = None, on_known: OnProgress | None = None
    ) -> FileRecord:
        """Send a file: only those parts that the server does not have, several at a time.

        Raises
        ------
        SourceChanged
            If the file changes meanwhile.
        """
        return await Upload(self._connection, self._known_files, path.absolute(), on_progress, on_known).run()

    async def plan(self, config: JobConfig) -> JobPlan:
        """Say what a job would cost."""
        with _about_folders(config):
            return await self._connection.ask(JobPlan, "POST", "/v1/jobs/plan", body=config)

    async def submit(self, config: JobConfig, *, idempotency_key: str | None = None) -> JobRecord:
        """Queue a job; once, however often the line is cut meanwhile."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        attempts = self._connection.attempts()
        with _about_folders(config):
            while True:
                try:
                    view = await self._connection.ask(JobView, "POST", "/v1/jobs", body=config, headers=headers)
                except SubmissionInFlight as error:  # the request that was cut off is still being answered
                    await attempts.pause(error)
                else:
                    return view.record()

    async def job(self, job_id: str) -> JobRecord:
        """A job's record."""
        return (await self._connection.ask(JobView, "GET", _path(job_id))).record()

    async def jobs(self, *, limit: int = 100, before: str | None = None) -> Sequence[JobRecord]:
        """The newest jobs first."""
        found: list[JobRecord] = []
        while len(found) < limit:
            params: dict[str, str | int] = {"limit": min(limit - len(found), PAGE)}
            if before is not None:
                params["before"] = before
            page = await self._connection.ask(JobPage, "GET", "/v1/jobs", params=params)
            found += [view.record() for view in page.jobs]
            before = page.next_before
            if before is None:
                break
        return found

    async def cancel(self, job_id: str) -> JobRecord:
        """Stop a job and wait for its end."""
        while True:
            record = (await self._connection.ask(JobView, "DELETE", _path(job_id))).record()
            if record.state.ended:
                return record

    async def retry(self, job_id: str) -> JobRecord:
        """Queue a failed or canceled job again."""
        path = f"{_path(job_id)}/retry"
        return (await self._connection.ask(JobView, "POST", path, repeatable=False)).record()

    async def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """A job's events until it has ended, over as many lines as it takes."""
        assert self._nursery is not None, "the session is open"
        listener = Listener(self._connection, job_id, after)
        scope = trio.CancelScope()

        async def listen() -> None:
            with scope:
                await listener.run()

        self._nursery.start_soon(listen)
        try:
            async for event in listener.mailbox:
                yield event
        finally:
            scope.cancel()

    async def download(
        self, job_id: str, artifact: Artifact | str, target: Path, *, on_progress: OnProgress | None = None
    ) -> None:
        """Fetch an artifact; one that was cut off before goes on where it was."""
        await Download(self._connection, job_id, artifact, target.absolute(), on_progress).run()

    def _wait(self, why: ErrorInfo | None) -> None:
        if self.on_waiting is not None:
            self.on_waiting(why)


@contextmanager
def _about_folders(config: JobConfig) -> Iterator[None]:
    """Say what is the matter where a model is unknown to the server because it is a folder of this computer."""
    try:
        yield
    except UnknownModel as error:
        if config.model is None or not Path(config.model).expanduser().is_dir():
            raise
        raise UnknownModel(
            f"{config.model} is a folder on this computer, and the server knows its models by name",
            hint="on the server's computer: cryomamba models install FOLDER --name NAME",
        ) from error


def _path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"
