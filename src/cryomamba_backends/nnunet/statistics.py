"""The nonzero box of a volume, and its mean and standard deviation bit by bit as NumPy has them, slab by slab.

Stock nnU-Net normalises with ``image.mean()`` and ``image.std()`` of a float32 array. Their last bits depend on the
order of the additions, so that order is replayed here: `numpy.ndarray.std` adds up a contiguous array as one balanced
tree; `numpy.ndarray.mean` of a cropped view adds piece after piece, each piece a tree of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_core.geometry import Region, slab_depth, to_index
from cryomamba_core.volumes import Volume

#: Voxels that are held at a time.
SLAB_VOXELS = 2 << 20

#: Additions below this many elements are left to NumPy in one call, above it they are split as NumPy would.
LEAF = 1 << 20

#: Elements that NumPy's iterator copies at a time when an array's axes cannot be joined to one.
NUMPY_BUFFER = 8192

#: Called between slabs; may raise to stop.
OnSlab = Callable[[], None]

Slabs = Callable[[], Iterator[NDArray[np.float32]]]


@frozen(kw_only=True)
class Moments:
    """Mean and standard deviation as float32, bit by bit those of NumPy."""

    mean: np.float32
    standard_deviation: np.float32


def nonzero_box(volume: Volume, *, on_slab: OnSlab) -> Region | None:
    """The smallest region that holds every voxel that is not zero in some channel; None if there is none.

    Reads from the first section on until the box spans whole sections, then from the last one back.
    """
    shape = volume.grid.shape
    depth = slab_depth(shape, voxels=SLAB_VOXELS)
    rows, columns = np.zeros(shape[1], bool), np.zeros(shape[2], bool)
    first, last = shape[0], 0
    slabs = list(volume.grid.whole.slabs(depth))
    ahead = 0
    while ahead < len(slabs):
        region = slabs[ahead]
        ahead += 1
        on_slab()
        nonzero = _nonzero(volume, region)
        sections = np.flatnonzero(nonzero.any((1, 2)))
        if sections.size:
            first = min(first, region.start[0] + int(sections[0]))
            last = region.start[0] + int(sections[-1]) + 1
        rows |= nonzero.any((0, 2))
        columns |= nonzero.any((0, 1))
        if rows[0] and rows[-1] and columns[0] and columns[-1]:
            break
    for region in reversed(slabs[ahead:]):
        on_slab()
        sections = np.flatnonzero(_nonzero(volume, region).any((1, 2)))
        if sections.size:
            last = region.start[0] + int(sections[-1]) + 1
            break
    if last == 0:
        return None
    inside = [np.flatnonzero(rows), np.flatnonzero(columns)]
    return Region(
        start=(first, *(int(index[0]) for index in inside)), stop=(last, *(int(index[-1]) + 1 for index in inside))
    )


def _nonzero(volume: Volume, region: Region) -> NDArray[np.bool_]:
    """Which voxels of a region are not zero in some channel."""
    first, *others = volume.channels
    nonzero: NDArray[np.bool_] = first.read(region).astype(np.float32, copy=False) != 0
    for channel in others:
        nonzero |= channel.read(region).astype(np.float32, copy=False) != 0
    return nonzero


def slabs_of(volume: Volume, box: Region, *, on_slab: OnSlab) -> Slabs:
    """A function that reads the voxels of `box` from the start, slab by slab, as float32."""

    def read() -> Iterator[NDArray[np.float32]]:
        for region in box.slabs(slab_depth(box.shape, voxels=SLAB_VOXELS)):
            on_slab()
            yield volume.read(region).astype(np.float32, copy=False)

    return read


def moments(slabs: Slabs, count: int, lengths: Iterable[int]) -> Moments:
    """Mean and standard deviation of some voxels.

    Parameters
    ----------
    slabs
        Reads them, twice.
    count
        How many they are.
    lengths
        How many NumPy adds up for the mean as one tree, piece after piece; see `run_lengths`.
    """
    voxels = _Stream(slabs())
    total = np.float32(0)
    for length in lengths:
        total = total + _tree_sum(voxels, length)
    mean = np.float32(total / np.intp(count))
    deviations = _Stream(_squared_deviations(slabs(), mean))
    variance = np.float32(_tree_sum(deviations, count) / np.intp(count))
    return Moments(mean=mean, standard_deviation=np.float32(np.sqrt(variance)))


def extremes(slabs: Slabs) -> tuple[np.float32, np.float32]:
    """Smallest and largest voxel."""
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for slab in slabs():
        low, high = min(low, slab.min()), max(high, slab.max())
    return low, high


def run_lengths(box: tuple[int, int, int], shape: tuple[int, int, int]) -> Iterator[int]:
    """How many elements, piece after piece, NumPy adds up as one tree in a view of `box` into an array of `shape`.

    Axes that lie in memory without a gap are one axis. What then remains of more than one axis is copied to a buffer
    that takes as many whole rows, or planes, as fit, and starts anew with each plane, or volume; rows that fill more
    than half of the buffer are not copied. (As in ``npyiter_find_buffering_setup`` since NumPy 2.3.)
    """
    axes = _joined_axes(box, shape)
    if len(axes) == 1:
        yield axes[0]
        return
    core, outer = axes[0], 1
    if 2 * core <= NUMPY_BUFFER:
        while outer < len(axes) - 1 and core * axes[outer] < NUMPY_BUFFER:
            core *= axes[outer]
            outer += 1
    whole = max(1, NUMPY_BUFFER // core)
    for _ in range(math.prod(axes[outer + 1 :])):
        for start in range(0, axes[outer], whole):
            yield core * min(whole, axes[outer] - start)


@lru_cache(maxsize=1)
def numpy_adds_as_expected() -> bool:
    """Whether the NumPy that is installed adds up cropped arrays in the order that is replayed here."""
    array = np.random.default_rng(0).normal(100, 30, (37, 70, 90)).astype(np.float32)
    for box in (
        Region(start=(1, 2, 1), stop=(36, 69, 88)),
        Region(start=(0, 0, 3), stop=(37, 70, 88)),
        Region(start=(0, 1, 0), stop=(30, 66, 90)),
    ):
        view = array[box.slices]
        lengths = run_lengths(box.shape, to_index(array.shape))
        found = moments(lambda view=view: iter([np.ascontiguousarray(view)]), view.size, lengths)  # type: ignore[misc]  # no types for it
        if found.mean != view.mean() or found.standard_deviation != view.std():
            return False
    return True


def _joined_axes(box: tuple[int, int, int], shape: tuple[int, int, int]) -> list[int]:
    """Extents of the view's axes, the innermost first, after joining those that lie in memory without a gap."""
    strides = (shape[1] * shape[2], shape[2], 1)
    joined: list[int] = []
    reach = 0
    for extent, stride in zip(reversed(box), reversed(strides), strict=True):
        if extent == 1:
            continue
        if joined and stride == reach:
            joined[-1] *= extent
        else:
            joined.append(extent)
        reach = stride * extent
    return joined or [1]


