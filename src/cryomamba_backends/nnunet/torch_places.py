"""Where PyTorch's ``interpolate`` takes voxels from along an axis, to the last bit.

PyTorch computes that in single precision, and fuses a product and a sum or not, as it was compiled. So it is asked.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cryomamba_backends.nnunet.resampling_plans import Mode


@lru_cache(maxsize=64)
def places(mode: Mode, count: int, wanted: int, *, beside: bool) -> NDArray[np.float64]:
    """Where each of `wanted` voxels lies among `count` others, in these; whole numbers where it is the nearest.

    Of a linear one, `floor` gives the lower of the two that it lies between. What is left is the weight of the upper,
    in single precision, and 0 where the axis stays as it is. Beyond the last voxel both are the last. The kernel
    that has channels `beside` each other may take another one as the nearest.
    """
    found = np.arange(wanted, dtype=np.float64)
    if count != wanted:
        found = _between(count, wanted) if mode == "linear" else _nearest(mode, count, wanted, beside=beside)
    found.flags.writeable = False
    return found


def scale(count: int, wanted: int) -> float:
    """By what PyTorch multiplies a place to find it among others."""
    return float(np.float32(count) / np.float32(wanted))


def _nearest(mode: Mode, count: int, wanted: int, *, beside: bool) -> NDArray[np.float64]:
    import torch
    from torch.nn.functional import interpolate

    numbers = torch.arange(count, dtype=torch.float32)
    if not beside:
        return interpolate(numbers[None, None], wanted, mode=mode)[0, 0].numpy().astype(np.float64)
    four = numbers[None, None, :, None].repeat(1, 4, 1, 1).contiguous(memory_format=torch.channels_last)
    return interpolate(four, (wanted, 1), mode=mode)[0, 0, :, 0].numpy().astype(np.float64)


def _between(count: int, wanted: int) -> NDArray[np.float64]:
    """Interpolate which of three in turn each voxel is: that gives the weights, and which of three is the lower."""
    import torch

    longer = count + 2 + (count + 2 == wanted)  # none is the last, and not as many as are wanted
    thirds = torch.eye(3)[torch.arange(longer) % 3].T.contiguous()
    back = 1 / scale(count, wanted)
    asked = torch.ops.aten.upsample_linear1d(thirds[None], [wanted], align_corners=False, scales=back)[0].numpy()
    about = np.maximum((np.arange(wanted) + 0.5) * (count / wanted) - 0.5, 0)
    lower = np.floor(about).astype(np.intp)

    def weight(step: int) -> NDArray[np.float32]:
        shares: NDArray[np.float32] = asked[(lower + step) % 3, np.arange(wanted)]
        return shares

    above = (weight(0) == 0) & (weight(1) > 0)
    below = ~above & (weight(-1) > 0)
    lower += above.astype(np.intp) - below
    found: NDArray[np.float64] = lower + weight(1).astype(np.float64)
    return found
