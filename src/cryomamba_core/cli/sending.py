"""A file on its way to the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cryomamba_core import wording
from cryomamba_core.cli.transfers import Transfer

if TYPE_CHECKING:
    from cryomamba_core.cli.segmenting import FileRun
    from cryomamba_core.files import FileRecord
    from cryomamba_core.interfaces import Session

#: The state of a file that is sent.
UPLOADING = "uploading"


async def send(session: Session, run: FileRun, changed: Callable[[], None]) -> FileRecord:
    """Send the file of `run`; its row says how far it is, and what need not be sent."""
    transfer = Transfer(run, UPLOADING, changed)

    def progress(done: int, total: int) -> None:
        run.sent = done
        transfer.report(done, total)

    def known(there: int, total: int) -> None:
        run.sent = there
        run.note = ""
        if there:
            run.note = "already on the server" if there >= total else f"{wording.byte_size(there)} are there already"
        changed()

    run.state = UPLOADING
    changed()
    try:
        return await session.upload(run.path, on_progress=progress, on_known=known)
    finally:
        transfer.end()


def kept_words(hours: float | None) -> str:
    """What becomes of an upload that was cut off, and how it goes on; `hours` as the server says."""
    time = "" if hours is None else f" for {hours:g} h"
    return f"what was sent is kept{time}: run the same command to go on"
