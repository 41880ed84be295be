"""NRRD file → volume."""

from __future__ import annotations

import os
from pathlib import Path

from cryomamba_backends.formats.nrrd.header import LARGEST_HEADER, check_start, looks_like_nrrd, parse_header
from cryomamba_backends.formats.placement import place
from cryomamba_backends.formats.sources import ByteSource, CompressedFile, PlainFile, open_regular
from cryomamba_backends.formats.stored import StoredVolume
from cryomamba_core.geometry import Vector3
from cryomamba_core.interfaces.readers import VolumeReader
from cryomamba_core.volumes import Volume


class NrrdReader(VolumeReader):
    """Reads 3D volumes, of one channel or several, with an attached header, raw or compressed by gzip or bzip2.

    Parameters
    ----------
    scratch
        Folder where compressed data are unpacked; None for the platform's.
    """

    name = "nrrd"
    suffixes = (".nrrd", ".nhdr")

    def __init__(self, *, scratch: Path | None = None) -> None:
        self._scratch = scratch

    def can_read(self, path: Path, first_bytes: bytes) -> bool:
        """Whether the content starts as NRRD does, or the name says so."""
        return looks_like_nrrd(first_bytes) or path.name.lower().endswith(self.suffixes)

    def validate(self, first_bytes: bytes, size: int) -> None:
        """Refuse a header that cannot be right, as far as it lies within the first bytes."""
        check_start(first_bytes, size)

    def open(self, path: Path, *, voxel_size: Vector3 | None = None) -> Volume:
        """Open a file; only its header is read, unless its compressed size contradicts it."""
        descriptor = open_regular(path)
        try:
            header = parse_header(os.pread(descriptor, LARGEST_HEADER, 0), os.fstat(descriptor).st_size)
            placement = place(
                stored_shape=header.stored_shape,
                matrix=header.matrix,
                offset=header.offset,
                unit=header.unit,
                mirrored=header.mirrored,
                override=voxel_size,
            )
            source: ByteSource = PlainFile(descriptor)
            offset = header.data_start
            if header.compression is not None:
                offset = 0
                source = CompressedFile(
                    descriptor,
                    start=header.data_start,
                    compression=header.compression,
                    claimed=header.data_size,
                    scratch=self._scratch,
                )
        except BaseException:
            os.close(descriptor)
            raise
        return StoredVolume(
            source=source,
            offset=offset,
            stored_dtype=header.dtype,
            grid=placement.grid,
            channels=header.channels,
            warnings=(*header.warnings, *placement.warnings),
            metadata={"nrrd": placement.frame.to_metadata()},
        )
