"""Work for napari that is laid in steps, so that Qt is never kept waiting for all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import trio
from napari.utils.events import EventEmitter


def at_once(steps: Iterable[None]) -> None:
    """Do all steps now."""
    deque(steps, maxlen=0)


async def one_by_one(steps: Iterable[None]) -> None:
    """Do each step in a turn of its own: Qt draws and hears its user in between."""
    for _ in steps:
        await trio.lowlevel.checkpoint()


def tell_one_by_one(emitter: EventEmitter, **event: Any) -> Iterator[None]:
    """Emit an event to one listener after another; Qt may have its turn before each.

    All have heard of it in the end, even if the steps are left before.
    """
    listeners = deque(filter(None, map(_resolved, emitter.callbacks)))
    try:
        while listeners:
            yield
            _tell_only(emitter, listeners.popleft(), event)
    finally:
        while listeners:
            _tell_only(emitter, listeners.popleft(), event)


def _resolved(callback: Any) -> Callable[..., Any] | None:
    """A listener; napari holds methods as a weak reference and a name."""
    if not isinstance(callback, tuple):
        return callback  # type: ignore[no-any-return]  # a function
    owner = callback[0]()
    return None if owner is None else getattr(owner, callback[1])


def _tell_only(emitter: EventEmitter, listener: Callable[..., Any], event: dict[str, Any]) -> None:
    others = [other for other in map(_resolved, emitter.callbacks) if other not in (None, listener)]
    for other in others:
        emitter.block(other)
    try:
        emitter(**event)
    finally:
        for other in others:
            emitter.unblock(other)
