"""Labels of a box of a volume, put into blocks of the volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve

from cryomamba_backends.nnunet.sweep import BLOCK_VOXELS
from cryomamba_core.geometry import Index3, Region, slab_depth, to_index
from cryomamba_core.labels import LabelBlock

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Blocks:
    """Puts labels of the box, and companions, into blocks that are whole on all axes but that of the sweep.

    Attributes
    ----------
    companions
        Their names.
    """

    def __init__(
        self, shape: Index3, axes: Index3, box: Region, dtype: np.dtype[Any], *, companions: tuple[str, ...]
    ) -> None:
        self._shape, self._axis, self._box, self._dtype = shape, axes[0], box, dtype
        self.companions = companions
        self._axes, self._back = axes, np.argsort(axes)

    def in_sweep(self, section: tuple[int, int] | None) -> tuple[int, int] | None:
        """Axis of the sweep, and row of the box along it, that a section of the volume is, given by axis and number."""
        if section is None:
            return None
        axis, number = section
        return self._axes.index(axis), number - self._box.start[axis]

    def background(self, first: int, last: int, *, on_block: Callable[[], None]) -> Iterator[LabelBlock]:
        """Blocks of background from `first` to `last` along the axis of the sweep."""
        turned = to_index((self._shape[self._axis], *(n for i, n in enumerate(self._shape) if i != self._axis)))
        depth = slab_depth(turned, voxels=BLOCK_VOXELS)
        for start in range(first, last, depth):
            on_block()
            region = self._region(start, min(start + depth, last))
            certain = {name: np.zeros(region.shape, np.uint8) for name in self.companions}
            yield LabelBlock(region=region, labels=np.zeros(region.shape, self._dtype), companions=certain)

    def block(
        self, row: int, labels: NDArray[np.uint8 | np.uint16], companions: Mapping[str, NDArray[np.uint8]]
    ) -> LabelBlock:
        """A final block of labels and companions, in the axes of the sweep, that start at `row` of the box."""
        start = self._box.start[self._axis] + row
        region = self._region(start, start + len(labels))
        return LabelBlock(
            region=region,
            labels=self._whole(labels, region),
            companions={name: self._whole(values, region) for name, values in companions.items()},
        )

    def _whole(self, values: NDArray[Any], region: Region) -> NDArray[Any]:
        """Values of rows of the box in the axes of the volume, and zeros around them."""
        values = values.transpose(self._back)
        if region.shape == values.shape:
            return np.ascontiguousarray(values)
        whole = np.zeros(region.shape, values.dtype)
        inner = list(self._box.slices)
        inner[self._axis] = slice(None)
        whole[tuple(inner)] = values
        return whole

    def provisional(self, region: Region, labels: NDArray[Any]) -> LabelBlock:
        """A provisional block of labels, both in the axes of the sweep; the region counts from the box."""
        turned = Region(
            start=to_index(region.start[axis] for axis in self._back),
            stop=to_index(region.stop[axis] for axis in self._back),
        )
        return LabelBlock(
            region=turned.shifted(self._box.start),
            labels=np.ascontiguousarray(labels.transpose(self._back), self._dtype),
            provisional=True,
        )

    def _region(self, first: int, last: int) -> Region:
        start, stop = [0, 0, 0], list(self._shape)
        start[self._axis], stop[self._axis] = first, last
        return evolve(Region.of_shape(self._shape), start=start, stop=stop)
