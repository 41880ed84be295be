"""From the grid of a volume to that of a model and back: how many voxels there are, and where the new ones lie."""

from __future__ import annotations

from typing import Self

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.resampling_plans import Interpolation, Resampling
from cryomamba_backends.nnunet.torch_interpolation import TorchInterpolation
from cryomamba_core.geometry import Index3, Vector3, to_index


@frozen(kw_only=True)
class Transfer:
    """How something goes from one of two grids to the other; axes are those of the sweep.

    Attributes
    ----------
    interpolation
        By what.
    sections
        Axis across which sections are resampled each by itself, with the nearest one taken along it unless the
        interpolation says otherwise; None where all axes are alike.
    channels
        How many there are of what goes.
    beside
        Whether voxels of all sections that lie above each other are neighbours in stock nnU-Net's memory, where there
        is one channel.
    """

    interpolation: Interpolation
    sections: int | None = None
    channels: int = 1
    beside: bool = False

    @property
    def by_torch(self) -> bool:
        """Whether PyTorch interpolates."""
        return self.interpolation.method == "torch"


_USUAL = Transfer(interpolation=Resampling.usual().data)


@frozen(kw_only=True)
class GridChange:
    """Two grids over the same box; axes are those of the sweep.

    Attributes
    ----------
    source
        Extent of the box in voxels of the volume.
    target
        Its extent in voxels of the model's size.
    data
        How voxels go from the first to the second.
    scores
        How scores go back.
    labels
        How labels of a stage before go from the first to the second.
    """

    source: Index3
    target: Index3
    data: Transfer = _USUAL
    scores: Transfer = _USUAL
    labels: Transfer = _USUAL

    @classmethod
    def between(
        cls,
        extent: Index3,
        size: Vector3,
        wanted: Vector3,
        *,
        resampling: Resampling | None = None,
        strides: Index3 | None = None,
        channels: int = 1,
        heads: int = 1,
    ) -> Self:
        """The grids of a box of `extent` voxels of `size` and of voxels as `wanted`, by stock nnU-Net's rules.

        Parameters
        ----------
        extent, size, wanted
            In the axes of the sweep; lengths in one unit.
        resampling
            How the model has it done; None for the usual way.
        strides
            How far apart neighbours along each axis lie in memory, in voxels; None for those of an array of `extent`.
        channels, heads
            How many channels the volume has, and how many the scores.
        """
        resampling = resampling or Resampling.usual()
        labels = resampling.labels or resampling.data
        target = to_index(round(have / want * count) for have, want, count in zip(size, wanted, extent, strict=True))
        strides = strides or _strides(extent, (0, 1, 2))
        # scores are an array of their own; labels that are compared keep the order of their axes, without gaps
        order = to_index(np.argsort([-step for step in strides], kind="stable"))
        stored, scored, compared = (
            (extent, strides),
            (target, _strides(target, (0, 1, 2))),
            (extent, _strides(extent, order)),
        )
        return cls(
            source=extent,
            target=target,
            data=_transfer(resampling.data, (size, wanted), stored, channels),
            scores=_transfer(resampling.scores, (wanted, size), scored, heads),
            labels=_transfer(labels, (size, wanted), compared, 1),
        )

    @classmethod
    def none(cls, extent: Index3) -> Self:
        """One grid, taken for both."""
        return cls(source=extent, target=extent)

    @property
    def changes(self) -> bool:
        """Whether anything has to be resampled."""
        return self.source != self.target

    def to_target(self, axis: int) -> NDArray[np.float64]:
        """Where voxels of the model's size lie along an axis, in voxels of the volume."""
        return _centres(self.data, axis, self.source, self.target)

    def labels_to_target(self, axis: int) -> NDArray[np.float64]:
        """The same where labels of a stage before are taken from."""
        return _centres(self.labels, axis, self.source, self.target)

    def to_source(self, axis: int) -> NDArray[np.float64]:
        """Where voxels of the volume lie along an axis, in voxels of the model's size."""
        return _centres(self.scores, axis, self.target, self.source)

    def rows_on_target(self, rows: range) -> range:
        """Rows of the model's grid, along the first axis, that scores on some rows of the volume's are made of."""
        if not self.changes:
            return rows
        centres = np.clip(np.floor(self.to_source(0)), 0, self.target[0] - 1).astype(int)
        return range(int(centres[rows.start]), min(int(centres[rows.stop - 1]) + 2, self.target[0]))

    @property
    def data_by_torch(self) -> TorchInterpolation | None:
        """What PyTorch does to voxels, bit by bit; None where it does nothing."""
        return _by_torch(self.data, self.source, self.target)

    @property
    def scores_by_torch(self) -> TorchInterpolation | None:
        """The same for scores."""
        return _by_torch(self.scores, self.target, self.source)

    @property
    def labels_by_torch(self) -> TorchInterpolation | None:
        """The same for labels of a stage before."""
        return _by_torch(self.labels, self.source, self.target)


def _transfer(
    interpolation: Interpolation, sizes: tuple[Vector3, Vector3], array: tuple[Index3, Index3], channels: int
) -> Transfer:
    """From voxels of the first of two sizes to the other; an array is its extent and its strides."""
    sections = _sections(*sizes, interpolation)
    beside = sections is not None and _beside(*array, sections)
    return Transfer(interpolation=interpolation, sections=sections, channels=channels, beside=beside)


def _by_torch(transfer: Transfer, source: Index3, target: Index3) -> TorchInterpolation | None:
    if not transfer.by_torch:
        return None
    return TorchInterpolation(
        interpolation=transfer.interpolation,
        source=source,
        target=target,
        sections=transfer.sections,
        channels=transfer.channels,
        beside=transfer.beside,
    )


def _centres(transfer: Transfer, axis: int, source: Index3, target: Index3) -> NDArray[np.float64]:
    """Centres of the target's voxels in the source's; whole numbers where the nearest voxel is taken."""
    by_torch = _by_torch(transfer, source, target)
    if by_torch is not None:
        return by_torch.places(axis)
    count, wanted = source[axis], target[axis]
    centres = (np.arange(wanted, dtype=np.float64) + 0.5) * (count / wanted) - 0.5
    return np.clip(np.floor(centres + 0.5), 0, count - 1) if axis == transfer.sections else centres


def _sections(current: Vector3, new: Vector3, interpolation: Interpolation) -> int | None:
    separate = interpolation.separate
    if separate is False:
        return None
    sizes = (current, new)
    long = [spacing for spacing in sizes if separate or max(spacing) / min(spacing) > interpolation.threshold]
    if not long:
        return None
    longest = [axis for axis in range(3) if max(long[0]) / long[0][axis] == 1]
    return longest[0] if len(longest) == 1 else None


def _strides(extent: Index3, order: Index3) -> Index3:
    """Distances of neighbours along each axis in an array whose axes lie in an order, from the outermost on."""
    strides, step = [0, 0, 0], 1
    for axis in reversed(order):
        strides[axis] = step
        step *= extent[axis]
    return to_index(strides)


def _beside(extent: Index3, strides: Index3, sections: int) -> bool:
    """Whether sections follow each other voxel by voxel, and the axes within them in their order, without gaps."""
    step = 1
    for axis in (sections, *(axis for axis in (2, 1, 0) if axis != sections)):
        if extent[axis] != 1 and strides[axis] != step:
            return False
        step *= extent[axis]
    return True
