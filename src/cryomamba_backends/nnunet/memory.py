"""What a run needs of memory, and what happens when it is not there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from attrs import frozen

from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.plans import ModelRecipe
from cryomamba_backends.nnunet.statistics import SLAB_VOXELS
from cryomamba_backends.nnunet.sweep import BLOCK_VOXELS
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_backends.nnunet.window import READ_VOXELS
from cryomamba_core.errors import OutOfMemory

#: PyTorch unfolds the input of a convolution where channels × depth × height is at most this (float32, one tile).
UNFOLDED_UP_TO = 20480

HALF, SINGLE = 2, 4

#: What libraries load and compile when a network first runs: 45 MiB with torch 2.13 on x86.
LIBRARIES = 45 << 20

#: What the allocator keeps of pieces that were freed, in a run over 512³ voxels and over smaller ones alike.
ALLOCATOR = 32 << 20

HINT = "free memory, cut the volume along its shorter axes (cutting the longest saves nothing), or use mode=fast"


@frozen(kw_only=True)
class Need:
    """Bytes that one of the sweeps of a run needs.

    Attributes
    ----------
    lasting
        From its beginning to its end.
    passing
        Besides, at its peak. Of two sweeps that take turns, as in a cascade, only one is at it.
    """

    lasting: int
    passing: int


def peak_bytes(needs: Sequence[Need]) -> int:
    """What sweeps that take turns need at their peak, in bytes."""
    return sum(need.lasting for need in needs) + max(need.passing for need in needs)


def estimate_ram(
    recipe: ModelRecipe,
    grid: TileGrid,
    course: Course,
    *,
    folds: int,
    weight_bytes: int,
    dtype: np.dtype[Any],
) -> Need:
    """What a sweep needs of the host's memory.

    Parameters
    ----------
    recipe, grid, course
        The model's plans, its tiles over the volume in the axes of the sweep, and how it goes.
    folds, weight_bytes
        How many networks run, and the size of their weights.
    dtype
        Of the volume.
    """
    plane = math.prod(grid.padded[1:])
    statistics = SLAB_VOXELS * (3 * SINGLE + dtype.itemsize)
    reading = max(plane, READ_VOXELS) * (2 * SINGLE + dtype.itemsize)
    if course.device != "cpu":
        return Need(lasting=weight_bytes, passing=max(statistics, reading))
    deciding = max(plane, BLOCK_VOXELS) * _bytes_to_decide(recipe, course)
    held = held_bytes(recipe, grid, course, folds=folds)
    working = ALLOCATOR + max(reading, deciding, activation_bytes(recipe, course))
    return Need(lasting=weight_bytes + held, passing=max(statistics - held, working))


def estimate_vram(recipe: ModelRecipe, grid: TileGrid, course: Course, *, folds: int, weight_bytes: int) -> Need:
    """What a sweep needs of the device's memory; nothing on the CPU."""
    if course.device == "cpu":
        return Need(lasting=0, passing=0)
    deciding = max(math.prod(grid.padded[1:]), BLOCK_VOXELS) * _bytes_to_decide(recipe, course)
    activations = course.batch * activation_bytes(recipe, course)
    return Need(
        lasting=weight_bytes + held_bytes(recipe, grid, course, folds=folds), passing=max(deciding, activations)
    )


def held_bytes(recipe: ModelRecipe, grid: TileGrid, course: Course, *, folds: int) -> int:
    """Bytes of voxels and sums that a sweep holds throughout."""
    heads, channels = recipe.labels.heads, recipe.channels
    sums = HALF * (heads * folds + 1) if course.exact else SINGLE * heads
    return (sums + SINGLE * channels) * grid.patch[0] * math.prod(grid.padded[1:])


def _bytes_to_decide(recipe: ModelRecipe, course: Course) -> int:
    """For each voxel: its best score (of regions a score and its share), a comparison, and labels twice.

    Its mean scores lie where their sums did.
    """
    score = HALF if course.exact else SINGLE
    label = 1 if max(recipe.labels.names) < 256 else SINGLE
    return (score if recipe.labels.regions is None else 2 * SINGLE) + 1 + 2 * label


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


def activation_bytes(recipe: ModelRecipe, course: Course) -> int:
    """What the network holds while it works on a tile, in bytes.

    Skips, and maps of full size: in exact mode three and the largest input that PyTorch unfolds for a convolution; else
    six in single precision, as oneDNN keeps inputs and outputs in an order of its own beside them, and three in half.
    """
    number = SINGLE if course.precision in ("single", "fixed") else HALF
    arguments = recipe.network.arguments
    features, strides = arguments.get("features_per_stage"), arguments.get("strides")
    if not isinstance(features, list) or not isinstance(strides, list):
        return LIBRARIES + number * 64 * math.prod(recipe.patch)
    size = [float(edge) for edge in recipe.patch[recipe.planar :]]
    skips = 0.0
    unfolded = 0.0
    inputs = 1
    for count, stride in zip(features, strides, strict=False):
        factors = stride if isinstance(stride, list) else [stride] * len(size)
        size = [edge / factor for edge, factor in zip(size, factors, strict=False)]
        skips += count * math.prod(size)
        for channels in (inputs, count, 2 * count) if course.exact else ():
            if channels * math.prod(size[:-1]) <= UNFOLDED_UP_TO:
                unfolded = max(unfolded, 27 * channels * math.prod(size))
        inputs = count
    maps = (3 if course.exact or number == HALF else 6) * features[0] * math.prod(recipe.patch)
    scores = 2 * SINGLE * recipe.labels.heads * math.prod(recipe.patch)
    return LIBRARIES + max(int(number * (skips + unfolded + maps)), scores)
