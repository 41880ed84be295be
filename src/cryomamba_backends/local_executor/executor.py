"""One process for each job, in a session of its own, so that it outlives whoever started it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import evolve

from cryomamba_backends.local_executor.children import Child, watch
from cryomamba_backends.local_executor.cores import shares, usable_cores
from cryomamba_backends.local_executor.processes import (
    MARK,
    WorkerProcess,
    ask_to_end,
    birth_of,
    find_worker,
    kill,
    kill_group,
    moments,
)
from cryomamba_backends.local_executor.warm import Kind, WarmWorker, WarmWorkers, devices_of, kind_of, spec_of
from cryomamba_core.errors import CryoMambaError, JobError, StorageDamaged, WorkerDied
from cryomamba_core.interfaces import Executor, Resources, WorkerExit, WorkerHandle
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.settings import Settings
from cryomamba_core.wire import dump_json, load_json

log = logging.getLogger(__name__)

#: The module that is the worker.
WORKER = "cryomamba_core.worker"
#: What the numeric libraries ask for their number of threads.
THREAD_VARIABLES = (
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
#: How often a thread of GNU OpenMP looks for work before it sleeps. By its own default, thirty times as often, two jobs
#: on the same cores take each other's time: each needs three times what half of the cores would need.
SPINS = 10_000
#: What decides on that already, where it is set.
WAITING_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
#: How long killed processes may take to be gone; only one that hangs in a device or a network disk takes longer.
KILL_SECONDS = 30.0

#: Children that have ended and are remembered, at most.
MOST_ENDED = 64


class LocalExecutor(Executor):
    """Runs workers on this machine.

    Parameters
    ----------
    settings
        Name the devices and the data directory, and say whether processes wait for further jobs.
    """

    name = "local"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children: dict[str, Child] = {}
        self._warm = WarmWorkers(settings)

    def slots(self) -> Sequence[str]:
        """The devices of the settings."""
        return self._settings.devices

    def places(self, resources: Resources, devices: Sequence[str], count: int) -> Sequence[Resources]:
        """A place for each GPU that the job holds; on the CPU one for each thread at most. All divide the cores."""
        cores = usable_cores()
        threads = resources.threads or len(cores)
        places = min(count, threads if resources.device == "cpu" else len(devices))
        numbers = [max(1, threads // places + (index < threads % places)) for index in range(places)]
        return [
            evolve(
                resources,
                device=devices[min(index, len(devices) - 1)],
                threads=number,
                cores=own,
                environment={**resources.environment, "CRYOMAMBA_THREADS": str(number)},
            )
            for index, (number, own) in enumerate(zip(numbers, shares(cores, places), strict=True))
        ]

    def start(self, job_dir: Path, resources: Resources) -> WorkerHandle:
        """Start a worker in the job directory; what it prints goes to the job's log. Where it raises, none is left."""
        job_dir = job_dir.absolute()
        if not job_dir.is_dir():
            raise StorageDamaged(f"there is no job directory {job_dir}")
        environment = self._environment(resources)
        if not self._warm.wanted:
            return self._start_alone(job_dir, resources, environment)
        spec = spec_of(job_dir)
        kind = kind_of(spec, environment) if spec is not None and self._warm.may_wait(spec) else None
        waiting = self._warm.waiting(kind, devices_of(spec, resources))
        if kind is None:
            return self._start_alone(job_dir, resources, environment)
        return self._give(job_dir, waiting) or self._start_warm(job_dir, environment, kind)

    def _start_alone(self, job_dir: Path, resources: Resources, environment: dict[str, str]) -> WorkerHandle:
        """Start a worker whose process ends with the job."""
        with _begun(job_dir, [str(job_dir)], environment, cores=resources.cores) as (process, name):
            handle = self._handle(name)
            self._keep(handle, watch(process))
        return handle

    def _start_warm(self, job_dir: Path, environment: dict[str, str], kind: Kind) -> WorkerHandle:
        """Start a worker whose process can go on to another job."""
        line, theirs = socket.socketpair()
        try:
            with theirs, _begun(job_dir, ["--line"], environment, line=theirs) as (process, name):
                name = evolve(name, job_dir=str(job_dir))
                handle = self._handle(name)
                JobDirectory(job_dir).write_handle(handle)  # before it hears of the job: `find` misses none
                worker = WarmWorker(process, line, name, kind, self._warm)
        except BaseException:
            line.close()
            raise
        self._warm.add(worker)
        self._keep(handle, worker.first)
        return handle

    def _give(self, job_dir: Path, waiting: Sequence[WarmWorker]) -> WorkerHandle | None:
        """Give the job to a process that waits for one, if there is any."""
        for worker in waiting:
            handle = self._handle(evolve(worker.name, job_dir=str(job_dir)))
            JobDirectory(job_dir).write_handle(handle)
            job = worker.give(job_dir)
            if job is not None:
                self._keep(handle, job)
                return handle
        return None

    def _keep(self, handle: WorkerHandle, child: Child) -> None:
        """Remember a child, and forget those that ended long ago: their exit was asked for soon after."""
        ended = [token for token, each in list(self._children.items()) if each.ended.is_set()]
        for token in ended[:-MOST_ENDED]:
            self._children.pop(token, None)
        self._children[handle.token] = child

    def _handle(self, name: WorkerProcess) -> WorkerHandle:
        return WorkerHandle(executor=self.name, token=dump_json(name))

    def reattach(self, handle: WorkerHandle) -> bool:
        """Whether the worker still runs."""
        child = self._children.get(handle.token)
        if child is not None:
            return not child.ended.is_set()
        worker = self._worker(handle)
        return worker is not None and worker.works

    def find(self, job_dir: Path) -> WorkerHandle | None:
        """The worker that runs on a job directory, named there or found among the processes of this machine."""
        handle = JobDirectory(job_dir).handle()
        given = None if handle is None else self._worker(handle)
        if given is not None and given.job_dir == str(job_dir.absolute()) and given.works:
            return handle
        worker = find_worker(WORKER, job_dir.absolute())
        return self._handle(worker) if worker and worker.alive else None

    def wait(self, handle: WorkerHandle, timeout: float) -> WorkerExit | None:
        """Wait for the end; only the process that started the worker learns the exit status."""
        child = self._children.get(handle.token)
        if child is not None:
            return child.exit if child.ended.wait(max(0.0, timeout)) else None
        worker = self._worker(handle)
        for _ in moments(timeout):
            if worker is None or not worker.works:
                return WorkerExit(code=None, reason="ended; another process started it and knows its exit status")
        return None

    def cancel(self, handle: WorkerHandle, grace: float = 10.0) -> None:
        """Ask the worker with SIGTERM, then kill it and whatever it started with SIGKILL.

        Also ends what a worker left behind that is itself gone.

        Raises
        ------
        JobError
            If a process outlasts SIGKILL, as one does that hangs in a device or a network disk.
        """
        worker = self._worker(handle)
        child = self._children.get(handle.token)
        if worker is None or not _is_its_own(worker, child):
            return
        if worker.alive and grace > 0:
            ask_to_end(worker)
            self.wait(handle, grace)
        family = worker.family()
        for left in moments(KILL_SECONDS):
            kill_group(worker)
            for process in family:
                kill(process)
            family = worker.family(family)
            if not family:
                break
            if not left:
                numbers = ", ".join(str(process.pid) for process in family)
                raise JobError(
                    f"process {numbers} of the worker cannot be ended",
                    hint="it waits for a device or a network disk; see its state with: ps -l",
                )
        if child is not None:
            child.ended.wait(KILL_SECONDS)

    def close(self) -> None:
        """End the processes that wait for a job, and let those that work end after it."""
        self._warm.close()

    def _worker(self, handle: WorkerHandle) -> WorkerProcess | None:
        try:
            return load_json(handle.token, WorkerProcess) if handle.executor == self.name else None
        except CryoMambaError:
            return None

    def _environment(self, resources: Resources) -> dict[str, str]:
        environment = dict(os.environ)
        for variable in (
            "PYTHONPATH",
            "CRYOMAMBA_CONFIG",
        ):  # relative paths would mean another place in the job directory
            if environment.get(variable):
                paths = environment[variable].split(os.pathsep)
                environment[variable] = os.pathsep.join(str(Path(path).absolute()) for path in paths)
        environment["CRYOMAMBA_DATA_DIR"] = str(self._settings.data_dir)
        if resources.threads > 0:
            environment |= dict.fromkeys(THREAD_VARIABLES, str(resources.threads))
        environment |= resources.environment
        if not any(environment.get(variable) for variable in WAITING_VARIABLES):
            environment["GOMP_SPINCOUNT"] = str(SPINS)
        return environment


