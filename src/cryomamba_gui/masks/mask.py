"""A mask that is edited in place, on disk."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import InputError, OutputExists
from cryomamba_core.geometry import VoxelGrid, slab_depth
from cryomamba_core.label_file import LabelArray, LabelFile
from cryomamba_core.labels import Label, label_dtype
from cryomamba_core.volumes import Volume
from cryomamba_gui.masks.converting import SLAB_VOXELS, OnSections, convert
from cryomamba_gui.masks.disk import told_as_storage
from cryomamba_gui.masks.record import LAYOUT, ORIGINAL, RECORD, WORKING, MaskRecord, read_record, write_record

#: Bytes that are given back at a time: the interpreter is held meanwhile, for a fraction of a millisecond.
GIVEN_BACK = 64 << 20


class EditedMask:
    """The working copy of a job's mask, in a file that is mapped to memory.

    Whatever is written to `array` is in the file at once: a process that is killed loses nothing.
    What the power takes is what was written since the last `save`.

    Make one by `create` or `reopen`. Signals are emitted by the thread that calls `touched`, and
    that should be the window's; `save` and `revert` block, and are for any other one.

    Attributes
    ----------
    changed
        Signal without arguments: the voxels are not what they were.
    saved
        Signal without arguments, emitted by whoever keeps the mask saved, as `keep_saved` does.
    """

    changed = Signal()
    saved = Signal()

    def __init__(self, folder: Path, record: MaskRecord) -> None:
        self.folder = folder
        self.record = record
        dtype = np.dtype(record.dtype)
        self._saving = threading.Lock()
        self._edits = 0
        self._saved_edits = 0
        self._closed = False
        with told_as_storage(f"the mask in {folder} cannot be opened"):
            self._original = LabelFile(folder / ORIGINAL, record.grid.shape, dtype)
            self._current = LabelFile(folder / WORKING, record.grid.shape, dtype)
            self._descriptor = os.open(folder / WORKING, os.O_RDWR)
            self._map = mmap.mmap(self._descriptor, record.size + 1)
        # a plain array: slices of np.memmap are of its class, which costs napari time and gains it nothing
        self._array = np.frombuffer(self._map, dtype, record.grid.voxels).reshape(record.grid.shape)

    @classmethod
    def create(
        cls,
        folder: Path,
        mask: Volume,
        labels: tuple[Label, ...],
        on_progress: OnSections | None = None,
        *,
        grid: VoxelGrid | None = None,
        artifact: Artifact | None = None,
    ) -> Self:
        """Take up what a job made; blocks for as long as it takes to read it.

        Parameters
        ----------
        folder
            The job's on this computer; made if it is not there.
        mask
            What the job made, open; whole numbers from 0 on.
        labels
            What its values stand for.
        on_progress
            Hears sections that are done and sections in all, in this thread; may raise to stop.
        grid
            Where the voxels are, if that is known better than from the header of `mask`.
        artifact
            The file, with its digest.

        Raises
        ------
        OutputExists
            If the folder has a mask already.
        UnsupportedFile
            If a voxel is no label.
        StorageError
            If it cannot be written. Whatever is raised, and if the process is killed, the folder
            has no mask that `reopen` takes.
        """
        if cls.is_in(folder):
            raise OutputExists(f"{folder} holds a mask already", hint="open that one, or remove it first")
        grid = mask.grid if grid is None else grid
        if grid.shape != mask.grid.shape:
            raise InputError(
                f"the mask has {mask.grid.shape} voxels (z, y, x), the tomogram {grid.shape}",
                hint="fetch the job's mask again: this file is of another job",
            )
        dtype = _dtype_of(mask, labels)
        with told_as_storage(f"the mask cannot be kept in {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            convert(mask, dtype, folder, on_progress)
            record = MaskRecord(layout=LAYOUT, grid=grid, labels=labels, dtype=dtype.name, artifact=artifact)
            write_record(folder, record)
        return cls(folder, record)

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Open the mask that a folder has, as it was left; raises as `read_record`."""
        return cls(folder, read_record(folder))

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a folder has a mask."""
        return (folder / RECORD).exists()

    @staticmethod
    def was_edited(folder: Path) -> bool:
        """Whether a folder has a mask that was edited, as `edited` says of one that is open."""
        try:
            with (folder / WORKING).open("rb") as stream:
                stream.seek(-1, os.SEEK_END)
                return EditedMask.is_in(folder) and stream.read(1) != b"\0"
        except OSError:
            return False

    @property
    def array(self) -> NDArray[Any]:
        """The voxels, ZYX, uint8 or uint16: what a labels layer edits in place; call `touched` after each edit."""
        return self._array

    @property
    def current(self) -> LabelArray:
        """The same voxels, read-only, for a pass over all of them: the process is not charged for what is read."""
        return self._current

    @property
    def original(self) -> LabelArray:
        """What the job made, read-only."""
        return self._original

    @property
    def grid(self) -> VoxelGrid:
        """Where the voxels are."""
        return self.record.grid

    @property
    def labels(self) -> tuple[Label, ...]:
        """The values that the model knows; others can be painted as well."""
        return self.record.labels

    @property
    def edited(self) -> bool:
        """Whether there was an edit since the mask was created or reverted, in this process or an earlier one."""
        return self._map[self.record.size] != 0

    @property
    def edits(self) -> int:
        """Counts what was done to the voxels by this process; any other number means that they may differ."""
        return self._edits

    @property
    def unsaved(self) -> bool:
        """Whether there is an edit that a power cut would take."""
        return self._edits != self._saved_edits

    def begin_edit(self) -> None:
        """Say that voxels are about to be changed: it counts as an edit, even if `touched` is never called for it."""
        self._map[self.record.size] = 1

    def touched(self) -> None:
        """Say that voxels were changed: after every stroke, fill, undo and redo."""
        self._edits += 1
        self._map[self.record.size] = 1
        self.changed.emit()

    def save(self) -> None:
        """Make all edits durable, and give back the memory that the mapping holds; blocks.

        Raises
        ------
        StorageError
            If the disk refuses; the edits are as safe as before.
        """
        with self._saving, told_as_storage("the edits of the mask cannot be saved"):
            edits = self._edits
            if sys.platform == "darwin":
                self._map.flush()  # holds the interpreter, but fsync alone does not know of mapped pages there
            getattr(os, "fdatasync", os.fsync)(self._descriptor)
            self._saved_edits = edits
        self.give_back()

    def revert(self, on_progress: OnSections | None = None) -> None:
        """Bring back what the job made, in place and durably; blocks.

        Emits nothing: let `changed` be emitted in the window's thread afterwards, as `revert_mask`
        does. An edit that is made meanwhile may be lost, or kept.

        Parameters
        ----------
        on_progress
            Hears sections that are done and sections in all; if it raises, the sections that are
            not done yet keep their edits.
        """
        before = self._edits
        for slab in self.grid.whole.slabs(slab_depth(self.grid.shape, voxels=SLAB_VOXELS)):
            sections = slab.slices[0]
            original = self._original[sections]
            if not np.array_equal(original, self._current[sections]):
                self._array[sections] = original
                self._edits += 1
                before += 1
            if on_progress is not None:
                on_progress(slab.stop[0], self.grid.shape[0])
        if self._edits == before:
            self._map[self.record.size] = 0
        self._edits += 1
        self.save()

    def give_back(self) -> None:
        """Let the system take the memory of the voxels that were looked at; they are in the file."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for first in range(0, len(self._map), GIVEN_BACK):
                self._map.madvise(mmap.MADV_DONTNEED, first, min(GIVEN_BACK, len(self._map) - first))

    def close(self) -> None:
        """Let go of the files; `array` stays valid for whoever still holds it. May be called twice."""
        if not self._closed:
            self._closed = True
            self._original.close()
            self._current.close()
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _dtype_of(mask: Volume, labels: tuple[Label, ...]) -> np.dtype[Any]:
    """The type that holds whatever the file can hold, and every label of the model."""
    highest = max((label.value for label in labels), default=0)
    return np.promote_types(label_dtype(highest), np.uint8 if mask.dtype.itemsize == 1 else np.uint16)
