"""The network: built by an allow-list of classes, or by a plugin, never by importing what a file names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cryomamba_backends.nnunet.plans import BuiltNetworkRecipe, NetworkRecipe
from cryomamba_backends.nnunet.primus import PRIMUS, build_primus
from cryomamba_backends.nnunet.supplied import NETWORKS, fault_of, find_supplied, function_of
from cryomamba_core.errors import (
    CryoMambaError,
    HostileModel,
    PluginFault,
    PluginUnavailable,
    UnsupportedModel,
    UnusableModel,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

ARCHITECTURES = frozenset({"PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet"})

#: Arguments that name a class, and the classes that they may name.
LAYERS: Mapping[str, frozenset[str]] = {
    "conv_op": frozenset({"Conv2d", "Conv3d"}),
    "norm_op": frozenset({"BatchNorm2d", "BatchNorm3d", "InstanceNorm2d", "InstanceNorm3d"}),
    "dropout_op": frozenset({"AlphaDropout", "Dropout", "Dropout2d", "Dropout3d"}),
    "nonlin": frozenset(
        {"ELU", "GELU", "Hardswish", "LeakyReLU", "Mish", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Tanh"}
    ),
}
BLOCKS = frozenset({"BasicBlockD", "BottleneckD"})

#: Arguments that a network takes besides.
PLAIN_ARGUMENTS = frozenset(
    {
        "bottleneck_channels",
        "conv_bias",
        "dropout_op_kwargs",
        "features_per_stage",
        "kernel_sizes",
        "n_blocks_per_stage",
        "n_conv_per_stage",
        "n_conv_per_stage_decoder",
        "n_stages",
        "nonlin_first",
        "nonlin_kwargs",
        "norm_op_kwargs",
        "stem_channels",
        "strides",
    }
)

#: More is a mistake or an attack: each stage halves the tile.
MAX_STAGES = 16
MAX_LAYERS_PER_STAGE = 64


def build_network(recipe: NetworkRecipe, *, channels: int, heads: int) -> torch.nn.Module:
    """Build the network without memory for its weights.

    Parameters
    ----------
    recipe
        From the plans, or from `with_network`.
    channels, heads
        Number of inputs and outputs.

    Returns
    -------
    network
        On the ``meta`` device; `fill_network` gives it weights.

    Raises
    ------
    HostileModel
        If the plans name a class from anywhere but PyTorch and dynamic-network-architectures.
    UnsupportedModel
        If they name one of theirs that is not known to work.
    UnusableModel
        If the arguments do not make a network.
    PluginError
        PluginUnavailable if a library or a plugin is missing that the network needs, PluginFault if a plugin fails.
    """
    torch, unet, residual = _libraries()
    if isinstance(recipe, BuiltNetworkRecipe):
        build = build_primus if recipe.builder in PRIMUS else _build_supplied
        return build(recipe, channels=channels, heads=heads).eval()
    kind = _architecture(recipe)
    arguments = dict(_arguments(recipe.arguments, torch.nn, residual))
    try:
        with torch.device("meta"):
            network: nn.Module = getattr(unet, kind)(
                input_channels=channels, num_classes=heads, deep_supervision=False, **arguments
            )
    except (AssertionError, ArithmeticError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UnusableModel(f"plans.json does not describe a {kind}: {' '.join(str(error).split())}") from error
    network.eval()
    return network


def fill_network(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Give a network from `build_network` its weights; those that several names share need one of them.

    Raises
    ------
    UnusableModel
        If a weight is missing, superfluous or of another shape; it names which.
    """
    expected = network.state_dict()
    for key, tensor in weights.items():
        if key not in expected:
            raise UnusableModel(f"{source} has the weight {key!r}, which the network of plans.json has not")
        if tensor.shape != expected[key].shape:
            raise UnusableModel(
                f"weight {key!r} of {source} has the shape {tuple(tensor.shape)}, "
                f"the network of plans.json needs {tuple(expected[key].shape)}"
            )
    own = {key: tensor.to(expected[key].dtype, copy=True) for key, tensor in weights.items()}
    network.load_state_dict(own, strict=False, assign=True)
    for key, tensor in network.state_dict().items():
        if tensor.is_meta:
            raise UnusableModel(f"{source} lacks the weight {key!r} that the network of plans.json needs")
    network.requires_grad_(requires_grad=False)


