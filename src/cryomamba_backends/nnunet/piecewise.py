"""Numbers from 0 to 255 that scores are measured by, computed a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cryomamba_backends.nnunet.sweep import BLOCK_VOXELS

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

#: Largest value, of a measure that is 1.
MOST = 255

#: Voxels that are computed at a time: temporary numbers of so many fit the caches of a core.
PIECE_VOXELS = 1 << 18

#: Bytes of temporary numbers for each of them: five in single precision, and what PyTorch makes of two on the way.
PIECE_BYTES = 32


def measured(
    scores: torch.Tensor, names: Sequence[str], measure: Callable[[torch.Tensor], Iterable[torch.Tensor]]
) -> dict[str, NDArray[np.uint8]]:
    """Measures of some voxels, by name, each (z, y, x) and rounded to the nearest of 0 to 255.

    Parameters
    ----------
    scores
        (heads, z, y, x); they are left as they are.
    names
        Of the measures.
    measure
        Gives one after the other for a piece of the scores, in the order of their names: (z, y, x) from 0 to 1, which
        are multiplied in place. Whatever it makes on the way is as large as a few heads of the piece.
    """
    import torch

    made = {name: np.empty(tuple(scores.shape[1:]), np.uint8) for name in names}
    depth, height, width = scores.shape[1:]
    rows = max(1, PIECE_VOXELS // max(1, width))
    sections = max(1, rows // max(1, height))
    with torch.inference_mode():
        for z in range(0, depth, sections):
            for y in range(0, height, rows):
                part = scores[:, z : z + sections, y : y + rows]
                for out, numbers in zip(made.values(), measure(part), strict=True):
                    values = numbers.mul_(MOST).round_().clamp_(0, MOST).to(torch.uint8)
                    out[z : z + sections, y : y + rows] = values.cpu().numpy()
    return made


def measuring_bytes(count: int, row_voxels: int, *, device: str) -> tuple[int, int]:
    """What `count` measures of a block take of the host's and of the device's memory, in bytes, beside the scores.

    Values of a block of rows, of so many voxels each, are held twice: as computed, and in the axes of the volume.
    Temporary numbers are there for one measure at a time.
    """
    if not count:
        return 0, 0
    temporary = PIECE_VOXELS * PIECE_BYTES
    values = 2 * count * max(row_voxels, BLOCK_VOXELS)
    return (values + temporary, 0) if device == "cpu" else (values, temporary)


def highest(scores: torch.Tensor) -> torch.Tensor:
    """The highest score of each voxel, in single precision; of a single head, that head itself."""
    import torch

    best = scores[0].float()
    for head in scores[1:]:
        best = torch.maximum(best, head.float())
    return best
