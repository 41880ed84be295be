"""Keeping a mask safe while somebody edits it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from cryomamba_core.errors import StorageError
from cryomamba_gui.masks.converting import OnSections
from cryomamba_gui.masks.mask import EditedMask

#: Seconds between two looks whether there is something to save: what a power cut may take.
INTERVAL = 3.0


async def keep_saved(
    mask: EditedMask, *, on_failure: Callable[[StorageError], None], interval: float = INTERVAL
) -> None:
    """Save a mask every few seconds if it was edited, until cancelled, and then once more.

    Parameters
    ----------
    mask
        The mask; its `saved` is emitted after each time.
    on_failure
        Hears of a disk that refuses, once until it takes the edits again. The mask is then tried
        again and again.
    interval
        In seconds.
    """
    refused = False
    try:
        while True:
            await trio.sleep(interval)
            try:
                await _save(mask)
                refused = False
            except StorageError as error:
                if not refused:
                    on_failure(error)
                refused = True
    finally:
        with trio.CancelScope(shield=True):
            try:
                await _save(mask)
            except StorageError as error:
                on_failure(error)


async def _save(mask: EditedMask) -> None:
    if mask.unsaved:
        await trio.to_thread.run_sync(mask.save)
        mask.saved.emit()


async def revert_mask(mask: EditedMask, on_progress: OnSections | None = None) -> None:
    """Bring back what the job made, off this thread, and tell everybody.

    Parameters
    ----------
    mask
        The mask; nobody may paint meanwhile.
    on_progress
        Hears sections that are done and sections in all, in trio's thread.
    """

    def report(done: int, total: int) -> None:
        trio.from_thread.check_cancelled()
        if on_progress is not None:
            trio.from_thread.run_sync(on_progress, done, total)

    try:
        await trio.to_thread.run_sync(mask.revert, report)
    finally:
        mask.changed.emit()
