"""Several workers for one volume, a range of its rows each: started, followed, and replaced where one is lost.

Each has a directory of its own, with checkpoint, events, preview and heartbeat as a job has them, and writes its rows
into the label file of the job. Nothing of one depends on another, so that a shard which is lost is redone alone, from
its own checkpoint.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from attrs import Factory, define, evolve

from cryomamba_core.errors import CryoMambaError, ErrorInfo, StorageDamaged, WorkerDied, error_of
from cryomamba_core.events import Completed, Failed, PreviewReady, Progress
from cryomamba_core.interfaces import Executor, Resources, WorkerHandle
from cryomamba_core.job_directory import JobDirectory, JobSpec, ShardResult, ShardSpec
from cryomamba_core.settings import Settings
from cryomamba_core.sharding import shard_places
from cryomamba_core.volumes import IntensityStatistics
from cryomamba_core.worker.context import StopOrders
from cryomamba_core.worker.reporting import EventLog
from cryomamba_core.worker.shard_previews import ShardPreviews

log = logging.getLogger(__name__)

#: Seconds between two looks at the shards.
LOOK_INTERVAL = 0.2
#: Seconds between two looks at a shard beyond which nobody could look: the machine slept, or was busy with another.
LONG_LOOK = 1.0
#: Seconds between asking a shard's worker to end and forcing it.
KILL_GRACE = 3.0
#: Bytes of the log of a lost worker that are kept in the log of the job.
LOG_TAIL = 4000


@define(kw_only=True, eq=False)
class Shard:
    """A part of the volume, and how far it is.

    Attributes
    ----------
    number
        From 1.
    rows
        Along the axis of the sweep.
    directory
        Of its workers.
    handle, place
        Its worker while one runs, and which place that has.
    attempt, losses
        How many workers were started on it, and how many of them by this one were lost.
    done, total, unit
        How far it is, as its runner counts; a total of 0 while nothing is known.
    completed, result, failure
        Whether its worker said that it was done, and what else it said at the end.
    """

    number: int
    rows: range
    directory: JobDirectory
    handle: WorkerHandle | None = None
    place: int | None = None
    attempt: int = 0
    losses: int = 0
    done: int = 0
    total: int = 0
    unit: str = ""
    completed: bool = False
    result: ShardResult | None = None
    failure: ErrorInfo | None = None
    _offset: int = 0
    _beat: float | None = None
    _beaten_at: float = Factory(time.monotonic)
    _looked_at: float = Factory(time.monotonic)

    def begin(self, spec: JobSpec) -> None:
        """Make its directory ready for another worker."""
        self.directory.begin_attempt(spec)
        self.attempt, self.failure, self._offset, self.completed = spec.attempt, None, 0, False
        self._beat = None
        self._beaten_at = self._looked_at = time.monotonic()

    def read_events(self) -> bool:
        """Take in what is new; whether there is a new preview."""
        shown = False
        for event, offset in self.directory.events(self._offset):
            self._offset, self._beaten_at = offset, time.monotonic()
            if isinstance(event, Progress) and event.progress.stage == "segmenting":
                self.done, self.total, self.unit = event.progress.done, event.progress.total, event.progress.unit
            elif isinstance(event, PreviewReady):
                shown = True
            elif isinstance(event, Completed):
                self.completed = True
            elif isinstance(event, Failed):
                self.failure = event.error
        return shown

    def conclude(self) -> bool:
        """Whether the worker that has ended was done."""
        self.handle = self.place = None
        self.result = self.directory.result() if self.completed else None
        return self.result is not None

    def silent_for(self) -> float:
        """Seconds since it was last seen to live, without those in which nobody could look."""
        beat, now = self.directory.last_beat(), time.monotonic()
        excused = max(0.0, now - self._looked_at - LONG_LOOK)
        self._beaten_at = min(now, self._beaten_at + excused) if beat == self._beat else now
        self._beat, self._looked_at = beat, now
        return now - self._beaten_at


class ShardCrew:
    """The workers of a job's shards.

    Parameters
    ----------
    directory
        Of the job; its ``labels.raw`` is there.
    executor
        Runs them.
    settings
        How many workers of a shard may be lost, and after how long one is.
    bounds
        Rows at which the volume is cut, as from `ModelRunner.shard_bounds`.
    axis
        Along which they are counted.
    intensity
        Grey values of the volume.
    source
        SHA-256 of the tomogram.
    source_state
        See `ShardSpec`.
    dtype
        Type of the labels.
    log
        Hears of progress and previews.
    orders
        Looked at all the time.
    """

    def __init__(
        self,
        *,
        directory: JobDirectory,
        executor: Executor,
        settings: Settings,
        bounds: tuple[int, ...],
        axis: int,
        intensity: IntensityStatistics,
        source: str,
        source_state: tuple[int, int, int],
        dtype: np.dtype[Any],
        log: EventLog,
        orders: StopOrders,
    ) -> None:
        self.bounds = bounds
        self._directory, self._executor, self._settings = directory, executor, settings
        self._spec = directory.spec()
        self._log, self._orders = log, orders
        self._notes: list[str] = []
        self._shards = [
            Shard(number=number, rows=range(*ends), directory=directory.shard(number))
            for number, ends in enumerate(pairwise(bounds), 1)
        ]
        self._told = {
            shard.number: ShardSpec(
                job=str(directory.path),
                number=shard.number,
                axis=axis,
                first=shard.rows.start,
                stop=shard.rows.stop,
                intensity=intensity,
                source=source,
                source_state=source_state,
            )
            for shard in self._shards
        }
        self._places: tuple[Resources, ...] = ()
        self._policy = self._spec.config.preview
        self._previews = ShardPreviews(self._spec.grid, axis, dtype, self._policy)
        self._shown_at = -np.inf
        self._unseen = False

    def run(self) -> ShardResult:
        """See every shard through; returns the notes of all, and what they held at their peaks, added up.

        None may be left of an earlier attempt; see `end_left`. Whatever it raises, no worker is left.

        Raises
        ------
        JobCanceled, Preempted
            If there is an order to stop.
        WorkerDied
            If as many workers of one shard were lost as may.
        PluginFault
            If the executor has no place for a shard.
        CryoMambaError
            What the worker of a shard failed with.
        """
        devices = self._spec.devices or (self._spec.device,)
        resources = Resources(device=self._spec.device, threads=self._spec.threads)
        self._places = shard_places(self._executor, resources, devices, len(self._shards))
        try:
            for shard in self._shards:
                self._take_over(shard)
            while any(shard.result is None for shard in self._shards):
                self._orders.obey()
                self._start_waiting()
                for shard in self._shards:
                    if shard.handle is not None:
                        self._look(shard, shard.handle)
                self._tell()
                time.sleep(LOOK_INTERVAL)
        finally:
            self._end_all()
        results = [shard.result for shard in self._shards if shard.result is not None]
        notes = (note for result in results for note in result.notes)
        return ShardResult(
            notes=tuple(dict.fromkeys((*self._notes, *notes))),
            peak_rss_bytes=sum(result.peak_rss_bytes for result in results),
        )

    def _take_over(self, shard: Shard) -> None:
        """Keep what an earlier attempt at the job has achieved."""
        if not shard.directory.path.exists():
            return
        earlier = self._earlier(shard)
        if earlier is None:
            shard.directory.clear_labels()
            return
        shard.attempt = earlier.attempt
        shard.read_events()
        shard.conclude()
        self._show_later(shard)

    def _earlier(self, shard: Shard) -> JobSpec | None:
        """What the last worker was told, if rows and tomogram were the same."""
        try:
            earlier = shard.directory.spec()
        except StorageDamaged:
            return None
        if earlier.shard is None:
            return None
        told, then = (
            (spec.axis, spec.first, spec.stop, spec.intensity, spec.source)
            for spec in (self._told[shard.number], earlier.shard)
        )
        return earlier if told == then else None

    def _start_waiting(self) -> None:
        free = self._free_places()
        for shard in self._shards:
            if shard.handle is None and shard.result is None:
                place = next(free, None)
                if place is None:
                    return
                self._start(shard, place)

    def _free_places(self) -> Iterator[int]:
        taken = {shard.place for shard in self._shards}
        return (place for place in range(len(self._places)) if place not in taken)

    def _start(self, shard: Shard, place: int) -> None:
        resources = self._places[place]
        shard.begin(
            evolve(
                self._spec,
                device=resources.device,
                threads=resources.threads,
                attempt=shard.attempt + 1,
                devices=(),
                shard=self._told[shard.number],
            )
        )
        try:
            shard.handle, shard.place = self._executor.start(shard.directory.path, resources), place
        except Exception:
            _end_on(shard.directory, self._executor)  # perhaps it runs, and only that could not be told
            raise
        shard.directory.write_handle(shard.handle)

    def _look(self, shard: Shard, handle: WorkerHandle) -> None:
        ended = self._executor.wait(handle, 0)
        if shard.read_events():
            self._show_later(shard)
        if shard.failure is not None:
            self._orders.obey()
            self._keep_log(shard)
            raise error_of(shard.failure)
        how = ended.reason if ended is not None else ""
        if ended is None and shard.completed:
            how = "it was done, but what it had to say cannot be read"
        elif ended is None and shard.silent_for() > self._settings.stale_seconds:
            how = f"it gave no sign of life for {self._settings.stale_seconds:g} s"
        if how:  # one that is done has said all: nobody waits half a second until its libraries are unloaded
            self._executor.cancel(handle, grace=0)
            if not shard.conclude():
                self._lose(shard, how)

    def _lose(self, shard: Shard, how: str) -> None:
        self._orders.obey()
        shard.losses += 1
        self._keep_log(shard)
        most = self._settings.max_attempts
        told = f"worker {shard.losses} of {most} of shard {shard.number} was lost: {how}"
        log.warning("%s", told)
        if shard.losses >= most:
            raise WorkerDied(
                told,
                hint=f"see {self._directory.log_path}, then retry with: cryomamba jobs retry {self._spec.job_id}",
            )
        self._notes.append(f"{told}; another one did what was left of it")

    def _keep_log(self, shard: Shard) -> None:
        """Copy the end of a shard's log to that of the job, which outlives it."""
        try:
            tail = shard.directory.log_path.read_bytes()[-LOG_TAIL:].decode(errors="replace")
        except OSError:
            return
        print(f"--- shard {shard.number}:\n{tail}---", file=sys.stderr, flush=True)

    def _show_later(self, shard: Shard) -> None:
        try:
            preview = shard.directory.preview()
            if preview is not None:
                self._previews.take(shard.number, shard.rows, preview)
                self._unseen = True
        except CryoMambaError as error:
            log.warning("the preview of shard %d cannot be read: %s", shard.number, error)

    def _tell(self) -> None:
        """Put progress and previews of all shards together."""
        known = [shard for shard in self._shards if shard.total]
        if known:
            pace = sum(shard.total for shard in known) / sum(len(shard.rows) for shard in known)
            totals = [shard.total or round(pace * len(shard.rows)) for shard in self._shards]
            done = sum(shard.total if shard.result else shard.done for shard in self._shards)
            self._log.progress("segmenting", done, sum(totals), known[0].unit)
        now = time.monotonic()
        if self._unseen and self._policy.max_voxels and now - self._shown_at >= self._policy.interval_seconds:
            self._shown_at, self._unseen = now, False
            self._log.preview(self._previews.snapshot())

    def _end_all(self) -> None:
        """End every worker that still runs, all at the same time."""
        running = [shard.handle for shard in self._shards if shard.handle is not None]
        if running:
            with ThreadPoolExecutor(len(running)) as pool:
                list(pool.map(lambda handle: self._executor.cancel(handle, KILL_GRACE), running))


def end_left(directory: JobDirectory, executor: Executor) -> None:
    """End the workers that an earlier attempt at a job has left on its shards: nothing else may write to its files.

    Parameters
    ----------
    directory
        The job's.
    executor
        Has started them.
    """
    for shard in directory.shards():
        handle = shard.handle()
        if handle is not None:
            executor.cancel(handle, grace=0)
        _end_on(shard, executor)


def _end_on(shard: JobDirectory, executor: Executor) -> None:
    """End the worker that runs on the directory of a shard, if the executor finds one."""
    handle = executor.find(shard.path)
    if handle is not None:
        executor.cancel(handle, grace=0)
