"""One tomogram on its way to a job: sent, planned, queued, and never twice."""

from __future__ import annotations

import math
import time
import uuid
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from attrs import evolve
from psygnal import Signal

from cryomamba_core.errors import ErrorInfo, InputError, UnknownObject
from cryomamba_core.jobs import MAX_LABEL, JobConfig, Source
from cryomamba_core.rates import RateMeter
from cryomamba_gui.desk.attendance import attend
from cryomamba_gui.desk.link import LinkState
from cryomamba_gui.desk.orders import command_line
from cryomamba_gui.desk.telling import tell

if TYPE_CHECKING:
    from cryomamba_core.files import FileRecord
    from cryomamba_core.interfaces import Session
    from cryomamba_core.jobs import JobRecord
    from cryomamba_core.plans import JobPlan
    from cryomamba_gui.desk.items import JobItem
    from cryomamba_gui.desk.outbox import Outbox

#: Seconds between two reports of an upload that are told.
INTERVAL = 0.1


class SubmissionState(StrEnum):
    """Where a file stands on its way to a job."""

    PLANNING = "planning"
    READY = "ready"
    UPLOADING = "uploading"
    PAUSED = "paused"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def active(self) -> bool:
        """Whether something is done for it now."""
        return self in (SubmissionState.PLANNING, SubmissionState.UPLOADING, SubmissionState.SUBMITTING)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (SubmissionState.SUBMITTED, SubmissionState.CANCELED)


