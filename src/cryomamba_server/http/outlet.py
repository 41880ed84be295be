"""Bodies on the short way out: the operating system sends a file's bytes, which never come into this process.

On the usual way a piece of a file is read into memory, goes through Quart, hypercorn and h11, and is copied into the
socket. Here only the place of the piece in its file goes that way; h11 counts its length, and the connection sends it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

import trio
from attrs import frozen

from cryomamba_core.errors import StorageDamaged

#: Key of a request's ASGI scope: there, and true, where the connection sends a `FilePiece`.
SENDS_FILES = "cryomamba.sends_files"

#: Bytes that are sent in one thread hop at most: a file may have to be read from a slow disk for it.
AT_ONCE = 4 << 20

#: Bytes that are copied at a time where a file system does not let its files be sent.
COPIED = 256 << 10

#: What sendfile says of such a file system.
_NOT_SENDABLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

#: What it says when the client, or the way to it, is gone.
_LOST = (
    errno.ECONNABORTED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.EPIPE,
    errno.ETIMEDOUT,
)


@frozen(kw_only=True)
class FilePiece:
    """Bytes `start` (inclusive) to `stop` (exclusive) of an open file, in the place of a body's bytes.

    Attributes
    ----------
    descriptor
        Of the file; it stays open until the piece is sent.
    start, stop
        In bytes.
    on_sent
        Called with the number of bytes, each time that some have left.
    """

    descriptor: int
    start: int
    stop: int
    on_sent: Callable[[int], None]

    def __len__(self) -> int:
        return self.stop - self.start


async def pour(piece: FilePiece, stream: trio.SocketStream, *, idle_seconds: float) -> None:
    """Send a piece of a file.

    Parameters
    ----------
    piece
        What to send.
    stream
        Where to; nothing else may send on it meanwhile.
    idle_seconds
        How long the client may take nothing.

    Raises
    ------
    trio.TooSlowError
        If the client took nothing for so long.
    trio.BrokenResourceError, trio.ClosedResourceError
        If the client has left, or the connection was closed by another task.
    StorageDamaged
        If the file has become shorter than the piece says.
    OSError
        If the file cannot be read.
    """
    start = piece.start
    while start < piece.stop:
        sent = await _sent_at_once(piece.descriptor, stream.socket, start, min(AT_ONCE, piece.stop - start))
        if sent:
            start += sent
            piece.on_sent(sent)
        if start < piece.stop:
            _require_open(stream.socket)
            with trio.fail_after(idle_seconds):
                await trio.lowlevel.wait_writable(stream.socket)


async def _sent_at_once(descriptor: int, socket: trio.socket.SocketType, start: int, count: int) -> int:
    """Send what the socket has room for; how many bytes that was.

    A thread does it, with a descriptor of its own for the socket: should another task close the connection, the
    number of the old one might name another client's by then.
    """
    _require_open(socket)
    own = os.dup(socket.fileno())
    try:
        return await trio.to_thread.run_sync(partial(_send, own, descriptor, start, count))
    except OSError as error:
        if error.errno in _LOST:
            raise trio.BrokenResourceError(f"the client has left: {error}") from error
        raise
    finally:
        os.close(own)


def _require_open(socket: trio.socket.SocketType) -> None:
    if socket.fileno() < 0:
        raise trio.ClosedResourceError("this connection was closed")


def _send(socket: int, descriptor: int, start: int, count: int) -> int:
    """Send up to `count` bytes, as many as the socket takes without waiting."""
    sent = 0
    while sent < count:
        try:
            step = os.sendfile(socket, descriptor, start + sent, count - sent)
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno not in _NOT_SENDABLE:
                raise
            return sent + _copy(socket, descriptor, start + sent, count - sent)
        if step == 0:
            raise StorageDamaged("a file has become shorter while it was sent", hint="run the job again")
        sent += step
    return sent


def _copy(socket: int, descriptor: int, start: int, count: int) -> int:
    """Do the same by way of memory."""
    data = os.pread(descriptor, min(count, COPIED), start)
    if not data:
        raise StorageDamaged("a file has become shorter while it was sent", hint="run the job again")
    try:
        return os.write(socket, data)
    except BlockingIOError:
        return 0
