"""From the file that a job made to raw voxels that can be edited in place."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from cryomamba_core.durable import PARTIAL, is_of_this_process, replacing
from cryomamba_core.errors import UnsupportedFile
from cryomamba_core.geometry import Region, slab_depth
from cryomamba_core.label_file import LabelFile
from cryomamba_core.volumes import Volume
from cryomamba_gui.masks.folder_lock import alone_in
from cryomamba_gui.masks.record import ORIGINAL, RECORD, WORKING

#: Called with sections that are done and sections in all; may raise to stop.
OnSections = Callable[[int, int], None]

#: Voxels that are converted at a time.
SLAB_VOXELS = 4 << 20

#: Bytes of the pieces that are left out of the original if they are background.
BLOCK = 64 << 10


class _MadeMeanwhile(Exception):
    """Another window has made the mask."""


def convert(volume: Volume, dtype: np.dtype[Any], folder: Path, on_progress: OnSections | None) -> None:
    """Write the working copy and the original; both are whole and durable, or neither has its name.

    Of several windows that do so, one does it and the others wait, and take what it has made: once
    there is a mask, its files are never replaced.

    Parameters
    ----------
    volume
        What the job made: whole numbers from 0 on, of any type.
    dtype
        uint8 or uint16.
    folder
        Gets the two files.
    on_progress
        Hears how far it is.

    Raises
    ------
    UnsupportedFile
        If a voxel is no label of `dtype`.
    """
    sections = volume.grid.shape[0]
    report: OnSections = on_progress if on_progress is not None else lambda _done, _total: None
    before = _made(folder)
    with alone_in(folder, lambda: report(0, sections)):
        if _made(folder) != before or (folder / RECORD).exists():
            report(sections, sections)
            return
        _clear_leftovers(folder)
        try:
            _write(volume, dtype, folder, report)
        except _MadeMeanwhile:
            report(sections, sections)


def _write(volume: Volume, dtype: np.dtype[Any], folder: Path, report: OnSections) -> None:
    with ExitStack() as stack:
        partial = stack.enter_context(replacing(folder / WORKING))
        working = stack.enter_context(LabelFile(partial, volume.grid.shape, dtype, create=True))
        original = stack.enter_context(stack.enter_context(replacing(folder / ORIGINAL)).open("wb"))
        for slab in volume.grid.whole.slabs(slab_depth(volume.grid.shape, voxels=SLAB_VOXELS)):
            labels = _as_labels(volume.read(slab), working.dtype, slab)
            working.write(slab, labels)
            _write_sparsely(original.fileno(), labels, slab.start[0] * labels[0].nbytes)
            report(slab.stop[0], volume.grid.shape[0])
        original.truncate(volume.grid.voxels * dtype.itemsize)
        with partial.open("ab") as stream:
            stream.write(b"\0")
        if (folder / RECORD).exists():
            raise _MadeMeanwhile


def _made(folder: Path) -> tuple[int, int] | None:
    """What changes when a working copy is made; one without a record may be what a killed process left."""
    try:
        status = (folder / WORKING).stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def _as_labels(voxels: NDArray[Any], dtype: np.dtype[Any], slab: Region) -> NDArray[Any]:
    labels = voxels.astype(dtype) if voxels.dtype.kind in "iu" else _truncated(voxels, dtype)
    wrong = labels != voxels
    if wrong.any():
        value = voxels[wrong][0]
        raise UnsupportedFile(
            f"the mask holds {value:g} between sections {slab.start[0]} and {slab.stop[0] - 1}, which is no label",
            hint=f"labels are whole numbers from 0 to {np.iinfo(dtype).max}: this file is an image, no mask",
        )
    return labels


def _truncated(voxels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Numbers with a fraction as `dtype`; those that have no place in it become something else, silently."""
    with np.errstate(invalid="ignore"):
        return voxels.astype(dtype)


def _write_sparsely(descriptor: int, labels: NDArray[Any], offset: int) -> None:
    """Write at `offset` what is not background; holes read as 0."""
    data = np.ascontiguousarray(labels).reshape(-1).view(np.uint8)
    for first in range(0, data.size, BLOCK):
        block = data[first : first + BLOCK]
        if block.any():
            view, place = block.data, offset + first
            while view:
                count = os.pwrite(descriptor, view, place)
                view, place = view[count:], place + count


def _clear_leftovers(folder: Path) -> None:
    """Remove what a killed conversion left; whoever is at it right now, without locks, is left alone."""
    for name in (WORKING, ORIGINAL):
        for leftover in folder.glob(f".{name}.*{PARTIAL}"):
            number = leftover.name.removesuffix(PARTIAL).rpartition(".")[2]
            ours = number == str(os.getpid())
            alive = is_of_this_process(leftover) if ours else number.isdecimal() and psutil.pid_exists(int(number))
            if not alive:
                leftover.unlink(missing_ok=True)
