"""What can never fit is refused before it is queued, with what would make it fit."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from attrs import evolve, frozen

from cryomamba_core.errors import CryoMambaError, DoesNotFit, OutOfMemory
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import ModelRunner
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import RunPlan
from cryomamba_server.http.gpu import gpu_memory

#: What the kernel allows this process and its children, where somebody has set a limit.
CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")
#: Factors by which a tomogram may be binned to make it fit.
BINNINGS = (2, 3, 4, 6, 8)


@frozen(kw_only=True)
class Memory:
    """How much there is, busy or not: of the computer, and of its largest GPU, None if that is not known."""

    ram_bytes: int
    vram_bytes: int | None = None

    def holds(self, plan: RunPlan) -> bool:
        """Whether a run fits when nothing else is running, with as many shards as run at once, one on each GPU."""
        vram_fits = self.vram_bytes is None or plan.vram_bytes <= self.vram_bytes
        return plan.shards_at_once * plan.ram_bytes <= self.ram_bytes and vram_fits


def computer_memory() -> Memory:
    """The memory of this computer, or what this process may have of it. Blocks."""
    ram = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # there is no limit, or no such file
        ram = min(ram, int(CONTROL_GROUP.read_text(encoding="ascii")))
    return Memory(ram_bytes=ram, vram_bytes=max((gpu.total_bytes for gpu in gpu_memory()), default=None))


def plan_run(
    runner: ModelRunner,
    model: ModelInfo,
    grid: VoxelGrid,
    params: Any,
    *,
    device: str,
    memory: Memory,
    at_once: int = 1,
) -> RunPlan:
    """What a run will cost, or each of the `at_once` shards that run at the same time.

    Raises
    ------
    DoesNotFit
        If it needs more memory than there is.
    """
    try:
        plan = evolve(runner.plan(model, grid, params, device), shards_at_once=at_once)
    except OutOfMemory as error:
        raise DoesNotFit(error.message, hint=error.hint) from error
    if memory.holds(plan):
        return plan
    alone = evolve(plan, shards_at_once=1)
    if memory.holds(alone):
        raise DoesNotFit(
            f"{at_once} shards at a time need about {at_once * plan.ram_bytes / 1e9:.2f} GB of memory, and there "
            f"are {memory.ram_bytes / 1e9:.2f} GB",
            hint=f"ask for {max(1, memory.ram_bytes // plan.ram_bytes)} at most",
        )
    needed, there, what = plan.ram_bytes, memory.ram_bytes, "memory"
    if needed <= there:
        needed, there, what = plan.vram_bytes, memory.vram_bytes or 0, "GPU memory"
    raise DoesNotFit(
        f"the run needs about {needed / 1e9:.2f} GB of {what}, and there are {there / 1e9:.2f} GB",
        hint=_what_would_fit(runner, model, grid, params, device, memory, f"{needed / 1e9:.1f} GB of {what}"),
    )


def _what_would_fit(
    runner: ModelRunner, model: ModelInfo, grid: VoxelGrid, params: Any, device: str, memory: Memory, needed: str
) -> str:
    elsewhere = f"run it on a computer with {needed}"
    for factor in BINNINGS:
        try:
            fits = memory.holds(runner.plan(model, grid.coarsen(factor), params, device))
        except CryoMambaError:  # the model does not take such voxels
            continue
        if fits:
            return f"bin the tomogram by {factor}, or {elsewhere}"
    return elsewhere
