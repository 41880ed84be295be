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


def peak_vram_mib(device: str) -> float:
    """The most that tensors of this process held on a GPU at a time; 0 on the CPU."""
    if device == "cpu":
        return 0.0
    import torch

    return torch.cuda.max_memory_allocated(device) / 2**20


class NetworkWatch:
    """Counts how often networks run, and for how long: on a GPU by its own clock, as nobody waits for it.

    Parameters
    ----------
    device
        Where they run.

    Attributes
    ----------
    passes
        Of all networks that are watched.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.passes = 0
        self._device = device
        self._spent = Spent()
        self._clock = Clock()
        self._events: list[tuple[Any, Any]] = []

    @property
    def spent(self) -> Spent:
        """Time of all networks that are watched; that of a GPU counts by the clock only."""
        if not self._events:
            return self._spent
        import torch

        torch.cuda.synchronize(self._device)
        return Spent(wall=sum(begun.elapsed_time(ended) for begun, ended in self._events) / 1000)

    def watch(self, network: Any) -> Any:
        """Watch a network of PyTorch, and return it."""
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)
        return network

    def __deepcopy__(self, _: object) -> NetworkWatch:
        """Itself, so that copies of a network are counted with it."""
        return self

    def _begin(self, *_: object) -> None:
        if self._device == "cpu":
            self._clock = Clock()
        else:
            self._events.append((self._marked(), None))

    def _end(self, *_: object) -> None:
        self.passes += 1
        if self._device != "cpu":
            self._events[-1] = self._events[-1][0], self._marked()
            return
        spent = self._clock.spent()
        self._spent = Spent(wall=self._spent.wall + spent.wall, processor=self._spent.processor + spent.processor)

    def _marked(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
