"""Channels on their way into a file: in pieces, and only where the file can hold what their headers say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_backends.formats.placement import Frame
from cryomamba_backends.formats.slabs import stored_slabs
from cryomamba_core.channels import Channel
from cryomamba_core.errors import InputError
from cryomamba_core.geometry import Index3, Vector3, to_vector
from cryomamba_core.label_file import Slices, picked_region

#: Bytes in a piece, unless one section is larger.
SLAB_BYTES = 8 << 20

#: The same where the slowest axis of the file is not that of the channel's own: each piece then costs a pass over it.
ACROSS_BYTES = 128 << 20

#: Degrees by which an angle of a cell may be off 90.
RIGHT_ANGLE = 1e-3


def channel_slabs(channel: Channel, axes: Index3) -> Iterator[NDArray[Any]]:
    """Cut a channel along the slowest of `axes`, each piece C-contiguous in their order; see `stored_slabs`."""
    size = SLAB_BYTES if axes[0] == channel.source_axes[0] else ACROSS_BYTES
    return stored_slabs(_Sliced(channel), axes, voxels=size // channel.dtype.itemsize)


class _Sliced:
    """A channel that is read by slices, as labels are."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @property
    def shape(self) -> tuple[int, ...]:
        return self._channel.grid.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._channel.dtype

    def __getitem__(self, index: Slices) -> NDArray[Any]:
        return self._channel.read(picked_region(index, self._channel.grid.shape))


def require_alike(channels: Sequence[Channel]) -> None:
    """Refuse channels whose axes lead different ways: their grids may be equal, but their voxels are not side by side.

    Raises
    ------
    InputError
        If an axis leads backwards in one channel only, or if the cells of two have different angles.
    """
    first = channels[0]
    for channel in channels[1:]:
        ways, angles = _ways(channel.metadata), cell_angles(channel.metadata)
        turned = [axis for axis in range(3) if ways[axis] != _ways(first.metadata)[axis]]
        if turned:
            names = ", ".join("zyx"[axis] for axis in reversed(turned))
            raise InputError(
                f"{channel.name} counts {names} the other way than {first.name}",
                hint="convert both by the same program; if the arrays are alike all the same, use --grid-of-first",
            )
        if any(abs(a - b) > RIGHT_ANGLE for a, b in zip(angles, cell_angles(first.metadata), strict=True)):
            raise InputError(
                f"the cell of {channel.name} has the angles {_listed(angles)}°, "
                f"that of {first.name} {_listed(cell_angles(first.metadata))}°",
                hint="correct the header that is wrong, or use --grid-of-first",
            )


def require_forwards(channels: Sequence[Channel], *, suffixes: str) -> None:
    """Refuse axes that lead backwards, where the format cannot say so; `suffixes` are those of formats that can."""
    for channel in channels:
        backwards = [axis for axis, way in enumerate(_ways(channel.metadata)) if way < 0]
        if backwards:
            names = ", ".join("zyx"[axis] for axis in reversed(backwards))
            raise InputError(
                f"{channel.name} counts {names} backwards, which the header of the joined file cannot say",
                hint=f"let the joined file be one of: {suffixes}",
            )


def require_right_angles(channels: Sequence[Channel], *, suffixes: str) -> None:
    """Refuse a skewed cell, where the format cannot hold its angles; `suffixes` are those of formats that can."""
    for channel in channels:
        angles = cell_angles(channel.metadata)
        if any(abs(angle - 90.0) > RIGHT_ANGLE for angle in angles):
            raise InputError(
                f"the cell of {channel.name} has the angles {_listed(angles)}°, which the joined file cannot hold",
                hint=f"let the joined file be one of: {suffixes}",
            )


def cell_angles(metadata: Mapping[str, Any]) -> Vector3:
    """Angles of the unit cell in degrees; right ones for what is no MRC file."""
    kept = metadata.get("mrc")
    return to_vector(kept["angles"]) if isinstance(kept, Mapping) and "angles" in kept else (90.0, 90.0, 90.0)


def _ways(metadata: Mapping[str, Any]) -> Index3:
    """For (z, y, x): -1 where the coordinate is counted backwards."""
    frame = Frame.of_source(metadata)
    return (1, 1, 1) if frame is None else frame.signs


def _listed(angles: Vector3) -> str:
    return f"({', '.join(f'{angle:g}' for angle in angles)})"