def _build_supplied(recipe: BuiltNetworkRecipe, *, channels: int, heads: int) -> torch.nn.Module:
    """Have a plugin build a network, and let go of the weights that it begins with."""
    import torch

    supplied = find_supplied(NETWORKS, recipe.builder)
    build = function_of(supplied)
    try:
        network = build(
            architecture={"network_class_name": recipe.class_name, "arch_kwargs": recipe.arguments},
            patch=recipe.patch,
            channels=channels,
            heads=heads,
        )
    except (CryoMambaError, MemoryError):
        raise
    except Exception as error:
        raise fault_of(supplied, "cannot build the network", error) from error
    if not isinstance(network, torch.nn.Module):
        raise PluginFault(
            f"{supplied.name} of {supplied.package} built a {type(network).__name__}, which is no network"
        )
    without = {key: tensor.to("meta") for key, tensor in network.state_dict().items()}
    network.load_state_dict(without, assign=True)
    return network


def over_sections(network: torch.nn.Module) -> torch.nn.Module:
    """A network of sections (1, channels, y, x) as one of tiles (1, channels, 1, y, x)."""
    from torch import nn

    class OverSections(nn.Module):
        of_sections = True

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, tile: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.network(tile.squeeze(2))
            return scores.unsqueeze(2)

    return OverSections()


def layers_are_known(network: torch.nn.Module) -> bool:
    """Whether a network is of a class whose layers can be replaced, as nothing but the next layer uses what they make.

    Of a network that a plugin has built that is not known.
    """
    inner = network.network if getattr(network, "of_sections", False) else network
    return type(inner).__module__.startswith("dynamic_network_architectures.architectures.")


def unique_weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights, each under one name, in the order of the network."""
    kept: dict[str, torch.Tensor] = dict(network.named_parameters())
    stored = set(network.state_dict())
    kept.update((key, buffer) for key, buffer in network.named_buffers() if key in stored)
    return {key: tensor.detach().contiguous() for key, tensor in kept.items()}


def _libraries() -> tuple[Any, Any, Any]:
    try:
        import torch
        from dynamic_network_architectures.architectures import unet
        from dynamic_network_architectures.building_blocks import residual
    except ImportError as error:
        raise PluginUnavailable(
            f"nnU-Net models need {error.name or 'PyTorch'}, which is not installed",
            hint="install it with: pip install 'cryomamba[nnunet]'",
        ) from error
    return torch, unet, residual


def _architecture(recipe: NetworkRecipe) -> str:
    if not recipe.of_library:
        raise HostileModel(
            f"plans.json names {recipe.class_name!r} as its network",
            hint="only classes of dynamic_network_architectures are built, and those that an installed plugin builds",
        )
    kind = recipe.class_name.rpartition(".")[2]
    if kind not in ARCHITECTURES:
        raise UnsupportedModel(
            f"networks of the kind {kind} are not supported where plans name them",
            hint=f"supported: {', '.join(sorted(ARCHITECTURES))}, and Primus as nnU-Net's own trainers build it",
        )
    return kind


def _arguments(given: dict[str, Any], layers: Any, residual: Any) -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        if key in LAYERS:
            yield key, None if value is None else _layer(key, value, layers)
        elif key == "block":
            yield key, _block(value, residual)
        elif key in PLAIN_ARGUMENTS:
            _refuse_oversize(key, value)
            yield key, value
        elif key != "deep_supervision":
            raise UnsupportedModel(f"plans.json gives the network an argument {key!r} that is not known")


def _layer(key: str, value: object, layers: Any) -> Any:
    package, _, kind = str(value).rpartition(".")
    if not re.fullmatch(r"torch\.nn(\.modules(\.\w+)?)?", package):
        raise HostileModel(f"plans.json names {value!r} as its {key}", hint="only layers of torch.nn are built")
    if kind not in LAYERS[key]:
        raise UnsupportedModel(f"{key} {value!r} is not supported", hint=f"supported: {', '.join(sorted(LAYERS[key]))}")
    return getattr(layers, kind)


def _block(value: object, residual: Any) -> Any:
    package, _, kind = str(value).rpartition(".")
    if package != "dynamic_network_architectures.building_blocks.residual" or kind not in BLOCKS:
        raise HostileModel(
            f"plans.json names {value!r} as its block", hint=f"only {', '.join(sorted(BLOCKS))} are built"
        )
    return getattr(residual, kind)


def _refuse_oversize(key: str, value: object) -> None:
    if key == "n_stages" and not (type(value) is int and 1 <= value <= MAX_STAGES):
        raise UnusableModel(f"plans.json gives the network {value!r} stages", hint=f"at most {MAX_STAGES} are possible")
    if key.startswith(("n_conv_per_stage", "n_blocks_per_stage")):
        counts = value if isinstance(value, list) else [value]
        if not all(type(count) is int and 0 <= count <= MAX_LAYERS_PER_STAGE for count in counts):
            raise UnusableModel(f"plans.json gives the network {value!r} as {key}")
