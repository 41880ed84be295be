"""How much memory a process holds while something goes on."""

from __future__ import annotations

import statistics
import threading
from types import TracebackType

import psutil

INTERVAL = 0.02


class MemoryWatch:
    """Looks at a process's resident memory again and again, as a context.

    Attributes
    ----------
    samples
        Bytes.
    """

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.samples = [process.memory_info().rss]

    @property
    def peak(self) -> float:
        """The most, in MB."""
        return max(self.samples) / 1e6

    @property
    def median(self) -> float:
        """In MB."""
        return statistics.median(self.samples) / 1e6

    def _look(self) -> None:
        while not self._over.wait(INTERVAL):
            self.samples.append(self._process.memory_info().rss)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
