"""Bodies that are sent piece by piece, in bounded memory, for as long as somebody takes them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType

import trio
from quart.wrappers.response import ResponseBody

from cryomamba_core.errors import StorageDamaged, StorageError
from cryomamba_core.interfaces import Storage
from cryomamba_server.http.outlet import FilePiece

#: Bytes that are read in one thread hop. With 8 KiB, Quart's own, a download is 40 times slower; with 1 MiB, a fifth.
CHUNK = 4 << 20


class FileBody(ResponseBody):
    """A piece of an open file, for a connection that sends files by itself.

    Parameters
    ----------
    piece
        What to send. Its file is closed by whoever opened it.
    """

    def __init__(self, piece: FilePiece) -> None:
        self._left = [piece]

    async def __aenter__(self) -> AsyncIterator[FilePiece]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __aiter__(self) -> AsyncIterator[FilePiece]:
        return self

    async def __anext__(self) -> FilePiece:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class StoredBody(ResponseBody):
    """Bytes of a stored object; the next piece is read while the last one is being sent.

    Parameters
    ----------
    storage, key
        The object.
    start, stop
        Which bytes, `stop` exclusive.
    on_sent
        Called with the bytes of each piece that has left.
    """

    def __init__(self, storage: Storage, key: str, start: int, stop: int, *, on_sent: Callable[[int], None]) -> None:
        self._storage = storage
        self._key = key
        self._stop = stop
        self._on_sent = on_sent
        self._read_to = start
        self._first = b""
        self._sending = 0
        self._open = AsyncExitStack()
        self._pieces: trio.MemoryReceiveChannel[bytes | StorageError]

    async def prepare(self) -> None:
        """Read the first piece while an error can still be told by a status; raises `StorageError`."""
        self._first = await self._read()

    async def __aenter__(self) -> AsyncIterator[bytes]:
        nursery = await self._open.enter_async_context(trio.open_nursery())
        self._open.callback(nursery.cancel_scope.cancel)
        pieces, self._pieces = trio.open_memory_channel[bytes | StorageError](0)
        nursery.start_soon(self._read_on, pieces)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._on_sent(self._sending)
        self._sending = 0
        try:
            piece = await self._pieces.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        if isinstance(piece, StorageError):
            raise piece  # the connection is cut: a client that counts learns that it has not got everything
        self._sending = len(piece)
        return piece

    async def _read_on(self, pieces: trio.MemorySendChannel[bytes | StorageError]) -> None:
        async with pieces:
            piece, self._first = self._first, b""
            try:
                while piece := piece or await self._read():
                    await pieces.send(piece)
                    piece = b""
            except StorageError as error:
                await pieces.send(error)

    async def _read(self) -> bytes:
        """The next piece; empty at the end."""
        start, stop = self._read_to, min(self._read_to + CHUNK, self._stop)
        if start == stop:
            return b""
        piece = await trio.to_thread.run_sync(self._storage.read, self._key, start, stop)
        if len(piece) != stop - start:
            raise _too_short(self._key)
        self._read_to = stop
        return piece


async def stored_body(
    storage: Storage,
    key: str,
    start: int,
    stop: int,
    *,
    on_sent: Callable[[int], None],
    until_sent: ExitStack,
    sends_files: bool,
) -> FileBody | StoredBody:
    """What sends bytes `start` (inclusive) to `stop` (exclusive) of a stored object, on the shortest way that there is.

    Parameters
    ----------
    on_sent
        Called with the number of bytes, each time that some have left.
    until_sent
        Left when the answer has been sent, or never will be.
    sends_files
        Whether the connection sends files by itself.

    Raises
    ------
    StorageError
        If it cannot be read: this early, a status can tell the client.
    """
    descriptor = await trio.to_thread.run_sync(storage.open, key) if sends_files else None
    if descriptor is None:
        body = StoredBody(storage, key, start, stop, on_sent=on_sent)
        await body.prepare()
        return body
    until_sent.callback(os.close, descriptor)
    if os.fstat(descriptor).st_size < stop:
        raise _too_short(key)
    return FileBody(FilePiece(descriptor=descriptor, start=start, stop=stop, on_sent=on_sent))


def _too_short(key: str) -> StorageDamaged:
    return StorageDamaged(f"{key} is shorter than its record says", hint="run the job again")
