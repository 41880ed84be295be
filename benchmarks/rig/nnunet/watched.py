"""What is measured within a contestant's process."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from cryomamba_core.worker.run import peak_rss_bytes
from rig.nnunet.cases import Spent

STATUS = Path("/proc/self/status")


def peak_mib() -> float:
    """The most memory that this process has held; where Linux does not say it, that of its parent counts too."""
    if STATUS.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1]) / 2**10
    return peak_rss_bytes() / 2**20


class Clock:
    """Begins to count when it is made."""

    def __init__(self) -> None:
        self._wall, self._processor = time.monotonic(), time.process_time()

    def spent(self) -> Spent:
        """What was spent since."""
        return Spent(wall=time.monotonic() - self._wall, processor=time.process_time() - self._processor)


class NetworkWatch:
    """Counts how often networks run, and for how long.

    Attributes
    ----------
    spent, passes
        Of all networks that are watched.
    """

    def __init__(self) -> None:
        self.spent = Spent()
        self.passes = 0
        self._clock = Clock()

    def watch(self, network: Any) -> Any:
        """Watch a network of PyTorch on the CPU, and return it."""
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)
        return network

    def __deepcopy__(self, _: object) -> NetworkWatch:
        """Itself, so that copies of a network are counted with it."""
        return self

    def _begin(self, *_: object) -> None:
        self._clock = Clock()

    def _end(self, *_: object) -> None:
        spent = self._clock.spent()
        self.spent = Spent(wall=self.spent.wall + spent.wall, processor=self.spent.processor + spent.processor)
        self.passes += 1
