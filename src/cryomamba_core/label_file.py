"""Labels on disk, read and written by region."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cryomamba_core.errors import StorageDamaged
from cryomamba_core.geometry import Index3, Region

#: What picks a piece of a 3D array, namely slices for the leading axes, of step 1.
Slices = slice | tuple[slice, ...]


class LabelArray(Protocol):
    """Labels that are read piece by piece; a numpy array is one, and so is a `LabelFile`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent (z, y, x) in voxels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type uint8 or uint16."""

    def __getitem__(self, index: Any, /) -> NDArray[Any]:
        """Read the voxels that slices of step 1 pick, as a ZYX array."""


def picked_region(index: Slices, shape: Index3) -> Region:
    """The region of a volume of `shape` (z, y, x) that slices of step 1 pick; raises IndexError for other steps."""
    parts = index if isinstance(index, tuple) else (index,)
    bounds = []
    for part, size in zip((*parts, *[slice(None)] * (3 - len(parts))), shape, strict=True):
        start, stop, step = part.indices(size)
        if step != 1:
            raise IndexError("labels are read by slices of step 1")
        bounds.append((start, max(start, stop)))
    (z0, z1), (y0, y1), (x0, x1) = bounds
    return Region(start=(z0, y0, x0), stop=(z1, y1, x1))


class LabelFile:
    """A ZYX label volume in a raw little-endian file.

    Bytes travel by pread and pwrite, not by a memory map: the process is then charged for what it
    holds, not for what it has ever touched.

    Parameters
    ----------
    path
        The file.
    shape
        Extent (z, y, x) in voxels.
    dtype
        uint8 or uint16.
    create
        Make the file, or take the one that is there, for reading and writing, and set its disk
        space aside. Nobody may write to it meanwhile: on file systems that cannot set space aside, the
        C library reads a byte of each block and writes it back.
    update
        Open the file that is there for reading and writing. Without either it is opened for reading.

    Raises
    ------
    StorageDamaged
        If an existing file is shorter than the volume.
    OSError
        If there is no room for it.
    """

    def __init__(
        self, path: Path, shape: Index3, dtype: np.dtype[Any], *, create: bool = False, update: bool = False
    ) -> None:
        self.shape: Index3 = shape
        self.dtype: np.dtype[Any] = np.dtype(dtype).newbyteorder("<")
        access = os.O_RDWR if create or update else os.O_RDONLY
        self._descriptor = os.open(path, access | (os.O_CREAT if create else 0), 0o644)
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        try:
            if create:
                self._reserve(size)
            elif os.fstat(self._descriptor).st_size < size:
                raise StorageDamaged(f"{path.name} holds fewer than {size} bytes")
        except BaseException:
            self.close()
            raise

    def _reserve(self, size: int) -> None:
        os.truncate(self._descriptor, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._descriptor, 0, size)

    def __getitem__(self, index: Slices) -> NDArray[Any]:
        region = picked_region(index, self.shape)
        out = np.empty(region.shape, self.dtype)
        depth, rows, columns = region.shape
        if columns == self.shape[2]:
            for z in range(depth) if rows < self.shape[1] else ():
                self._fill(out[z], (region.start[0] + z, region.start[1], 0))
            if rows == self.shape[1]:
                self._fill(out, (region.start[0], 0, 0))
            return out
        row = np.empty((rows, self.shape[2]), self.dtype)
        for z in range(depth):
            self._fill(row, (region.start[0] + z, region.start[1], 0))
            out[z] = row[:, region.start[2] : region.stop[2]]
        return out

    def _fill(self, out: NDArray[Any], start: Index3) -> None:
        view = out.data.cast("B") if out.size else memoryview(b"")
        offset = self._offset(start)
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if count == 0:
                raise StorageDamaged("the label file ends before the volume does")
            view, offset = view[count:], offset + count

    def _offset(self, index: Index3) -> int:
        z, y, x = index
        return ((z * self.shape[1] + y) * self.shape[2] + x) * self.dtype.itemsize

    def write(self, region: Region, labels: NDArray[Any]) -> None:
        """Write the labels of a region; they are durable after the next `sync`."""
        data = np.ascontiguousarray(labels, self.dtype)
        whole_rows = region.shape[2] == self.shape[2]
        if whole_rows and region.shape[1] == self.shape[1]:
            self._put(data, region.start)
            return
        for z, section in enumerate(data, region.start[0]):
            if whole_rows:
                self._put(section, (z, region.start[1], 0))
                continue
            for y, row in enumerate(section, region.start[1]):
                self._put(row, (z, y, region.start[2]))

    def _put(self, data: NDArray[Any], start: Index3) -> None:
        view = data.data.cast("B") if data.size else memoryview(b"")
        offset = self._offset(start)
        while view:
            count = os.pwrite(self._descriptor, view, offset)
            view, offset = view[count:], offset + count

    def sync(self) -> None:
        """Make all that was written durable."""
        getattr(os, "fdatasync", os.fsync)(self._descriptor)

    def close(self) -> None:
        """Close the file; it may be closed already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> LabelFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
