"""Volumes that a runner gives beside the labels, e.g. how uncertain they are: a byte for each voxel."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_core.errors import InvalidParameter, PluginFault
from cryomamba_core.geometry import Index3, Region, to_index
from cryomamba_core.label_file import LabelArray, LabelFile, Slices, picked_region

if TYPE_CHECKING:
    from cryomamba_core.interfaces import Exporter

#: The type of every companion.
DTYPE = np.dtype(np.uint8)

#: The largest `Companion.binning`.
MAX_BINNING = 64

#: Voxels of the source that are binned at a time, unless two rows of bins hold more.
PIECE_VOXELS = 2 << 20

#: Words that files of a job directory and of a job's results begin with.
_TAKEN = frozenset({"labels", "manifest", "mask", "stats"})
_NAME = re.compile("[a-z][a-z0-9-]{0,39}")


@frozen(kw_only=True)
class Companion:
    """A volume beside the labels: a number from 0 to 255 for each voxel.

    Attributes
    ----------
    name
        What its files are called, e.g. ``uncertainty`` for ``uncertainty.mrc``: lower-case letters, digits and hyphens.
    meaning
        What the numbers say, in one sentence for whoever opens the file.
    binning
        How many voxels of the source each of its own stands for, on every axis, 1 to 64. A runner gives a number for
        each voxel of the source all the same; files hold the means.
    label
        Value in the mask of the label that it speaks of, in whose colour it can be shown; None if it speaks of all.
    """

    name: str
    meaning: str
    binning: int = 1
    label: int | None = None

    def __attrs_post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _TAKEN:
            raise PluginFault(f"{self.name!r} is no name for a companion")
        if not 1 <= self.binning <= MAX_BINNING:
            raise PluginFault(f"the companion {self.name!r} is binned by {self.binning}")
        if self.label is not None and self.label < 0:
            raise PluginFault(f"the companion {self.name!r} speaks of a label {self.label}")


def companion_artifacts(
    companions: Sequence[Companion], exporters: Sequence[Exporter]
) -> tuple[tuple[Companion, Exporter, str], ...]:
    """Which exporter writes which companion, and the name of the file, e.g. ``uncertainty.mrc``.

    Raises
    ------
    InvalidParameter
        If no exporter can write a companion.
    PluginFault
        If two files would have the same name.
    """
    writers = [exporter for exporter in exporters if exporter.writes_companions]
    if companions and not writers:
        asked = ", ".join(exporter.artifact for exporter in exporters) or "nothing"
        raise InvalidParameter(
            f"no file that is asked for can hold the {companions[0].name}: {asked}",
            hint="ask for a mask too, e.g. mask.mrc, or for no companion",
        )
    made = [(each, exporter, exporter.companion_artifact(each)) for each in companions for exporter in writers]
    names = [exporter.artifact for exporter in exporters] + [name for *_, name in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PluginFault(f"two files of a job would be called {twice[0]!r}")
    return tuple(made)


class CompanionFiles:
    """The companions of a job on disk, each a `LabelFile` of the source's shape; written and synced as labels are.

    Parameters
    ----------
    place
        The file of each, by its name.
    companions
        Which there are.
    shape
        Extent (z, y, x) of the source in voxels.
    create, update
        See `LabelFile`.

    Raises
    ------
    StorageDamaged, OSError
        See `LabelFile`; none is left open.
    """

    def __init__(
        self,
        place: Callable[[str], Path],
        companions: Sequence[Companion],
        shape: Index3,
        *,
        create: bool = False,
        update: bool = False,
    ) -> None:
        self.names: tuple[str, ...] = tuple(sorted(each.name for each in companions))
        if len(set(self.names)) < len(self.names):
            raise PluginFault("two companions have the same name")
        self.kinds: tuple[Companion, ...] = tuple(companions)
        self._files: dict[str, LabelFile] = {}
        with ExitStack() as opened:
            for name in self.names:
                file = LabelFile(place(name), shape, DTYPE, create=create, update=update)
                self._files[name] = opened.enter_context(file)
            self._opened = opened.pop_all()

    def check(self, given: Mapping[str, Any]) -> None:
        """Raise `PluginFault` unless a final block brings every companion, and no other."""
        if tuple(sorted(given)) != self.names:
            wanted, found = (", ".join(sorted(names)) or "none" for names in (self.names, given))
            raise PluginFault(f"a label block brings the companions {found}, and the runner names {wanted}")

    def write(self, region: Region, values: Mapping[str, NDArray[np.uint8]]) -> None:
        """Write a region of each; durable after the next `sync`."""
        for name, numbers in values.items():
            self._files[name].write(region, numbers)

    def read(self, region: Region) -> dict[str, NDArray[np.uint8]]:
        """Read a region of each."""
        return {name: file[region.slices] for name, file in self._files.items()}

    def sync(self) -> None:
        """Make all that was written durable."""
        for file in self._files.values():
            file.sync()

    def volumes(self) -> Iterator[tuple[Companion, LabelArray]]:
        """Each companion, binned as it says."""
        for companion in self.kinds:
            file = self._files[companion.name]
            yield companion, file if companion.binning == 1 else BinnedArray(file, companion.binning)

    def close(self) -> None:
        """Close the files; they may be closed already."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BinnedArray:
    """Means of blocks of voxels, rounded to the nearest whole number, halves up; read like labels, by region.

    Parameters
    ----------
    fine
        ZYX array of uint8, which may be larger than memory.
    binning
        Edge of the blocks in voxels. Those at the end of an axis may be thinner: they are means of what is there.
    """

    def __init__(self, fine: LabelArray, binning: int) -> None:
        self._fine, self._binning = fine, binning
        self.shape: Index3 = to_index(-(-size // binning) for size in fine.shape)
        self.dtype: np.dtype[Any] = DTYPE

    def __getitem__(self, index: Slices) -> NDArray[np.uint8]:
        region = picked_region(index, self.shape)
        out = np.empty(region.shape, np.uint8)
        rows = max(1, PIECE_VOXELS // (self._binning**2 * self._fine.shape[2]))
        for z in range(region.shape[0] if out.size else 0):
            for y in range(0, region.shape[1], rows):
                stop = min(y + rows, region.shape[1])
                out[z, y:stop] = self._means(
                    Region(
                        start=(region.start[0] + z, region.start[1] + y, region.start[2]),
                        stop=(region.start[0] + z + 1, region.start[1] + stop, region.stop[2]),
                    )
                )
        return out

    def _means(self, region: Region) -> NDArray[np.uint8]:
        """Means (y, x) of one section of bins."""
        k = self._binning
        fine = self._fine[tuple(slice(a * k, b * k) for a, b in zip(region.start, region.stop, strict=True))]
        means: NDArray[np.uint8] = rounded_means(*binned_sums(fine, k))[0]
        return means


def binned_sums(
    values: NDArray[np.uint8], binning: int, offset: Index3 = (0, 0, 0)
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Sums over blocks of voxels, and how many voxels each block has.

    Parameters
    ----------
    values
        ZYX, a piece of a volume that is not empty.
    binning
        Edge of the blocks.
    offset
        Index (z, y, x) of the piece's first voxel in the volume: blocks are those of the volume, so the first and the
        last of a piece may be partly filled.

    Returns
    -------
    sums, counts
        ZYX; element 0 is of the block that holds the piece's first voxel.
    """
    sums: NDArray[Any] = values
    counts = np.ones((1, 1, 1), np.uint64)
    for axis, (start, size) in enumerate(zip(offset, values.shape, strict=True)):
        first = [0, *range(binning - start % binning, size, binning)]
        sums = np.add.reduceat(sums, first, axis=axis, dtype=np.uint64)
        counts = counts * np.diff([*first, size]).astype(np.uint64).reshape([-1 if i == axis else 1 for i in range(3)])
    return sums, counts


def rounded_means(sums: NDArray[np.uint64], counts: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Means to the nearest whole number, halves up; 0 of nothing."""
    counts = np.maximum(counts, 1)
    means: NDArray[np.uint8] = ((2 * sums + counts) // (2 * counts)).astype(np.uint8)
    return means
