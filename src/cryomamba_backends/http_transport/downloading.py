"""An artifact on its way here: continued where it was cut, and checked when it is whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import trio

from cryomamba_backends.http_transport.connection import LATER, Connection, each_piece, read_answer
from cryomamba_backends.http_transport.failures import line_failed, refusal
from cryomamba_backends.http_transport.partial_file import PartialFile, refuse_existing
from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import (
    BrokenProtocol,
    CryoMambaError,
    Forbidden,
    ServerUnreachable,
    Unauthenticated,
    UnknownObject,
)
from cryomamba_core.interfaces.transports import OnProgress
from cryomamba_core.protocol.jobs import JobView

#: Bytes that are written in one go.
WRITTEN = 2 << 20
#: How often in succession an address may turn out to have expired before it is used.
EXPIRED = 3
#: What every address of an artifact has in it, behind whatever prefix a proxy shows the server.
FILES = "/v1/files/"


class Download:
    """Fetches one artifact.

    Parameters
    ----------
    connection
        The server.
    job_id, artifact
        The job, and what its record says of the artifact, or the artifact's name only.
    target
        File that it becomes.
    on_progress
        Hears bytes done and bytes in all; what is done never falls.
    """

    def __init__(
        self,
        connection: Connection,
        job_id: str,
        artifact: Artifact | str,
        target: Path,
        on_progress: OnProgress | None,
    ) -> None:
        self._connection = connection
        self._job_id = job_id
        self._told_of = artifact if isinstance(artifact, Artifact) else None
        self._name = artifact if isinstance(artifact, str) else artifact.name
        self._target = target
        self._on_progress = on_progress
        self._told = -1
        self._etag: str | None = None

    async def run(self) -> None:
        """Fetch it, over as many lines as it takes."""
        await trio.to_thread.run_sync(refuse_existing, self._target)
        artifact = self._told_of or await self._artifact()
        file = await trio.to_thread.run_sync(PartialFile, artifact, self._target)
        try:
            await self._fill(file, artifact)
            if file.resumed and not file.sound():  # what was left by a crash need not be what was written
                await trio.to_thread.run_sync(file.restart)
                await self._fill(file, artifact)
            await trio.to_thread.run_sync(file.publish)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(file.close)

    async def _artifact(self) -> Artifact:
        """What the job says of the artifact, with a fresh address."""
        view = await self._connection.ask(
            JobView, "GET", f"/v1/jobs/{quote(self._job_id, safe='')}", patience=self._connection.patience.long
        )
        for artifact in view.artifacts:
            if artifact.name == self._name:
                return artifact
        names = ", ".join(artifact.name for artifact in view.artifacts) or "none"
        raise UnknownObject(f"the job has no artifact called {self._name!r}", hint=f"it has: {names}")

    async def _fill(self, file: PartialFile, artifact: Artifact) -> None:
        """Fetch what is missing."""
        problem: CryoMambaError
        patience = self._connection.patience.long
        attempts, expired = self._connection.attempts(patience), 0
        self._tell(file.size, artifact.size)
        while not file.whole():
            before, delay = file.size, 0.0
            try:
                problem, delay = await self._fetch(file, artifact)
            except httpx.HTTPError as error:
                problem = line_failed(error, self._connection.address, heard=True)
                if not problem.retryable:
                    raise problem from error
            except Unauthenticated as error:
                expired += 1
                if expired > EXPIRED:
                    raise
                problem, artifact = error, await self._artifact()
            if file.whole():
                return
            if not isinstance(problem, Unauthenticated):
                self._connection.missed(problem)
            if file.size > before:
                attempts, expired = self._connection.attempts(patience), 0
            await attempts.pause(problem, at_least=delay)

    async def _fetch(self, file: PartialFile, artifact: Artifact) -> tuple[CryoMambaError, float]:
        """Fetch as much as comes over one line; returns why it may not be all, and the seconds to wait."""
        cut = ServerUnreachable(
            f"the line was cut before {artifact.name} was whole", hint="fetch it again: it goes on from there"
        )
        async with self._answer(file, artifact) as answer:
            self._connection.heard()
            if answer.status_code not in (200, 206):
                body = await read_answer(answer)
                problem, delay = refusal(answer.status_code, answer.headers, body, self._connection.address)
                if answer.status_code not in LATER:
                    raise problem
                return problem, delay
            if answer.status_code == 200 or not _continues(answer, file, artifact):
                await trio.to_thread.run_sync(file.restart)
            if answer.status_code == 206 and file.size == 0:
                return cut, 0.0
            self._etag = answer.headers.get("etag")
            await self._take(answer, file, artifact)
        return cut, 0.0

    @asynccontextmanager
    async def _answer(self, file: PartialFile, artifact: Artifact) -> AsyncIterator[httpx.Response]:
        headers = {"Accept-Encoding": "identity"}
        if file.size:
            headers["Range"] = f"bytes={file.size}-"
            headers["If-Range"] = self._etag or f'"sha256-{artifact.sha256}"'
        try:
            request = self._connection.client.build_request(
                "GET",
                self._connection.url(_path(artifact)),
                headers=headers,
                timeout=httpx.Timeout(self._connection.patience.silence, connect=self._connection.patience.connect),
            )
        except httpx.InvalidURL as error:
            raise BrokenProtocol(f"the server gives no address for {artifact.name} that can be used") from error
        answer = await self._connection.client.send(request, stream=True)
        try:
            yield answer
        finally:
            await answer.aclose()

    async def _take(self, answer: httpx.Response, file: PartialFile, artifact: Artifact) -> None:
        """Write down what comes, whole or cut short."""
        waiting = bytearray()

        async def write() -> None:
            await trio.to_thread.run_sync(file.append, bytes(waiting))
            waiting.clear()
            self._tell(file.size, artifact.size)

        async def take(piece: bytes) -> None:
            waiting.extend(piece)
            if file.size + len(waiting) > artifact.size:
                raise BrokenProtocol(f"the server sends more of {artifact.name} than the job says there is")
            if len(waiting) >= WRITTEN:
                await write()

        try:
            await each_piece(answer, take)
        except httpx.HTTPError:
            await write()
            raise
        await write()

    def _tell(self, done: int, total: int) -> None:
        if self._on_progress is not None and done > self._told:
            self._told = done
            self._on_progress(done, total)


def _continues(answer: httpx.Response, file: PartialFile, artifact: Artifact) -> bool:
    """Whether an answer with a range begins where the file ends."""
    wanted = f"bytes {file.size}-{artifact.size - 1}/{artifact.size}"
    return bool(answer.headers.get("content-range") == wanted)


def _path(artifact: Artifact) -> str:
    """The address of an artifact, without the host: we know better how the server is reached."""
    if not artifact.url:
        raise Forbidden(
            f"the token does not have the scope artifacts:read, so there is no address of {artifact.name}",
            hint="ask whoever runs the server for a token that has it; the job keeps its results",
        )
    before, found, rest = artifact.url.partition(FILES)
    if not found:
        raise BrokenProtocol(f"the server gives no address for {artifact.name} that can be used: {before[:80]!r}")
    return f"{FILES}{rest}"
