"""nnU-Net checkpoints, read without running what is pickled in them."""

from __future__ import annotations

import pickle  # for the type of its error; nothing is unpickled with it
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from cryomamba_core.errors import HostileModel, PluginUnavailable, UnusableModel

if TYPE_CHECKING:
    import torch

#: What a network that was compiled or trained on several devices puts before the names of its weights.
PREFIXES = ("module.", "_orig_mod.")

#: Types of the NumPy scalars that nnU-Net logs into its checkpoints.
SCALAR_CODES = frozenset({"b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"})


@frozen(kw_only=True, eq=False)
class Checkpoint:
    """What is used of a checkpoint.

    Attributes
    ----------
    weights
        Name → tensor, on the CPU.
    trainer
        Name of the trainer's class.
    configuration
        Name of the plans' configuration.
    mirroring_axes
        Model axes that may be mirrored; empty where mirroring was not trained.
    """

    weights: dict[str, torch.Tensor]
    trainer: str
    configuration: str
    mirroring_axes: tuple[int, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    HostileModel
        If it asks for anything but tensors, numbers, text and containers of them.
    UnusableModel
        If it is no nnU-Net checkpoint.
    """
    content = _load(path)
    if not isinstance(content, dict):
        raise UnusableModel(f"{path.name} is no nnU-Net checkpoint: it holds a {type(content).__name__}")
    try:
        weights, trainer = content["network_weights"], content["trainer_name"]
        configuration = content["init_args"]["configuration"]
    except (KeyError, TypeError) as error:
        raise UnusableModel(f"{path.name} is no nnU-Net checkpoint: it lacks {error}") from error
    if not isinstance(trainer, str) or not isinstance(configuration, str):
        raise UnusableModel(f"{path.name} is no nnU-Net checkpoint: trainer or configuration is no name")
    return Checkpoint(
        weights=_weights(weights, path.name),
        trainer=trainer,
        configuration=configuration,
        mirroring_axes=_mirroring_axes(content.get("inference_allowed_mirroring_axes"), path.name),
    )


class _PickledType:
    """Stands in for `numpy.dtype`: keeps the code that it is made with and nothing else."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code

    def __setstate__(self, _: object) -> None:
        """Ignore what a pickle would set."""


def _pickled_scalar(kind: object, data: object = b"") -> Any:
    """Stands in for NumPy's function that makes a scalar from its bytes."""
    if not isinstance(kind, _PickledType) or kind.code not in SCALAR_CODES or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a NumPy scalar that is no number")
    dtype = np.dtype(str(kind.code))
    if len(data) != dtype.itemsize:
        raise pickle.UnpicklingError("a NumPy scalar of the wrong size")
    return np.frombuffer(data, dtype)[0]


def _load(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise PluginUnavailable(
            "nnU-Net models need PyTorch, which is not installed",
            hint="install it with: pip install 'cryomamba[nnunet]'",
        ) from error
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_PickledType, "numpy.dtype"),
        (_pickled_scalar, "numpy.core.multiarray.scalar"),
        (_pickled_scalar, "numpy._core.multiarray.scalar"),
    ]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # of an unusual pickle, which is then refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        asked = re.search(r"GLOBAL ([\w.]+)", text)
        if asked:
            raise HostileModel(
                f"{path.name} asks to run {asked[1]}; nothing of it was run",
                hint="use a checkpoint that nnU-Net itself has written, from a source that you trust",
            ) from error
        raise HostileModel(
            f"{path.name} holds more than weights and numbers; nothing of it was run",
            hint="use a checkpoint that nnU-Net itself has written, from a source that you trust",
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise UnusableModel(
            f"{path.name} cannot be read as a checkpoint: {' '.join(str(error).split())[:200] or type(error).__name__}",
            hint="copy it again: it may be cut off",
        ) from error


def _weights(given: object, name: str) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(given, dict) or not given:
        raise UnusableModel(f"{name} holds no weights")
    weights: dict[str, torch.Tensor] = {}
    for key, tensor in given.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise UnusableModel(f"{name} has {key!r} among its weights, which is no plain tensor")
        if tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            raise UnusableModel(f"weight {key!r} of {name} is of the kind {tensor.dtype}, which is not supported")
        weights[_without_prefixes(key)] = tensor
    return weights


def _without_prefixes(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key


def _mirroring_axes(given: object, name: str) -> tuple[int, ...]:
    if given is None:
        return ()
    if (
        not isinstance(given, tuple | list)
        or any(type(axis) is not int or not 0 <= axis <= 2 for axis in given)
        or len(set(given)) != len(given)
    ):
        raise UnusableModel(f"{name} allows mirroring on the axes {given!r}, which a volume has not")
    return tuple(given)
