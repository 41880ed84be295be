"""Processes by more than their number, which the system gives to another once it is free."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from attrs import frozen

from cryomamba_core.job_directory import JobDirectory

#: In the environment of a worker and so of all that it starts: says whose they are, even when it is gone.
MARK = "CRYOMAMBA_WORKER"

#: Seconds between two looks at processes that are no children of this one.
LOOK_EVERY = 0.05

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@frozen(kw_only=True)
class WorkerProcess:
    """A worker, so that any process of this machine finds it and no other.

    Attributes
    ----------
    pid
        Number of the process, which is also that of its process group.
    birth
        When it was born, in whatever terms the system has; see `birth_of`.
    mark
        Value of `MARK` in its environment; those of workers that it has started begin with it.
    job_dir
        The job, where the process may be given another one later; else empty.
    """

    pid: int
    birth: str
    mark: str
    job_dir: str = ""

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that has ended and is not yet waited for does not."""
        return birth_of(self.pid) == self.birth and not _is_zombie(self.pid)

    @property
    def has_left(self) -> bool:
        """Whether the process, dead or alive, was done with the job and could be given another."""
        return bool(self.job_dir) and JobDirectory(Path(self.job_dir)).left

    @property
    def works(self) -> bool:
        """Whether it still runs, and on this job."""
        return self.alive and not self.has_left

    def family(self, known: Iterable[psutil.Process] = ()) -> list[psutil.Process]:
        """The worker and whatever it started, as far as they still run.

        A process that dies shows no mark any more, and may hold a device for a moment longer: so those that are
        `known` to be of the family still are, until they are gone.
        """
        found = {process.pid: process for process in known if process.is_running()}
        found.update({process.pid: process for process in _running() if self._has_marked(process)})
        if self.alive:
            with suppress(psutil.Error):
                worker = psutil.Process(self.pid)
                found.update({process.pid: process for process in (worker, *worker.children(recursive=True))})
        return [process for process in found.values() if not _is_zombie(process.pid)]

    def _has_marked(self, process: psutil.Process) -> bool:
        try:
            mark = process.environ().get(MARK, "")
            return mark == self.mark or mark.startswith(f"{self.mark}/")
        except (psutil.Error, OSError):
            return False


def birth_of(pid: int) -> str | None:
    """What tells a process from an earlier or later one of the same number; None if there is none.

    It raises `OSError` where that cannot be told, as by a process that has no descriptor left.

    Linux counts from the machine's start, so setting the clock changes nothing; the start itself has an id.
    """
    try:
        if _BOOT_ID.exists():
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            return f"{_BOOT_ID.read_text().strip()}/{fields[19].decode()}"
        return repr(psutil.Process(pid).create_time())
    except (FileNotFoundError, ProcessLookupError, IndexError, psutil.NoSuchProcess):
        return None


def find_worker(module: str, job_dir: Path) -> WorkerProcess | None:
    """The worker process that runs `module` on a job directory, whoever started it; raises as `birth_of`."""
    for process in _running():
        try:
            *_, name, folder = ["", "", *process.cmdline()]
            if name == module and os.path.realpath(folder) == os.path.realpath(job_dir):
                mark, birth = process.environ().get(MARK), birth_of(process.pid)
                if mark and birth and os.getsid(process.pid) == process.pid:  # what it forked looks the same else
                    return WorkerProcess(pid=process.pid, birth=birth, mark=mark)
        except (psutil.Error, PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    return None


def ask_to_end(worker: WorkerProcess) -> None:
    """Send SIGTERM to the worker alone: what it started is its own to end, in good order."""
    if worker.alive:
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGTERM)


def kill(process: psutil.Process) -> None:
    """Send SIGKILL, unless the process is gone; psutil makes sure that it is the same one."""
    with suppress(psutil.NoSuchProcess):
        process.kill()


def kill_group(worker: WorkerProcess) -> None:
    """Kill the worker's process group while its number cannot be another's."""
    if birth_of(worker.pid) == worker.birth:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)


def moments(seconds: float) -> Iterator[float]:
    """Yield at once and then every `LOOK_EVERY` seconds until `seconds` are over; what is left of them."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        yield left
        time.sleep(min(LOOK_EVERY, left))
    yield 0.0


def _running() -> Iterable[psutil.Process]:
    for pid in psutil.pids():
        with suppress(psutil.Error):
            yield psutil.Process(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True
