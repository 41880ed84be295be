"""File format → volume."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from cryomamba_core.geometry import Vector3
from cryomamba_core.volumes import Volume

#: How many bytes of a file readers are shown to decide whether it is theirs.
FIRST_BYTES = 4096


class VolumeReader(ABC):
    """Reads one file format. Instances hold no state of a file and may be used by any thread."""

    #: Unique name, e.g. ``mrc``.
    name: ClassVar[str]
    #: File name endings, lower case with the dot, most usual first.
    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def can_read(self, path: Path, first_bytes: bytes) -> bool:
        """Whether the file is of this format; decided by content where the format has a mark, else by name.

        Must not raise and must not touch the disk.

        Parameters
        ----------
        path
            Only the name counts.
        first_bytes
            Up to `FIRST_BYTES` from the start of the file.
        """

    @abstractmethod
    def validate(self, first_bytes: bytes, size: int) -> None:
        """Refuse a file that cannot be right, from its beginning and its size alone.

        Parameters
        ----------
        first_bytes
            As for `can_read`.
        size
            Size of the whole file in bytes.

        Raises
        ------
        InputError
            CorruptFile, TruncatedFile, UnsupportedFile or HostileFile.
        """

    @abstractmethod
    def open(self, path: Path, *, voxel_size: Vector3 | None = None) -> Volume:
        """Open a file; only its header is read.

        Parameters
        ----------
        path
            The file.
        voxel_size
            Voxel size (z, y, x) in Å to use instead of the header's.

        Raises
        ------
        InputError
            As `validate`, and UnusableVoxelSize if the header's voxel size is not a length and
            none is given.
        """
