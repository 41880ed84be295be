"""Which values a mask holds, and what those are called that its model does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from cryomamba_core.geometry import Region, slab_depth, to_index
from cryomamba_core.label_file import LabelArray
from cryomamba_core.labels import PALETTE, Label

#: Voxels that are read at a time.
SLAB_VOXELS = 4 << 20

#: Voxels that are counted at a time: numpy counts copies of 8 bytes each.
COUNTED_VOXELS = 1 << 17


def values_in(labels: LabelArray, *, on_slab: Callable[[int], None] | None = None) -> tuple[int, ...]:
    """The values that occur in a mask, ascending, background left out.

    Parameters
    ----------
    labels
        ZYX, uint8 or uint16.
    on_slab
        Called with the number of sections that are done; may raise to stop.
    """
    counts = np.zeros(int(np.iinfo(labels.dtype).max) + 1, np.int64)
    shape = to_index(labels.shape)
    for slab in Region.of_shape(shape).slabs(slab_depth(shape, voxels=SLAB_VOXELS)):
        flat = np.ascontiguousarray(labels[slab.start[0] : slab.stop[0]]).reshape(-1)
        for first in range(0, flat.size, COUNTED_VOXELS):
            counts += np.bincount(flat[first : first + COUNTED_VOXELS], minlength=counts.size)
        if on_slab is not None:
            on_slab(slab.stop[0])
    found: NDArray[np.intp] = np.flatnonzero(counts[1:]) + 1
    return tuple(int(value) for value in found)


def named(labels: Iterable[Label], values: Iterable[int]) -> tuple[Label, ...]:
    """`labels`, and one for each of `values` that none of them has, ordered by value.

    A mask that is corrected by hand may hold values of which its model knows nothing: they are
    called ``label 7`` and the like.
    """
    known = {label.value: label for label in labels}
    for value in values:
        if value not in known:
            known[value] = Label(value=value, name=f"label {value}", color=PALETTE[(value - 1) % len(PALETTE)])
    return tuple(known[value] for value in sorted(known))
