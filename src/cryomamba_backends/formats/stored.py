"""A volume whose voxels lie in a file in C order of some permutation of Z, Y and X."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_backends.formats.sources import ByteSource
from cryomamba_core.errors import InputError
from cryomamba_core.geometry import Index3, Region, VoxelGrid, to_index
from cryomamba_core.volumes import HeaderWarning, Volume

#: Bytes that are read at a time.
CHUNK = 4 << 20

#: Rows up to this many bytes are read whole even for a few voxels: a call costs more than the bytes.
SHORT_ROW = 32 << 10


@frozen(kw_only=True)
class Scaling:
    """What stored numbers mean: value = slope × stored + intercept."""

    slope: float
    intercept: float


class StoredVolume(Volume):
    """Reads regions from stored bytes; never more at once than the region and `CHUNK` bytes.

    Parameters
    ----------
    source
        The bytes; closed with the volume.
    offset
        Where the first voxel is, in bytes.
    stored_dtype
        Type of the stored numbers, in their own byte order.
    grid
        Its `stored_axes` say in which order the voxels lie.
    scaling
        Applied to each number, if given; the volume is then of float32, or of float64 where
        float32 cannot hold the stored numbers.
    channels
        How many there are; each lies whole in the file, right after the one before.
    warnings, metadata
        As the properties of `Volume`; those of every channel.
    """

    def __init__(
        self,
        *,
        source: ByteSource,
        offset: int,
        stored_dtype: np.dtype[Any],
        grid: VoxelGrid,
        scaling: Scaling | None = None,
        channels: int = 1,
        warnings: tuple[HeaderWarning, ...] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._source = source
        self._offset = offset
        self._stored_dtype = stored_dtype
        self._grid = grid
        self._scaling = scaling
        self._warnings = warnings
        self._metadata = dict(metadata or {})
        native = stored_dtype.newbyteorder("=")
        self._dtype = native if scaling is None else np.result_type(native, np.float32)
        self._further = tuple(
            _FurtherChannel(
                source=source,
                offset=offset + channel * grid.voxels * stored_dtype.itemsize,
                stored_dtype=stored_dtype,
                grid=grid,
                scaling=scaling,
                warnings=warnings,
                metadata=metadata,
            )
            for channel in range(1, channels)
        )

    @property
    def grid(self) -> VoxelGrid:
        """Shape, voxel size and place of the volume."""
        return self._grid

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels, in native byte order."""
        return self._dtype

    @property
    def warnings(self) -> tuple[HeaderWarning, ...]:
        """What looks wrong in the header."""
        return self._warnings

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the exporter of the same format needs; JSON types only."""
        return self._metadata

    @property
    def channels(self) -> tuple[Volume, ...]:
        """The volume itself, then the further channels, which are open as long as it is."""
        return (self, *self._further)

    def close(self) -> None:
        """Close the file, for all channels."""
        self._source.close()

    def read(self, region: Region) -> NDArray[Any]:
        """Read the voxels of `region`, ZYX."""
        if not self._grid.whole.contains(region):
            raise InputError(
                f"region {region.start} to {region.stop} lies outside a volume of shape {self._grid.shape}"
            )
        voxels = np.empty(region.shape, self._dtype)
        if voxels.size:
            axes = self._grid.stored_axes
            self._fill(voxels.transpose(axes), to_index(region.start[axis] for axis in axes))
        return voxels

    def _fill(self, target: NDArray[Any], start: Index3) -> None:
        """Fill `target`, an array in stored order, with what is stored from index `start` on."""
        _, rows, width = self._grid.stored_shape
        row_bytes = width * self._stored_dtype.itemsize
        sections_at_once = CHUNK // (rows * row_bytes)
        if target.shape[1:] == (rows, width) and sections_at_once > 1:
            for first in range(0, target.shape[0], sections_at_once):
                piece = target[first : first + sections_at_once]
                piece[...] = self._numbers((start[0] + first) * rows * width, piece.size).reshape(piece.shape)
            return
        whole_rows = row_bytes <= SHORT_ROW or target.shape[2] * 4 >= width
        rows_at_once = max(1, CHUNK // row_bytes) if whole_rows else 1
        for section in range(target.shape[0]):
            for first in range(0, target.shape[1], rows_at_once):
                piece = target[section, first : first + rows_at_once]
                position = ((start[0] + section) * rows + start[1] + first) * width
                if whole_rows:
                    numbers = self._numbers(position, piece.shape[0] * width).reshape(piece.shape[0], width)
                    piece[...] = numbers[:, start[2] : start[2] + piece.shape[1]]
                else:
                    piece[...] = self._numbers(position + start[2], piece.size).reshape(piece.shape)

    def _numbers(self, position: int, count: int) -> NDArray[Any]:
        """`count` stored numbers from the one at `position` on, scaled."""
        itemsize = self._stored_dtype.itemsize
        numbers = np.frombuffer(
            self._source.pread(count * itemsize, self._offset + position * itemsize), self._stored_dtype
        )
        if self._scaling is None:
            return numbers
        scaled = numbers.astype(self._dtype)
        scaled *= self._scaling.slope
        scaled += self._scaling.intercept
        return scaled


class _FurtherChannel(StoredVolume):
    """A channel of a file that the first channel closes."""

    def close(self) -> None:
        """Leave the file open for the other channels."""
