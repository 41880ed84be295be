"""What runners and executors say of shards, held against their contracts."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from cryomamba_core.errors import PluginFault
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import Executor, ModelRunner, Resources
from cryomamba_core.models import ModelInfo


def shard_bounds(
    runner: ModelRunner, model: ModelInfo, grid: VoxelGrid, params: Any, device: str, count: int
) -> tuple[int, ...]:
    """Where a runner cuts a volume; see `ModelRunner.shard_bounds`.

    Raises
    ------
    ShardsUnavailable
        If the runner cannot divide it.
    PluginFault
        If the pieces do not cover the volume, each row once, or are more than were asked for.
    """
    extent = grid.shape[runner.sweep_axis(model, grid, params, device)]
    given = runner.shard_bounds(model, grid, params, device, count)
    try:
        bounds = tuple(operator.index(row) for row in given)
    except TypeError as error:
        raise PluginFault(f"runner {runner.name} cuts a volume at {given!r}, which are no rows") from error
    covers = len(bounds) > 1 and (bounds[0], bounds[-1]) == (0, extent)
    if not covers or len(bounds) - 1 > count or any(first >= stop for first, stop in pairwise(bounds)):
        raise PluginFault(f"runner {runner.name} cuts {extent} rows for {count} shards at {bounds}")
    return bounds


def shard_places(executor: Executor, resources: Resources, devices: Sequence[str], count: int) -> tuple[Resources, ...]:
    """How an executor divides what a job may use; see `Executor.places`.

    Raises
    ------
    ShardsUnavailable
        If the executor runs whole jobs only.
    PluginFault
        If it names no place, or more than there are shards.
    """
    places = tuple(executor.places(resources, devices, count))
    if not 1 <= len(places) <= count:
        raise PluginFault(f"executor {executor.name} has {len(places)} places for {count} shards")
    return places
