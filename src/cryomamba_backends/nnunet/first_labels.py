"""All labels of a cascade's first stage, where the second cannot begin without them.

A second stage that is normalised inside the mask of what a volume shows takes what the first has found for a part of
it, so that the first is whole before a voxel of the second is normalised. Its labels lie in a file of the job, and
another attempt goes on from them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.rows import Rows
from cryomamba_backends.nnunet.stage import Stage
from cryomamba_backends.nnunet.sweep import BLOCK_VOXELS
from cryomamba_core.durable import sync_folder, write_whole
from cryomamba_core.errors import CryoMambaError
from cryomamba_core.geometry import Index3, Region, slab_depth, to_index
from cryomamba_core.interfaces import RunContext
from cryomamba_core.label_file import LabelFile
from cryomamba_core.labels import label_dtype
from cryomamba_core.wire import dump_json, load_json

#: Names of the files in the folder of what lasts.
LABELS, MARK = "first-stage.raw", "first-stage.json"

#: Seconds between two marks.
MARK_INTERVAL = 2.0


@frozen(kw_only=True)
class Mark:
    """How far the labels in a file are whole and durable.

    Attributes
    ----------
    rows
        How many, from the first on.
    made_by
        What made them; see `maker_of`.
    """

    rows: int
    made_by: str


def maker_of(stage: Stage, box: Region, context: RunContext) -> str:
    """SHA-256 (hex) over all that decides the labels of a stage: its model, its course, and what it is given."""
    decisive = (
        context.source,
        box,
        stage.installed.record.digest,
        [fold.fold for fold in stage.folds],
        (stage.course.mode, stage.course.precision, stage.course.device.partition(":")[0], stage.course.axes),
        (stage.change, stage.grid, stage.mirror_axes),
    )
    return hashlib.sha256(repr(decisive).encode()).hexdigest()


class FirstLabels:
    """Labels of a box, written in ascending order of the rows of a sweep, and then read along any axis.

    Parameters
    ----------
    stage
        Makes them.
    box
        The part of the volume that they are of.
    context
        Has the folder in which they last; without one they are gone with the process.

    Attributes
    ----------
    rows
        How many are there, from the first on.
    """

    def __init__(self, stage: Stage, box: Region, context: RunContext) -> None:
        self._extent: Index3 = stage.change.source
        self._axes = stage.course.axes
        self._dtype = label_dtype(max(stage.recipe.labels.names))
        self._made_by = maker_of(stage, box, context)
        self._folder = context.lasting
        self._marked_at = time.monotonic()
        self.rows: int = self._earlier_rows()
        if self._folder is None:
            with TemporaryDirectory() as folder:
                self._file = self._made(Path(folder))
        else:
            self._file = self._made(self._folder)

    def _made(self, folder: Path) -> LabelFile:
        return LabelFile(folder / LABELS, self._extent, self._dtype, create=True)

    def _earlier_rows(self) -> int:
        """Rows that an earlier attempt has left; what is left of other labels is removed."""
        if self._folder is None:
            return 0
        mark = self._folder / MARK
        try:
            known = load_json(mark.read_bytes(), Mark)
        except (FileNotFoundError, CryoMambaError):
            known = Mark(rows=0, made_by="")
        if known.made_by == self._made_by and (self._folder / LABELS).exists():
            return min(known.rows, self._extent[0])
        mark.unlink(missing_ok=True)
        sync_folder(self._folder)
        return 0

    @property
    def left(self) -> range:
        """Rows that are still to come."""
        return range(self.rows, self._extent[0])

    def append(self, labels: NDArray[Any]) -> None:
        """Write the next rows (z, y, x), in the axes of the sweep."""
        stop = self.rows + len(labels)
        self._file.write(Region(start=(self.rows, 0, 0), stop=(stop, *self._extent[1:])), labels)
        self.rows = stop
        if stop == self._extent[0] or time.monotonic() - self._marked_at >= MARK_INTERVAL:
            self._mark()

    def _mark(self) -> None:
        if self._folder is not None:
            self._file.sync()
            mark = Mark(rows=self.rows, made_by=self._made_by)
            write_whole(self._folder / MARK, dump_json(mark).encode())
        self._marked_at = time.monotonic()

    def pieces(self, first_row: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Labels from a row on, each piece with its first row."""
        depth = slab_depth(self._extent, voxels=BLOCK_VOXELS)
        for row in range(first_row, self._extent[0], depth):
            yield row, self._file[row : min(row + depth, self._extent[0])]

    def found(self, axes: Index3) -> Rows:
        """What reads rows that are 1 where there is a label above 0, in given axes (z, y, x) of the volume."""
        order = to_index(self._axes.index(axis) for axis in axes)

        def read(first: int, stop: int) -> NDArray[np.float32]:
            picked = tuple(slice(first, stop) if axis == order[0] else slice(None) for axis in range(3))
            return np.ascontiguousarray(self._file[picked].transpose(order) > 0, np.float32)

        return read

    def close(self) -> None:
        """Close the file; what is in it stays for another attempt, up to the last mark."""
        self._file.close()
