"""Convolutions with half the products, for CPUs that compute in single precision.

Four rows of output are 12 products of a row of input with one of the three of a kernel. Winograd's minimal filtering
F(4, 3) makes them of 6, of sums of six rows of input by sums of the rows of the kernel: Lavin and Gray, *Fast
algorithms for convolutional neural networks*, 2016, section 4.3. It does so along the first axis alone, where whole
planes are added up. Along another axis too it would save products again, but has to read and write so many more sums
that nothing is gained.

In single precision the errors of a convolution are 1 to 4 millionths of its outputs, a thousandth of those that it has
in bfloat16. A number that is far larger than others costs those within five rows of it digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

from cryomamba_backends.nnunet.layers import replace_layers

if TYPE_CHECKING:
    import torch

#: Sums of the three rows of a kernel; those of six rows of input are in `_add_up`.
OF_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
TERMS = len(OF_KERNEL)

#: Rows of output that are made at once.
ROWS = 4

#: Outputs up to which it pays. Layers with more have maps of few voxels: they take 1 of 100 of a network's time, and
#: kernels of six rows in place of three half of its memory.
MOST_OUTPUTS = 256

#: Products of a row of output without its kernel's, from which on it pays: with fewer, calls take longer than products.
LEAST_PRODUCTS = 1 << 20

#: Numbers of a row of sums: more leave the cache before they are convolved.
BAND_NUMBERS = 1 << 17

#: How sums are convolved: lines beside the first and the last are there, columns are not.
GEOMETRY: tuple[Any, ...] = ([0, 1], [1, 1], [1, 1], 1)


@lru_cache(maxsize=1)
def sums_convolve() -> bool:
    """Whether this PyTorch has what is needed, and computes with it what it should."""
    import torch

    plain = torch.nn.Conv3d(4, 3, 3, padding=1)
    random = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        plain.weight.copy_(torch.randn(plain.weight.shape, generator=random))
        tile = torch.randn((1, 4, 5, 4, 3), generator=random)
        try:
            found = winograd(plain)(torch.split(tile, [1, 3], 1))
        except (AttributeError, RuntimeError):
            return False
        return torch.allclose(found, plain(tile), rtol=1e-3, atol=1e-3)


def halve_products(network: torch.nn.Module, patch: Sequence[int]) -> None:
    """Make the convolutions of a network that are worth it compute with half the products, if PyTorch can here.

    They take maps in a list too, of some channels each, so that a decoder need not join them: see `let_skips_go`.

    Parameters
    ----------
    network
        Is changed.
    patch
        The extent (z, y, x) of its tiles, in voxels.
    """
    import torch

    class Winograd(torch.nn.Module):
        takes_parts = True

        def __init__(self, plain: torch.nn.Conv3d) -> None:
            super().__init__()
            self._convolve = winograd(plain)

        def forward(self, maps: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
            """Maps may be given in a list, of some channels each, which is emptied: nothing holds them afterwards."""
            parts = maps if isinstance(maps, list) else [maps]
            made = self._convolve(parts)
            parts.clear()
            return made

    areas = dict(_areas(network, patch))

    def halved(layer: torch.nn.Module) -> torch.nn.Module | None:
        return Winograd(layer) if is_worth_it(layer, areas.get(layer, 0)) and sums_convolve() else None

    replace_layers(network, halved)


def is_worth_it(plain: torch.nn.Module, area: float) -> TypeGuard[torch.nn.Conv3d]:
    """Whether a layer can compute with half the products, and is faster for it.

    Parameters
    ----------
    plain
        The layer.
    area
        Voxels of a row of its maps.
    """
    import torch

    if type(plain) is not torch.nn.Conv3d:
        return False
    usual = plain.groups == 1 and plain.padding_mode == "zeros" and plain.padding == (1, 1, 1)
    kernel = (plain.kernel_size, plain.stride, plain.dilation) == ((3, 3, 3), (1, 1, 1), (1, 1, 1))
    products = area * plain.in_channels * plain.out_channels
    return usual and kernel and products >= LEAST_PRODUCTS and plain.out_channels <= MOST_OUTPUTS


def _areas(network: Any, patch: Sequence[int]) -> Iterator[tuple[torch.nn.Module, float]]:
    """Layers of a network's stages, and how many voxels a row of their maps has; none of a network of sections."""
    if not (hasattr(network, "encoder") and hasattr(network, "decoder")):
        return
    area, levels = float(math.prod(patch[1:])), []
    for stage, stride in zip(network.encoder.stages, network.encoder.strides, strict=True):
        area /= math.prod(stride[1:])
        levels.append(area)
        yield from ((layer, area) for layer in stage.modules())
    for stage, area in zip(network.decoder.stages, reversed(levels[:-1]), strict=True):
        yield from ((layer, area) for layer in stage.modules())


