"""NIfTI file → volume."""

from __future__ import annotations

import os
from pathlib import Path

from cryomamba_backends.formats.nifti.header import looks_like_nifti, parse_header
from cryomamba_backends.formats.placement import place
from cryomamba_backends.formats.sources import ByteSource, CompressedFile, PlainFile, open_regular
from cryomamba_backends.formats.stored import StoredVolume
from cryomamba_core.geometry import Vector3
from cryomamba_core.interfaces.readers import FIRST_BYTES, VolumeReader
from cryomamba_core.volumes import Volume


class NiftiReader(VolumeReader):
    """Reads 3D volumes, of one channel or several, in one ``.nii`` or ``.nii.gz`` file.

    Parameters
    ----------
    scratch
        Folder where compressed files are unpacked; None for the platform's.
    """

    name = "nifti"
    suffixes = (".nii", ".nii.gz")

    def __init__(self, *, scratch: Path | None = None) -> None:
        self._scratch = scratch

    def can_read(self, path: Path, first_bytes: bytes) -> bool:
        """Whether the content starts as NIfTI does, or the name says so."""
        return looks_like_nifti(first_bytes) or path.name.lower().endswith(self.suffixes)

    def validate(self, first_bytes: bytes, size: int) -> None:
        """Refuse a header that cannot be right."""
        parse_header(first_bytes, size)

    def open(self, path: Path, *, voxel_size: Vector3 | None = None) -> Volume:
        """Open a file; only its header is read, unless its compressed size contradicts it."""
        descriptor = open_regular(path)
        try:
            header = parse_header(os.pread(descriptor, FIRST_BYTES, 0), os.fstat(descriptor).st_size)
            placement = place(
                stored_shape=header.stored_shape,
                matrix=header.matrix,
                offset=header.offset,
                unit=header.unit,
                override=voxel_size,
            )
            source: ByteSource = PlainFile(descriptor)
            if header.compressed:
                source = CompressedFile(
                    descriptor, start=0, compression="gzip", claimed=header.data_end, scratch=self._scratch
                )
        except BaseException:
            os.close(descriptor)
            raise
        return StoredVolume(
            source=source,
            offset=header.data_offset,
            stored_dtype=header.dtype,
            grid=placement.grid,
            scaling=header.scaling,
            channels=header.channels,
            warnings=(*header.warnings, *placement.warnings),
            metadata={"nifti": placement.frame.to_metadata()},
        )
