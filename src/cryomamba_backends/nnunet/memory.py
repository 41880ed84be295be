"""What a run needs of memory, and what happens when it is not there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from cryomamba_backends.nnunet.plans import ModelRecipe
from cryomamba_backends.nnunet.statistics import SLAB_VOXELS
from cryomamba_backends.nnunet.sweep import BLOCK_VOXELS
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_core.errors import OutOfMemory

#: PyTorch unfolds the input of a convolution where channels × depth × height is at most this (float32, one tile).
UNFOLDED_UP_TO = 20480

HINT = "free memory, cut the volume along Y and X, or use fewer folds; a smaller depth does not help"


def estimate_ram(recipe: ModelRecipe, grid: TileGrid, *, folds: int, weight_bytes: int, dtype: np.dtype[Any]) -> int:
    """Bytes that a run needs at its peak.

    Parameters
    ----------
    recipe, grid
        The model's plans, and its tiles over the volume.
    folds, weight_bytes
        How many networks run, and the size of their weights.
    dtype
        Of the volume.
    """
    heads = recipe.labels.heads
    plane = math.prod(grid.padded[1:])
    half, single = 2, 4
    window = (half * (heads * folds + 1) + single) * grid.patch[0] * plane
    block = max(plane, BLOCK_VOXELS) * (2 * half * heads + 2 * single + dtype.itemsize)
    statistics = SLAB_VOXELS * (3 * single + dtype.itemsize)
    return window + max(block, statistics) + 2 * weight_bytes + _activation_bytes(recipe)


@contextmanager
def memory_errors_named() -> Iterator[None]:
    """Turn any library's way of saying that memory is out into `OutOfMemory`."""
    try:
        yield
    except OutOfMemory:
        raise
    except MemoryError as error:
        raise OutOfMemory("the run does not fit in memory", hint=HINT) from error
    except RuntimeError as error:
        told = str(error)
        if any(sign in told for sign in ("not enough memory", "can't allocate memory", "bad_alloc", "out of memory")):
            raise OutOfMemory("the run does not fit in memory", hint=HINT) from error
        raise


def _activation_bytes(recipe: ModelRecipe) -> int:
    """What the network holds while it works on a tile: skips, three maps of full size, one unfolded input."""
    arguments = recipe.network.arguments
    features, strides = arguments.get("features_per_stage"), arguments.get("strides")
    if not isinstance(features, list) or not isinstance(strides, list):
        return 4 * 64 * math.prod(recipe.patch)
    size = [float(edge) for edge in recipe.patch]
    skips = 0.0
    unfolded = 0.0
    inputs = 1
    for count, stride in zip(features, strides, strict=False):
        factors = stride if isinstance(stride, list) else [stride] * 3
        size = [edge / factor for edge, factor in zip(size, factors, strict=False)]
        skips += count * math.prod(size)
        for channels in (inputs, count, 2 * count):
            if channels * size[0] * size[1] <= UNFOLDED_UP_TO:
                unfolded = max(unfolded, 27 * channels * math.prod(size))
        inputs = count
    widest = max(3 * features[0], 2 * recipe.labels.heads) * math.prod(recipe.patch)
    return int(4 * (skips + unfolded + widest))
