"""All labels of a box, where what comes next cannot begin without them.

A cascade's second stage that is normalised inside the mask of what a volume shows takes what the first has found for a
part of it, so that the first is whole before a voxel of the second is normalised. And what is the largest piece of a
label is known only when there are all. Such labels lie in a file of the job, and another attempt goes on from them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.rows import Rows
from cryomamba_backends.nnunet.stage import Stage
from cryomamba_backends.nnunet.sweep import BLOCK_VOXELS
from cryomamba_core.companions import DTYPE
from cryomamba_core.durable import load_kept, sync_folder, write_whole
from cryomamba_core.geometry import Index3, Region, slab_depth, to_index
from cryomamba_core.interfaces import RunContext
from cryomamba_core.label_file import LabelFile
from cryomamba_core.wire import dump_json

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


def maker_of(stages: Sequence[Stage], box: Region, context: RunContext, beside: Sequence[str] = ()) -> str:
    """SHA-256 (hex) over all that decides labels: models, their courses, what they are given, and what lies beside."""
    decisive = (
        context.source,
        box,
        [
            (
                stage.installed.record.digest,
                [fold.fold for fold in stage.folds],
                (stage.course.mode, stage.course.precision, stage.course.device.partition(":")[0], stage.course.axes),
                (stage.change, stage.grid, stage.mirror_axes),
            )
            for stage in stages
        ],
        tuple(beside),
    )
    return hashlib.sha256(repr(decisive).encode()).hexdigest()


def first_labels(stage: Stage, box: Region, context: RunContext, *, number: int) -> WholeLabels:
    """Those of the first stage of a cascade, which is the model of this number in an ensemble."""
    return WholeLabels(
        f"first-stage-{number}",
        made_by=maker_of([stage], box, context),
        extent=stage.change.source,
        axes=stage.course.axes,
        dtype=stage.recipe.labels.dtype,
        folder=context.lasting,
    )


class WholeLabels:
    """Labels of a box, written in ascending order of the rows of a sweep, and then read along any axis.

    Parameters
    ----------
    name
        Of the files, before their suffixes.
    made_by
        What makes them; see `maker_of`.
    extent
        Of the box, in the axes of the sweep.
    axes
        Axis (z, y, x) of the volume that each axis of the sweep is.
    dtype
        Of the labels.
    folder
        The one in which they last; without one they are gone with the process.
    companions
        Names of what lies beside them.

    Attributes
    ----------
    rows
        How many are there, from the first on.
    """

    def __init__(
        self,
        name: str,
        *,
        made_by: str,
        extent: Index3,
        axes: Index3,
        dtype: np.dtype[Any],
        folder: Path | None,
        companions: Sequence[str] = (),
    ) -> None:
        self._name, self._made_by, self._extent, self._axes, self._dtype = name, made_by, extent, axes, dtype
        self._folder = folder
        self._marked_at = time.monotonic()
        self.rows: int = self._earlier_rows()
        with ExitStack() as opened:
            where = Path(opened.enter_context(TemporaryDirectory())) if folder is None else folder
            self._path = where / f"{name}.raw"
            self._file = opened.enter_context(LabelFile(self._path, extent, dtype, create=True))
            self._beside = {
                each: opened.enter_context(LabelFile(where / f"{name}-{each}.raw", extent, DTYPE, create=True))
                for each in companions
            }
            self._opened = opened.pop_all()

    def _earlier_rows(self) -> int:
        """Rows that an earlier attempt has left; what is left of other labels is removed."""
        if self._folder is None:
            return 0
        mark = self._folder / f"{self._name}.json"
        known = load_kept(mark, Mark)
        if known is not None and known.made_by == self._made_by and (self._folder / f"{self._name}.raw").exists():
            return min(known.rows, self._extent[0])
        mark.unlink(missing_ok=True)
        sync_folder(self._folder)
        return 0

    @property
    def left(self) -> range:
        """Rows that are still to come."""
        return range(self.rows, self._extent[0])

    def write(self, row: int, labels: NDArray[Any], companions: Mapping[str, NDArray[np.uint8]] | None = None) -> None:
        """Write rows (z, y, x) from `row` on, in the axes of the sweep: the next ones, or again ones that are there.

        The latter comes to pass where memory ran out when they had been written.
        """
        stop = row + len(labels)
        if row > self.rows or stop > self._extent[0]:
            raise IndexError(f"rows {row} to {stop} follow on {self.rows} of {self._extent[0]}")
        region = Region(start=(row, 0, 0), stop=(stop, *self._extent[1:]))
        self._file.write(region, labels)
        for name, values in (companions or {}).items():
            self._beside[name].write(region, values)
        self.rows = stop
        if stop == self._extent[0] or time.monotonic() - self._marked_at >= MARK_INTERVAL:
            self._mark()

    def _mark(self) -> None:
        if self._folder is not None:
            for file in (self._file, *self._beside.values()):
                file.sync()
            mark = Mark(rows=self.rows, made_by=self._made_by)
            write_whole(self._folder / f"{self._name}.json", dump_json(mark).encode())
        self._marked_at = time.monotonic()

    def pieces(self, first_row: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Labels from a row on, each piece with its first row."""
        yield from pieces_of(self._file, range(first_row, self._extent[0]))

    def companions(self, row: int, stop: int) -> dict[str, NDArray[np.uint8]]:
        """What lies beside the labels of some rows, by name."""
        return {name: file[row:stop] for name, file in self._beside.items()}

    def found(self, axes: Index3) -> Rows:
        """What reads rows that are 1 where there is a label above 0, in given axes (z, y, x) of the volume."""
        order = to_index(self._axes.index(axis) for axis in axes)

        def read(first: int, stop: int) -> NDArray[np.float32]:
            picked = tuple(slice(first, stop) if axis == order[0] else slice(None) for axis in range(3))
            return np.ascontiguousarray(self._file[picked].transpose(order) > 0, np.float32)

        return read

    @contextmanager
    def copied(self) -> Iterator[LabelFile]:
        """A file that may be changed, for a copy of the labels; it is gone afterwards.

        Its disk space is set aside at once: that there is none shows before the networks run, and not behind them.
        """
        path = self._path.with_name(f"{self._name}-copy.raw")  # one that was left by a crash is written over
        try:
            with LabelFile(path, self._extent, self._dtype, create=True) as file:
                yield file
        finally:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files; what is in them stays for another attempt, up to the last mark."""
        self._opened.close()


def pieces_of(file: LabelFile, rows: range) -> Iterator[tuple[int, NDArray[Any]]]:
    """Labels of some rows of a file, each piece with its first row."""
    depth = slab_depth(file.shape, voxels=BLOCK_VOXELS)
    for row in range(rows.start, rows.stop, depth):
        yield row, file[row : min(row + depth, rows.stop)]
