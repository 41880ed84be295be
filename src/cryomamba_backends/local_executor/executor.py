"""One process for each job, in a session of its own, so that it outlives whoever started it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from attrs import evolve

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


class LocalExecutor(Executor):
    """Runs workers on this machine.

    Parameters
    ----------
    settings
        Names the devices and the data directory.
    """

    name = "local"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children: dict[str, _Child] = {}

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
        mark = f"{os.environ.get(MARK, '')}/{uuid.uuid4().hex}"  # that of a shard begins with that of its job's worker
        job_dir = job_dir.absolute()
        if not job_dir.is_dir():
            raise StorageDamaged(f"there is no job directory {job_dir}")
        try:
            with JobDirectory(job_dir).log_path.open("ab") as log:
                process = subprocess.Popen(  # noqa: S603  # nothing of it comes from outside
                    [sys.executable, "-P", "-m", WORKER, str(job_dir)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=job_dir,
                    env=self._environment(resources) | {MARK: mark},
                    start_new_session=True,
                )
        except OSError as error:
            raise WorkerDied(f"the worker could not be started: {error}") from error
        try:
            _keep_to(process.pid, resources.cores)
            # A child keeps its number until it is waited for, so this is surely its own birth.
            token = dump_json(WorkerProcess(pid=process.pid, birth=birth_of(process.pid) or "", mark=mark))
            self._children[token] = _Child(process)
        except BaseException:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return WorkerHandle(executor=self.name, token=token)

    def reattach(self, handle: WorkerHandle) -> bool:
        """Whether the worker still runs."""
        child = self._children.get(handle.token)
        if child is not None:
            return not child.ended.is_set()
        worker = self._worker(handle)
        return worker is not None and worker.alive

    def find(self, job_dir: Path) -> WorkerHandle | None:
        """The worker that runs on a job directory, found among the processes of this machine."""
        worker = find_worker(WORKER, job_dir.absolute())
        return WorkerHandle(executor=self.name, token=dump_json(worker)) if worker and worker.alive else None

    def wait(self, handle: WorkerHandle, timeout: float) -> WorkerExit | None:
        """Wait for the end; only the process that started the worker learns the exit status."""
        child = self._children.get(handle.token)
        if child is not None:
            return child.exit if child.ended.wait(max(0.0, timeout)) else None
        worker = self._worker(handle)
        for _ in moments(timeout):
            if worker is None or not worker.alive:
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
        if worker is None:
            return
        if worker.alive and grace > 0:
            ask_to_end(worker)
            self.wait(handle, grace)
        family = worker.family()
        for left in moments(KILL_SECONDS):
            kill_group(worker)
            for process in family:
                kill(process)
            family = worker.family()
            if not family:
                break
            if not left:
                numbers = ", ".join(str(process.pid) for process in family)
                raise JobError(
                    f"process {numbers} of the worker cannot be ended",
                    hint="it waits for a device or a network disk; see its state with: ps -l",
                )
        child = self._children.get(handle.token)
        if child is not None:
            child.ended.wait(KILL_SECONDS)

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


class _Child:
    """A worker that this process started; a thread waits for it, so that it never stays a zombie."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.ended = threading.Event()
        self.exit: WorkerExit | None = None
        threading.Thread(target=self._await, args=(process,), name=f"worker {process.pid}", daemon=True).start()

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        self.exit = WorkerExit(code=code, reason=_reason(code))
        self.ended.set()


def _keep_to(pid: int, cores: Sequence[int]) -> None:
    """Have a process keep to some CPUs, if the system still lets it have them; it runs on any others as well."""
    if cores and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(pid, cores)
        except OSError as error:
            log.warning("process %d cannot keep to the CPUs %s: %s", pid, cores, error)


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"killed by signal {-code}"
