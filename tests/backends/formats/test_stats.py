"""``stats.json`` for people and scripts."""

import json
from pathlib import Path

import numpy as np

from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.plugins import PluginHost
from cryomamba_core.testing.exporters import example_run


def test_statistics_have_their_unit_in_every_key(host: PluginHost, tmp_path: Path) -> None:
    grid = VoxelGrid(shape=(3, 4, 5), voxel_size=(10.0, 20.0, 30.0), origin=(3.0, 2.0, 1.0))
    path = tmp_path / "stats.json"
    run = example_run(names={1: "membrane", 2: "Ribosom 80S ä"}, grid=grid)
    assert host.exporters.get("stats").write(np.zeros(grid.shape, np.uint8), grid, run, path) == ()
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["grid"] == {
        "shape_zyx_voxels": [3, 4, 5],
        "voxel_size_zyx_angstrom": [10.0, 20.0, 30.0],
        "origin_zyx_angstrom": [3.0, 2.0, 1.0],
        "voxel_volume_nm3": 6.0,
    }
    assert content["source"]["sha256"] == "00" * 32
    assert content["labels"][0]["centroid_zyx_angstrom"] is None
    assert content["labels"][1] == {
        "value": 2,
        "name": "Ribosom 80S ä",
        "color": "#e69f00",
        "voxels": 1,
        "fraction_of_volume": 1 / 60,
        "volume_nm3": 6.0,
        "surface_area_nm2": 1.0,
        "components": 1,
        "bounding_box_zyx_voxels": {"start": [0, 0, 0], "stop": [3, 4, 5]},
        "centroid_zyx_angstrom": [3.0, 2.0, 1.0],
    }
