"""Taking label blocks from a runner: checked, written, previewed and checkpointed."""

from __future__ import annotations

import threading
import time

import numpy as np

from cryomamba_core.companions import CompanionFiles
from cryomamba_core.errors import PluginFault
from cryomamba_core.geometry import Region, VoxelGrid, slab_depth, to_index
from cryomamba_core.job_directory import Checkpoint, JobDirectory
from cryomamba_core.label_file import LabelFile
from cryomamba_core.labels import LabelBlock
from cryomamba_core.previews import PreviewBuilder, PreviewPolicy
from cryomamba_core.worker.reporting import EventLog

#: Seconds between two checkpoints: what a killed worker may have to do again, against the cost of a sync.
CHECKPOINT_INTERVAL = 2.0

#: What waits of final labels for the next preview, at most: so many voxels, or rows of the preview, whichever is more.
FRESH_VOXELS, FRESH_ROWS = 8 << 20, 2

#: What rows along each axis are called.
AXIS_ROWS = ("section", "row along Y", "row along X")


class LabelTaker:
    """Puts a runner's blocks together.

    Parameters
    ----------
    directory
        The job's; its checkpoint says where an earlier attempt came to.
    labels
        The label file, open for writing.
    companions
        What lies beside the labels, open for writing.
    grid
        Grid of the source.
    highest_label
        The largest value that the model knows.
    axis
        Along which the runner sweeps, and final rows are counted.
    policy
        How the job is previewed.
    log
        Hears of previews.
    source
        SHA-256 of the tomogram: labels of another one are not gone on from.
    rows
        Those along `axis` that are asked for; None for all. Others are left as they are.
    """

    def __init__(
        self,
        *,
        directory: JobDirectory,
        labels: LabelFile,
        companions: CompanionFiles,
        grid: VoxelGrid,
        highest_label: int,
        axis: int,
        policy: PreviewPolicy,
        log: EventLog,
        source: str,
        rows: range | None = None,
    ) -> None:
        self._directory = directory
        self._labels = labels
        self._companions = companions
        self._grid = grid
        self._highest_label = highest_label
        self._axis = axis
        self._policy = policy
        self._log = log
        self._source = source
        self._previews = PreviewBuilder(grid, labels, policy, companions.kinds) if policy.max_voxels else None
        self._extent = grid.shape[axis]
        self._row_voxels = grid.voxels // self._extent
        self.rows: range = range(self._extent) if rows is None else rows
        self._filled = np.full(self._extent, self._row_voxels, np.int64)
        self._filled[self.rows.start : self.rows.stop] = 0
        self._last_preview = -np.inf
        self._last_checkpoint = time.monotonic()
        self._unseen = self._unsaved = False
        self._fresh: Region | None = None
        self._busy = threading.Lock()
        self.final_rows = min(max(self._earlier_rows(), self.rows.start), self.rows.stop)
        self._take_over(self.final_rows)

    def _earlier_rows(self) -> int:
        checkpoint = self._directory.checkpoint()
        if checkpoint is None or checkpoint.axis != self._axis or checkpoint.source != self._source:
            return 0
        if np.dtype(checkpoint.dtype) != self._labels.dtype or checkpoint.companions != self._companions.names:
            return 0
        return min(checkpoint.rows, self._extent)

    def _take_over(self, rows: int) -> None:
        self._filled[:rows] = self._row_voxels
        if self._previews is None:
            return
        start, stop = [0, 0, 0], list(self._grid.shape)
        start[self._axis], stop[self._axis] = self.rows.start, rows
        for slab in self._grid.region(to_index(start), to_index(stop)).slabs(slab_depth(self._grid.shape)):
            self._previews.add_final(slab)
            self._previews.add_companions(slab, self._companions.read(slab))

    @property
    def done_rows(self) -> int:
        """The row along the axis before which all that are asked for are final."""
        open_rows = np.flatnonzero(self._filled < self._row_voxels)
        return int(open_rows[0]) if open_rows.size else self.rows.stop

    @property
    def complete(self) -> bool:
        """Whether every voxel of the rows has its final label."""
        return self.done_rows == self.rows.stop

    @property
    def fraction(self) -> float:
        """Part of the voxels of the rows that are final."""
        filled = self._filled[self.rows.start : self.rows.stop]
        return float(filled.sum()) / (len(self.rows) * self._row_voxels)

    def take(self, block: LabelBlock) -> None:
        """Take in the next block.

        Raises
        ------
        PluginFault
            If it lies outside the volume, holds a label that the model does not know, covers voxels
            that are final already, or lacks a companion.
        """
        self._check(block)
        with self._busy:
            if not block.provisional:
                self._write(block)
                self._unsaved = True
            elif self._previews is not None:
                self._previews.add_provisional(block)
            self._unseen = self._previews is not None
            self._show_and_save()

    def catch_up(self) -> None:
        """Show and save what was taken too soon after the last time; cheap where there is nothing.

        A runner calls it through its context, possibly from a thread of its own.
        """
        if (self._unseen or self._unsaved) and self._busy.acquire(blocking=False):
            try:
                self._show_and_save()
            finally:
                self._busy.release()

    def _show_and_save(self) -> None:
        now = time.monotonic()
        if self._unseen and now - self._last_preview >= self._policy.interval_seconds:
            self._last_preview = now
            self._unseen = False
            self._show()
        if self._unsaved and now - self._last_checkpoint >= CHECKPOINT_INTERVAL:
            self._last_checkpoint = now
            self._unsaved = False
            self.checkpoint()

    def _check(self, block: LabelBlock) -> None:
        if not self._grid.whole.contains(block.region):
            raise PluginFault(f"a label block ends at {block.region.stop} in a volume of shape {self._grid.shape}")
        if block.labels.size and int(block.labels.max()) > self._highest_label:
            raise PluginFault(f"label {int(block.labels.max())} in a block, but the model has none above it")
        if not block.provisional:
            self._companions.check(block.companions)

    def _write(self, block: LabelBlock) -> None:
        axis = self._axis
        known = max(0, self.final_rows - block.region.start[axis])
        stop = list(block.region.stop)
        stop[axis] = min(stop[axis], self.rows.stop)
        start = list(block.region.start)
        start[axis] += known
        if start[axis] >= stop[axis]:
            return
        region = Region(start=start, stop=stop)
        rows = slice(region.start[axis], region.stop[axis])
        self._filled[rows] += region.size // region.shape[axis]
        if self._filled[rows].max(initial=0) > self._row_voxels:
            raise PluginFault(f"two label blocks cover the same voxels near {AXIS_ROWS[axis]} {region.start[axis]}")
        new = [slice(None)] * 3
        new[axis] = slice(known, known + region.shape[axis])
        self._labels.write(region, block.labels[tuple(new)])
        beside = {name: values[tuple(new)] for name, values in block.companions.items()}
        self._companions.write(region, beside)
        if self._previews is not None:
            self._previews.add_companions(region, beside)
            self._show_later(self._previews, region)

    def _show_later(self, previews: PreviewBuilder, region: Region) -> None:
        """Keep a final region for the next preview, together with the one before it.

        Coarse voxels reach over several thin blocks, and would be made of the label file anew for each.
        """
        earlier, most = self._fresh, max(FRESH_VOXELS, FRESH_ROWS * previews.factor * self._row_voxels)
        if earlier is not None and self._follows(earlier, region) and earlier.size + region.size <= most:
            self._fresh = Region(start=earlier.start, stop=region.stop)
            return
        if earlier is not None:
            previews.add_final(earlier)
        self._fresh = region

    def _follows(self, earlier: Region, region: Region) -> bool:
        """Whether `region` goes on along the axis where `earlier` ends, and is as wide."""
        return all(
            earlier.stop[axis] == region.start[axis]
            if axis == self._axis
            else (earlier.start[axis], earlier.stop[axis]) == (region.start[axis], region.stop[axis])
            for axis in range(3)
        )

    def _show(self) -> None:
        if self._previews is None:
            return
        if self._fresh is not None:
            self._previews.add_final(self._fresh)
            self._fresh = None
        self._log.preview(self._previews.snapshot())

    def checkpoint(self) -> None:
        """Make the final labels and their companions durable, and then say how far they reach."""
        rows = self.done_rows
        if rows > self.rows.start:
            self._labels.sync()
            self._companions.sync()
            dtype, companions = self._labels.dtype.name, self._companions.names
            self._directory.write_checkpoint(
                Checkpoint(rows=rows, dtype=dtype, axis=self._axis, companions=companions, source=self._source)
            )

    def finish(self) -> None:
        """Check that nothing is missing, checkpoint, and show the final preview."""
        missing = self._grid.voxels - int(self._filled.sum())
        if missing:
            raise PluginFault(f"the runner left {missing} voxels without a label")
        self.checkpoint()
        self._show()
