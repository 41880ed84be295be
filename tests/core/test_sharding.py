"""What plugins say of shards is held against their contracts."""

import pytest
import strangers

from cryomamba_core.errors import PluginFault
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.sharding import shard_bounds

GRID = VoxelGrid(shape=(12, 5, 7), voxel_size=(10.0, 10.0, 10.0))


def bounds(axis=0, count=3):
    runner = strangers.StepRunner()
    return shard_bounds(runner, runner.model(None), GRID, strangers.StepParams(axis=axis), "cpu", count)


def test_bounds_that_cover_the_axis_of_the_sweep_are_taken():
    assert bounds() == (0, 4, 8, 12)
    assert bounds(axis=1, count=9) == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    "given",
    [(), (0,), (0, 6, 11), (1, 6, 12), (0, 6, 6, 12), (0, 8, 4, 12), (0, 3, 6, 9, 12), (0, 6.0, 12), (0, 5), None],
)
def test_bounds_that_do_not_cover_each_row_once_are_refused(monkeypatch, given):
    monkeypatch.setattr(strangers.StepRunner, "shard_bounds", lambda *_: given)
    with pytest.raises(PluginFault, match="runner steps cuts"):
        bounds()
