"""A tomogram as an array that napari can show, of which no more is read than is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psygnal import SignalInstance

from cryomamba_core.errors import ErrorInfo, InputError
from cryomamba_core.geometry import Index3
from cryomamba_core.volumes import Volume
from cryomamba_gui.volumes.coarse import CoarseVolume, as_dtype
from cryomamba_gui.volumes.indexing import Selection, as_slice, select
from cryomamba_gui.volumes.plane_reader import PlaneReader

#: Seconds that a plane is waited for before a coarser one is given: less than a frame of an event loop at 60 Hz.
PATIENCE = 0.015

#: Bytes that are read at once where no plane is asked for. A whole tomogram is never given.
MOST_BYTES = 64 << 20


class PlaneStore:
    """The voxels of a volume, ZYX, by basic indexing; planes across any axis are quick.

    A plane is waited for only `PATIENCE` seconds. If it has not been read by then, the coarse volume's is
    given, or an even grey where nothing is known, and `arrived` is emitted when the fine one is there: ask
    again then. What cannot be read is shown so too. Any thread may index it.

    There is deliberately no ``__array__``, no length and no iteration: each would read the whole file.

    Parameters
    ----------
    volume
        One that may be read by several threads; not closed here.
    fill
        Grey value to show where nothing is known.
    on_read
        Called by the reading thread after it has read; what it raises is reported.
    """

    ndim: int = 3
    __iter__ = None  # else Python would ask for one section after the other

    def __init__(self, volume: Volume, *, fill: float = 0.0, on_read: Callable[[], object] = lambda: None) -> None:
        self._volume = volume
        self._reader = PlaneReader(volume, on_read)
        self._fill = fill
        self._coarse: CoarseVolume | None = None
        self.dtype: np.dtype[Any] = volume.dtype
        self.shape: Index3 = volume.grid.shape

    @property
    def size(self) -> int:
        """Number of voxels."""
        return self._volume.grid.voxels

    @property
    def arrived(self) -> SignalInstance:
        """Emitted **by the reading thread** with (axis, index) of the plane that was owed and is there now."""
        return self._reader.arrived

    @property
    def failed(self) -> SignalInstance:
        """Emitted by any thread with an `ErrorInfo` when the file cannot be read; once for each code."""
        return self._reader.failed

    @property
    def error(self) -> ErrorInfo | None:
        """What was wrong when something was read last; None if nothing was."""
        return self._reader.error

    @property
    def pending(self) -> bool:
        """Whether the last plane that was given is coarser than the one that is on its way."""
        return self._reader.pending

    @property
    def bytes_read(self) -> int:
        """Bytes of all voxels that were read so far."""
        return self._reader.bytes_read

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Voxels by numbers, slices and an ellipsis, as of a numpy array.

        Planes that are kept are given as they are, read-only.

        Raises
        ------
        IndexError
            For any other index.
        InputError
            If more than `MOST_BYTES` are asked for that are no plane.
        """
        selection = select(key, self.shape)
        if 0 in selection.shape:
            return np.empty(selection.shape, self.dtype)
        axis = selection.plane_axis
        if axis is None:
            return self._region(selection)
        plane = self._plane(axis, selection.ranges[axis][0])
        picked = plane[tuple(as_slice(part) for other, part in enumerate(selection.ranges) if other != axis)]
        return picked if selection.dropped[axis] else np.expand_dims(picked, axis)

    def __repr__(self) -> str:
        return f"PlaneStore(shape={self.shape}, dtype={self.dtype.name})"

    def use(self, coarse: CoarseVolume) -> None:
        """Show this where fine planes are missing; it may still be filled by another thread."""
        self._coarse = coarse

    def read_now(self, axis: int, index: int) -> None:
        """Read a plane that will be asked for first; raises as `Volume.read`."""
        self._reader.read_now(axis, index)

    def close(self) -> None:
        """Stop the reading thread and wait for its end; from then on, only coarse planes are given."""
        self._reader.close()

    def _plane(self, axis: int, index: int) -> NDArray[Any]:
        plane = self._reader.fetch(axis, index, PATIENCE)
        if plane is not None:
            return plane
        if self._coarse is not None:
            return self._coarse.plane(axis, index, self.dtype)
        return self._grey(tuple(size for other, size in enumerate(self.shape) if other != axis))

    def _region(self, selection: Selection) -> NDArray[Any]:
        region = selection.region
        size = region.size * self.dtype.itemsize
        if size > MOST_BYTES:
            raise InputError(
                f"{size} bytes of a tomogram are not read at once",
                hint="ask for planes, or use the overview, which is small enough for 3D",
            )
        try:
            voxels = self._volume.read(region)
        except Exception as error:  # noqa: BLE001  # whatever a reader raises, the window goes on
            self._reader.report(error)
            return self._grey(selection.shape)
        self._reader.count(size)
        return np.asarray(voxels[selection.within(region.start)])

    def _grey(self, shape: tuple[int, ...]) -> NDArray[Any]:
        return np.full(shape, as_dtype(np.array(self._fill), self.dtype))