def _squared_deviations(slabs: Iterator[NDArray[np.float32]], mean: np.float32) -> Iterator[NDArray[np.float32]]:
    for slab in slabs:
        deviation = slab - mean
        yield np.multiply(deviation, deviation, out=deviation)


class _Stream:
    """Serves elements in the order of the slabs, any number at a time."""

    def __init__(self, slabs: Iterator[NDArray[np.float32]]) -> None:
        self._slabs = slabs
        self._rest: NDArray[np.float32] = np.empty(0, np.float32)

    def take(self, count: int) -> NDArray[np.float32]:
        if self._rest.size >= count:
            taken, self._rest = self._rest[:count], self._rest[count:]
            return taken
        taken = np.empty(count, np.float32)
        done = 0
        while done < count:
            if self._rest.size == 0:
                self._rest = next(self._slabs).reshape(-1)
            part = self._rest[: count - done]
            taken[done : done + part.size] = part
            done += part.size
            self._rest = self._rest[part.size :]
        return taken


def _tree_sum(elements: _Stream, count: int) -> np.float32:
    """The sum of the next `count` elements in the order of NumPy's pairwise summation."""
    if count <= LEAF:
        return np.float32(np.add.reduce(elements.take(count)))
    half = count // 2
    half -= half % 8
    left = _tree_sum(elements, half)
    return left + _tree_sum(elements, count - half)
