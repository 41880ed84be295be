"""What the sweeps of a run need of memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from attrs import frozen

from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.plans import BuiltNetworkRecipe, ModelRecipe
from cryomamba_backends.nnunet.statistics import SLAB_VOXELS
from cryomamba_backends.nnunet.sweep import BLOCK_VOXELS
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_backends.nnunet.window import READ_VOXELS
from cryomamba_backends.nnunet.winograd import MOST_OUTPUTS
from cryomamba_core.allocator import can_keep_freed

#: PyTorch unfolds the input of a convolution where channels × depth × height is at most this (float32, one tile).
UNFOLDED_UP_TO = 20480

HALF, SINGLE = 2, 4

#: What libraries load and compile when a network first runs: 45 MiB with torch 2.13 on x86.
LIBRARIES = 45 << 20

#: What the allocator keeps of pieces that were freed, in a run over 512³ voxels and over smaller ones alike: in exact
#: mode, whose sums are in half precision, and in fast mode; and how much more where tiles are mirrored.
EXACT_KEEPS, FAST_KEEPS = 36 << 20, 32 << 20
EXACT_MIRRORED_KEEPS, FAST_MIRRORED_KEEPS = 16 << 20, 10 << 20

#: Maps of full size that a network holds beside its skips, and how many more where what was freed is kept, as pieces of
#: many sizes do not fit into each other's places: in exact mode, in fast mode with and without residual blocks, there
#: where a decoder joins maps in single precision and where it has residual blocks, and on a GPU in half.
EXACT_MAPS, PLAIN_MAPS, RESIDUAL_MAPS = (5.2, 3.55), (2.2, 0.9), (2.2, 1.6)
JOINED_MAPS, RESIDUAL_DECODER_MAPS, GPU_MAPS = (5.0, 0.9), (6.0, 2.0), (1.5, 0.0)

#: The same in exact mode where a decoder has residual blocks.
EXACT_RESIDUAL_DECODER_MAPS = (6.7, 3.6)

#: Smaller maps are kept in any case.
LEAST_MAPPED = 32 << 20

#: Where sums lie: in the memory of a GPU, in that of the host, or in a file on the disk of the job's folder.
Place = Literal["device", "host", "file"]


@frozen
class Way:
    """How a run deals with the host's memory.

    Attributes
    ----------
    place
        Where sums lie.
    keeps
        Whether what a network freed is kept for what comes next; else the system gets it back and clears it anew.
    """

    place: Place
    keeps: bool = False


#: From the fastest to the one that needs least memory.
ON_DEVICE, ON_CPU = (Way("device"), Way("host"), Way("file")), (Way("host", keeps=True), Way("host"), Way("file"))


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


def ways_for(device: str) -> tuple[Way, ...]:
    """What a run may do, in the order in which it is tried."""
    if device != "cpu":
        return ON_DEVICE
    return ON_CPU if can_keep_freed() else ON_CPU[1:]


def estimate_ram(
    recipe: ModelRecipe,
    grid: TileGrid,
    course: Course,
    *,
    folds: int,
    weight_bytes: int,
    dtype: np.dtype[Any],
    way: Way,
    mirrored: bool,
    working: int,
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
    way
        What the run does.
    mirrored
        Whether tiles are.
    working
        What a network of its own holds while it works on a tile, from `working_bytes`; 0 for those that plans describe.
    """
    place = way.place
    plane = math.prod(grid.padded[1:])
    statistics = SLAB_VOXELS * (3 * SINGLE + dtype.itemsize)
    reading = max(plane, READ_VOXELS) * (2 * SINGLE + dtype.itemsize)
    sums = held_sums(recipe, grid, course, folds=folds, place=place) if place != "device" else 0
    deciding = _deciding_bytes(recipe, grid, course, folds=folds, place=place) if place != "device" else 0
    if course.device != "cpu":
        return Need(lasting=weight_bytes + sums, passing=max(statistics - sums, reading, deciding))
    held = sums + window_bytes(recipe, grid) + folds * _kernel_bytes(recipe, course)
    kept = EXACT_KEEPS if course.exact else FAST_KEEPS
    if mirrored:
        kept += EXACT_MIRRORED_KEEPS if course.exact else FAST_MIRRORED_KEEPS
        kept += SINGLE * (recipe.labels.heads + recipe.channels) * math.prod(recipe.patch)  # mean, and flipped image
    passing = kept + max(reading, deciding, activation_bytes(recipe, course, keeps=way.keeps, working=working))
    return Need(lasting=weight_bytes + held, passing=max(statistics - held, passing))


def estimate_vram(
    recipe: ModelRecipe,
    grid: TileGrid,
    course: Course,
    *,
    folds: int,
    weight_bytes: int,
    place: Place,
    batch: int,
    working: int,
) -> Need:
    """What a sweep needs of the device's memory, with `batch` tiles at once; nothing on the CPU."""
    if course.device == "cpu":
        return Need(lasting=0, passing=0)
    lasting = weight_bytes + window_bytes(recipe, grid)
    activations = batch * activation_bytes(recipe, course, keeps=False, working=working)
    if place != "device":
        return Need(lasting=lasting, passing=activations)
    deciding = _deciding_bytes(recipe, grid, course, folds=folds, place=place)
    return Need(lasting=lasting + sums_bytes(recipe, grid, course, folds=folds), passing=max(deciding, activations))


