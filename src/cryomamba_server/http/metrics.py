"""What a server counts, for Prometheus."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from attrs import frozen
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from cryomamba_core.jobs import JobRecord, JobState
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.records import now
from cryomamba_server.engine.schema import jobs
from cryomamba_server.http.gpu import gpu_memory

#: Jobs that started earlier were started by another process.
LOADED_AT = now()

#: The media type of `Metrics.render`.
MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4

#: Stages of a job that are told apart; a runner's own words for its units are taken up to a number.
STAGES = frozenset({"inspecting", "segmenting", "measuring", "exporting"})
MOST_UNITS = 20

#: Methods that are told apart.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "WEBSOCKET"})

_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 48 * 3600)
_REQUEST_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60)


class Metrics:
    """One server's counters, in a registry of its own. Its methods may be called in any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._make_job_metrics()
        self._make_transfer_metrics()
        self._make_server_metrics()
        self._queued: dict[str, datetime] = {}
        self._seen: dict[str, _Seen] = {}
        self._units: set[str] = set()

    def part_received(self, count: int) -> None:
        """A part of an upload, of `count` bytes, is durable."""
        self._parts.inc()
        self._upload_bytes.inc(count)

    def upload_completed(self) -> None:
        """A file is whole."""
        self._uploads.inc()

    def sent_artifact(self, count: int) -> None:
        """Some bytes of an artifact have left."""
        self._download_bytes.inc(count)

    def preview_sent(self) -> None:
        """A listener was sent a preview."""
        self._previews_sent.inc()

    def preview_dropped(self, count: int = 1) -> None:
        """A listener was too slow for some previews, and was spared them."""
        self._previews_dropped.inc(count)

    @contextmanager
    def listening(self, kind: str) -> Iterator[None]:
        """A listener of a job's events, ``websocket`` or ``sse``, is there for as long as the block lasts."""
        self.listener_came(kind)
        try:
            yield
        finally:
            self.listener_left(kind)

    def listener_came(self, kind: str) -> None:
        """A listener is there until it has left; see `listening`."""
        self._listeners.labels(kind=kind).inc()

    def listener_left(self, kind: str) -> None:
        """It is there no longer."""
        self._listeners.labels(kind=kind).dec()

    def request_ended(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered.

        Parameters
        ----------
        method
            As in the request.
        route
            The rule of the route, not the address; empty if there is none.
        status
            Of the answer; 499 for a client that left before.
        seconds
            From its head to the end of the answer.
        """
        labels = (method if method in METHODS else "other", route or "none")
        self._requests.labels(*labels, str(status)).inc()
        self._request_seconds.labels(*labels).observe(seconds)

    def removed(self, kind: str, count: int) -> None:
        """The clean-up removed some things of a kind."""
        if count:
            self._removed.labels(kind=kind).inc(count)

    def log_lines_lost(self, count: int) -> None:
        """So many lines of the log could not be written so far."""
        self._lost_lines.set(count)

    def job_changed(self, record: JobRecord) -> None:
        """A job entered a new state, or its worker is further on."""
        first = record.id not in self._seen
        self._count_units(record)
        if record.state is JobState.QUEUED:
            self._queued[record.id] = now()
        elif record.state.active and first:
            self._count_wait(record)
        elif record.state.ended:
            self._queued.pop(record.id, None)
            self._ended.labels(state=record.state.value).inc()
            if record.started_at is not None:
                finished = record.finished_at or now()
                self._job_seconds.labels(state=record.state.value).observe(
                    max(0.0, (finished - record.started_at).total_seconds())
                )

    def read_jobs(self, database: Database) -> None:
        """Take the numbers of jobs from the store. Blocks; for the store's thread."""
        query = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
        with database.reading() as connection:
            counts = {row[0]: row[1] for row in connection.execute(query)}
        for state in JobState:
            self._jobs.labels(state=state.value).set(counts.get(state.value, 0))

    def render(self, *, data_dir: Path) -> bytes:
        """Everything, as Prometheus reads it. Blocks."""
        disk = shutil.disk_usage(data_dir)
        self._disk_free.set(disk.free)
        self._disk_size.set(disk.total)
        for gpu in gpu_memory():
            self._gpu_used.labels(gpu=gpu.index, name=gpu.name).set(gpu.used_bytes)
            self._gpu_total.labels(gpu=gpu.index, name=gpu.name).set(gpu.total_bytes)
        return generate_latest(self.registry)

    def _count_wait(self, record: JobRecord) -> None:
        """Count how long a job waited that has just started, also if it was queued before this process."""
        since = self._queued.pop(record.id, None)
        started = record.started_at or now()
        if since is None and record.attempt == 1 and started >= LOADED_AT:
            since = record.created_at
        if since is not None:
            self._queue_seconds.observe(max(0.0, (started - since).total_seconds()))

    def _count_units(self, record: JobRecord) -> None:
        """Count what a worker has done since it was last heard of.

        A stage that it has left was done whole. What it had done when it is first heard of is not
        counted, unless it was seen to start: it may go on from a checkpoint, or from before our start.
        """
        known = self._seen.pop(record.id, None)
        if record.state is JobState.COMPLETED and known is not None:
            self._add_units(known, known.total - known.done)
        if not record.state.active or (record.progress is None and record.attempt > 1):
            return
        current = self._seen[record.id] = _Seen.of(record)
        if known is None or known.attempt != current.attempt:
            return
        if known.stage == current.stage:
            self._add_units(current, current.done - known.done)
        else:
            self._add_units(known, known.total - known.done)
            self._add_units(current, current.done)

    def _add_units(self, seen: _Seen, count: int) -> None:
        if count <= 0:
            return
        stage = seen.stage if seen.stage in STAGES else "other"
        unit = seen.unit if seen.unit in self._units or len(self._units) < MOST_UNITS else "other"
        self._units.add(unit)
        self._work.labels(stage=stage, unit=unit).inc(count)

    def _make_job_metrics(self) -> None:
        registry = self.registry
        self._jobs = Gauge("cryomamba_jobs", "Jobs in the store, by state.", ["state"], registry=registry)
        self._ended = Counter("cryomamba_jobs_ended", "Jobs that ended since the start.", ["state"], registry=registry)
        self._queue_seconds = Histogram(
            "cryomamba_job_queue_seconds", "Time that jobs waited for a slot.", buckets=_SECONDS, registry=registry
        )
        self._job_seconds = Histogram(
            "cryomamba_job_seconds",
            "Time from the start of a job to its end.",
            ["state"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._work = Counter(
            "cryomamba_work_units",
            "Work that was done, such as tiles segmented; its rate is the speed.",
            ["stage", "unit"],
            registry=registry,
        )
        self._removed = Counter("cryomamba_removed", "Things that the clean-up removed.", ["kind"], registry=registry)

    def _make_transfer_metrics(self) -> None:
        registry = self.registry
        self._parts = Counter("cryomamba_upload_parts", "Parts that are durable.", registry=registry)
        self._upload_bytes = Counter("cryomamba_upload_bytes", "Bytes of these parts.", registry=registry)
        self._uploads = Counter("cryomamba_uploads", "Files that were completed.", registry=registry)
        self._download_bytes = Counter("cryomamba_download_bytes", "Bytes of artifacts sent.", registry=registry)
        self._previews_sent = Counter("cryomamba_previews_sent", "Previews sent to listeners.", registry=registry)
        self._previews_dropped = Counter(
            "cryomamba_previews_dropped", "Previews that a slow listener was spared.", registry=registry
        )
        self._listeners = Gauge(
            "cryomamba_listeners", "Listeners of jobs, by kind of connection.", ["kind"], registry=registry
        )

    def _make_server_metrics(self) -> None:
        registry = self.registry
        self._requests = Counter(
            "cryomamba_http_requests", "Requests that were answered.", ["method", "route", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "cryomamba_http_request_seconds",
            "Time to the end of the answer.",
            ["method", "route"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._lost_lines = Gauge(
            "cryomamba_log_lines_lost", "Lines of the log that could not be written.", registry=registry
        )
        self._disk_free = Gauge("cryomamba_disk_free_bytes", "Free room for the data directory.", registry=registry)
        self._disk_size = Gauge("cryomamba_disk_size_bytes", "Size of its file system.", registry=registry)
        gpu = ["gpu", "name"]
        self._gpu_used = Gauge("cryomamba_gpu_memory_used_bytes", "GPU memory in use.", gpu, registry=registry)
        self._gpu_total = Gauge("cryomamba_gpu_memory_bytes", "GPU memory in all.", gpu, registry=registry)
        build = Gauge("cryomamba_build_info", "Always 1; the label is the version.", ["version"], registry=registry)
        build.labels(version=metadata.version("cryomamba")).set(1)
        ProcessCollector(registry=registry)


@frozen(kw_only=True)
class _Seen:
    """How far a worker was when it was last heard of; all zero before its first report."""

    attempt: int
    stage: str
    unit: str
    done: int
    total: int

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        progress = record.progress
        if progress is None:
            return cls(attempt=record.attempt, stage="", unit="", done=0, total=0)
        return cls(
            attempt=record.attempt,
            stage=progress.stage,
            unit=progress.unit,
            done=progress.done,
            total=progress.total,
        )
