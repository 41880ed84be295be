"""Where the sums of a run lie, and what is given up, one after the other, where memory is out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self

from attrs import define, field, frozen

from cryomamba_backends.nnunet.accumulators import Accumulator, FileAccumulator, MemoryAccumulator, no_disk_room
from cryomamba_backends.nnunet.costs import Costs
from cryomamba_backends.nnunet.memory import Place, Way, ways_for
from cryomamba_backends.nnunet.room import device_room, disk_room, host_room
from cryomamba_backends.nnunet.shortage import is_of_device, let_go, out_of_memory
from cryomamba_core.allocator import join_freed, keep_freed, return_freed
from cryomamba_core.errors import OutOfMemory
from cryomamba_core.interfaces import RunContext

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

TOLD: dict[Place, str] = {
    "device": "in the memory of the device",
    "host": "in the memory of the host",
    "file": "in a file in the job's folder",
}

GIVEN_BACK = "memory that networks free is given back at once, which takes time"


@define(kw_only=True)
class Placing:
    """Where the sums of a run lie, and how many tiles are computed at once.

    Attributes
    ----------
    costs
        What the run needs, given these two.
    context
        Hears of what is decided, and has the folder for a file.
    way, batch
        At first the fastest that the memory holds which is left when the run begins.
    """

    costs: Costs = field(repr=False)
    context: RunContext = field(repr=False)
    way: Way
    batch: int

    @classmethod
    def chosen(cls, costs: Costs, context: RunContext) -> Self:
        """The fastest that the memory which is left now holds; where none is, the one that needs least."""
        device = costs.course.device
        left = Left(ram=host_room().left, vram=0 if device == "cpu" else device_room(device))
        possible = [(way, batch) for way in _possible(costs, context.scratch) for batch in _batches(costs.course.batch)]
        way, batch = next((choice for choice in possible if left.holds(costs, *choice)), possible[-1])
        placing = cls(costs=costs, context=context, way=way, batch=batch)
        placing._tell_choice(left)
        return placing

    def freed(self) -> AbstractContextManager[None]:
        """What to do with what networks free, in a ``with`` around some of their tiles."""
        if not self.way.keeps:
            return nullcontext()
        return keep_for_layers() if self.costs.course.exact else keep_freed()

    def hold(self, shape: tuple[int, int, int, int], edges: tuple[int, int], dtype: torch.dtype) -> Accumulator:
        """Room for sums (channels, rows, y, x) of tiles with `edges` (y, x).

        Raises
        ------
        StorageFull
            If they are to lie on a disk that has no room for them.
        """
        place = self.way.place
        if place == "file":
            assert self.context.scratch is not None
            return FileAccumulator(shape, edges, dtype, self.context.scratch)
        return MemoryAccumulator(shape, edges, dtype, self.costs.course.device if place == "device" else "cpu")

    def step_down(self, row: int, shortage: BaseException) -> None:
        """Go on in the next way, as memory ran out for `shortage` before `row` of the sweep was final.

        Raises
        ------
        OutOfMemory
            If there is none.
        StorageFull
            If it is a disk that has no room for them.
        """
        let_go(shortage)
        return_freed()
        further, scratch = self._further(shortage), self.context.scratch
        if not further or (further[0].place == "file" and scratch is None):
            raise self._out(shortage) from shortage
        if further[0].place == "file" and scratch is not None and disk_room(scratch) < self.costs.sums:
            raise no_disk_room(self.costs.sums, scratch) from shortage
        kept, self.way = self.way.keeps, further[0]
        change = GIVEN_BACK if kept else f"sums lie {TOLD[self.way.place]}"
        self._tell(f"memory ran out before row {row} of the sweep was final: from there on {change}")

    def _further(self, shortage: BaseException) -> list[Way]:
        """The ways after this one that need less of what is out."""
        device = self.costs.course.device
        ways = ways_for(device)
        further = list(ways[ways.index(self.way) + 1 :])
        if device == "cpu":
            return further
        if is_of_device(shortage):
            return [way for way in further if self.costs.vram(way.place, 1) < self.costs.vram(self.way.place, 1)]
        return [way for way in further if self.costs.ram(way) < self.costs.ram(self.way)]

    def _out(self, shortage: BaseException) -> OutOfMemory:
        costs, device = self.costs, self.costs.course.device
        if device != "cpu" and is_of_device(shortage):
            return out_of_memory(costs.vram(self.way.place, 1), device_room(device), costs.hint, device=device)
        return out_of_memory(costs.ram(self.way), host_room().left, costs.hint)

    def _tell_choice(self, left: Left) -> None:
        """Say where the choice is not that of a run with room for everything, and why."""
        costs, device = self.costs, self.costs.course.device
        first, most = ways_for(device)[0], costs.course.batch
        if self.batch < most:
            needed = costs.vram(first.place, most)
            self._tell(
                f"tiles are computed {self.batch} at a time: {most} would need about {needed >> 20} MiB on "
                f"{device}, where {left.vram >> 20} MiB are left"
            )
        if self.way != first:
            on_device = first.place == "device" and costs.vram("device", 1) > left.vram
            better = Way("host", keeps=self.way.place == "host" and first.keeps)
            needed, there = (costs.vram("device", 1), left.vram) if on_device else (costs.ram(better), left.ram)
            where = device if on_device else "the host"
            change = GIVEN_BACK if self.way.place == first.place else f"sums lie {TOLD[self.way.place]}"
            self._tell(
                f"{change}: otherwise the run would need about {needed >> 20} MiB of memory on "
                f"{where}, where {there >> 20} MiB are left"
            )

    def _tell(self, sentence: str) -> None:
        log.info("%s", sentence)
        self.context.note(sentence)


@contextmanager
def keep_for_layers() -> Iterator[None]:
    """Have what is freed kept, and joined before each layer that PyTorch runs.

    How much a network of stock's layers held was chance without it, from one run to the next: the demo's 200 to
    281 MiB, and 159 to 192 with it.
    """
    from torch.nn.modules.module import register_module_forward_pre_hook

    def join(layer: torch.nn.Module, _: object) -> None:
        if next(layer.children(), None) is None:
            join_freed()

    with keep_freed():
        hook = register_module_forward_pre_hook(join)
        try:
            yield
        finally:
            hook.remove()


@frozen(kw_only=True)
class Left:
    """Bytes of memory that can still be taken, of the host and of the device."""

    ram: int
    vram: int

    def holds(self, costs: Costs, way: Way, batch: int) -> bool:
        """Whether a run fits, as far as can be known before it."""
        fits = costs.course.device == "cpu" or costs.vram(way.place, batch) <= self.vram
        return fits and costs.ram(way) <= self.ram


def _possible(costs: Costs, scratch: Path | None) -> list[Way]:
    """The ways that there are, in the order in which they are tried."""
    on_disk = scratch is not None and disk_room(scratch) >= costs.sums
    return [way for way in ways_for(costs.course.device) if way.place != "file" or on_disk]


def _batches(most: int) -> Iterator[int]:
    while most:
        yield most
        most //= 2
