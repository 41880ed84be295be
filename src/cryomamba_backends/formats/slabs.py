"""Voxels that may be more than memory holds, in pieces and in the order of a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_core.errors import PluginFault
from cryomamba_core.geometry import Index3, slab_depth, to_index
from cryomamba_core.label_file import LabelArray
from cryomamba_core.volumes import IntensityTally

#: Voxels in a piece, unless one section is larger.
SLAB_VOXELS = 4 << 20

#: The same where the file's slowest axis is not Z: each piece then costs a pass over all labels.
ACROSS_VOXELS = 32 << 20

#: Voxels that are counted at a time: numpy counts copies of 8 bytes each.
COUNTED_VOXELS = 1 << 19


def stored_slabs(labels: LabelArray, axes: Index3, *, voxels: int | None = None) -> Iterator[NDArray[Any]]:
    """Cut ZYX `labels` along the slowest axis of a file, each piece C-contiguous in the file's order.

    Parameters
    ----------
    labels
        ZYX.
    axes
        The file's axes, slowest first, each by its place in ZYX.
    voxels
        How many a piece holds, unless one section is larger; what suits labels if left out.
    """
    stored_shape = to_index(labels.shape[axis] for axis in axes)
    depth = slab_depth(stored_shape, voxels=voxels or (ACROSS_VOXELS if axes[0] else SLAB_VOXELS))
    picked = [slice(None)] * 3
    for first in range(0, stored_shape[0], depth):
        picked[axes[0]] = slice(first, min(first + depth, stored_shape[0]))
        yield np.ascontiguousarray(labels[tuple(picked)].transpose(axes))


class ValueCounter:
    """Counts how often each label occurs; mean and deviation follow exactly.

    Parameters
    ----------
    highest
        The largest label of the model; a larger one in the data is the runner's fault.
    """

    def __init__(self, *, highest: int) -> None:
        self._counts = np.zeros(highest + 1, np.int64)

    def add(self, labels: NDArray[Any]) -> None:
        """Count the values of a contiguous piece; raises `PluginFault` for one that is too large."""
        flat = labels.reshape(-1)
        for first in range(0, flat.size, COUNTED_VOXELS):
            counts = np.bincount(flat[first : first + COUNTED_VOXELS], minlength=self._counts.size)
            if counts.size > self._counts.size:
                raise PluginFault(
                    f"the labels reach {counts.size - 1}, the model's labels only {self._counts.size - 1}",
                    hint="report it to the author of the runner",
                )
            self._counts += counts

    @property
    def minimum(self) -> int:
        """The smallest value that occurs."""
        return int(self._present()[0])

    @property
    def maximum(self) -> int:
        """The largest value that occurs."""
        return int(self._present()[-1])

    @property
    def mean(self) -> float:
        """Mean value."""
        return int((self._counts * np.arange(self._counts.size)).sum()) / int(self._counts.sum())

    @property
    def standard_deviation(self) -> float:
        """Deviation from the mean, of the population."""
        off = np.arange(self._counts.size) - self.mean
        return float(np.sqrt((self._counts * off * off).sum() / self._counts.sum()))

    def _present(self) -> NDArray[np.intp]:
        return np.flatnonzero(self._counts)


class GreyCounter:
    """Sums up grey values for the header of an MRC file; if one is not finite, none of it is determined."""

    def __init__(self) -> None:
        self._tally = IntensityTally()
        self._finite = True

    def add(self, values: NDArray[Any]) -> None:
        """Add the values of a contiguous piece."""
        flat = values.reshape(-1)
        for first in range(0, flat.size, COUNTED_VOXELS):
            piece = flat[first : first + COUNTED_VOXELS].astype(np.float64)
            self._finite = self._finite and bool(np.isfinite(piece).all())
            if self._finite:
                self._tally.add(piece)

    @property
    def minimum(self) -> float:
        """The smallest value; above `maximum` where it is not determined."""
        return self._tally.minimum if self._finite else 0.0

    @property
    def maximum(self) -> float:
        """The largest value; below `minimum` where it is not determined."""
        return self._tally.maximum if self._finite else -1.0

    @property
    def mean(self) -> float:
        """Mean value; below both where it is not determined."""
        return self._tally.statistics.mean if self._finite else -2.0

    @property
    def standard_deviation(self) -> float:
        """Deviation from the mean, of the population; negative where it is not determined."""
        return self._tally.statistics.standard_deviation if self._finite else -1.0
