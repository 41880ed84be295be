"""Rows of a volume, normalised as its model wants them, with or without the zeros around what it shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cryomamba_backends.nnunet.normalisation import Normalise, measure_normalisation, standardise
from cryomamba_backends.nnunet.open_zeros import SLAB_VOXELS, OpenZeros
from cryomamba_backends.nnunet.plans import ModelRecipe
from cryomamba_backends.nnunet.rows import NormalisedRows, Rows
from cryomamba_backends.nnunet.statistics import moments
from cryomamba_core.geometry import Index3, Region, to_index
from cryomamba_core.volumes import Volume

#: What telling the zeros around what a volume shows from others holds at its peak, in bytes: a slab of voxels, that
#: slab normalised, the numbers of its groups of zeros, and a mask.
MASKING_BYTES = SLAB_VOXELS * (4 + 4 + 4 + 1)


def normalised_rows(
    recipe: ModelRecipe, volume: Volume, box: Region, axes: Index3, *, on_read: Callable[[], None]
) -> Rows:
    """Measure the normalisation of a model on the voxels of `box`, and return what reads them normalised.

    Parameters
    ----------
    recipe
        The model's plans.
    volume, box
        What is segmented, and the part of it that is not zero.
    axes
        Axis (z, y, x) of the volume that each axis of the rows is.
    on_read
        Called before each piece is read; may raise to stop.

    Raises
    ------
    UnusableVolume
        If the grey values are not those that the normalisation takes.
    """
    if not recipe.masked:
        normalise = measure_normalisation(recipe, volume, box, on_slab=on_read)
        return _watched(NormalisedRows(volume=volume, box=box, axes=axes, normalise=normalise), on_read)

    def as_they_are(axes: Index3) -> tuple[Rows, Index3]:
        rows = NormalisedRows(volume=volume, box=box, axes=axes, normalise=lambda _: None)
        return _watched(rows, on_read), to_index(box.shape[axis] for axis in axes)

    normalise = measure_masked_normalisation(*as_they_are(recipe.transpose))
    return MaskedRows(*as_they_are(axes), normalise)


def shown_rows(volume: Volume, box: Region, axes: Index3, *, on_read: Callable[[], None]) -> Rows:
    """What reads rows that are 0 where the zeros around what the volume shows are, and 1 elsewhere."""
    rows = NormalisedRows(volume=volume, box=box, axes=axes, normalise=lambda _: None)
    extent = to_index(box.shape[axis] for axis in axes)
    return MaskedRows(_watched(rows, on_read), extent, lambda slab: slab.fill(1))


def measure_masked_normalisation(rows: Rows, extent: Index3) -> Normalise:
    """Mean and standard deviation without open zeros, of rows in the axes of the model, bit by bit as stock has them.

    Parameters
    ----------
    rows
        Reads voxels as they are.
    extent
        Of the array that they make.
    """
    zeros = OpenZeros.find(rows, extent)

    def shown() -> Iterator[NDArray[np.float32]]:
        for index, (first, stop) in enumerate(pairwise(zeros.bounds)):
            voxels = rows(first, stop)
            yield voxels[~zeros.slab(index, voxels)]

    count = math.prod(extent) - zeros.count
    return standardise(moments(shown, count, [count]))


class MaskedRows:
    """Rows of which all but open zeros are normalised; call it with ascending rows, and none is read twice.

    Parameters
    ----------
    rows
        Reads voxels as they are.
    extent
        Of the array that they make.
    normalise
        The normalisation.
    """

    def __init__(self, rows: Rows, extent: Index3, normalise: Normalise) -> None:
        self._rows, self._extent, self._normalise = rows, extent, normalise
        self._zeros = OpenZeros.find(rows, extent)
        self._known: tuple[int, NDArray[np.float32]] | None = None

    def __call__(self, first: int, stop: int) -> NDArray[np.float32]:
        """Rows [first, stop)."""
        made = np.empty((stop - first, *self._extent[1:]), np.float32)
        for index, (start, end) in enumerate(pairwise(self._zeros.bounds)):
            if start < stop and first < end:
                low, high = max(start, first), min(end, stop)
                made[low - first : high - first] = self._slab(index, start, end)[low - start : high - start]
        return made

    def _slab(self, index: int, first: int, stop: int) -> NDArray[np.float32]:
        if self._known is None or self._known[0] != index:
            voxels = self._rows(first, stop)
            zeros = self._zeros.slab(index, voxels)
            self._normalise(voxels)
            voxels[zeros] = 0
            self._known = index, voxels
        return self._known[1]


def _watched(rows: Rows, on_read: Callable[[], None]) -> Rows:
    def read(first: int, stop: int) -> NDArray[np.float32]:
        on_read()
        return rows(first, stop)

    return read
