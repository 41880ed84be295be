"""Label volume → file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from cryomamba_core.artifacts import RunInfo
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.label_file import LabelArray


class Exporter(ABC):
    """Writes one kind of artifact. Instances hold no state and may be used by any thread."""

    #: Unique name, e.g. ``mrc``.
    name: ClassVar[str]
    #: File name within a job, e.g. ``mask.mrc``; ends with `suffix`.
    artifact: ClassVar[str]
    #: File name ending with the dot, e.g. ``.nii.gz``.
    suffix: ClassVar[str]
    #: MIME type.
    media_type: ClassVar[str]

    @abstractmethod
    def write(self, labels: LabelArray, grid: VoxelGrid, info: RunInfo, path: Path) -> tuple[str, ...]:
        """Write the file.

        Parameters
        ----------
        labels
            ZYX, uint8 or uint16, of the grid's shape. It may be a file larger than memory: read it
            by slabs, ``labels[z0:z1]``, or by any three slices of step 1; it offers nothing else.
        grid
            Where the labels are.
        info
            What was run on what; `info.source.metadata` holds the source's header.
        path
            Does not exist yet; its folder does. Atomic renaming is the caller's.

        Returns
        -------
        notes
            Decisions that belong in the manifest, one sentence each.
        """
