"""Work in a thread of its own: a device computes on while the host reads what comes next, and writes what is done."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable
from contextlib import closing
from functools import partial
from queue import Empty, Full, Queue
from typing import Protocol, TypeVar

from attrs import frozen

from cryomamba_core.interfaces import RunContext

T = TypeVar("T")

#: Seconds between two looks at whether there is an order to stop, and at what the other thread has said.
LOOK_INTERVAL = 0.1

#: Items that wait for whoever takes them: one more than is worked on hides that each takes another time.
DEPTH = 2


class Stopped(BaseException):
    """Nobody waits any more for what a thread works on."""


class Listener(Protocol):
    """What work says something to: a `RunContext`, or an `Aside` between the two; see there."""

    def checkpoint(self) -> None: ...

    def report(self, done: int, total: int, unit: str) -> None: ...

    def note(self, sentence: str) -> None: ...

    def keep(self, key: Hashable, make: Callable[[], T]) -> T: ...


@frozen
class _End:
    """That there is nothing more, and why."""

    error: BaseException | None


def ahead(
    items: Generator[T], *, stop: threading.Event | None = None, on_look: Callable[[], None] | None = None
) -> Generator[T]:
    """What `items` yields, in its order, while a thread works on the next.

    The thread has ended when this has, however it ends: closed before its end, it lets the thread finish the item that
    it works on.

    Parameters
    ----------
    items
        Runs in the thread, to its end or until it is closed there. What it raises is raised here, behind what it has
        yielded before.
    stop
        Set when nobody waits any more, for `items` to look at; an own one if it is left out.
    on_look
        Called often while the next item is waited for; may raise to stop.
    """
    stop = stop or threading.Event()
    found: Queue[T | _End] = Queue(DEPTH)
    thread = threading.Thread(target=_run, args=(items, found, stop), name="ahead")
    thread.start()
    try:
        while True:
            if on_look is not None:
                on_look()
            try:
                item = found.get(timeout=LOOK_INTERVAL)
            except Empty:
                continue
            if not isinstance(item, _End):
                yield item
                del item  # else it is held while the next is waited for
            elif item.error is None:
                return
            else:
                raise item.error
    finally:
        stop.set()
        thread.join()


def _run(items: Generator[T], found: Queue[T | _End], stop: threading.Event) -> None:
    error: BaseException | None = None
    try:
        with closing(items):
            for item in items:
                if not _put(item, found, stop):
                    return
    except BaseException as raised:  # noqa: BLE001  # whoever waits is to have it
        error = raised
    _put(_End(error), found, stop)


def _put(item: T | _End, found: Queue[T | _End], stop: threading.Event) -> bool:
    """Whether somebody will take it."""
    while not stop.is_set():
        try:
            found.put(item, timeout=LOOK_INTERVAL)
        except Full:
            continue
        return True
    return False


class Aside:
    """Stands between work and a job's context: runs iterators in a thread, which may say something at any time.

    Parameters
    ----------
    context
        Of the run; only the thread calls it that makes this, and iterates over `each`.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._own = threading.get_ident()
        self._stop = threading.Event()
        self._said: deque[Callable[[], None]] = deque()

    def each(self, items: Generator[T]) -> Generator[T]:
        """As `ahead`; looks for the order to stop while it waits, and passes on what was said."""
        self._stop = threading.Event()
        with closing(ahead(items, stop=self._stop, on_look=self._look)) as found:
            yield from found
        self._pass_on()

    def _look(self) -> None:
        self._pass_on()
        self._context.checkpoint()

    def _pass_on(self) -> None:
        while self._said:
            self._said.popleft()()

    def checkpoint(self) -> None:
        """As `RunContext.checkpoint`; another thread than the job's stops when nobody waits for it any more."""
        if threading.get_ident() == self._own:
            self._look()
        elif self._stop.is_set():
            raise Stopped

    def report(self, done: int, total: int, unit: str) -> None:
        """As `RunContext.report`; from another thread, a little later."""
        self._say(partial(self._context.report, done, total, unit))

    def note(self, sentence: str) -> None:
        """As `RunContext.note`; from another thread, a little later."""
        self._say(partial(self._context.note, sentence))

    def _say(self, sentence: Callable[[], None]) -> None:
        self._said.append(sentence)
        if threading.get_ident() == self._own:
            self._pass_on()

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """As `RunContext.keep`; for the job's own thread."""
        return self._context.keep(key, make)
