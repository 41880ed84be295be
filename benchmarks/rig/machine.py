"""What a figure depends on: processor, memory and versions."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

import psutil

CPU = Path("/proc/cpuinfo")

#: Instruction sets that decide how fast networks are.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16")

PACKAGES = ("torch", "numpy", "nnunetv2")

#: Processors that others keep busy, above which times are not to be trusted.
BUSY = 0.3


def described() -> str:
    """The machine in a line."""
    told = CPU.read_text() if CPU.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", told, re.MULTILINE)
    known = flags[1].split() if flags else []
    sets = ", ".join(kind for kind in INSTRUCTIONS if kind in known) or "not known"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{name[1] if name else platform.machine()}, {cores} cores, {memory:.0f} GiB of memory, {platform.system()}; "
        f"instruction sets: {sets}"
    )


def card(device: str) -> str:
    """A GPU in a line; empty for the CPU."""
    if device == "cpu":
        return ""
    import torch

    known = torch.cuda.get_device_properties(device)
    return f"{known.name}, {known.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def versions() -> str:
    """Versions of what computes, in a line."""
    return ", ".join(
        [f"Python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in PACKAGES)]
    )


def busy() -> float:
    """How many processors other programs kept busy over the last second."""
    return psutil.cpu_percent(interval=1.0) / 100 * (os.cpu_count() or 1)