def winograd(plain: torch.nn.Conv3d) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    """What convolves as `plain` does, with kernels of 3 × 3 × 3, but with half the products.

    It takes maps in parts, of some channels each. The weights are copied.
    """
    import torch

    kernels = _packed(plain.weight)
    (outputs, inputs), bias = plain.weight.shape[:2], plain.bias
    convolve = torch.ops.mkldnn._convolution_pointwise.default
    convolve_and_add = torch.ops.mkldnn._convolution_pointwise_.binary

    def convolved(sums: torch.Tensor, term: int, bias: torch.Tensor | None = None) -> torch.Tensor:
        made = convolve(_as_image(sums[term]), kernels[term], bias, *GEOMETRY, "none", [], "")
        lines: torch.Tensor = made[0].permute(1, 2, 0)
        return lines

    def add_convolved(sums: torch.Tensor, term: int, made: torch.Tensor) -> None:
        image = _as_image(sums[term])
        convolve_and_add(_as_image(made), image, kernels[term], None, *GEOMETRY, "add", 1, None, [], None)

    def write_rows(sums: torch.Tensor, rows: torch.Tensor) -> None:
        """Up to four rows of output; the bias is in a term that all of them have."""
        first, second = convolved(sums, 1, bias), convolved(sums, 2)
        third, fourth = convolved(sums, 3), convolved(sums, 4)
        even, odd = first + second, first.sub_(second)
        even_far, odd_far = third + fourth, third.sub_(fourth)
        for row, written in enumerate(rows):
            near, far = (odd, odd_far) if row % 2 else (even, even_far)
            torch.add(near, far, alpha=2**row, out=written)
        add_convolved(sums, 0, rows[0])
        if len(rows) == ROWS:
            add_convolved(sums, 5, rows[3])

    def write_band(images: Sequence[torch.Tensor], whole: torch.Tensor, top: int, stop: int) -> None:
        """Lines `top` to `stop` of each row of output, of an image (z, y, x, channels) in parts."""
        depth, height, width, _ = whole.shape
        above, below = max(0, top - 1), min(height, stop + 1)
        sums = torch.empty((TERMS, stop - top + 2, width, inputs))
        if above == top:
            sums[:, 0] = 0
        if below == stop:
            sums[:, -1] = 0
        inside = torch.split(sums[:, above - top + 1 : below - top + 1], [image.shape[-1] for image in images], -1)
        beyond = [torch.zeros(part.shape[1:]) for part in inside]
        for row in range(0, depth, ROWS):
            reached = range(row - 1, row + ROWS + 1)
            for image, zeros, written in zip(images, beyond, inside, strict=True):
                _add_up([image[at, above:below] if 0 <= at < depth else zeros for at in reached], written)
            write_rows(sums, whole[row : row + ROWS, top:stop])

    def convolve_all(parts: Sequence[torch.Tensor]) -> torch.Tensor:
        last = [part.contiguous(memory_format=torch.channels_last_3d).movedim(1, -1) for part in parts]
        made = torch.empty((*last[0].shape[:4], outputs))
        height, width = made.shape[2:4]
        band = max(1, BAND_NUMBERS // (inputs * width))
        for *images, whole in zip(*last, made, strict=True):
            for top in range(0, height, band):
                write_band(images, whole, top, min(height, top + band))
        return made.movedim(-1, 1)

    return convolve_all


def _add_up(rows: Sequence[torch.Tensor], sums: torch.Tensor) -> None:
    """Write the six sums of six rows of input.

    One product of matrices would do the same in the same time, but adds up in another order for each count of threads.
    """
    import torch

    even, odd = torch.sub(rows[4], rows[2], alpha=4), torch.sub(rows[3], rows[1], alpha=4)
    torch.add(even, odd, out=sums[1])
    torch.sub(even, odd, out=sums[2])
    torch.sub(rows[4], rows[2], out=even)
    torch.sub(rows[3], rows[1], out=odd)
    torch.add(even, odd, alpha=2, out=sums[3])
    torch.sub(even, odd, alpha=2, out=sums[4])
    torch.add(even.sub_(rows[2], alpha=4), rows[0], alpha=4, out=sums[0])
    torch.sub(rows[5], rows[3], out=even)
    torch.sub(even, odd, alpha=4, out=sums[5])


def _as_image(lines: torch.Tensor) -> torch.Tensor:
    """Lines (y, x, channels) as an image that PyTorch convolves."""
    return lines.permute(2, 0, 1)[None]


def _packed(weight: torch.Tensor) -> list[torch.Tensor]:
    """Sums of the rows of kernels, in the order that oneDNN wants."""
    import torch

    of_kernel = torch.tensor(OF_KERNEL, dtype=torch.float64)
    sums = torch.einsum("tz,oizyx->toiyx", of_kernel, weight.detach().double()).float()
    return [torch._C._nn.mkldnn_reorder_conv2d_weight(kernel.to_mkldnn(), *GEOMETRY) for kernel in sums]
