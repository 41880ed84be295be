"""Label volume → file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from cryomamba_core.artifacts import RunInfo
from cryomamba_core.channels import Channel
from cryomamba_core.companions import Companion
from cryomamba_core.errors import PluginFault
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
    #: Whether `write_companion` writes volumes that a runner gives beside the labels.
    writes_companions: ClassVar[bool] = False
    #: Endings of the files that `write_channels` writes, lower case with the dot, most usual first; none without it.
    channel_suffixes: ClassVar[tuple[str, ...]] = ()
    #: Types of voxels in such files, by numpy's names, smallest first; of one size, whole numbers first.
    channel_types: ClassVar[tuple[str, ...]] = ()

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

    def companion_artifact(self, companion: Companion) -> str:
        """File name within a job of a companion, e.g. ``uncertainty.mrc``."""
        return f"{companion.name}{self.suffix}"

    def write_companion(
        self, values: LabelArray, grid: VoxelGrid, companion: Companion, info: RunInfo, path: Path
    ) -> tuple[str, ...]:
        """Write a volume that the runner gave beside the labels; for an exporter that says `writes_companions`.

        Parameters
        ----------
        values
            ZYX, uint8, of the grid's shape; read it as the labels of `write`.
        grid
            Where the values are: the grid of the labels, or, of a binned companion, a coarser one over the same volume.
        companion
            What they are.
        info, path
            As for `write`.

        Returns
        -------
        notes
            As of `write`.

        Raises
        ------
        PluginFault
            If an exporter says that it does, and has no method for it.
        """
        raise PluginFault(f"the exporter {self.name} says that it writes companions, and does not")

    def write_channels(self, channels: Sequence[Channel], path: Path) -> tuple[str, ...]:
        """Write volumes on one grid as the channels of one file; for an exporter that has `channel_suffixes`.

        A reader finds the same voxels at the same place: what the file cannot hold is refused before a voxel is read.

        Parameters
        ----------
        channels
            Two or more, in their order, all of one shape and of one type among `channel_types`. Each is read by
            slabs, once and one after the other, since it may be larger than memory. Their grids lie on each other; it
            is that of the first which is written.
        path
            Ends in one of `channel_suffixes`, in lower or upper case; else as for `write`.

        Returns
        -------
        notes
            Decisions that whoever asked for the file should know, one sentence each.

        Raises
        ------
        InputError
            If the file cannot hold where the voxels are, or if the metadata of the channels say that they do not lie
            on each other.
        PluginFault
            If an exporter says that it does, and has no method for it.
        """
        raise PluginFault(f"the exporter {self.name} says that it writes channels, and does not")
