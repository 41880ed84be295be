"""Worker processes that wait, once they are done, for another job of the same kind.

A process is given each job by a line of its own, and says there when it has left one. Whether it waits is decided here,
as is for how long. When this process ends, the system closes its ends of all lines, and whoever waits at the other one
ends.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from attrs import frozen

from cryomamba_backends.local_executor.children import Child, watch
from cryomamba_backends.local_executor.processes import WorkerProcess, kill_group
from cryomamba_core.errors import StorageDamaged
from cryomamba_core.interfaces import Resources, WorkerExit
from cryomamba_core.job_directory import JobDirectory, JobSpec
from cryomamba_core.settings import Settings
from cryomamba_core.worker.line import LEFT, TAKEN

#: How long a process that is not to wait any more may take to end by itself, and then to be gone.
LEAVING_SECONDS, KILL_SECONDS = 5.0, 30.0
#: How the names of folders and files end that are written anew whenever something is installed.
SAYS_WHAT_IS_INSTALLED = (".dist-info", ".egg-info", ".pth")
#: The longest that can be asked of the system to wait.
MOST_MILLISECONDS = 2**31 - 1


@frozen(kw_only=True)
class Kind:
    """What two jobs must have in common so that one process may run both.

    Attributes
    ----------
    runner, model, device, threads
        Of the job.
    environment
        Of the process.
    installed
        What lies in the folders that Python imports from, and when that was put there which says what is installed.
        Bytecode does not count: the first to import something leaves that there.
    """

    runner: str | None
    model: str | None
    device: str
    threads: int
    environment: tuple[tuple[str, str], ...]
    installed: frozenset[tuple[str, int]]


def kind_of(spec: JobSpec, environment: Mapping[str, str]) -> Kind:
    """The kind of a job whose worker has an environment."""
    return Kind(
        runner=spec.config.runner,
        model=spec.config.model,
        device=spec.device,
        threads=spec.threads,
        environment=tuple(sorted(environment.items())),
        installed=frozenset(entry for folder in sys.path for entry in _entries(folder)),
    )


def _entries(folder: str) -> Iterator[tuple[str, int]]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name != "__pycache__":
                says = entry.name.endswith(SAYS_WHAT_IS_INSTALLED)
                yield entry.path, entry.stat(follow_symlinks=False).st_mtime_ns if says else 0


class WarmWorkers:
    """The processes that this one has started to run one job after another.

    Parameters
    ----------
    settings
        How long they wait for a job, and with how much memory.
    """

    def __init__(self, settings: Settings) -> None:
        self.milliseconds: float = min(1000 * settings.warm_seconds, MOST_MILLISECONDS)
        self.most_bytes: int = settings.warm_mib << 20
        self.lock = threading.Lock()
        self.closed = False
        self._workers: list[WarmWorker] = []

    @property
    def wanted(self) -> bool:
        """Whether any process waits at all."""
        return self.milliseconds > 0

    def may_wait(self, spec: JobSpec) -> bool:
        """Whether the worker of a job may wait for another: one that is alone with it, at the first attempt."""
        return spec.attempt == 1 and spec.shard is None and spec.config.shards == 1

    def add(self, worker: WarmWorker) -> None:
        """Have one more."""
        with self.lock:
            self._workers = [other for other in self._workers if not other.gone.is_set()]
            self._workers.append(worker)

    def waiting(self, kind: Kind | None, devices: Sequence[str]) -> list[WarmWorker]:
        """Those that wait for a job of this kind; all others that wait on these devices are ended first."""
        with self.lock:
            self.closed = False
            idle = [worker for worker in self._workers if worker.idle]
            fit = [worker for worker in idle if worker.kind == kind]
            unfit = [worker for worker in idle if worker.kind.device in devices and worker not in fit]
            _dismiss(unfit)
        for worker in unfit:
            worker.gone.wait(LEAVING_SECONDS + KILL_SECONDS)
        return fit

    def close(self) -> None:
        """End all that wait, and those that work as soon as they are done."""
        with self.lock:
            self.closed = True
            _dismiss(worker for worker in self._workers if worker.idle)


def _dismiss(workers: Iterable[WarmWorker]) -> None:
    """The lock is held."""
    for worker in workers:
        worker.dismiss()


class WarmWorker:
    """A process that takes one job after another; a thread attends to it until it is gone.

    Parameters
    ----------
    process
        It has the other end of the line.
    line
        Our end.
    name
        Tells the process, and what it starts, from all others, and says which job is its first.
    kind
        Of its jobs.
    owner
        Says whether it may wait, and has the lock for what is known of it.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        line: socket.socket,
        name: WorkerProcess,
        kind: Kind,
        owner: WarmWorkers,
    ) -> None:
        self.name = name
        self.kind = kind
        self.gone = threading.Event()
        self._line, self._owner = line, owner
        self._leaving = False
        self.first = WarmChild(self)
        self._job: WarmChild | None = self.first
        with suppress(OSError):  # it has ended already, of which `_attend` hears
            self._send(Path(name.job_dir))
        self._process = watch(process, self._hang_up)  # what it has forked may hold its end of the line
        threading.Thread(target=self._attend, name=f"worker {process.pid}", daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether it waits for a job."""
        return self._job is None and not self._leaving

    def give(self, job_dir: Path) -> WarmChild | None:
        """Give it a job, if it still waits for one; None if it does not take it, and then it never will."""
        with self._owner.lock:
            if not self.idle:
                return None
            job = self._job = WarmChild(self)
            try:
                self._send(job_dir)
            except OSError:  # it was killed while it waited
                self._hang_up()
        job.answered.wait(LEAVING_SECONDS)
        with self._owner.lock:
            if job.taken:
                return job
            self._job = None
            self.dismiss()
        kill_group(self.name)  # it is dying, or it was stopped
        self.gone.wait(KILL_SECONDS)
        return None

    def _send(self, job_dir: Path) -> None:
        self._line.sendall(json.dumps(str(job_dir)).encode() + b"\n")

    def dismiss(self) -> None:
        """Have it end once it is done, if it is not yet; the lock is held."""
        self._leaving = True
        self._hang_up()

    def _hang_up(self) -> None:
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def hold_for(self, job: WarmChild) -> bool:
        """See `Child.holds_process`."""
        with self._owner.lock:
            if self._job is job:
                self.dismiss()
            return self._job is job or self.gone.is_set()

    def _attend(self) -> None:
        while self._hears_of_an_end():
            if not self._may_wait():
                break
        ended = self._await_end()
        with self._owner.lock:
            self._leaving = True
            self.gone.set()
            job, self._job = self._job, None
        self._line.close()
        if job is not None:
            job.end(ended)

    def _hears_of_an_end(self) -> bool:
        """Wait until it says that it has left its job; False if it ends, or has waited long enough."""
        poll = select.poll()
        poll.register(self._line, select.POLLIN)
        while not poll.poll(self._owner.milliseconds if self.idle else None):
            with self._owner.lock:
                if self.idle:
                    self.dismiss()
                    return False
        try:
            said = self._line.recv(1)
        except OSError:
            return False
        if said == TAKEN:
            with self._owner.lock:
                if self._job is not None:
                    self._job.take()
            return self._hears_of_an_end()
        return said == LEFT

    def _may_wait(self) -> bool:
        """Let it wait for another job, unless it has left more than itself behind."""
        lean = self._is_lean()
        with self._owner.lock:
            if self._leaving or self._owner.closed or not lean:
                self.dismiss()
                return False
            job, self._job = self._job, None
        if job is not None:
            job.end(WorkerExit(code=0, reason="done; its process waits for another job"))
        return True

    def _is_lean(self) -> bool:
        try:
            process = psutil.Process(self.name.pid)
            return process.memory_info().rss <= self._owner.most_bytes and self.name.family() == [process]
        except psutil.Error:
            return False

    def _await_end(self) -> WorkerExit | None:
        """Wait for the end of the process; one that has no job, and does not end by itself, is killed."""
        if not self._process.ended.wait(None if self._job is not None else LEAVING_SECONDS):
            kill_group(self.name)
            self._process.ended.wait()
        return self._process.exit


class WarmChild(Child):
    """One job of a process that takes several.

    Attributes
    ----------
    taken
        Whether the process has it: one that dies or stops while it waits does not.
    answered
        Set once that is decided.
    """

    def __init__(self, worker: WarmWorker) -> None:
        super().__init__()
        self.taken = False
        self.answered = threading.Event()
        self._worker = worker

    def take(self) -> None:
        """Note that the process has taken the job."""
        self.taken = True
        self.answered.set()

    def end(self, exit_: WorkerExit | None) -> None:
        super().end(exit_)
        self.answered.set()

    def holds_process(self) -> bool:
        return self._worker.hold_for(self)


def spec_of(job_dir: Path) -> JobSpec | None:
    """What a job directory says; None if it says nothing, which its worker is to report."""
    try:
        return JobDirectory(job_dir).spec()
    except StorageDamaged:
        return None


def devices_of(spec: JobSpec | None, resources: Resources) -> Sequence[str]:
    """All devices that a job may use."""
    return (resources.device, *(spec.devices if spec else ()))
