"""A TCP or TLS line to a server that is given up when nothing comes from it any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from cryomamba_backends.http_transport.pinning import tls_context
from cryomamba_core.protocol.addresses import ServerAddress

T = TypeVar("T")


class Line(trio.abc.Stream):
    """A stream that breaks if nothing comes for `silence` seconds while somebody waits for it."""

    def __init__(self, stream: trio.abc.Stream, silence: float) -> None:
        self._stream = stream
        self._silence = silence
        self._over = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Bytes; none at the end."""
        try:
            with trio.move_on_after(self._silence) as waiting:
                data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._over.set()
            raise
        if waiting.cancelled_caught:
            self._over.set()
            raise trio.BrokenResourceError(f"nothing came for {self._silence:g} s")
        if not data:
            self._over.set()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        with trio.move_on_after(self._silence) as waiting:
            await self._stream.send_all(data)
        if waiting.cancelled_caught:
            raise trio.BrokenResourceError(f"nothing was taken for {self._silence:g} s")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """End it."""
        self._over.set()
        await self._stream.aclose()

    async def until_over(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns; `BrokenResourceError` if the line ends first."""
        results: list[T] = []
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await self._over.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            results.append(await work())
            nursery.cancel_scope.cancel()
        if not results:
            raise trio.BrokenResourceError("the line ended")
        return results[0]


async def open_line(address: ServerAddress, fingerprint: str | None, *, silence: float) -> Line:
    """Connect, and check whom one is talking to before a word is said.

    Raises
    ------
    OSError, trio.BrokenResourceError
        If that fails.
    """
    context = None
    if address.secure:  # in a thread, since it may read the certificates of all authorities
        context = await trio.to_thread.run_sync(tls_context, fingerprint)
    stream: trio.abc.Stream = await trio.open_tcp_stream(address.host, address.port)
    if context is not None:
        secured = trio.SSLStream(stream, context, server_hostname=address.host, https_compatible=True)
        try:
            await secured.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        stream = secured
    return Line(stream, silence)
