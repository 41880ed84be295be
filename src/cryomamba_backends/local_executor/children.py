"""Workers whose ends this process hears of, because it started them."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable

from cryomamba_core.interfaces import WorkerExit


class Child:
    """The work of a process of ours on one job."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.exit: WorkerExit | None = None

    def end(self, exit_: WorkerExit | None) -> None:
        """Say that it is over."""
        self.exit = exit_
        self.ended.set()

    def holds_process(self) -> bool:
        """Whether what is left of the process is this job's to end; from now on no other job gets it."""
        return True


def watch(process: subprocess.Popen[bytes], then: Callable[[], None] = lambda: None) -> Child:
    """A child that ends with its process; a thread waits for that, so that the process never stays a zombie.

    Parameters
    ----------
    process
        The child's.
    then
        Is called after the end.
    """
    child = Child()

    def wait() -> None:
        child.end(_exit_of(process.wait()))
        then()

    threading.Thread(target=wait, name=f"worker {process.pid}", daemon=True).start()
    return child


def _exit_of(code: int) -> WorkerExit:
    """An exit status, in words as well."""
    return WorkerExit(code=code, reason=_reason(code))


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"killed by signal {-code}"
