"""What the status page shows of the caller's jobs and of the server."""

from __future__ import annotations

import heapq
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio
from attrs import frozen

from cryomamba_core.interfaces import ServerInfo
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.jobs import JobRecord, JobState
from cryomamba_core.labels import Label
from cryomamba_server.http.access.authentication import Caller
from cryomamba_server.http.pages.slices import draw_nothing, draw_section, middle_section
from cryomamba_server.http.routes.server import server_info
from cryomamba_server.http.routing import Scope
from cryomamba_server.http.services import Services

#: Jobs that are looked at, and ended ones that are shown.
LOOKED_AT, RECENT = 200, 20


@frozen(kw_only=True)
class JobCard:
    """A job as the page shows it.

    Attributes
    ----------
    record
        The job.
    labels
        Of its model.
    preview
        Names the newest preview, another name for each; empty if there is none.
    """

    record: JobRecord
    labels: tuple[Label, ...]
    preview: str

    @property
    def fraction(self) -> float:
        """Done part of the job, 0 to 1."""
        return self.record.progress.fraction if self.record.progress else 0.0

    @property
    def steps(self) -> str:
        """What the worker is at, e.g. ``segmenting, 12 of 40 tiles``."""
        progress = self.record.progress
        if progress is None:
            return "starting"
        return f"{progress.stage}, {progress.done:,} of {progress.total:,} {progress.unit}"

    @property
    def took(self) -> float | None:
        """Seconds from the start to the end."""
        started, finished = self.record.started_at, self.record.finished_at
        return None if started is None or finished is None else (finished - started).total_seconds()


@frozen(kw_only=True)
class Status:
    """Everything on the page.

    Attributes
    ----------
    caller
        Who looks at it.
    may_download
        Whether they may fetch artifacts.
    running, waiting, ended
        Their jobs; `waiting` in the order of the queue, `ended` the newest first.
    server
        The server.
    disk_free, disk_size
        In bytes.
    at
        UTC.
    """

    caller: Caller
    may_download: bool
    running: tuple[JobCard, ...]
    waiting: tuple[JobCard, ...]
    ended: tuple[JobCard, ...]
    server: ServerInfo
    disk_free: int
    disk_size: int
    at: datetime

    def ago(self, time: datetime | None) -> str:
        """How long before this moment a time was, e.g. ``5 min ago``."""
        if time is None:
            return ""
        seconds = max(0, int((self.at - time).total_seconds()))
        for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
            if seconds >= length:
                return f"{seconds // length} {unit} ago"
        return "just now"


def _end_of(card: JobCard) -> datetime:
    return card.record.finished_at or card.record.created_at


async def read_status(services: Services, caller: Caller) -> Status:
    """Look at the caller's jobs and at the server."""
    records = await services.engine.jobs(owner=caller.subject, limit=LOOKED_AT)
    labels = {(model.runner, model.name): model.labels for model in await services.engine.models()} if records else {}

    def look() -> tuple[list[JobCard], Any]:
        cards = [
            JobCard(
                record=record,
                labels=labels.get((record.config.runner or "", record.config.model or ""), ()),
                preview=_preview_name(services.settings.jobs_dir / record.id),
            )
            for record in records
        ]
        return cards, shutil.disk_usage(services.settings.data_dir)

    cards, disk = await trio.to_thread.run_sync(look)
    waiting = [card for card in cards if card.record.state is JobState.QUEUED]
    return Status(
        caller=caller,
        may_download=Scope.ARTIFACTS_READ in caller.scopes,
        running=tuple(card for card in cards if card.record.state.active),
        waiting=tuple(sorted(waiting, key=lambda card: card.record.queue_position or 0)),
        ended=tuple(heapq.nlargest(RECENT, (card for card in cards if card.record.state.ended), key=_end_of)),
        server=server_info(services),
        disk_free=disk.free,
        disk_size=disk.total,
        at=datetime.now(UTC),
    )


async def draw_preview(services: Services, job_id: str, *, owner: str) -> bytes:
    """A PNG of the newest preview of a job; raises `UnknownJob`."""
    record = await services.engine.job(job_id, owner=owner)
    models = await services.engine.models()
    wanted = (record.config.runner, record.config.model)
    labels = next((model.labels for model in models if (model.runner, model.name) == wanted), ())

    def draw() -> bytes:
        preview = JobDirectory(services.settings.jobs_dir / job_id).preview()
        return draw_nothing() if preview is None else draw_section(middle_section(preview), labels)

    return await trio.to_thread.run_sync(draw)


def _preview_name(folder: Path) -> str:
    try:
        return str((folder / "preview.bin").stat().st_mtime_ns)
    except OSError:
        return ""
