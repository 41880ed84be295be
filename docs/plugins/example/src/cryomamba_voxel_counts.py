"""Write how many voxels of each label every section holds."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cryomamba_core.artifacts import RunInfo
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Exporter
from cryomamba_core.label_file import LabelArray

cryomamba_api_version = 1


class VoxelCounts(Exporter):
    """One line for each section along Z, one column for each label."""

    name = "voxel-counts"
    artifact = "voxel-counts.csv"
    suffix = ".csv"
    media_type = "text/csv"

    def write(self, labels: LabelArray, grid: VoxelGrid, info: RunInfo, path: Path) -> tuple[str, ...]:
        """Count section by section; the whole volume never lies in memory."""
        with path.open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["z_nm", *(label.name for label in info.model.labels)])
            for region in grid.whole.slabs(1):
                section = labels[region.slices]
                z, _, _ = grid.position(region.start)
                counts = [int(np.count_nonzero(section == label.value)) for label in info.model.labels]
                table.writerow([f"{z / 10:.3f}", *counts])
        return ("voxel-counts.csv gives the height of each section's centre in nm.",)


@hookimpl
def cryomamba_register_exporters(register: Callable[[Exporter], None]) -> None:
    """Register the exporter."""
    register(VoxelCounts())
