"""``resample_torch_fornnunet`` of nnU-Net, on some rows of an array as if the whole array were there.

PyTorch's own kernels (``aten/src/ATen/native/cpu/UpSampleKernel.cpp``) interpolate, each row of the result from the two
rows that it lies between, at a scale that puts it there. They differ in the last bit, so the one is taken that nnU-Net
gets for the whole array. For sections that are resampled by themselves, that is the kernel for channels that lie beside
each other, if the sections are small, or lie so in memory. It adds in another order in the last channels, which do not
fill a vector of the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.resampling_plans import Interpolation
from cryomamba_backends.nnunet.torch_places import places, scale
from cryomamba_core.geometry import Index3, to_index

if TYPE_CHECKING:
    import torch

#: Extent of both axes of a section, added, up to which PyTorch puts channels beside each other.
SMALL = 128

#: Channels that fill whole vectors of every processor that PyTorch has kernels for.
VECTOR = 16

#: By what nnU-Net multiplies shares of labels before it rounds them to half precision.
SHARE = 1000

#: Interpolates (channels, rows, y, x).
Step = Callable[["torch.Tensor"], "torch.Tensor"]

#: One of PyTorch's kernels, from (images, channels, rows, …) to an extent (rows, …), given the scale of rows or None.
Kernel = Callable[["torch.Tensor", Sequence[int], float | None], "torch.Tensor"]


@frozen(kw_only=True)
class TorchInterpolation:
    """From one grid to another by PyTorch; rows of either lie along the first axis.

    Attributes
    ----------
    interpolation
        How.
    source, target
        Extents (z, y, x), in the axes of the sweep.
    sections
        Axis across which sections are interpolated each by itself; None where all axes are alike.
    channels
        How many nnU-Net resamples together.
    beside
        Whether voxels of all sections that lie above each other are neighbours in nnU-Net's memory, where it has one
        channel.
    lower, upper
        The rows of the source that each row of the target lies between; the same where it lies on one.
    """

    interpolation: Interpolation
    source: Index3
    target: Index3
    sections: int | None
    channels: int
    beside: bool
    lower: NDArray[np.intp] = field(init=False, eq=False, repr=False)
    upper: NDArray[np.intp] = field(init=False, eq=False, repr=False)

    @lower.default
    def _lower(self) -> NDArray[np.intp]:
        return np.floor(self.places(0)).astype(np.intp)

    @upper.default
    def _upper(self) -> NDArray[np.intp]:
        return np.minimum(np.ceil(self.places(0)), self.source[0] - 1).astype(np.intp)

    def places(self, axis: int) -> NDArray[np.float64]:
        """Where the target's voxels lie along an axis, in the source's; see `torch_places.places`."""
        count, wanted = self.source[axis], self.target[axis]
        if self.sections is None:
            return places("linear", count, wanted, beside=False)
        if axis == self.sections:
            return places(self.interpolation.across, count, wanted, beside=False)
        return places(self.interpolation.within, count, wanted, beside=self._are_neighbours(self.sections))

    def values(self, slab: torch.Tensor, rows: range, first: int = 0) -> torch.Tensor:
        """Interpolate voxels or scores.

        Parameters
        ----------
        slab
            (channels, rows, y, x): those from `lower` of the first of `rows` to `upper` of the last.
        rows
            Of the target.
        first
            Which of all channels the first of these is.

        Returns
        -------
        values
            (channels, rows, y, x) of the target in single precision.
        """
        slab = slab.float()
        for step in self._steps(rows, first):
            slab = step(slab)
        return slab

    def labels(self, slab: NDArray[np.int32], rows: range) -> NDArray[np.int32]:
        """The same for labels (rows, y, x), each of which is interpolated by itself."""
        import torch

        chosen = torch.from_numpy(slab)[None]
        for step in self._steps(rows, 0):
            choose = _more_than_half if self.interpolation.frugal else _highest
            chosen = choose(chosen, step)
        found: NDArray[np.int32] = chosen[0].numpy()
        return found

    def _steps(self, rows: range, first: int) -> Iterator[Step]:
        """What nnU-Net does one after the other; it leaves out what changes no extent."""
        across = self.sections
        if across is None:
            yield lambda slab: self._alike(slab, rows, self.target)
            return
        between = to_index((self.source if axis == across else self.target)[axis] for axis in range(3))
        if between != self.source:
            yield lambda slab: self._within(slab, rows, first, between)
        if between != self.target:
            yield lambda slab: self._across(slab, rows)

    def _within(self, slab: torch.Tensor, rows: range, first: int, extent: Index3) -> torch.Tensor:
        """Interpolate sections, each by itself."""
        across = self.sections
        assert across is not None
        if self.interpolation.within != "linear":
            for axis in {0, 1, 2} - {across}:
                slab = self._nearest(slab, axis, rows)
            return slab
        if self._are_neighbours(across):
            return self._neighbours(slab, rows, first, extent)
        return self._alike(slab, rows if across else None, extent)

    def _are_neighbours(self, across: int) -> bool:
        """Whether sections are channels that PyTorch has beside each other: by its rules for two axes."""
        channels = self.channels * self.source[across]
        if sum(self.target) - self.target[across] <= SMALL:
            return True
        few = channels == 3 and self.interpolation.one_thread and self.interpolation.within == "linear"
        return few or (self.beside and self.channels == 1 and channels > 3)

    def _across(self, slab: torch.Tensor, rows: range) -> torch.Tensor:
        """Interpolate between sections."""
        across = self.sections
        assert across is not None
        if self.interpolation.across != "linear":
            return self._nearest(slab, across, rows)
        return self._alike(slab, None if across else rows, self.target)

    def _nearest(self, slab: torch.Tensor, axis: int, rows: range) -> torch.Tensor:
        import torch

        picked = self.places(axis)
        if axis == 0:
            picked = picked[rows.start : rows.stop] - self.lower[rows.start]
        return torch.index_select(slab, axis + 1, torch.from_numpy(picked.astype(np.int64)))

    def _alike(self, slab: torch.Tensor, rows: range | None, extent: Index3) -> torch.Tensor:
        """Interpolate along all axes, of which those whose extent stays are left; None for `rows` that all stay."""
        return self._linear(_channels_apart, slab[:, None], rows, extent[1:])[:, 0]

    def _neighbours(self, slab: torch.Tensor, rows: range, first: int, extent: Index3) -> torch.Tensor:
        """Interpolate sections that are channels beside each other."""
        import torch

        across = self.sections
        assert across is not None
        sheets = slab.movedim(across + 1, 1)
        section = torch.arange(sheets.shape[1]) + (int(self.lower[rows.start]) if across == 0 else 0)
        channel = torch.arange(first, first + len(slab))
        numbers = (channel[:, None] * self.source[across] + section).flatten()
        rest = self.channels * self.source[across] % VECTOR
        behind = self.channels * self.source[across] - rest
        whole = numbers < behind
        room = VECTOR * max(1, -(-int(whole.sum()) // VECTOR))
        at = torch.where(whole, whole.cumsum(0) - 1, room + numbers - behind)
        images = torch.zeros((1, room + rest, *sheets.shape[2:]))
        images[0, at] = sheets.flatten(0, 1)
        size = [extent[axis] for axis in range(3) if axis != across]
        if across == 0:
            made = _channels_beside(images, size, None)
        else:
            made = self._linear(_channels_beside, images, rows, size[1:])
        return made[0, at].reshape((*sheets.shape[:2], *made.shape[2:])).movedim(1, across + 1)

    def _linear(self, kernel: Kernel, slab: torch.Tensor, rows: range | None, size: Sequence[int]) -> torch.Tensor:
        """Interpolate (images, channels, rows, …) to `rows` of an extent behind them; None for those that it has."""
        if rows is None or self.source[0] == self.target[0]:
            return kernel(slab, [slab.shape[2], *size], None)
        centres = self.places(0)[rows.start : rows.stop]
        lower, part = np.floor(centres).astype(int), centres % 1
        made = slab.new_empty((*slab.shape[:2], len(rows), *size))
        lowest = int((lower == 0).sum())
        if lowest:
            # Weights of these may have too many digits to be got by a scale: from the first row on it is the true one.
            stop = rows.start + lowest
            pair = _pair(slab, 0)
            known = kernel(pair, [stop + (stop == pair.shape[2]), *size], scale(self.source[0], self.target[0]))
            made[:, :, :lowest] = known[:, :, rows.start : stop]
        for row in range(lowest, len(rows)):
            # The centre of the one new row lies at half the scale, less half a row of the pair.
            made[:, :, row : row + 1] = kernel(_pair(slab, lower[row] - lower[0]), [1, *size], 2 * part[row] + 1)
        return made


def _pair(slab: torch.Tensor, lower: int) -> torch.Tensor:
    """A row and the next one, or itself where it is the last."""
    return slab[:, :, [lower, min(lower + 1, slab.shape[2] - 1)]]


def _channels_apart(slab: torch.Tensor, size: Sequence[int], factor: float | None) -> torch.Tensor:
    import torch

    made: torch.Tensor = torch.ops.aten.upsample_trilinear3d(
        slab, size, align_corners=False, scales_d=factor and 1 / factor
    )
    return made


def _channels_beside(slab: torch.Tensor, size: Sequence[int], factor: float | None) -> torch.Tensor:
    import torch

    slab = slab.contiguous(memory_format=torch.channels_last)
    made: torch.Tensor = torch.ops.aten.upsample_bilinear2d(
        slab, size, align_corners=False, scales_h=factor and 1 / factor
    )
    return made


def _highest(labels: torch.Tensor, step: Step) -> torch.Tensor:
    """The label whose share is the highest in half precision; of several as high the lowest."""
    import torch

    chosen = highest = None
    for label in torch.unique(labels):
        share = step((labels == label).float() * SHARE).half()
        if chosen is None or highest is None:
            chosen, highest = torch.full_like(share, int(label), dtype=labels.dtype), share
            continue
        chosen.masked_fill_(share > highest, int(label))
        highest = torch.maximum(highest, share)
    assert chosen is not None
    return chosen


def _more_than_half(labels: torch.Tensor, step: Step) -> torch.Tensor:
    """The label whose share is more than a half; where there is none, background."""
    import torch

    chosen = None
    for label in torch.unique(labels):
        found = step((labels == label).float()) > 0.5
        if chosen is None:
            chosen = torch.zeros_like(found, dtype=labels.dtype)
        chosen.masked_fill_(found, int(label))
    assert chosen is not None
    return chosen
