"""A file on its way to a server: only what is missing there, several parts at a time.

Each byte is hashed once on its way, with its part: the server takes a part only if it has the digest that it was sent
with, says so, and works out the digest of the whole itself, which is what the file is called from then on. What is
there of an earlier try is compared part by part, and the file is looked at for changes after each part and once all
are there. So what is completed is made of parts that all are this file's. A second pass here for the digest of the
whole would only check how the server puts them together, and costs as much as the first: it is done where the server
says that it has the whole file, and no part travels. A file of one part is checked as a whole without it.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx
import trio

from cryomamba_backends.http_transport.connection import ANSWER_SECONDS, Connection, parsed
from cryomamba_backends.http_transport.groups import first_error
from cryomamba_backends.http_transport.known_files import KnownFiles
from cryomamba_backends.http_transport.pace import Pace
from cryomamba_backends.http_transport.source_file import Part, SourceFile
from cryomamba_core.errors import (
    CryoMambaError,
    PartRefused,
    SourceChanged,
    UnknownUpload,
    UploadConflict,
    UploadError,
)
from cryomamba_core.files import FileRecord
from cryomamba_core.interfaces.transports import OnProgress
from cryomamba_core.protocol.uploads import PartReceipt, UploadedFile, UploadRequest, UploadStatus, format_digest

log = logging.getLogger(__name__)

#: The most parts that travel at the same time, and the most of their bytes.
MOST_PARTS, MOST_BYTES = 8, 128 << 20
#: Bytes that are handed to the socket at a time: the line is not taken for dead while so many are taken in a minute.
#: Where they leave in a moment, of so many seconds, whole pieces of the part follow, which need not be cut.
PIECE, MOMENT = 256 << 10, 0.1
#: How often a part is sent again that arrives as something else, and an upload begun again that is of no use.
RESENT, RESTARTED = 3, 2
#: Seconds that the server may take to store a part.
PART_SECONDS = 120.0
#: Bytes a second at which the slowest server checks a whole file.
CHECKED_RATE = 20e6


class _StartOver(Exception):
    """What the server has is of another file.

    Parameters
    ----------
    sha256
        Digest of ours, if it is known by now.
    """

    def __init__(self, message: str, sha256: str | None = None) -> None:
        super().__init__(message)
        self.sha256 = sha256


class PartBody(httpx.AsyncByteStream):
    """A part's bytes on their way into the socket; `on_taken` hears how many are there.

    It is no generator, since one that is not run to its end when a request is cut off lives on.
    """

    def __init__(self, part: Part, on_taken: Callable[[int], None]) -> None:
        self._waiting = deque(part.pieces)
        self._cut = memoryview(b"")
        self._done = 0
        self._handed_at = -math.inf
        self._on_taken = on_taken

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._on_taken(self._done)
        if not self._cut and not self._waiting:
            raise StopAsyncIteration
        now = trio.current_time()
        piece = self._next(quick=now - self._handed_at <= MOMENT)
        self._handed_at = now
        self._done += len(piece)
        return piece

    def _next(self, *, quick: bool) -> bytes:
        """A whole piece where the last one left quickly, otherwise some of one."""
        if not self._cut:
            piece = self._waiting.popleft()
            if quick or len(piece) <= PIECE:
                return piece
            self._cut = memoryview(piece)
        some, self._cut = self._cut[:PIECE], self._cut[PIECE:]
        return bytes(some)


class Upload:
    """Sends one file.

    Parameters
    ----------
    connection
        The server.
    known_files
        Digests of files that were sent before.
    path
        The file.
    on_progress
        Hears bytes done and bytes in all; what is done never falls.
    on_known
        Hears bytes that the server had already, and bytes in all.
    """

    def __init__(
        self,
        connection: Connection,
        known_files: KnownFiles,
        path: Path,
        on_progress: OnProgress | None,
        on_known: OnProgress | None,
    ) -> None:
        self._connection = connection
        self._known_files = known_files
        self._path = path
        self._on_progress = on_progress
        self._on_known = on_known
        self._known = 0
        self._durable = 0
        self._travelling: Counter[int] = Counter()
        self._told = -1

    async def run(self) -> FileRecord:
        """Send it, and return what the server made of it."""
        with await trio.to_thread.run_sync(SourceFile, self._path) as source:
            digest = await trio.to_thread.run_sync(self._known_files.digest, self._path, source.facts)
            file = await self._send_persistently(source, digest)
            await trio.to_thread.run_sync(self._known_files.note, self._path, source.facts, file.sha256)
        self._tell(file.size, file.size)
        return FileRecord(
            id=file.file_id, name=file.filename, size=file.size, sha256=file.sha256, created_at=file.created_at
        )

    async def _send_persistently(self, source: SourceFile, digest: str | None) -> UploadedFile:
        """Send it, from its beginning again if what the server has turns out to be of no use."""
        fingerprint = await trio.to_thread.run_sync(source.fingerprint)
        restarts = 0
        while True:
            try:
                return await self._send(source, fingerprint, digest)
            except (_StartOver, UnknownUpload, UploadConflict) as error:
                restarts += 1
                if restarts > RESTARTED:
                    raise UploadError(
                        f"{self._path.name} could not be sent: {error}", hint="try again later"
                    ) from error
                log.debug("%s is sent again: %s", self._path, error)
                digest = error.sha256 if isinstance(error, _StartOver) else None

    async def _send(self, source: SourceFile, fingerprint: str, digest: str | None) -> UploadedFile:
        """Begin or go on, send what is missing, and complete."""
        request = UploadRequest(filename=self._path.name, size=source.size, sha256=digest, fingerprint=fingerprint)
        status = await self._connection.ask(
            UploadStatus, "POST", "/v1/uploads/init", body=request, patience=self._connection.patience.long
        )
        if status.file_id is None:
            return await self._send_missing(source, status, digest)
        sha256 = digest or await self._digest_of_all(source, status.part_size)
        if status.sha256 != sha256:
            raise _StartOver("the server has another file that looks the same", sha256)
        self._tell_known(source.size, source.size)
        return await self._complete(source, status, sha256)

    async def _send_missing(self, source: SourceFile, status: UploadStatus, digest: str | None) -> UploadedFile:
        try:
            found = await self._send_parts(source, status)
            if found is not None and digest not in (None, found):
                raise _StartOver("the file is not what it was when it was sent last", found)
            return await self._complete(source, status, found or digest)
        except (SourceChanged, UploadConflict, _StartOver):
            with suppress(CryoMambaError):  # it expires on its own, or was completed by somebody else
                await self._connection.request("DELETE", _path(status))
            raise

    async def _send_parts(self, source: SourceFile, status: UploadStatus) -> str | None:
        """Send the parts that the server does not have; returns the digest of the whole if it is that of a part."""
        most = min(MOST_PARTS, await self._connection.parallel_parts(), max(1, MOST_BYTES // status.part_size))
        pace = Pace(most)
        self._durable = sum(_size(status, int(index)) for index in status.digests)
        self._travelling = Counter()
        self._tell_known(self._durable, status.size)
        sha256, liked = None, trio.Event()
        with first_error():
            async with trio.open_nursery() as nursery:
                for index in range(status.part_count):
                    part = await trio.to_thread.run_sync(source.read, index, status.part_size)
                    sha256 = part.sha256 if status.part_count == 1 else None
                    there = status.digests.get(str(index))
                    if there not in (None, part.sha256):
                        raise _StartOver(f"part {index} is not what the server has of it")
                    if there is None and index > 0 and "0" not in status.digests:
                        await liked.wait()  # the readers look at part 0: the others stay if they do not like it
                    if there is None:
                        await pace.enter()
                        nursery.start_soon(self._send_part, pace, status, part, liked if index == 0 else None)
        await trio.to_thread.run_sync(source.check)
        return sha256

    async def _digest_of_all(self, source: SourceFile, part_size: int) -> str:
        """Digest of a file that need not be sent."""
        digest = hashlib.sha256()
        for start in range(0, source.size, part_size):
            await trio.to_thread.run_sync(source.add_to, digest, start, start + part_size)
        return digest.hexdigest()

    async def _send_part(self, pace: Pace, status: UploadStatus, part: Part, arrived: trio.Event | None = None) -> None:
        for resent in range(RESENT + 1):
            try:
                reply = await self._connection.request(
                    "PUT",
                    f"{_path(status)}/part/{part.index}",
                    headers={
                        "Content-Digest": format_digest(part.sha256),
                        "Content-Length": str(part.size),
                        "Content-Type": "application/octet-stream",
                    },
                    content=partial(PartBody, part, partial(self._travelled, part.index, status.size)),
                    patience=self._connection.patience.long,
                    answer_seconds=PART_SECONDS,
                    on_failure=pace.failed,
                    counted=False,
                )
            except PartRefused:
                pace.failed()
                if resent == RESENT:
                    raise
            else:
                break
        if parsed(reply, PartReceipt).sha256 != part.sha256:
            raise UploadError(f"the server acknowledged another part than part {part.index}")
        pace.leave(part.size)
        self._arrived(part, status)
        if arrived is not None:
            arrived.set()

    def _travelled(self, index: int, size: int, done: int) -> None:
        """Note how many bytes of a part the socket has taken."""
        self._travelling[index] = done
        self._tell(self._durable + self._travelling.total(), size)

    async def _complete(self, source: SourceFile, status: UploadStatus, sha256: str | None) -> UploadedFile:
        """Have the server make a file of what it has; `sha256` is what its digest has to be, if that is known."""
        file = await self._connection.ask(
            UploadedFile,
            "POST",
            f"{_path(status)}/complete",
            headers={} if sha256 is None else {"Repr-Digest": format_digest(sha256)},
            patience=self._connection.patience.long,
            answer_seconds=ANSWER_SECONDS + source.size / CHECKED_RATE,
        )
        if file.size != source.size or sha256 not in (None, file.sha256):
            raise UploadError(f"the server has something else for {self._path.name}", hint="send it again")
        return file

    def _arrived(self, part: Part, status: UploadStatus) -> None:
        del self._travelling[part.index]
        self._durable += part.size
        self._tell(self._durable + self._travelling.total(), status.size)

    def _tell_known(self, known: int, total: int) -> None:
        if self._on_known is not None and known != self._known:
            self._on_known(known, total)
        self._known = known

    def _tell(self, done: int, total: int) -> None:
        """Report progress, unless it would go back, as it does where a part is sent again."""
        if self._on_progress is not None and done > self._told:
            self._told = done
            self._on_progress(done, total)


def _size(status: UploadStatus, index: int) -> int:
    """Bytes of a part."""
    return min(status.part_size, status.size - index * status.part_size)


def _path(status: UploadStatus) -> str:
    return f"/v1/uploads/{quote(status.upload_id, safe='')}"
