"""Label statistics → ``stats.json``, with the unit in every key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryomamba_core.artifacts import RunInfo
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import Exporter
from cryomamba_core.label_file import LabelArray
from cryomamba_core.measures import LabelStatistics

cryomamba_api_version = 1


@hookimpl
def cryomamba_register_exporters(register: Callable[[Exporter], None]) -> None:
    """Register the exporter."""
    register(StatisticsExporter())


class StatisticsExporter(Exporter):
    """Writes what was measured of each label as JSON for people and scripts."""

    name = "stats"
    artifact = "stats.json"
    suffix = ".json"
    media_type = "application/json"

    def write(self, labels: LabelArray, grid: VoxelGrid, info: RunInfo, path: Path) -> tuple[str, ...]:
        """Write the file; the statistics are those of `info`, `labels` is not read."""
        content = {
            "job": {"id": info.job_id, "label": info.label},
            "source": {
                "name": info.source.name,
                "format": info.source.format,
                "size_bytes": info.source.size,
                "sha256": info.source.sha256,
            },
            "model": {"name": info.model.name, "runner": info.model.runner, "digest": info.model.digest},
            "grid": {
                "shape_zyx_voxels": list(grid.shape),
                "voxel_size_zyx_angstrom": list(grid.voxel_size),
                "origin_zyx_angstrom": list(grid.origin),
                "voxel_volume_nm3": grid.voxel_volume / 1000,
            },
            "intensity": {
                "minimum": info.intensity.minimum,
                "maximum": info.intensity.maximum,
                "mean": info.intensity.mean,
                "standard_deviation": info.intensity.standard_deviation,
            },
            "labels": [_label(measured, grid, info) for measured in info.statistics],
        }
        with path.open("x", encoding="utf-8") as stream:
            json.dump(content, stream, ensure_ascii=False, allow_nan=False, indent=2)
            stream.write("\n")
        return ()


def _label(measured: LabelStatistics, grid: VoxelGrid, info: RunInfo) -> dict[str, Any]:
    box = measured.bounding_box
    colors = {label.value: label.color for label in info.model.labels}
    return {
        "value": measured.value,
        "name": measured.name,
        "color": colors.get(measured.value),
        "voxels": measured.voxels,
        "fraction_of_volume": measured.voxels / grid.voxels,
        "volume_nm3": measured.volume_nm3,
        "surface_area_nm2": measured.surface_area_nm2,
        "components": measured.components,
        "bounding_box_zyx_voxels": None if box is None else {"start": list(box.start), "stop": list(box.stop)},
        "centroid_zyx_angstrom": None if measured.centroid is None else list(measured.centroid),
    }
