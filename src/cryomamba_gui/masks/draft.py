"""Notes on masks that were begun, until each is kept with a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import trio

from cryomamba_core.durable import sync_folder, write_whole
from cryomamba_core.errors import StorageError
from cryomamba_gui.masks.disk import told_as_storage

#: Name of the file in a job's folder, beside the review.
DRAFT = "note.draft.txt"
#: Seconds after the last key in which a draft is written.
MOMENT = 1.0


class Drafts:
    """The drafts of one window: known at once, and on the disk a moment after the last key and at the end.

    All methods are for the thread that trio runs in.

    Parameters
    ----------
    on_failure
        Hears of a disk that refuses; the draft is written with the next one of that folder.
    """

    def __init__(self, on_failure: Callable[[StorageError], object]) -> None:
        self._on_failure = on_failure
        self._known: dict[Path, str] = {}
        self._unwritten: dict[Path, str | None] = {}
        self._writing = trio.Lock()
        self._changed = trio.Event()
        self._last_key = 0.0

    def of(self, folder: Path) -> str | None:
        """The draft for the mask in a folder, as far as it is known here; None if there is none."""
        return self._known.get(folder)

    def set(self, folder: Path, note: str | None) -> None:
        """Have a draft in the place of the one before; None for none."""
        if note == self._known.get(folder):
            return
        if note is None:
            del self._known[folder]
        else:
            self._known[folder] = note
        self._unwritten[folder] = note
        self._last_key = time.monotonic()
        self._changed.set()

    async def find(self, folder: Path) -> str | None:
        """The draft for the mask in a folder, also one that an earlier window has left."""
        async with self._writing:
            if folder not in self._known and folder not in self._unwritten:
                left = await trio.to_thread.run_sync(load_draft, folder)
                if left is not None:
                    self._known[folder] = left
        return self.of(folder)

    async def run(self) -> None:
        """Write drafts until cancelled, and then those that were not written yet."""
        try:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                while (left := self._last_key + MOMENT - time.monotonic()) > 0:
                    await trio.sleep(left)
                await self._write()
        finally:
            await self._write()

    async def _write(self) -> None:
        with trio.CancelScope(shield=True):
            async with self._writing:
                while self._unwritten:
                    folder, note = self._unwritten.popitem()
                    try:
                        await trio.to_thread.run_sync(save_draft, folder, note)
                    except StorageError as error:
                        self._on_failure(error)


def save_draft(folder: Path, note: str | None) -> None:
    """Keep a draft in a job's folder, durably, in the place of an earlier one; None takes that away."""
    path = folder / DRAFT
    with told_as_storage(f"the note that was begun cannot be kept in {folder}"):
        if note is not None:
            write_whole(path, note.encode())
        elif path.exists():
            path.unlink(missing_ok=True)
            sync_folder(folder)


def load_draft(folder: Path) -> str | None:
    """The draft in a job's folder; None if there is none that can be read."""
    try:
        return (folder / DRAFT).read_bytes().decode(errors="replace")
    except OSError:
        return None
