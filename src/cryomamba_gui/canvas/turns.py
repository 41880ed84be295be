"""Work for napari that is laid in steps, so that Qt is never kept waiting for all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import trio


def at_once(steps: Iterable[None]) -> None:
    """Do all steps now."""
    deque(steps, maxlen=0)


async def one_by_one(steps: Iterable[None]) -> None:
    """Do each step in a turn of its own: Qt draws and hears its user in between."""
    for _ in steps:
        await trio.lowlevel.checkpoint()
