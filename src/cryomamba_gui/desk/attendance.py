"""Work that needs an engine: done while it is there, and done again once it is back."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from cryomamba_core.errors import RateLimited, ServerNotReady, ServerStopping, ServerUnreachable

if TYPE_CHECKING:
    from psygnal import SignalInstance

    from cryomamba_core.interfaces import Session
    from cryomamba_gui.desk.link import Link

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What says that the engine is away, and that the same will do once it is back.
AWAY = (ServerUnreachable, ServerStopping, ServerNotReady, RateLimited)
#: Seconds before another attempt, if nothing is heard of the engine before.
PAUSE = 10.0


async def attend(link: Link, url: str, work: Callable[[Session], Awaitable[T]]) -> T:
    """Do `work` with the engine at `url`, for as long and as often as it takes.

    It waits until the window is connected with that engine. Where the session ends first, or the
    engine does not answer for longer than the session waits for it, `work` is cancelled or has
    failed, and is done again with what comes next. So it has to be of a kind that can be repeated.
    """
    while True:
        session = await session_with(link, url)
        with leaving(link, session):
            try:
                return await work(session)
            except AWAY as error:
                log.debug("%s is away: %s", url, error)
                await next_news(link.changed, at_most=PAUSE)
        await trio.lowlevel.checkpoint()


async def session_with(link: Link, url: str | None = None) -> Session:
    """The session with the engine at `url`, or with any engine, as soon as there is one."""
    while link.session is None or url not in (None, link.url):
        await next_news(link.changed)
    return link.session


@contextmanager
def leaving(link: Link, session: Session) -> Iterator[trio.CancelScope]:
    """Cancel what is inside once `session` is not the window's any more."""
    with trio.CancelScope() as scope:

        def look() -> None:
            if link.session is not session:
                scope.cancel()

        link.changed.connect(look)
        try:
            look()
            yield scope
        finally:
            link.changed.disconnect(look)


async def next_news(signal: SignalInstance, *, at_most: float = float("inf")) -> None:
    """Wait for a signal, for `at_most` seconds."""
    heard = trio.Event()

    def hear(*_: object) -> None:
        heard.set()

    signal.connect(hear)
    try:
        with trio.move_on_after(at_most):
            await heard.wait()
    finally:
        signal.disconnect(hear)
