"""From files to results, one or many: the course of ``cryomamba segment``."""

from __future__ import annotations

import logging
import shlex
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from attrs import define, evolve, frozen

from cryomamba_core import wording
from cryomamba_core.cli.boards import Board
from cryomamba_core.cli.failures import leaves
from cryomamba_core.cli.interruption import Interruption
from cryomamba_core.cli.places import keep_places
from cryomamba_core.cli.results import Saved, fetch, in_a_few_words
from cryomamba_core.cli.rows import UNKNOWN, Row, follow
from cryomamba_core.cli.sending import UPLOADING, kept_words, send
from cryomamba_core.errors import (
    CryoMambaError,
    ErrorInfo,
    InvalidParameter,
    JobWasCanceled,
    OutputExists,
    ServerUnreachable,
)
from cryomamba_core.interfaces import Session
from cryomamba_core.jobs import JobConfig, JobState, Source

if TYPE_CHECKING:
    from cryomamba_core.cli.outputs import OutputFolder
    from cryomamba_core.measures import LabelStatistics
    from cryomamba_core.plans import JobPlan

log = logging.getLogger(__name__)

#: How many jobs are listened to at a time: those that were queued first run first.
FOLLOWED = 32


@define(kw_only=True, eq=False)
class FileRun(Row):
    """One tomogram on its way to its results.

    Attributes
    ----------
    path
        The tomogram.
    stem
        What the names of its results begin with.
    sent
        Bytes of it that the server has, as far as they were sent.
    asked
        Whether the engine was asked to queue it, and has not answered.
    saved
        Its results.
    """

    path: Path
    stem: str
    sent: int = 0
    asked: bool = False
    saved: Saved | None = None

    @property
    def statistics(self) -> tuple[LabelStatistics, ...]:
        """One entry for each label of a finished run."""
        return self.saved.statistics if self.saved else ()

    def refuse(self, error: BaseException) -> None:
        """Give up on the file."""
        cause = next(leaves(error))
        self.state = "failed" if self.job_id else "refused"
        self.error = ErrorInfo.of(cause)
        if not isinstance(cause, CryoMambaError):
            log.debug("%s", self.path, exc_info=error)


@frozen(kw_only=True)
class Order:
    """What is asked of the engine for every file.

    Attributes
    ----------
    config
        With any source.
    left_out
        Names of the artifacts not to save.
    sends
        Whether files are sent; else the engine opens their paths.
    upload_hours
        How long a server keeps an upload that was cut off; None where nobody says it.
    command
        Makes a command of words behind ``cryomamba`` that asks the same engine.
    """

    config: JobConfig
    left_out: Collection[str]
    sends: bool
    upload_hours: float | None
    command: Callable[[str], str]

    async def config_for(self, session: Session, run: FileRun, changed: Callable[[], None]) -> JobConfig:
        """The configuration for a file, which is sent if the engine cannot open it."""
        path = run.path.absolute()
        _require_text([path.name] if self.sends else path.parts)
        source = Source(file_id=(await send(session, run, changed)).id) if self.sends else Source(path=str(path))
        return evolve(self.config, source=source, label=run.path.name)


async def plan_all(session: Session, order: Order, runs: Sequence[FileRun], board: Board) -> dict[FileRun, JobPlan]:
    """What each file would cost; one that would be refused says so in its run."""
    plans = {}
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.tick)
            for run in runs:
                if run.error is not None:
                    continue
                try:
                    plans[run] = await session.plan(await order.config_for(session, run, partial(board.changed, run)))
                except Exception as error:  # noqa: BLE001  # the other files are planned all the same
                    run.refuse(error)
                board.changed(run)
            nursery.cancel_scope.cancel()
    except BaseException:
        _say_what_is_kept(order, runs, board)
        raise
    return plans


async def segment_all(
    session: Session,
    order: Order,
    runs: Sequence[FileRun],
    folder: OutputFolder,
    board: Board,
    interruption: Interruption,
) -> None:
    """Queue every file, follow the jobs, save the results; whatever is wrong with one file stays with it.

    When it is cancelled it cancels the jobs and waits for their end.
    """
    limiter = trio.CapacityLimiter(FOLLOWED)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.tick)
            nursery.start_soon(keep_places, session, runs, board)
            async with trio.open_nursery() as jobs:
                for run in runs:
                    if run.error is None and await _submit(session, order, run, board, interruption):
                        jobs.start_soon(_finish, session, order, run, folder, board, limiter)
            nursery.cancel_scope.cancel()
    except BaseException:
        _say_what_is_kept(order, runs, board)
        await _cancel_all(session, order, runs, board, interruption)
        raise


