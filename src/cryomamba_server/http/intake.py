"""Bodies on the short way: from the socket right into the memory where they are wanted.

On the usual way each piece of a body goes through h11, hypercorn, a queue and Quart: half a millisecond of processor
time for a quarter of a megabyte, more than it takes to hash and store it. Here the connection reads into the reader's
memory itself, and h11 is only told how much that was.

Touches private parts of h11 0.16 (``Connection._reader``, ``ContentLengthReader._remaining``), pinned to that series,
and of hypercorn 0.18 (``H11Protocol._handle_events``), pinned exactly.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import h11
import trio
from h11._readers import ContentLengthReader

#: Key of a request's ASGI scope: the `Intake` of its connection, where there is one.
INTAKE = "cryomamba.intake"


class Intake:
    """One connection's short way. A reader and the connection, two tasks, hand over to each other.

    1. The reader wants it (`want`), and takes what has come on the usual way meanwhile.
    2. The connection receives no more, hands on what it has, and is `parked` (`serve`).
    3. When the reader has had everything, it gives its memory (`fill`), and the connection fills it.
    4. The memory is full, the client has left, or the reader gives up (`release`): all goes on as usual.

    Nothing is written into the memory once the reader has let go of it: the connection looks before each read, and
    does not wait between the look and the read.

    Parameters
    ----------
    stream
        To the client, without TLS.
    protocol
        Of the connection.

    Attributes
    ----------
    wanted
        Whether a reader wants it.
    parked
        Whether the connection waits for the reader's memory.
    filled
        Bytes in it so far.
    finished
        Set when no more will come into it.
    """

    def __init__(self, stream: trio.SocketStream, protocol: Any) -> None:
        self._descriptor = stream.socket.fileno()
        self._protocol = protocol
        self._view: memoryview | None = None
        self._changed = trio.Event()
        self._wake: Callable[[], None] = _nobody
        self.wanted = self.parked = False
        self.filled = 0
        self.finished = trio.Event()

    @property
    def left(self) -> int:
        """Bytes of the body, whose length was announced, that h11 has not handed on; 0 for any other body."""
        reader = self._reader()
        return 0 if reader is None else int(reader._remaining)

    def want(self, wake: Callable[[], None]) -> None:
        """Ask for it; `wake` is called when the connection is parked."""
        self._wake = wake
        self.wanted = self._reader() is not None

    def fill(self, view: memoryview) -> None:
        """Give memory to the parked connection; `finished` tells when it is done with it."""
        assert self.parked, "the connection waits for it"
        self.filled, self.finished = 0, trio.Event()
        self._view = view[: self.left]
        self._kick()

    def release(self) -> None:
        """Let go of the memory, and want it no more."""
        self._view, self._wake, self.wanted = None, _nobody, False
        self._kick()

    async def serve(self) -> bool:
        """Fill what the reader gives, as the connection's own task; whether the client is still there."""
        self.parked = True
        self._wake()
        try:
            while self.wanted and self._view is None:
                await self._changed.wait()
            present = await self._read()
        finally:
            self.parked = self.wanted = False
            self._view = None
            self.finished.set()
        if present and not self.left:
            await self._protocol._handle_events()  # the body has come to its end
        return present

    async def _read(self) -> bool:
        while (view := self._view) is not None and self.filled < len(view):
            try:
                count = os.readv(self._descriptor, [view[self.filled :]])
            except BlockingIOError:
                del view  # the reader may let go of it meanwhile
                await trio.lowlevel.wait_readable(self._descriptor)
                continue
            except OSError:
                return False
            if not count:
                return False
            self.filled += count
            self._reader()._remaining -= count
            await trio.lowlevel.checkpoint()
        return True

    def _reader(self) -> Any:
        """What h11 reads a body of announced length with; None where there is none."""
        connection = self._protocol.connection
        reader = getattr(connection, "_reader", None)
        return reader if isinstance(reader, ContentLengthReader) and connection.their_state is h11.SEND_BODY else None

    def _kick(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _nobody() -> None:
    """Who is called where nobody waits."""