def window_bytes(recipe: ModelRecipe, grid: TileGrid) -> int:
    """Bytes of voxels that a sweep holds throughout."""
    return SINGLE * recipe.channels * grid.patch[0] * math.prod(grid.padded[1:])


def sums_bytes(recipe: ModelRecipe, grid: TileGrid, course: Course, *, folds: int) -> int:
    """Bytes of all sums of a sweep."""
    return _bytes_to_sum(recipe, course, folds) * grid.patch[0] * math.prod(grid.padded[1:])


def held_sums(recipe: ModelRecipe, grid: TileGrid, course: Course, *, folds: int, place: Place) -> int:
    """Bytes of sums that a sweep holds in memory throughout: all, or a strip as wide as a tile of those in a file."""
    sums = sums_bytes(recipe, grid, course, folds=folds)
    return sums * grid.patch[1] // grid.padded[1] if place == "file" else sums


def _bytes_to_sum(recipe: ModelRecipe, course: Course, folds: int) -> int:
    """For each voxel."""
    heads = recipe.labels.heads
    return HALF * (heads * folds + 1) if course.exact else SINGLE * heads


def _deciding_bytes(recipe: ModelRecipe, grid: TileGrid, course: Course, *, folds: int, place: Place) -> int:
    """What is held while labels are decided; sums that lie in a file are copied for it."""
    voxel = _bytes_to_decide(recipe, course) + (_bytes_to_sum(recipe, course, folds) if place == "file" else 0)
    return max(math.prod(grid.padded[1:]), BLOCK_VOXELS) * voxel


def _bytes_to_decide(recipe: ModelRecipe, course: Course) -> int:
    """For each voxel: its best score (of regions a score and its share), a comparison, and labels twice.

    Its mean scores lie where their sums did.
    """
    score = HALF if course.exact else SINGLE
    label = 1 if max(recipe.labels.names) < 256 else SINGLE
    return (score if recipe.labels.regions is None else 2 * SINGLE) + 1 + 2 * label


def activation_bytes(recipe: ModelRecipe, course: Course, *, keeps: bool, working: int = 0) -> int:
    """What the network holds while it works on a tile, in bytes.

    Skips, and maps of full size, or in exact mode, if that is more, the largest input that PyTorch unfolds for a
    convolution: it is gone before the decoder joins maps.
    Of a network that the plans do not describe it is `working`.
    """
    number = SINGLE if course.precision in ("single", "fixed") else HALF
    if working:
        return LIBRARIES + working * number // SINGLE
    arguments = recipe.network.arguments
    features, strides = arguments.get("features_per_stage"), arguments.get("strides")
    own = isinstance(recipe.network, BuiltNetworkRecipe)
    if own or not isinstance(features, list) or not isinstance(strides, list):
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
    whole = features[0] * math.prod(recipe.patch)
    maps, kept = _maps(recipe, course)
    if keeps and SINGLE * whole >= LEAST_MAPPED:
        maps += kept
    scores = 2 * SINGLE * recipe.labels.heads * math.prod(recipe.patch)
    held = number * skips + max(number * unfolded, SINGLE * maps * whole)
    return LIBRARIES + max(int(held), scores)


def _maps(recipe: ModelRecipe, course: Course) -> tuple[float, float]:
    """Maps of full size in single precision, and how many more where what was freed is kept."""
    if course.exact:
        return EXACT_RESIDUAL_DECODER_MAPS if _has_residual_decoder(recipe) else EXACT_MAPS
    single = course.precision in ("single", "fixed")
    if course.device != "cpu":
        return JOINED_MAPS if single else GPU_MAPS
    if _has_residual_decoder(recipe):
        return RESIDUAL_DECODER_MAPS
    kernels = recipe.network.arguments.get("kernel_sizes")
    largest = kernels[0] if isinstance(kernels, list) and kernels else kernels
    in_parts = course.precision == "single" and largest in (3, [3, 3, 3]) and sys.platform == "linux"
    if single and not in_parts:
        return JOINED_MAPS
    return RESIDUAL_MAPS if "n_blocks_per_stage" in recipe.network.arguments else PLAIN_MAPS


def _has_residual_decoder(recipe: ModelRecipe) -> bool:
    return recipe.network.class_name.endswith(".ResidualUNet")


def _kernel_bytes(recipe: ModelRecipe, course: Course) -> int:
    """What kernels of six rows in place of three take besides the weights, for a network; see `winograd`."""
    arguments = recipe.network.arguments
    features = arguments.get("features_per_stage")
    other = course.exact or course.device != "cpu" or course.precision != "single"
    if other or isinstance(recipe.network, BuiltNetworkRecipe) or not isinstance(features, list):
        return 0
    stages = len(features)
    blocks = _each(arguments.get("n_blocks_per_stage"), stages)
    before = [2 * count for count in blocks] or _each(arguments.get("n_conv_per_stage"), stages)
    after = _each(arguments.get("n_conv_per_stage_decoder"), stages)
    if _has_residual_decoder(recipe):
        after = [2 * count for count in after]
    pairs = 0
    for counts, joined in ((before, 0), (after, 2)):
        for count, number in zip(features, counts, strict=False):
            if count <= MOST_OUTPUTS:
                pairs += (number - 1 + joined) * count**2
    return 27 * SINGLE * pairs


def _each(counts: object, stages: int) -> list[int]:
    """How many layers each stage has; plans may say one number for all."""
    if isinstance(counts, int):
        return [counts] * stages
    return list(counts) if isinstance(counts, list) else []
