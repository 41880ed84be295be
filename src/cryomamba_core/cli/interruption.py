"""Ctrl-C and its relatives: work is cancelled, cleans up, and the command ends with 128 + the signal."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import trio

R = TypeVar("R")
T = TypeVar("T")


class Interrupted(BaseException):
    """The user, or the system, asked the command to stop, and it did.

    Attributes
    ----------
    signal
        What arrived.
    """

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__(signum.name)
        self.signal = signum

    @property
    def exit_code(self) -> int:
        """Exit status as shells expect it."""
        return 128 + self.signal


class Interruption:
    """What work can ask about the signal that may end it.

    Attributes
    ----------
    signal
        The first signal, None before it.
    """

    def __init__(self) -> None:
        import trio

        self.signal: signal.Signals | None = None
        self._work = [trio.CancelScope()]
        self._cleaning: set[trio.CancelScope] = set()

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Finish what must not be cut short; only a second signal ends it."""
        import trio

        with trio.CancelScope(shield=True) as scope:
            self._cleaning.add(scope)
            try:
                yield
            finally:
                self._cleaning.discard(scope)

    @asynccontextmanager
    async def outliving(self, opened: AbstractAsyncContextManager[R]) -> AsyncIterator[R]:
        """Enter a context that outlives what is done inside when a signal comes.

        An engine in this process must go on while the work inside it is cancelled and cancels its
        jobs. Once that has ended, the context is left, and then everything around it is cancelled.
        """
        import trio

        async with opened as entered:
            with trio.CancelScope() as inside:
                self._work.append(inside)
                try:
                    yield entered
                finally:
                    self._work.remove(inside)
        if self.signal is not None:
            self._stop()
            await trio.lowlevel.checkpoint()

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` under trio.

        Raises
        ------
        Interrupted
            If a signal came; `work` was cancelled, and has ended.
        """
        import trio

        results: list[T] = []

        async def watched() -> None:
            with trio.open_signal_receiver(*stopping_signals()) as arrivals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, arrivals)
                    with self._work[0]:
                        results.append(await work())
                    nursery.cancel_scope.cancel()

        try:
            trio.run(watched)
        except BaseException as error:
            if self.signal is not None:
                raise Interrupted(self.signal) from error
            raise
        if self.signal is not None:
            raise Interrupted(self.signal)
        return results[0]

    async def _watch(self, arrivals: AsyncIterator[int]) -> None:
        async for number in arrivals:
            if self.signal is None:
                self.signal = signal.Signals(number)
                self._stop()
            else:
                for scope in self._cleaning:
                    scope.cancel()

    def _stop(self) -> None:
        self._work[-1].cancel()


def stopping_signals() -> list[signal.Signals]:
    """The signals that mean stop; a hang-up that ``nohup`` has switched off stays so."""
    wanted = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    return wanted