@contextmanager
def _begun(
    job_dir: Path,
    arguments: Sequence[str],
    environment: dict[str, str],
    *,
    line: socket.socket | None = None,
    cores: Sequence[int] = (),
) -> Iterator[tuple[subprocess.Popen[bytes], WorkerProcess]]:
    """A worker process that has just begun; if the block raises, none is left."""
    mark = f"{os.environ.get(MARK, '')}/{uuid.uuid4().hex}"  # that of a shard begins with that of its job's worker
    inherited = [] if line is None else [line.fileno()]
    try:
        with JobDirectory(job_dir).log_path.open("ab") as log_file:
            process = subprocess.Popen(  # noqa: S603  # nothing of it comes from outside
                [sys.executable, "-P", "-m", WORKER, *arguments, *map(str, inherited)],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                cwd=job_dir,
                env=environment | {MARK: mark},
                pass_fds=inherited,
                start_new_session=True,
            )
    except OSError as error:
        raise WorkerDied(f"the worker could not be started: {error}") from error
    try:
        _keep_to(process.pid, cores)
        # A child keeps its number until it is waited for, so this is surely its own birth.
        yield process, WorkerProcess(pid=process.pid, birth=birth_of(process.pid) or "", mark=mark)
    except BaseException:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _is_its_own(worker: WorkerProcess, child: Child | None) -> bool:
    """Whether what is left of a worker's process is still its own, and not that of the process's next job."""
    if child is not None:
        return child.holds_process()
    return not (worker.has_left and worker.alive)


def _keep_to(pid: int, cores: Sequence[int]) -> None:
    """Have a process keep to some CPUs, if the system still lets it have them; it runs on any others as well."""
    if cores and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(pid, cores)
        except OSError as error:
            log.warning("process %d cannot keep to the CPUs %s: %s", pid, cores, error)
