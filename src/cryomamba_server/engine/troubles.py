"""Troubles that pass: what failed is as good as before, and is tried again.

A process that is out of descriptors for a moment has not lost its jobs, and their workers know nothing of it.
"""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import trio

from cryomamba_core.errors import CryoMambaError, DataDirectoryUnusable, StorageError

T = TypeVar("T")
log = logging.getLogger(__name__)

#: What this process or the machine is short of. It is waited for as long as it takes: nothing else works either.
SHORTAGES = frozenset({errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: What a disk says at a hitch, and for ever once it is broken.
HITCHES = frozenset({errno.EBUSY, errno.EIO, errno.ESTALE, errno.ETIMEDOUT})
#: Seconds that a hitch may last.
PATIENCE = 300.0
#: Seconds before the first try again, which are doubled each time, and the most.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


def is_shortage(error: BaseException) -> bool:
    """Whether it comes of something that this process or the machine is short of."""
    return any(
        (isinstance(each, OSError) and each.errno in SHORTAGES)
        or (isinstance(each, MemoryError) and not isinstance(each, CryoMambaError))
        or (isinstance(each, RuntimeError) and "can't start new thread" in str(each))  # as Python has it for EAGAIN
        for each in _causes(error)
    )


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later: a shortage, a hitch, or a storage that does not say what is wrong."""
    return is_shortage(error) or any(
        (isinstance(each, OSError) and each.errno in HITCHES) or type(each) in (StorageError, DataDirectoryUnusable)
        for each in _causes(error)
    )


async def insist(
    call: Callable[..., T],
    /,
    *args: object,
    what: str,
    worth: Callable[[BaseException], bool] = may_pass,
    patience: float = PATIENCE,
    on_trouble: Callable[[], None] | None = None,
) -> T:
    """Call something in a thread, again and again while the trouble may pass; what does not pass is raised.

    Parameters
    ----------
    call, args
        What to call. It does no harm to call it again.
    what
        What cannot be done meanwhile, for the log.
    worth
        Which errors may pass.
    patience
        Seconds after which they are raised all the same, unless they are shortages.
    on_trouble
        Called each time.
    """
    pause, end = FIRST_PAUSE, trio.current_time() + patience
    while True:
        try:
            return await trio.to_thread.run_sync(call, *args)
        except Exception as error:
            if not worth(error) or (trio.current_time() > end and not is_shortage(error)):
                raise
            log.log(logging.WARNING if pause == FIRST_PAUSE else logging.DEBUG, "%s: %s; trying again", what, error)
        if on_trouble is not None:
            on_trouble()
        await trio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def anything(_: BaseException) -> bool:
    """For what has to be done whatever happens: every error may pass."""
    return True


#: Patience without end.
FOR_EVER = math.inf


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it comes of."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__
