"""Decoders that hold no maps longer than they need them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryomamba_backends.nnunet.layers import replace_layers

if TYPE_CHECKING:
    import torch


def let_skips_go(network: torch.nn.Module) -> None:
    """Have the decoder of a U-Net let go of each skip once it was convolved, and join none for layers that take parts.

    To join the maps of full size would take a tenth of a network's time and a third of its memory. A decoder of
    residual blocks, which needs the joined maps twice, is left as it is.
    """
    import torch
    from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder

    class Unjoined(torch.nn.Module):
        def __init__(self, plain: Any) -> None:
            super().__init__()
            self.transpconvs, self.stages, self.scores = plain.transpconvs, plain.stages, plain.seg_layers[-1]
            self._in_parts = [getattr(stage.convs[0].conv, "takes_parts", False) for stage in plain.stages]

        def forward(self, skips: list[torch.Tensor]) -> torch.Tensor:
            maps = skips.pop()
            for enlarge, stage, takes_parts in zip(self.transpconvs, self.stages, self._in_parts, strict=True):
                both = [enlarge(maps), skips.pop()]
                maps = stage(both if takes_parts else _joined(both))
            scores: torch.Tensor = self.scores(maps)
            return scores

    replace_layers(network, lambda layer: Unjoined(layer) if type(layer) is UNetDecoder else None)


def _joined(maps: list[torch.Tensor]) -> torch.Tensor:
    """All channels of maps, which are let go of."""
    import torch

    joined = torch.cat(maps, 1)
    maps.clear()
    return joined
