"""Primus, a vision transformer that stock nnU-Net has trainers for; it needs timm and torchvision."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cryomamba_backends.nnunet.plans import BuiltNetworkRecipe
from cryomamba_core.errors import PluginUnavailable, UnsupportedModel, UnusableModel

if TYPE_CHECKING:
    import torch

PACKAGE = "dynamic_network_architectures.architectures.primus"

#: Edge, in voxels, of what becomes a token; patches are of whole tokens.
TOKEN = 8

#: More, as in a patch of 320³ voxels, are a mistake or an attack: each looks at every other.
MOST_TOKENS = 40**3

#: Channels of a token, layers and heads of each size.
SIZES = {"S": (396, 12, 6), "B": (792, 12, 12), "M": (864, 16, 12), "L": (1056, 24, 16)}

#: What all of stock's have in common; paths are dropped in training only.
COMMON: Mapping[str, Any] = {
    "patch_embed_size": (TOKEN,) * 3,
    "drop_path_rate": 0.2,
    "scale_attn_inner": True,
    "init_values": 0.1,
}


def _of_trainers() -> Iterator[tuple[str, tuple[str, Mapping[str, Any]]]]:
    for size, (channels, layers, heads) in SIZES.items():
        shape = {"embed_dim": channels, "eva_depth": layers, "eva_numheads": heads}
        others = ("_BS8", "_BS8_2e4") if size == "M" else ()
        for trainer in (
            *(f"nnUNet_Primus_{size}_Trainer{other}" for other in ("", *others)),
            f"_Primus_{size}_{48 if size == 'L' else 96}_BS1",
        ):
            yield trainer, ("Primus", {**shape, **COMMON})
        for version in ("V2", "V3"):
            yield f"nnUNet_Primus{version}{size}_Trainer", (f"Primus{version}{size}", COMMON)


#: Stock's trainers of Primus → the class and the arguments that each builds, whatever the plans say.
PRIMUS: Mapping[str, tuple[str, Mapping[str, Any]]] = dict(_of_trainers())


def primus_recipe(trainer: str, patch: tuple[int, ...]) -> BuiltNetworkRecipe:
    """What one of `PRIMUS` builds for tiles of `patch` voxels.

    Raises
    ------
    UnusableModel
        If the patch is not of whole tokens.
    UnsupportedModel
        If it is of too many.
    """
    if len(patch) != 3 or any(edge % TOKEN for edge in patch):
        raise UnusableModel(
            f"plans.json has the patch size {list(patch)}, of which {trainer} makes no network",
            hint=f"a patch of Primus has three edges, each a multiple of {TOKEN}",
        )
    if math.prod(patch) > MOST_TOKENS * TOKEN**3:
        raise UnsupportedModel(f"a patch of {list(patch)} voxels is too large for Primus")
    kind, arguments = PRIMUS[trainer]
    return BuiltNetworkRecipe(
        class_name=f"{PACKAGE}.{kind}",
        arguments={**arguments, "input_shape": patch},
        builder=trainer,
        patch=patch,
    )


def build_primus(recipe: BuiltNetworkRecipe, *, channels: int, heads: int) -> torch.nn.Module:
    """Build a network without memory for its weights, as `build_network` does.

    What tokens are turned by, according to where they are, is no weight: it is on the CPU, with its values.

    Raises
    ------
    PluginUnavailable
        If a library is missing, or does not fit the others.
    """
    import torch

    primus = _library(torch.__version__)
    kind = recipe.class_name.rpartition(".")[2]
    if not hasattr(primus, kind):
        raise PluginUnavailable(
            f"this dynamic-network-architectures has no {kind}",
            hint="pip install --upgrade dynamic-network-architectures",
        )

    def on_cpu(*given: Any, **named: Any) -> torch.nn.Module:
        with torch.device("cpu"):
            turned_by: torch.nn.Module = primus.RotaryEmbeddingCat(*given, **named)
        return turned_by

    outputs = "num_classes" if kind == "Primus" else "output_channels"
    with torch.device("meta"):
        network: torch.nn.Module = getattr(primus, kind)(
            input_channels=channels, **{outputs: heads}, **recipe.arguments, rope_impl=on_cpu
        )
    return network


def _library(version: str) -> Any:
    """The module that has Primus, for a version of PyTorch."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how timm uses PyTorch
            from dynamic_network_architectures.architectures import primus
    except (ImportError, OSError, RuntimeError) as error:
        _, _, built_for = version.partition("+")
        where = f" --index-url https://download.pytorch.org/whl/{built_for}" if built_for else ""
        raise PluginUnavailable(
            f"Primus needs timm and torchvision, which cannot be imported: {' '.join(str(error).split())}",
            hint=f"install timm, and the torchvision that fits PyTorch {version}: "
            f"pip install --force-reinstall --no-deps torchvision{where}",
        ) from error
    return primus
