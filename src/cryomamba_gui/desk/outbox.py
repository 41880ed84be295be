"""Files on their way to a job, those included that were on it when the desktop was closed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio
from psygnal import Signal

from cryomamba_core.errors import ServerUnreachable
from cryomamba_gui.desk.submission import Submission, SubmissionState
from cryomamba_gui.desk.telling import tell

if TYPE_CHECKING:
    from cryomamba_core.jobs import JobConfig, JobRecord
    from cryomamba_gui.desk.history import History
    from cryomamba_gui.desk.items import JobItem
    from cryomamba_gui.desk.link import Link, LinkState

#: Files that are sent at a time; a server takes in only so many parts of all of them together.
UPLOADS = 3


class Soon(Protocol):
    """Starts a task of the window."""

    def __call__(self, work: Callable[[], Awaitable[object]], *, name: str) -> trio.CancelScope:
        """Start `work`; what is returned cancels it."""


class Outbox:
    """Files on their way.

    Parameters
    ----------
    link, history, soon
        As for `JobList`.
    enlist
        Hears of a submission that has become a job, and makes an item of it.

    Attributes
    ----------
    link, soon, enlist
        As above.
    items
        Files that are not a job yet, the oldest first. Those that an earlier desktop has left are
        ``paused``: `Submission.resume` or `Submission.cancel` says what becomes of them.
    uploads
        Who may send.
    """

    #: There are other items than before; each tells itself how it goes on.
    changed = Signal()

    def __init__(
        self, link: Link, history: History, soon: Soon, *, enlist: Callable[[JobRecord, Submission], JobItem]
    ) -> None:
        self.link = link
        self.soon = soon
        self.enlist = enlist
        self.uploads = trio.CapacityLimiter(UPLOADS)
        self.items: list[Submission] = []
        self._history = history
        self._noted: dict[Submission, str] = {}
        self._place: tuple[str | None, LinkState] = (link.url, link.state)
        self._recall()

    def prepare(self, path: Path, config: JobConfig, *, auto: bool = False) -> Submission:
        """Bring a tomogram on its way to the engine that the window is connected with, and have it planned.

        Parameters
        ----------
        path
            The tomogram.
        config
            What is asked for; any source.
        auto
            Whether it is queued as soon as it can be; else `Submission.submit` says when.

        Raises
        ------
        ServerUnreachable
            If the window is not connected.
        """
        if self.link.url is None:
            raise ServerUnreachable("no engine is connected", hint="connect to a server, or to this computer, first")
        submission = Submission(self, url=self.link.url, path=path.absolute(), config=config, auto=auto)
        self.items.append(submission)
        tell(self.changed)
        submission.start()
        return submission

    def note(self, submission: Submission) -> None:
        """Take in that a submission is in another state, so that the next start of the desktop finds it."""
        noted = self._noted.get(submission)
        state, error = submission.state, submission.error
        kept = submission.asked or noted is not None or state is SubmissionState.UPLOADING
        if state.ended or (state is SubmissionState.FAILED and not (error and error.retryable)):
            kept = False
        if noted is not None and (noted != submission.key or not kept):
            self._history.forget_submission(self._noted.pop(submission))
        if kept:
            self._noted[submission] = submission.key
            self._history.remember_submission(
                submission.key,
                path=submission.path,
                url=submission.url,
                config=submission.config,
                auto=submission.auto,
                asked=submission.asked,
            )
        if state.ended and submission in self.items:
            self.items.remove(submission)
            tell(self.changed)

    async def written(self) -> None:
        """Wait until what was noted of submissions survives a loss of power."""
        await self._history.written()

    def heed_link(self) -> None:
        """Take in that the engine may be another, or be away."""
        place = (self.link.url, self.link.state)
        if place != self._place:
            self._place = place
            for submission in tuple(self.items):
                tell(submission.changed)

    def _recall(self) -> None:
        """Files that were on their way when the desktop was closed: paused, for the user to say whether they go on."""
        for note in self._history.submissions:
            submission = Submission(
                self,
                url=note.url,
                path=Path(note.path),
                config=note.config,
                auto=note.auto,
                key=note.key,
                asked=note.asked,
            )
            self._noted[submission] = note.key
            self.items.append(submission)
