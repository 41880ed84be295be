"""What is written beside a mask's voxels, and under which names they lie in a job's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from attrs import frozen

from cryomamba_core.artifacts import Artifact
from cryomamba_core.durable import write_whole
from cryomamba_core.errors import InvalidParameter, MissingFile, StorageDamaged
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.labels import Label
from cryomamba_core.wire import dump_json, load_json

#: The working copy: ZYX voxels, then one byte that is 1 if they were edited.
WORKING = "mask.raw"
#: What the job made: ZYX voxels; blocks of background take no disk space where the file system can leave them out.
ORIGINAL = "original.raw"
#: The record, written last: without it there is no mask.
RECORD = "mask.json"

#: Counts the layouts of these files.
LAYOUT = 1


@frozen(kw_only=True)
class MaskRecord:
    """What ``mask.json`` says.

    Attributes
    ----------
    layout
        Of the files, see `LAYOUT`.
    grid
        Where the voxels are.
    labels
        The values that the model knows, with names and colours.
    dtype
        ``uint8`` or ``uint16``.
    artifact
        The file that the job made, with its digest; None where it is not known.
    """

    layout: int
    grid: VoxelGrid
    labels: tuple[Label, ...]
    dtype: str
    artifact: Artifact | None = None

    @property
    def size(self) -> int:
        """Bytes of the voxels."""
        return self.grid.voxels * np.dtype(self.dtype).itemsize


def write_record(folder: Path, record: MaskRecord) -> None:
    """Write the record, durably."""
    write_whole(folder / RECORD, dump_json(record, indent=2).encode())


def read_record(folder: Path) -> MaskRecord:
    """The record in a folder.

    Raises
    ------
    MissingFile
        If there is none.
    StorageDamaged
        If it cannot be read, or the voxels are not as it says.
    """
    try:
        text = (folder / RECORD).read_bytes()
    except FileNotFoundError:
        raise MissingFile(f"{folder} holds no mask", hint="fetch the job's mask again") from None
    try:
        record = load_json(text, MaskRecord)
    except InvalidParameter as error:
        raise _damaged(folder, f"{RECORD} cannot be read: {error}") from error
    if record.layout != LAYOUT or record.dtype not in ("uint8", "uint16"):
        raise _damaged(folder, f"{RECORD} is of layout {record.layout} with {record.dtype}")
    for name, size in ((WORKING, record.size + 1), (ORIGINAL, record.size)):
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise _damaged(folder, f"{name} has not the {size} bytes that it should have")
    return record


def _damaged(folder: Path, what: str) -> StorageDamaged:
    return StorageDamaged(
        f"the mask in {folder} is damaged: {what}",
        hint=f"move {WORKING} away if it holds edits worth saving, remove {RECORD}, and fetch the job's mask again",
    )