class Submission:
    """One file on its way.

    The engine of this computer opens the file where it lies. A server has to have it before it can
    plan: so it is sent first, and `plan` is there once it has arrived. Then the submission is
    ``ready`` and waits for `submit`, unless that was called before. Whatever is cut off goes on
    where it was, also with another `Submission` of the same file, and the same key never makes two
    jobs, however often the answer is lost.

    Parameters
    ----------
    outbox
        What it lies in.
    url
        Address of the engine.
    path
        The tomogram on this computer.
    config
        What is asked for; the source is filled in, and the label where there is none.
    auto
        Whether it is queued as soon as it can be, without a word of `submit`.
    key
        Idempotency key; None for a new one.
    asked
        Whether the engine was asked to queue it, and may have done so.

    Attributes
    ----------
    url, path, config, auto, key, asked
        As above.
    state
        Where it stands.
    plan
        What it will cost, once the engine has said it.
    sent, known, total
        Bytes of the file that the engine has by now, those that it had already, and all of them.
    rate
        Bytes a second of late; None while nothing is sent or it is not known.
    eta_seconds
        Expected time to the end of the upload; None while it is not known.
    error
        Why it has failed.
    item
        The job that it became.
    """

    #: Anything of it is different.
    changed = Signal()

    def __init__(
        self,
        outbox: Outbox,
        *,
        url: str,
        path: Path,
        config: JobConfig,
        auto: bool = False,
        key: str | None = None,
        asked: bool = False,
    ) -> None:
        self._outbox = outbox
        self.url = url
        self.path = path
        self.config = config if config.label else evolve(config, label=path.name[:MAX_LABEL])
        self.auto = auto
        self.key = key or str(uuid.uuid4())
        self.asked = asked
        self.state: SubmissionState = SubmissionState.PAUSED
        self.plan: JobPlan | None = None
        self.sent = self.known = self.total = 0
        self._rate: float | None = None
        self.error: ErrorInfo | None = None
        self.item: JobItem | None = None
        self._wanted = trio.Event()
        self._turn = trio.Lock()
        self._scope: trio.CancelScope | None = None
        self._meter = RateMeter()
        self._told = -math.inf

    @property
    def name(self) -> str:
        """What people call it."""
        return self.config.label

    @property
    def eta_seconds(self) -> float | None:
        """Expected time to the end of the upload, in seconds; None while it is not known."""
        rate = self.rate
        return (self.total - self.sent) / rate if rate else None

    @property
    def waiting(self) -> bool:
        """Whether it would go on if its engine were there."""
        link = self._outbox.link
        return self.state.active and (link.url != self.url or link.state is not LinkState.CONNECTED)

    @property
    def rate(self) -> float | None:
        """Bytes a second of late; None while nothing is sent or it is not known."""
        return None if self.waiting else self._rate

    @property
    def command(self) -> str:
        """The command that does the same, without a secret."""
        data_dir = self._outbox.link.host.settings.data_dir
        return command_line(self.config, path=self.path, url=self.url, data_dir=data_dir)

    def start(self) -> None:
        """Begin, or go on where it was: after a pause, a failure, or a start of the desktop."""
        if self.state.active or self.state.ended or self.state is SubmissionState.READY:
            return
        self.error = None
        self._set(SubmissionState.SUBMITTING if self.asked else SubmissionState.PLANNING)
        self._scope = self._outbox.soon(self._run, name=f"segment {self.name}")

    def resume(self) -> None:
        """Go on after a pause or a failure."""
        self.start()

    def submit(self) -> None:
        """Queue it as soon as it can be."""
        if self.state.ended:
            return
        self.auto = True
        self._wanted.set()
        self.start()
        self._outbox.note(self)

    def pause(self) -> None:
        """Stop sending; what is there is kept by the engine."""
        if self.state is SubmissionState.UPLOADING:
            self._stop(SubmissionState.PAUSED)

    def cancel(self) -> None:
        """Give it up. One that is being queued right now may become a job all the same, and is then in the list."""
        if not self.state.ended:
            self._stop(SubmissionState.CANCELED)

    def revise(self, config: JobConfig) -> None:
        """Ask for something else of the same file; it is planned anew, and nothing that was sent is sent again.

        It is too late once it is being queued.
        """
        if self.state.ended or self.state is SubmissionState.SUBMITTING:
            return
        self.config = evolve(config, source=self.config.source, label=config.label or self.config.label)
        self.key, self.asked, self.plan = str(uuid.uuid4()), False, None
        if self.state in (SubmissionState.UPLOADING, SubmissionState.PAUSED):
            self._set(self.state)
            return
        self._stop(SubmissionState.PAUSED)
        self.start()

    def _stop(self, state: SubmissionState) -> None:
        if self._scope is not None:
            self._scope.cancel()
        self._rate = None
        self._set(state)

    def _set(self, state: SubmissionState) -> None:
        self.state = state
        self._outbox.note(self)
        tell(self.changed)

    async def _run(self) -> None:
        async with self._turn:  # the task that was stopped lets go of the file first
            try:
                await self._go_through()
            except Exception as error:  # noqa: BLE001  # it is shown where the file is, and the others go on
                await trio.lowlevel.checkpoint_if_cancelled()
                self._rate, self.error = None, ErrorInfo.of(_cause(error))
                self._set(SubmissionState.FAILED)

    async def _go_through(self) -> None:
        if self.asked:
            with suppress(UnknownObject):  # the engine has never heard of it, and has no such file any more
                return await self._queue()
            self.asked = False
        source = await attend(self._outbox.link, self.url, self._bring)
        await self._enter(SubmissionState.PLANNING)
        self.config = evolve(self.config, source=source)
        self.plan = await attend(self._outbox.link, self.url, self._ask_plan)
        if not self.auto:
            await self._enter(SubmissionState.READY)
            await self._wanted.wait()
        return await self._queue()

    async def _enter(self, state: SubmissionState) -> None:
        """Go into a state, unless somebody has stopped us."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._set(state)

    async def _bring(self, session: Session) -> Source:
        """Let the engine have the file."""
        info = self._outbox.link.info or await session.server_info()
        if info.shares_files:
            return Source(path=str(self.path.absolute()))
        await self._enter(SubmissionState.UPLOADING)
        self._meter, self._told = RateMeter(), -math.inf
        try:
            self.total = self.total or (await trio.Path(self.path).stat()).st_size
            async with self._outbox.uploads:
                file = await session.upload(self.path, on_progress=self._progress, on_known=self._know)
        finally:
            self._rate = None
        return self._sent(file)

    def _sent(self, file: FileRecord) -> Source:
        self.sent = self.total = file.size
        return Source(file_id=file.id)

    def _know(self, known: int, total: int) -> None:
        self.known, self.total = known, total
        self.sent = max(self.sent, known)
        tell(self.changed)

    def _progress(self, done: int, total: int) -> None:
        self.sent, self.total = done, total
        self._meter.add(done)
        now = time.monotonic()
        if now - self._told >= INTERVAL or done == total:
            self._told, self._rate = now, self._meter.rate
            tell(self.changed)

    async def _ask_plan(self, session: Session) -> JobPlan:
        return await session.plan(self.config)

    async def _queue(self) -> None:
        self.asked = True
        await self._enter(SubmissionState.SUBMITTING)
        await self._outbox.written()
        record = await attend(self._outbox.link, self.url, self._ask_job)
        self.item = self._outbox.enlist(record, self)
        self._set(SubmissionState.SUBMITTED)

    async def _ask_job(self, session: Session) -> JobRecord:
        return await session.submit(self.config, idempotency_key=self.key)


def _cause(error: BaseException) -> BaseException:
    """The first error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError) and not isinstance(error, InputError):
        return InputError(f"{error.filename} is not there any more", hint="open it again from where it is now")
    return error
