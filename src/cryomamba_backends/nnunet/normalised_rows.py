"""Rows of a volume, normalised as its model wants them, with or without the zeros around what it shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Self

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.normalisation import Normalise, measure_normalisation, standardise
from cryomamba_backends.nnunet.open_zeros import SLAB_VOXELS, OpenZeros
from cryomamba_backends.nnunet.plans import ChannelRecipe, ModelRecipe
from cryomamba_backends.nnunet.rows import NormalisedRows, Rows
from cryomamba_backends.nnunet.statistics import moments
from cryomamba_core.geometry import Index3, Region, to_index
from cryomamba_core.volumes import Volume

#: What telling the zeros around what a volume shows from others holds at its peak, in bytes: a slab of voxels, that
#: slab normalised, the numbers of its groups of zeros, and a mask.
MASKING_BYTES = SLAB_VOXELS * (4 + 4 + 4 + 1)

#: What each further channel holds: a slab of it, normalised.
FURTHER_BYTES = SLAB_VOXELS * 4


def masking_bytes(channels: Sequence[ChannelRecipe]) -> int:
    """What normalising channels without the zeros around what a volume shows holds at its peak, in bytes."""
    masked = sum(channel.masked for channel in channels)
    return MASKING_BYTES + (masked - 1) * FURTHER_BYTES if masked else 0


#: Given axes (z, y, x) of a volume, what reads rows in them that are 1 where labels were found before, and 0 elsewhere.
Found = Callable[[Index3], Rows]


def normalised_rows(
    recipe: ModelRecipe,
    volume: Volume,
    box: Region,
    axes: Index3,
    *,
    on_read: Callable[[], None],
    found: Found | None = None,
) -> tuple[Rows, ...]:
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
    found
        Reads labels whose voxels count as shown; None where there are none.

    Returns
    -------
    channels
        Rows of each channel.

    Raises
    ------
    UnusableVolume
        If the grey values are not those that the normalisation takes.
    """
    masked = any(channel.masked for channel in recipe.inputs)
    as_trained = _Shown.of(volume, box, recipe.transpose, on_read=on_read, found=found) if masked else None
    as_swept = _Shown.of(volume, box, axes, on_read=on_read, found=found) if masked else None

    def rows_of(number: int, channel: ChannelRecipe) -> Rows:
        if as_trained is None or as_swept is None or not channel.masked:
            normalise = measure_normalisation(channel, volume.channels[number], box, on_slab=on_read)
            rows = NormalisedRows(volume=volume.channels[number], box=box, axes=axes, normalise=normalise)
            return _watched(rows, on_read)
        normalise = measure_masked_normalisation(as_trained.channels[number], as_trained)
        return MaskedRows(as_swept.channels[number], as_swept, normalise)

    return tuple(rows_of(number, channel) for number, channel in enumerate(recipe.inputs))


def shown_rows(volume: Volume, box: Region, axes: Index3, *, on_read: Callable[[], None]) -> Rows:
    """What reads rows that are 0 where the zeros around what the volume shows are, and 1 elsewhere."""
    shown = _Shown.of(volume, box, axes, on_read=on_read)
    return MaskedRows(shown.rows, shown, lambda slab: slab.fill(1))


@frozen(kw_only=True, eq=False)
class _Shown:
    """What a volume shows: all but the zeros around it, which are zero in all channels, and where nothing was found.

    Attributes
    ----------
    channels
        Reads voxels of each channel as they are.
    rows
        Reads voxels that are zero where those of all channels are; of a single one they are its own.
    extent
        Of the array that they make.
    zeros
        Those around it.
    found
        Reads 1 where something was found; None where nothing was looked for.
    """

    channels: tuple[Rows, ...] = field(repr=False)
    rows: Rows = field(repr=False)
    extent: Index3
    zeros: OpenZeros = field(repr=False)
    found: Rows | None = field(repr=False)

    @classmethod
    def of(
        cls, volume: Volume, box: Region, axes: Index3, *, on_read: Callable[[], None], found: Found | None = None
    ) -> Self:
        """Look at all voxels of `box` once."""
        channels = tuple(
            _watched(NormalisedRows(volume=channel, box=box, axes=axes, normalise=lambda _: None), on_read)
            for channel in volume.channels
        )
        rows = channels[0] if len(channels) == 1 else _nonzero_in_any(channels)
        extent = to_index(box.shape[axis] for axis in axes)
        return cls(
            channels=channels,
            rows=rows,
            extent=extent,
            zeros=OpenZeros.find(rows, extent),
            found=None if found is None else _watched(found(axes), on_read),
        )

    @property
    def hidden(self) -> int:
        """How many voxels are not shown; they are counted anew."""
        if self.found is None:
            return self.zeros.count
        return sum(int(zeros.sum()) for _, zeros in self.slabs(self.rows))

    def slabs(self, rows: Rows) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """All voxels that `rows` reads, slab by slab, and which of them are zeros around what is shown."""
        for index, (first, stop) in enumerate(pairwise(self.zeros.bounds)):
            yield self.slab(rows, index, first, stop)

    def slab(self, rows: Rows, index: int, first: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Those of a slab, which has rows [first, stop)."""
        voxels = rows(first, stop)
        zeros = self.zeros.slab(index, voxels if rows is self.rows else self.rows(first, stop))
        if self.found is not None:
            zeros &= self.found(first, stop) == 0
        return voxels, zeros


def measure_masked_normalisation(rows: Rows, shown: _Shown) -> Normalise:
    """Mean and standard deviation of what is shown, of rows in the axes of the model, bit by bit as stock has them."""
    count = math.prod(shown.extent) - shown.hidden
    return standardise(moments(lambda: (voxels[~zeros] for voxels, zeros in shown.slabs(rows)), count, [count]))


class MaskedRows:
    """Rows of which all but open zeros are normalised; call it with ascending rows, and none is read twice.

    Parameters
    ----------
    rows
        Reads voxels as they are.
    shown
        Tells zeros.
    normalise
        The normalisation.
    """

    def __init__(self, rows: Rows, shown: _Shown, normalise: Normalise) -> None:
        self._rows, self._shown, self._normalise = rows, shown, normalise
        self._known: tuple[int, NDArray[np.float32]] | None = None

    def __call__(self, first: int, stop: int) -> NDArray[np.float32]:
        """Rows [first, stop)."""
        made = np.empty((stop - first, *self._shown.extent[1:]), np.float32)
        for index, (start, end) in enumerate(pairwise(self._shown.zeros.bounds)):
            if start < stop and first < end:
                low, high = max(start, first), min(end, stop)
                made[low - first : high - first] = self._slab(index, start, end)[low - start : high - start]
        return made

    def _slab(self, index: int, first: int, stop: int) -> NDArray[np.float32]:
        if self._known is None or self._known[0] != index:
            voxels, zeros = self._shown.slab(self._rows, index, first, stop)
            self._normalise(voxels)
            voxels[zeros] = 0
            self._known = index, voxels
        return self._known[1]


def _nonzero_in_any(channels: Sequence[Rows]) -> Rows:
    def read(first: int, stop: int) -> NDArray[np.float32]:
        nonzero = np.zeros((), bool)
        for rows in channels:
            nonzero = nonzero | (rows(first, stop) != 0)
        return nonzero.astype(np.float32)

    return read


def _watched(rows: Rows, on_read: Callable[[], None]) -> Rows:
    def read(first: int, stop: int) -> NDArray[np.float32]:
        on_read()
        return rows(first, stop)

    return read
