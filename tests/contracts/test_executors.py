"""The built-in executor passes the suite that strangers use, and so it does where processes go on to further jobs."""

from pathlib import Path

import psutil
from attrs import evolve

from cryomamba_backends.local_executor.executor import LocalExecutor
from cryomamba_backends.local_executor.processes import WorkerProcess
from cryomamba_core.interfaces import Executor
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.settings import Settings
from cryomamba_core.testing.executors import ExecutorConformance
from cryomamba_core.wire import load_json


class TestLocal(ExecutorConformance):
    def make_executor(self, settings: Settings) -> Executor:
        return LocalExecutor(settings)


class TestLocalWithWarmWorkers(ExecutorConformance):
    def make_executor(self, settings: Settings) -> Executor:
        return LocalExecutor(evolve(settings, warm_seconds=3600))

    def processes(self, job_dir: Path) -> list[psutil.Process]:
        """Their command lines do not name the job."""
        handle = JobDirectory(job_dir).handle()
        worker = None if handle is None else load_json(handle.token, WorkerProcess)
        return [psutil.Process(worker.pid)] if worker is not None and worker.alive else []
