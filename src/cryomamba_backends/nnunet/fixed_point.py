"""Convolutions in 16-bit fixed point, for CPUs that multiply matrices of bytes.

A CPU with AMX multiplies bytes thirty times as fast as numbers in single precision, and adds the products up exactly. A
voxel is written as two bytes, and so is a weight: of the four products of bytes the three that count are made by one
convolution with twice the channels. Inputs are rounded to a 65,000th of the largest of a tile, weights to a 65,000th of
the largest of their output, and outputs, in single precision, not at all: the errors of a convolution are a thirtieth
of those that it has in bfloat16. Where a few voxels of a tile are far larger than all others, what they have beyond the
others is convolved by itself, with steps of its own, and added.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import median
from typing import TYPE_CHECKING, Any, TypeGuard

from attrs import frozen

from cryomamba_backends.nnunet.instance_norm import added
from cryomamba_backends.nnunet.layers import replace_layers

if TYPE_CHECKING:
    import torch

#: Both bytes are read as so much less than they are, so that they have a sign.
ZERO_POINT = 128

#: What an input is written as, in steps, from the middle of the range on.
LARGEST = 32_600

#: Smaller maxima are taken as zero: steps of theirs have no reciprocal in single precision.
LEAST = 1e-30

#: Times what numbers of a tile usually are, from which on what one has beyond is convolved by itself. The largest of a
#: layer are 5 to 16 times the usual ones where nothing in a tile is extreme.
FAR = 32

#: Rows of a tile that are looked at for what its numbers usually are.
SAMPLED = 8

#: The number zero in both bytes.
ZERO = ZERO_POINT * 256 + ZERO_POINT

#: Channels from which on it pays: a unit of AMX takes 64 bytes of a voxel at once, which 32 channels fill.
LEAST_CHANNELS = 32

#: Numbers that are made at a time: more leave the cache before the two sums are added.
SLAB_NUMBERS = 1 << 21


@lru_cache(maxsize=1)
def bytes_convolve() -> bool:
    """Whether PyTorch convolves bytes exactly on this CPU."""
    import torch

    plain = torch.nn.Conv3d(2, 2, 3, padding=1, bias=False)
    random = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        plain.weight.copy_(torch.randint(-32_639, 32_640, plain.weight.shape, generator=random))
        plain.weight[:, 0, 0, 0, 0] = 32_639
        tile = torch.randint(-LARGEST, LARGEST + 1, (1, 2, 4, 4, 4), generator=random).float()
        tile[0, 0, 0, 0, 0] = LARGEST
        try:
            found = fixed_point(plain)(tile)
        except (AttributeError, RuntimeError):
            return False
        expected = torch.nn.functional.conv3d(tile.double(), plain.weight.double(), padding=1)
        # What is left out are products of low bytes, 54 of at most 2¹⁴.
        return bool((found - expected).abs().max() < 54 * 2**14 + 1e-6 * expected.abs().max())


def force_fixed_point(network: torch.nn.Module) -> None:
    """Make the convolutions of a network that are worth it compute in fixed point."""
    replace_layers(network, lambda layer: fixed_point(layer) if _is_worth_it(layer) else None)


def _is_worth_it(plain: torch.nn.Module) -> TypeGuard[torch.nn.Conv3d]:
    import torch

    if type(plain) is not torch.nn.Conv3d:
        return False
    size = math.prod(plain.kernel_size)
    sum_fits = 2 * plain.in_channels * size * ZERO_POINT**2 < 2**31
    usual = plain.groups == 1 and plain.padding_mode == "zeros" and not isinstance(plain.padding, str)
    return usual and sum_fits and size > 1 and plain.in_channels >= LEAST_CHANNELS


def fixed_point(plain: torch.nn.Conv3d) -> torch.nn.Module:
    """A convolution like `plain`, of numbers in single precision, that computes in fixed point."""
    import torch

    packed, scales = _packed(plain)
    zero_points = torch.zeros(len(scales), dtype=torch.int32)
    outputs, bias = plain.out_channels, plain.bias
    kernel, stride, dilation = (list(size) for size in (plain.kernel_size, plain.stride, plain.dilation))
    before, *padding = (int(size) for size in plain.padding)

    def convolved(written: torch.Tensor, step: float) -> torch.Tensor:
        across = written.permute(3, 0, 1, 2)[None]
        sums: torch.Tensor = torch.ops.onednn.qconv3d_pointwise(
            across, step, ZERO_POINT, packed, scales, zero_points, None, stride, [0, *padding], dilation, 1,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return sums[0].permute(1, 2, 3, 0)

    class FixedPoint(torch.nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            maps = maps.contiguous(memory_format=torch.channels_last_3d).permute(0, 2, 3, 4, 1)
            shape = [
                (size + 2 * gap - reach * (edge - 1) - 1) // pace + 1
                for size, gap, reach, edge, pace in zip(
                    maps.shape[1:4], (before, *padding), dilation, kernel, stride, strict=True
                )
            ]
            made = torch.empty((len(maps), *shape, outputs))
            rows = max(1, SLAB_NUMBERS // (2 * outputs * math.prod(shape[1:])))
            for image, whole in zip(maps, made, strict=True):
                whole[:] = 0 if bias is None else bias
                for part in _parts(image):
                    written, step = _written(image, part, before)
                    for start in range(0, shape[0], rows):
                        stop = min(start + rows, shape[0])
                        needed = slice(start * stride[0], (stop - 1) * stride[0] + dilation[0] * (kernel[0] - 1) + 1)
                        sums = convolved(written[needed], step)
                        whole[start:stop] += sums[..., :outputs] + sums[..., outputs:]
            return made.permute(0, 4, 1, 2, 3)

    return FixedPoint()


def _packed(plain: torch.nn.Conv3d) -> tuple[Any, torch.Tensor]:
    """Weights as bytes in the order that oneDNN wants, and what a unit of each sum is worth.

    The channels of the input are the low and the high byte of each of its own in turn. The first half of the outputs
    are sums of high bytes by high bytes, the second half of high bytes by low bytes.
    """
    import torch

    weight = plain.weight.detach()
    outputs, inputs = weight.shape[:2]
    step = weight.abs().amax((1, 2, 3, 4)) / (127 * 256 + 127)
    step[step == 0] = 1
    steps = torch.round(weight / step[:, None, None, None, None]).to(torch.int32)
    high = torch.div(steps + 128, 256, rounding_mode="floor")
    low = steps - 256 * high
    whole = torch.zeros((2 * outputs, 2 * inputs, *weight.shape[2:]), dtype=torch.int8)
    whole[:outputs, 1::2] = high
    whole[outputs:, 1::2] = low
    whole[outputs:, 0::2] = high
    scales = torch.cat([step * 2**16, step * 2**8])
    geometry = (list(plain.stride), [int(gap) for gap in plain.padding], list(plain.dilation), 1)
    return torch.ops.onednn.qconv_prepack(whole, scales, 1.0, ZERO_POINT, *geometry, None), scales


@frozen
class _Part:
    """What is written of a tile by itself: `of` makes it of rows, and nothing in it is larger than `peak`."""

    peak: float
    of: Callable[[torch.Tensor], torch.Tensor]


def _parts(maps: torch.Tensor) -> list[_Part]:
    """Parts whose sum numbers (z, y, x, channels) are: one, or two where some are far larger than the others."""
    import torch

    low, high = torch.aminmax(maps)
    peak = max(-low.item(), high.item())
    limit = FAR * _usual(maps)
    if peak <= limit or not math.isfinite(peak):
        return [_Part(peak, lambda rows: rows)]
    return [
        _Part(limit, lambda rows: rows.clamp(-limit, limit)),
        _Part(peak - limit, lambda rows: torch.nn.functional.softshrink(rows, limit)),
    ]


def _usual(maps: torch.Tensor) -> float:
    """The median of some rows' root mean squares, so that what is extreme in a few rows does not count."""
    squares = [added((row * row).flatten(0, 1)).double().sum().item() for row in maps[:: max(1, len(maps) // SAMPLED)]]
    return math.sqrt(median(squares) / maps[0].numel())


def _written(maps: torch.Tensor, part: _Part, before: int) -> tuple[torch.Tensor, float]:
    """Part of (z, y, x, channels) as pairs of bytes, with rows of zeros on either side, and what a step is worth."""
    import torch

    step = (1.0 if part.peak < LEAST else part.peak) / LARGEST
    depth, *rest = maps.shape
    written = torch.empty((depth + 2 * before, *rest), dtype=torch.uint16)
    for outside in (written[:before], written[before + depth :]):
        outside.view(torch.int16).fill_(ZERO - 2**16)
    half_up = torch.tensor(ZERO + 0.5)
    for row in range(depth):
        written[before + row] = torch.add(half_up, part.of(maps[row]), alpha=1 / step)
    return written.view(torch.uint8), step
