"""The built-in executor passes the suite that strangers use."""

from cryomamba_backends.local_executor.executor import LocalExecutor
from cryomamba_core.interfaces import Executor
from cryomamba_core.settings import Settings
from cryomamba_core.testing.executors import ExecutorConformance


class TestLocal(ExecutorConformance):
    def make_executor(self, settings: Settings) -> Executor:
        return LocalExecutor(settings)
