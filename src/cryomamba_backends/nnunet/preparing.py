"""A network, changed for the course of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.decoder import let_skips_go
from cryomamba_backends.nnunet.fixed_point import bytes_convolve, force_fixed_point
from cryomamba_backends.nnunet.instance_norm import normalise_side_by_side
from cryomamba_backends.nnunet.layers import replace_layers
from cryomamba_backends.nnunet.network import layers_are_known
from cryomamba_backends.nnunet.winograd import halve_products
from cryomamba_core.errors import PluginUnavailable
from cryomamba_core.geometry import Index3

if TYPE_CHECKING:
    import torch


def prepared(network: torch.nn.Module, course: Course, patch: Index3) -> torch.nn.Module:
    """A network, changed for the course of a run and for tiles of `patch` (z, y, x) in the axes of the model.

    One that a plugin has built keeps its layers.

    Raises
    ------
    PluginUnavailable
        If PyTorch cannot compute in the course's precision here.
    """
    import torch

    if course.exact:
        return network
    if not layers_are_known(network):
        return network.to(course.device)
    if course.device == "cpu":
        normalise_side_by_side(network)
    if course.precision == "fixed":
        if not bytes_convolve():
            raise PluginUnavailable(
                "this PyTorch does not convolve bytes exactly on this CPU",
                hint="run with precision=single, or, if the job began on another machine, go on there",
            )
        force_fixed_point(network)
    if course.device == "cpu" and course.precision in ("single", "fixed") and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # no types for it
        if course.precision == "single":
            halve_products(network, patch)
        _force_onednn(network)
    if course.device == "cpu":
        let_skips_go(network)
    kernels = max((parameter.ndim for parameter in network.parameters()), default=5)
    layout = torch.channels_last_3d if kernels == 5 else torch.channels_last
    moved: torch.nn.Module = network.to(course.device, memory_format=layout)  # type: ignore[call-overload]  # not in its types
    return moved


def _force_onednn(network: torch.nn.Module) -> None:
    """Make every convolution go through oneDNN.

    PyTorch leaves small ones in single precision to code of its own that takes nearly twice as long: 0.30 s against
    0.18 s for a tile of the demo's network on one core of a Xeon of 2023.
    """
    import torch

    class OneDNN(torch.nn.Module):
        def __init__(self, plain: torch.nn.Conv3d) -> None:
            super().__init__()
            self.weight, self.bias = plain.weight, plain.bias
            self.geometry: tuple[Any, ...] = (plain.padding, plain.stride, plain.dilation, plain.groups)

        def forward(self, tile: torch.Tensor) -> torch.Tensor:
            return torch.mkldnn_convolution(tile, self.weight, self.bias, *self.geometry)

    def through_onednn(layer: torch.nn.Module) -> torch.nn.Module | None:
        return OneDNN(layer) if type(layer) is torch.nn.Conv3d and layer.padding_mode == "zeros" else None

    replace_layers(network, through_onednn)
