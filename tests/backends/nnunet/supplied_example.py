"""A package of somebody else: a network for a trainer of theirs, and a normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np


def build(*, architecture: dict[str, Any], patch: tuple[int, ...], channels: int, heads: int) -> Any:
    """Sections before and after are seen by one convolution, and what it makes is added to what it was given."""
    import torch
    from torch import nn

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = architecture["arch_kwargs"]["features_per_stage"][0]
            self.widen = nn.Conv3d(channels, width, 3, padding=1)
            self.norm = nn.InstanceNorm3d(width, affine=True)
            self.look = nn.Conv3d(width, width, 3, padding=1)
            self.score = nn.Conv3d(width, heads, 1)
            place = torch.linspace(-1, 1, patch[0])[:, None, None]
            self.register_buffer("place", place, persistent=False)

        def forward(self, tile: torch.Tensor) -> torch.Tensor:
            maps = self.widen(tile) + self.place
            return self.score(maps + torch.relu(self.look(self.norm(maps))))

    return Small()


def normalise(voxels: np.ndarray, *, intensity: dict[str, float]) -> None:
    """Grey values as their distance from the mean, large ones compressed."""
    voxels -= np.float32(intensity["mean"])
    voxels /= np.float32(intensity["std"])
    np.arcsinh(voxels, out=voxels)
