"""The framework's side of a runner's work: cancel, progress and notes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

from cryomamba_core.interfaces import JobCanceled, RunContext
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.models import ModelInfo
from cryomamba_core.volumes import IntensityStatistics
from cryomamba_core.worker.keeping import Kept
from cryomamba_core.worker.reporting import EventLog
from cryomamba_core.worker.taking import LabelTaker

T = TypeVar("T")


class Preempted(BaseException):
    """Somebody ended the worker from outside: another one will go on from the checkpoint."""


class StopOrders:
    """Looks for the two orders to stop: the cancel mark, and a signal.

    Parameters
    ----------
    directory
        Holds the mark.
    """

    def __init__(self, directory: JobDirectory) -> None:
        self._directories = [directory]
        self._signalled = threading.Event()

    def heed(self, directory: JobDirectory) -> None:
        """Look for the mark in this directory too."""
        self._directories.append(directory)

    def signal(self) -> None:
        """Remember a signal to end; safe in a signal handler."""
        self._signalled.set()

    def obey(self) -> None:
        """Raise `JobCanceled` or `Preempted` if there is an order."""
        if any(directory.cancel_ordered for directory in self._directories):
            raise JobCanceled
        if self._signalled.is_set():
            raise Preempted


class WorkerContext(RunContext):
    """What a runner is given in a worker."""

    def __init__(
        self,
        *,
        model: ModelInfo,
        device: str,
        intensity: IntensityStatistics,
        taker: LabelTaker,
        sharded: bool = False,
        previewed: bool,
        scratch: Path,
        lasting: Path,
        source: str,
        orders: StopOrders,
        log: EventLog,
        kept: Kept | None = None,
    ) -> None:
        super().__init__(
            model=model,
            device=device,
            intensity=intensity,
            final_rows=taker.final_rows,
            previewed=previewed,
            shard=(taker.rows.start, taker.rows.stop) if sharded else None,
            scratch=scratch,
            lasting=lasting,
            source=source,
        )
        self._taker = taker
        self._orders = orders
        self._log = log
        self._kept = kept
        self.reported = False
        self.notes: list[str] = []

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        return make() if self._kept is None else self._kept.get(key, make)

    def checkpoint(self) -> None:
        self._orders.obey()
        self._taker.catch_up()

    def report(self, done: int, total: int, unit: str) -> None:
        self.reported = True
        self._log.progress("segmenting", done, total, unit)

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)
