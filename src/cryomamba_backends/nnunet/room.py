"""How much memory and disk there is for a run: all that its process may ever take, and what is left now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from attrs import frozen

#: Where Linux tells of control groups, and which of them this process is in.
CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


@frozen(kw_only=True)
class Room:
    """Bytes of memory.

    Attributes
    ----------
    total
        That there would be if nothing were in use.
    left
        That can still be taken.
    """

    total: int
    left: int


def host_room() -> Room:
    """What is least: the computer's memory, that of the control groups of this process, or its own limits."""
    computer = psutil.virtual_memory()
    rooms = [Room(total=computer.total, left=computer.available), *_of_groups(), *_of_limits()]
    return Room(total=min(room.total for room in rooms), left=max(0, min(room.left for room in rooms)))


def device_room(device: str) -> int:
    """Bytes of a GPU's memory that are left, with what PyTorch keeps of them for this process."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    kept: int = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free) + kept


def disk_room(folder: Path) -> int:
    """Bytes that are left on the disk of a folder."""
    return psutil.disk_usage(os.fspath(folder)).free


def _of_groups() -> Iterator[Room]:
    """Control groups of both versions that limit memory, from that of this process up to the root."""
    with suppress(OSError):
        for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root = CONTROL_GROUPS / "memory" if controllers else CONTROL_GROUPS
            own = root / path.lstrip("/")
            for group in (own, *(parent for parent in own.parents if parent.is_relative_to(root))):
                room = _of_group(group, second=not controllers)
                if room is not None:
                    yield room


def _of_group(group: Path, *, second: bool) -> Room | None:
    """The room in a control group of the second version or of the first; None where there is no limit."""
    names = ("memory.max", "memory.current") if second else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    try:
        most, used = (int((group / name).read_text(encoding="ascii")) for name in names)
        counted = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # no such group is visible here, or its limit is "max"
        return None
    files = int(counted.get("inactive_file" if second else "total_inactive_file", 0))  # given up where memory is short
    return Room(total=most, left=most - used + files)


def _of_limits() -> Iterator[Room]:
    """What ``ulimit`` allows this process of addresses and of data."""
    try:
        import resource
    except ImportError:  # on Windows
        return
    used = psutil.Process().memory_info()
    for name, taken in (("RLIMIT_AS", used.vms), ("RLIMIT_DATA", getattr(used, "data", 0))):
        most, _ = resource.getrlimit(getattr(resource, name))
        if most != resource.RLIM_INFINITY:
            yield Room(total=most, left=most - taken)
