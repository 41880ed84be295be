"""Trio as a guest in Qt's thread: tasks and slots take turns there, and neither waits for the other.

Trio allows one guest run in a thread, so there is one bridge, whatever number of windows use it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio
from qtpy.QtCore import QCoreApplication, QEvent, QEventLoop, QObject, QTimer

if TYPE_CHECKING:
    from outcome import Outcome

log = logging.getLogger(__name__)


class _Turns(QObject):
    """Makes trio's calls in Qt's thread, one at a time."""

    #: What other threads ask for comes by an event: that costs half of what a queued signal does.
    KIND = QEvent.Type(QEvent.registerEventType())

    def __init__(self) -> None:
        super().__init__()
        self._from_elsewhere: deque[Callable[[], object]] = deque()
        self._next: deque[Callable[[], object]] = deque()
        # a timer of no time, since Qt goes on delivering events as long as each one posts another
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)  # a setter of Qt
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._go_on)

    def call(self, what: Callable[[], object]) -> None:
        """Call it as soon as Qt gets to it; for any thread."""
        self._from_elsewhere.append(what)
        QCoreApplication.postEvent(self, QEvent(self.KIND))

    def call_next(self, what: Callable[[], object]) -> None:
        """Call it when Qt has done what else is due; for Qt's thread."""
        self._next.append(what)
        self._timer.start()

    def event(self, event: QEvent | None) -> bool:
        """Make a call of another thread."""
        if event is None or event.type() != self.KIND:
            return bool(super().event(event))
        self._from_elsewhere.popleft()()
        return True

    def _go_on(self) -> None:
        self._next.popleft()()
        if self._next:
            self._timer.start()


class Bridge:
    """The one run of trio in Qt's thread.

    Attributes
    ----------
    running
        Whether trio runs; it does from `start` until what it runs has ended.
    """

    def __init__(self) -> None:
        self.running = False
        self._turns = _Turns()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._early: list[Callable[[trio.Nursery], None]] = []
        self._when_done: list[Callable[[], object]] = []

    def start(self) -> None:
        """Begin; trio's first turn comes with Qt's next one."""
        self.running = True
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._turns.call,
            run_sync_soon_not_threadsafe=self._turns.call_next,
            done_callback=self._done,
            host_uses_signal_set_wakeup_fd=True,  # without it napari ends with "Bad file descriptor"
        )

    def run(self, work: Callable[[], Awaitable[object]], *, name: str) -> None:
        """Run `work` beside all else until it ends or the bridge is closed."""

        def begin(nursery: trio.Nursery) -> None:
            nursery.start_soon(work, name=name)

        if self._nursery is None:
            self._early.append(begin)
        else:
            begin(self._nursery)

    def close(self, when_done: Callable[[], object] | None = None) -> None:
        """Cancel what runs; `when_done` is called when all of it has ended."""
        if when_done is not None:
            if not self.running:
                when_done()
                return
            self._when_done.append(when_done)
        self._scope.cancel()

    def drain(self) -> None:
        """Cancel what runs, and let Qt take turns until all of it has ended: for when nobody runs Qt any more."""
        self.close()
        while self.running:
            QCoreApplication.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)

    async def _main(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for begin in self._early:
                    begin(nursery)
                self._early.clear()
                await trio.sleep_forever()

    def _done(self, result: Outcome[None]) -> None:
        self.running, self._nursery = False, None
        try:
            result.unwrap()
        except BaseException:
            log.exception("the tasks of the window ended in a way that they should not")
        for call in self._when_done:
            call()
        self._when_done.clear()