async def _submit(session: Session, order: Order, run: FileRun, board: Board, interruption: Interruption) -> bool:
    """Queue a file; whether it was taken."""
    try:
        config = await order.config_for(session, run, partial(board.changed, run))
        with interruption.shielded():
            run.asked = True
            run.take_record(await session.submit(config, idempotency_key=str(uuid.uuid4())))
            run.asked = False
    except Exception as error:  # noqa: BLE001  # a cohort goes on without the file
        run.asked = run.asked and isinstance(error, ServerUnreachable)
        run.refuse(error)
    board.changed(run)
    return run.error is None


async def _finish(
    session: Session, order: Order, run: FileRun, folder: OutputFolder, board: Board, limiter: trio.CapacityLimiter
) -> None:
    try:
        async with limiter:
            record = await follow(session, run, board)
            if record.state is JobState.COMPLETED:
                run.saved = await fetch(session, record, folder, run.stem, order.left_out, run, board)
                run.result = in_a_few_words(run.statistics)
                run.state = str(JobState.COMPLETED)
            elif record.state is JobState.CANCELED:
                run.error = ErrorInfo.of(
                    JobWasCanceled(
                        "somebody canceled the job",
                        hint=f"{order.command(f'jobs retry {record.id}')} runs it again",
                    )
                )
    except OutputExists as error:
        out = "" if folder.path == Path() else f" --out {shlex.quote(str(folder.path))}"
        again = order.command(f"jobs fetch {run.job_id} --overwrite{out}")
        hint = f"{again} replaces it without running the job again, and another --out keeps it"
        run.refuse(OutputExists(error.message, hint=hint))
    except Exception as error:  # noqa: BLE001  # a cohort goes on without the file
        run.refuse(error)
    board.changed(run)


def _require_text(names: Iterable[str]) -> None:
    """Raise `InvalidParameter` if a file, or a folder above it, has a name that is no text: no engine can keep it."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            shown = name.encode(errors="backslashreplace").decode()
            raise InvalidParameter(f"the name {shown} is not in UTF-8", hint="rename the file or folder") from error


def _say_what_is_kept(order: Order, runs: Sequence[FileRun], board: Board) -> None:
    """Say how an upload that was cut off goes on."""
    if any(run.state == UPLOADING and run.sent for run in runs):
        board.say(kept_words(order.upload_hours))


async def _cancel_all(
    session: Session, order: Order, runs: Sequence[FileRun], board: Board, interruption: Interruption
) -> None:
    """End the jobs that were queued and have not ended, and say which may go on all the same."""
    begun = [run for run in runs if run.job_id and not run.ended]
    if begun:
        board.say(f"stopping {wording.plural(len(begun), 'job')} … (once more to leave at once)")
    with interruption.shielded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.tick)
            async with trio.open_nursery() as cancels:
                for run in reversed(begun):
                    run.state = "stopping"
                    cancels.start_soon(_cancel, session, run)
            nursery.cancel_scope.cancel()
    stopped = sum(run.state == JobState.CANCELED for run in begun)
    if begun:
        board.say(f"{wording.plural(stopped, 'job')} canceled")
    left = [run for run in begun if not run.ended]
    if left:
        cancel = order.command(f"jobs cancel {' '.join(run.job_id for run in left)}")
        board.say(f"{wording.plural(len(left), 'job')} may still run on the server: {cancel}")
    unsure = [run for run in runs if run.asked and not run.job_id]
    if unsure:
        board.say(f"{wording.plural(len(unsure), 'job')} may have been queued: {order.command('jobs list')}")
    for run in runs:
        if not run.ended:
            run.state = UNKNOWN if run in left or run in unsure else str(JobState.CANCELED)


async def _cancel(session: Session, run: FileRun) -> None:
    try:
        run.take_record(await session.cancel(run.job_id))
    except Exception as error:  # noqa: BLE001  # the other jobs are to be canceled all the same
        log.warning("job %s could not be canceled: %s", run.job_id, error)
