"""Taking label blocks from a runner: checked, written, previewed and checkpointed."""

from __future__ import annotations

import time

import numpy as np

from cryomamba_core.errors import PluginFault
from cryomamba_core.geometry import Region, VoxelGrid, slab_depth
from cryomamba_core.job_directory import Checkpoint, JobDirectory
from cryomamba_core.label_file import LabelFile
from cryomamba_core.labels import LabelBlock
from cryomamba_core.previews import PreviewBuilder, PreviewPolicy
from cryomamba_core.worker.reporting import EventLog

#: Seconds between two checkpoints: what a killed worker may have to do again, against the cost of a sync.
CHECKPOINT_INTERVAL = 2.0


class LabelTaker:
    """Puts a runner's blocks together.

    Parameters
    ----------
    directory
        The job's; its checkpoint says where an earlier attempt came to.
    labels
        The label file, open for writing.
    grid
        Grid of the source.
    highest_label
        The largest value that the model knows.
    policy
        How the job is previewed.
    log
        Hears of previews.
    """

    def __init__(
        self,
        *,
        directory: JobDirectory,
        labels: LabelFile,
        grid: VoxelGrid,
        highest_label: int,
        policy: PreviewPolicy,
        log: EventLog,
    ) -> None:
        self._directory = directory
        self._labels = labels
        self._grid = grid
        self._highest_label = highest_label
        self._policy = policy
        self._log = log
        self._previews = PreviewBuilder(grid, labels, policy)
        self._filled = np.zeros(grid.shape[0], np.int64)
        self._last_preview = -np.inf
        self._last_checkpoint = time.monotonic()
        self.final_rows = self._earlier_rows()
        self._take_over(self.final_rows)

    def _earlier_rows(self) -> int:
        checkpoint = self._directory.checkpoint()
        if checkpoint is None or np.dtype(checkpoint.dtype) != self._labels.dtype:
            return 0
        return min(checkpoint.rows, self._grid.shape[0])

    def _take_over(self, rows: int) -> None:
        section = self._grid.shape[1] * self._grid.shape[2]
        self._filled[:rows] = section
        done = self._grid.region((0, 0, 0), (rows, *self._grid.shape[1:]))
        for slab in done.slabs(slab_depth(self._grid.shape)):
            self._previews.add_final(slab)

    @property
    def done_sections(self) -> int:
        """How many sections are final, from the first on without a gap."""
        open_sections = np.flatnonzero(self._filled < self._grid.shape[1] * self._grid.shape[2])
        return int(open_sections[0]) if open_sections.size else self._grid.shape[0]

    @property
    def fraction(self) -> float:
        """Part of the voxels that are final."""
        return float(self._filled.sum()) / self._grid.voxels

    def take(self, block: LabelBlock) -> None:
        """Take in the next block.

        Raises
        ------
        PluginFault
            If it lies outside the volume, holds a label that the model does not know, or covers
            voxels that are final already.
        """
        self._check(block)
        if block.provisional:
            self._previews.add_provisional(block)
        else:
            self._write(block)
        now = time.monotonic()
        if self._policy.max_voxels and now - self._last_preview >= self._policy.interval_seconds:
            self._last_preview = now
            self._log.preview(self._previews.snapshot())
        if now - self._last_checkpoint >= CHECKPOINT_INTERVAL:
            self._last_checkpoint = now
            self.checkpoint()

    def _check(self, block: LabelBlock) -> None:
        if not self._grid.whole.contains(block.region):
            raise PluginFault(f"a label block ends at {block.region.stop} in a volume of shape {self._grid.shape}")
        if block.labels.size and int(block.labels.max()) > self._highest_label:
            raise PluginFault(f"label {int(block.labels.max())} in a block, but the model has none above it")

    def _write(self, block: LabelBlock) -> None:
        known = max(0, self.final_rows - block.region.start[0])
        if known >= block.region.shape[0]:
            return
        region = Region(start=(block.region.start[0] + known, *block.region.start[1:]), stop=block.region.stop)
        depth, rows, columns = region.shape
        sections = slice(region.start[0], region.start[0] + depth)
        self._filled[sections] += rows * columns
        if self._filled[sections].max(initial=0) > self._grid.shape[1] * self._grid.shape[2]:
            raise PluginFault(f"two label blocks cover the same voxels near section {region.start[0]}")
        self._labels.write(region, block.labels[known:])
        self._previews.add_final(region)

    def checkpoint(self) -> None:
        """Make the final labels durable, and then say how far they reach."""
        rows = self.done_sections
        if rows:
            self._labels.sync()
            self._directory.write_checkpoint(Checkpoint(rows=rows, dtype=self._labels.dtype.name))

    def finish(self) -> None:
        """Check that nothing is missing, checkpoint, and show the final preview."""
        missing = self._grid.voxels - int(self._filled.sum())
        if missing:
            raise PluginFault(f"the runner left {missing} voxels without a label")
        self.checkpoint()
        if self._policy.max_voxels:
            self._log.preview(self._previews.snapshot())
