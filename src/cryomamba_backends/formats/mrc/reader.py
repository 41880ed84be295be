"""MRC file → volume."""

from __future__ import annotations

import os
from pathlib import Path

from cryomamba_backends.formats.lengths import check_voxel_size
from cryomamba_backends.formats.mrc.header import MAP_STAMP, MrcHeader, parse_header
from cryomamba_backends.formats.sources import GZIP_MAGIC, PlainFile, open_regular
from cryomamba_backends.formats.stored import StoredVolume
from cryomamba_core.geometry import Vector3, VoxelGrid, to_index, to_vector
from cryomamba_core.interfaces.readers import FIRST_BYTES, VolumeReader
from cryomamba_core.volumes import HeaderWarning, Volume


class MrcReader(VolumeReader):
    """Reads MRC modes 0, 1, 2, 6 and 12 in both byte orders and every axis order; a stack of volumes as channels."""

    name = "mrc"
    suffixes = (".mrc", ".map", ".rec", ".ccp4", ".mrcs", ".st")

    def can_read(self, path: Path, first_bytes: bytes) -> bool:
        """Whether there is the word MAP, or a name of an MRC file on something that is not of another format."""
        if first_bytes[208:212] == MAP_STAMP:
            return True
        return path.name.lower().endswith(self.suffixes) and not first_bytes.startswith((b"NRRD", GZIP_MAGIC))

    def validate(self, first_bytes: bytes, size: int) -> None:
        """Refuse a header that cannot be right."""
        parse_header(first_bytes, size)

    def open(self, path: Path, *, voxel_size: Vector3 | None = None) -> Volume:
        """Open a file; only its header is read."""
        descriptor = open_regular(path)
        try:
            header = parse_header(os.pread(descriptor, FIRST_BYTES, 0), os.fstat(descriptor).st_size)
            grid, warnings = _grid(header, voxel_size)
        except BaseException:
            os.close(descriptor)
            raise
        return StoredVolume(
            source=PlainFile(descriptor),
            offset=header.data_offset,
            stored_dtype=header.dtype,
            grid=grid,
            channels=header.channels,
            warnings=(*header.warnings, *warnings),
            metadata={"mrc": header.to_metadata()},
        )


def _grid(header: MrcHeader, override: Vector3 | None) -> tuple[VoxelGrid, tuple[HeaderWarning, ...]]:
    warnings: tuple[HeaderWarning, ...] = ()
    if override is None:
        sizes = zip(reversed(header.cell), reversed(header.sampling), strict=True)
        # .12g: 2.1731999999999996 is 2.1732 that has been multiplied and divided
        voxel_size = to_vector(float(f"{length / count:.12g}") if count else 0.0 for length, count in sizes)
        warnings = check_voxel_size(voxel_size)
    else:
        voxel_size = override
    axes = header.stored_axes
    return (
        VoxelGrid(
            shape=to_index(header.stored_shape[axes.index(axis)] for axis in range(3)),
            voxel_size=voxel_size,
            origin=origin_of(header.origin, header.nstart, header.axes, voxel_size),
            stored_axes=axes,
        ),
        warnings,
    )


def origin_of(
    origin: tuple[float, ...], nstart: tuple[int, ...], axes: tuple[int, ...], voxel_size: Vector3
) -> Vector3:
    """Position (z, y, x) in Å of voxel 0: ORIGIN if it is set, else NSTART in voxels, as ChimeraX has it.

    Parameters
    ----------
    origin
        ORIGIN (x, y, z) in Å.
    nstart
        Index of the first column, row, section.
    axes
        MAPC, MAPR, MAPS.
    voxel_size
        (z, y, x) in Å.
    """
    if any(origin):
        return to_vector(reversed(origin))
    return to_vector(nstart[axes.index(3 - axis)] * voxel_size[axis] for axis in range(3))
