"""Where a job's worker process runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from attrs import field, frozen

from cryomamba_core.errors import ShardsUnavailable


@frozen(kw_only=True)
class Resources:
    """What a worker may use.

    Attributes
    ----------
    device
        One of `Executor.slots`, e.g. ``cpu`` or ``cuda:0``.
    threads
        CPU threads; 0 for as many as there are physical cores.
    cores
        Numbers of the CPUs to keep to; empty for any.
    environment
        Further environment variables.
    """

    device: str = "cpu"
    threads: int = 0
    cores: tuple[int, ...] = ()
    environment: dict[str, str] = field(factory=dict)


@frozen(kw_only=True)
class WorkerHandle:
    """Names a worker so that another process, later, finds it again.

    Attributes
    ----------
    executor
        Name of the executor.
    token
        Whatever the executor needs, as text; it is kept in the job store.
    """

    executor: str
    token: str


@frozen(kw_only=True)
class WorkerExit:
    """How a worker ended.

    Attributes
    ----------
    code
        Exit status; negative for the number of a signal; None where it cannot be known, which is
        so for a worker that another process started. The job directory says what it achieved.
    reason
        One clause for people.
    """

    code: int | None
    reason: str


class Executor(ABC):
    """Starts workers and ends them. All methods block, and may be called by several threads at once."""

    #: Unique name, e.g. ``local``.
    name: ClassVar[str]

    @abstractmethod
    def slots(self) -> Sequence[str]:
        """Devices, one for each job that may run at the same time."""

    def places(self, resources: Resources, devices: Sequence[str], count: int) -> Sequence[Resources]:
        """Divide what a job may use among its shards.

        Called by the worker of a job, which then calls `start` for the directory of each shard. What it has started
        ends with it: `cancel` of a job's worker also ends those of its shards.

        Parameters
        ----------
        resources
            What the job's worker may use.
        devices
            Slots that the job holds; the first is that of `resources`.
        count
            How many shards are to run.

        Returns
        -------
        places
            What each shard may use of those that run at the same time: 1 to `count`. Further ones wait until a place
            is free.

        Raises
        ------
        ShardsUnavailable
            If the executor can only run whole jobs, as it is unless it overrides this.
        """
        raise ShardsUnavailable(f"executor {self.name} cannot run a job by several workers", hint="ask for one shard")

    @abstractmethod
    def start(self, job_dir: Path, resources: Resources) -> WorkerHandle:
        """Start ``cryomamba worker JOB_DIR``; the worker outlives the calling process.

        If it raises, no worker is left, or `find` finds it.
        """

    @abstractmethod
    def reattach(self, handle: WorkerHandle) -> bool:
        """Whether the worker is still there; also from another process than the one that started it."""

    def find(self, job_dir: Path) -> WorkerHandle | None:
        """The worker that runs on a job directory, or None if there is none.

        Asked by an engine that finds a job whose worker may have been started, but whose handle was
        not recorded before the last engine was killed. An executor that cannot tell returns None;
        the engine then believes the heartbeat alone.
        """
        return None

    @abstractmethod
    def wait(self, handle: WorkerHandle, timeout: float) -> WorkerExit | None:
        """Wait up to `timeout` seconds for the worker's end; None while it runs."""

    @abstractmethod
    def cancel(self, handle: WorkerHandle, grace: float = 10.0) -> None:
        """End the worker and whatever it started: asked first, forced after `grace` seconds.

        Returns when nothing of it is left. A worker that has ended is ignored.
        """

    def close(self) -> None:  # noqa: B027  # most executors keep nothing
        """Let go of all that is kept for further jobs; called at once when an engine leaves. Workers go on."""
