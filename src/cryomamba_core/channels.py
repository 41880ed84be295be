"""Volumes that become the channels of one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_core.errors import CryoMambaError
from cryomamba_core.geometry import Index3, Region, VoxelGrid
from cryomamba_core.volumes import HeaderWarning, Volume


class Channel(Volume):
    """A volume as it is written: with a name, in the type of all channels, where the file will say that it is.

    Parameters
    ----------
    volume
        The volume; whoever opened it closes it.
    name
        For people, e.g. that of its file.
    dtype
        Holds every number of the volume; the volume's own if left out.
    placed_as
        Another volume of the same shape whose grid and metadata stand for its own.
    on_read
        Called with the number of voxels that were read; may raise to stop.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        name: str,
        dtype: np.dtype[Any] | None = None,
        placed_as: Volume | None = None,
        on_read: Callable[[int], None] | None = None,
    ) -> None:
        self.name: str = name
        self._volume = volume
        self._dtype = volume.dtype if dtype is None else dtype
        self._place = volume if placed_as is None else placed_as
        self._on_read = on_read

    @property
    def grid(self) -> VoxelGrid:
        """Shape, voxel size and place."""
        return self._place.grid

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels as they are written."""
        return self._dtype

    @property
    def warnings(self) -> tuple[HeaderWarning, ...]:
        """What looks wrong in the header."""
        return self._volume.warnings

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The header of the volume that says where this one is."""
        return self._place.metadata

    @property
    def source_axes(self) -> Index3:
        """The axes as its own file stores them, slowest first; slabs along that one are read fast."""
        return self._volume.grid.stored_axes

    def read(self, region: Region) -> NDArray[Any]:
        """Read the voxels of `region`, ZYX; an error says in which channel it was met."""
        with naming(self.name):
            voxels = self._volume.read(region).astype(self._dtype, copy=False)
        if self._on_read is not None:
            self._on_read(voxels.size)
        return voxels


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Let the message of an error from inside begin with the name of what it is about, where it does not hold it."""
    try:
        yield
    except CryoMambaError as error:
        if name not in error.message:
            error.message = f"{name}: {error.message}"
        raise


def holding_type(types: Iterable[np.dtype[Any]], offered: Iterable[str]) -> np.dtype[Any] | None:
    """The first of the offered types that holds every number of all `types` as it is; None if there is none.

    numpy's own answer is not taken: it has 64-bit numbers become floats that hold only some of them.
    """
    wanted = list(types)
    return next((dtype for dtype in map(np.dtype, offered) if all(_holds(dtype, each) for each in wanted)), None)


def _holds(wider: np.dtype[Any], dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return wider.kind == "f" and wider.itemsize >= dtype.itemsize
    if dtype.kind not in "iu":
        return False
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    if wider.kind == "f":
        exact: int = 2 ** (int(np.finfo(wider).nmant) + 1)
        return max(-low, high) <= exact
    return wider.kind in "iu" and int(np.iinfo(wider).min) <= low and high <= int(np.iinfo(wider).max)
