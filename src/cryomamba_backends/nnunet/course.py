"""How a run goes: the order of its axes, where it computes, and how precisely."""

from __future__ import annotations

import math
import re
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Literal

from attrs import evolve, frozen

from cryomamba_backends.nnunet.params import Mode, NNUNetParams
from cryomamba_backends.nnunet.plans import ModelRecipe
from cryomamba_core.errors import InvalidParameter, PluginUnavailable
from cryomamba_core.geometry import Index3, to_index

Precision = Literal["single", "fixed", "bfloat16", "float16"]

#: What a sweep along Z, Y or X must save of memory: along Y a little, as files are read in longer pieces along Z.
#: None goes along X unless the model does: its rows are scattered over the file, and each would cost a pass over it.
AXIS_PRICE = (1.0, 1.1, math.inf)

#: Tiles that a GPU computes at once.
GPU_BATCH = 4

CPU_FLAGS = Path("/proc/cpuinfo")

#: Instructions that multiply bfloat16.
BFLOAT16 = ("avx512_bf16", "amx_bf16")

TOLD: dict[Precision, str] = {
    "single": "single precision",
    "fixed": "16-bit fixed point",
    "bfloat16": "bfloat16",
    "float16": "half precision",
}


@frozen(kw_only=True)
class Course:
    """How a run goes; the same for every attempt at a job.

    Attributes
    ----------
    mode
        Whether bit by bit as stock nnU-Net.
    device
        ``cpu``, ``cuda`` or ``cuda:N``.
    precision
        Of the networks; sums are in half precision in exact mode, else in single.
    order
        Axis of the model that each axis of the sweep is.
    axes
        Axis (z, y, x) of the volume that each axis of the sweep is.
    """

    mode: Mode
    device: str
    precision: Precision
    order: Index3
    axes: Index3

    @property
    def exact(self) -> bool:
        """Whether bit by bit as stock nnU-Net."""
        return self.mode == "exact"

    @property
    def apart(self) -> bool:
        """Whether the device computes while the host does something else, which then has threads of its own."""
        return self.device != "cpu"

    @property
    def rough(self) -> Course:
        """The course of a pass whose labels are only looked at: as fast as the device computes."""
        if self.device != "cpu":
            return self
        return evolve(self, mode="fast", precision="bfloat16" if cpu_has(*BFLOAT16) else "single")

    @property
    def batch(self) -> int:
        """Tiles that are computed at once: one on the CPU, where more gain nothing."""
        return 1 if self.device == "cpu" else GPU_BATCH

    @property
    def told(self) -> str:
        """The course in a sentence."""
        return (
            f"mode={self.mode}: networks in {TOLD[self.precision]} on {self.device}, swept along {'ZYX'[self.axes[0]]}"
        )

    def autocast(self) -> AbstractContextManager[object]:
        """What networks run in."""
        import torch

        if self.precision in ("single", "fixed"):
            return nullcontext()
        kind = self.device.partition(":")[0]
        return torch.autocast(kind, dtype=getattr(torch, self.precision))


def choose_course(recipe: ModelRecipe, shape: Index3, params: NNUNetParams, device: str) -> Course:
    """The course of a run over a volume of `shape` (z, y, x).

    Raises
    ------
    InvalidParameter
        If the mode or the precision cannot run on the device.
    PluginUnavailable
        If there is no such device.
    """
    _check_device(device)
    if params.mode == "exact":
        if device != "cpu":
            raise InvalidParameter(
                f"mode=exact does not run on {device!r}: a GPU adds up in another order than stock nnU-Net on the CPU",
                hint="run with mode=fast, or on the device cpu",
            )
        precision: Precision = "single"
        first = 0
    else:
        precision = choose_precision(recipe, params, device)
        first = _sweep_axis(recipe, shape)
    order = to_index((first, *(axis for axis in range(3) if axis != first)))
    return Course(
        mode=params.mode,
        device=device,
        precision=precision,
        order=order,
        axes=to_index(recipe.transpose[axis] for axis in order),
    )


def choose_precision(recipe: ModelRecipe, params: NNUNetParams, device: str) -> Precision:
    """The precision of networks in fast mode: what the parameters say, or what the device computes fast and well.

    Raises
    ------
    InvalidParameter
        If the device does not compute in the precision that the parameters say.
    """
    wanted = params.precision
    if wanted == "auto":
        if device != "cpu":
            return "float16"
        return "fixed" if cpu_has("amx_int8") and not recipe.planar else "single"
    refused = {
        "fixed": device != "cpu",
        "float16": device == "cpu",
        "bfloat16": device == "cpu" and not cpu_has(*BFLOAT16),
    }
    if refused.get(wanted, False):
        raise InvalidParameter(
            f"precision={wanted} is not for the device {device!r} of this machine",
            hint="run with precision=auto, or, if the job began on another machine, go on there",
        )
    return wanted


def _sweep_axis(recipe: ModelRecipe, shape: Index3) -> int:
    """The axis of the model along which a sweep holds least; that of sections which are taken one by one."""
    if recipe.planar:
        return 0
    padded = [max(shape[axis], edge) for axis, edge in zip(recipe.transpose, recipe.patch, strict=True)]

    def price(axis: int) -> float:
        held = recipe.patch[axis] * math.prod(padded) / padded[axis]
        return held * AXIS_PRICE[recipe.transpose[axis]]

    return min(range(3), key=lambda axis: (price(axis), recipe.transpose[axis]))


def cpu_has(*instructions: str) -> bool:
    """Whether the CPU has one of some sets of instructions; found without PyTorch, as plans are made without it."""
    return not _cpu_flags().isdisjoint(instructions)


@lru_cache(maxsize=1)
def _cpu_flags() -> frozenset[str]:
    try:
        flags = re.search(r"^flags\s*:(.*)$", CPU_FLAGS.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(flags[1].split()) if flags else frozenset()


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    known = re.fullmatch(r"cuda(?::(\d+))?", device)
    if known is None:
        raise PluginUnavailable(
            f"nnU-Net models cannot run on {device!r}", hint="devices are cpu, cuda, and cuda:0, cuda:1, …"
        )
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(known[1] or 0) >= count:
        raise PluginUnavailable(
            f"PyTorch has no device {device!r}, it finds {count} CUDA devices",
            hint="install a PyTorch for CUDA and see that nvidia-smi works, or run on the device cpu",
        )
