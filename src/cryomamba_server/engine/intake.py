"""What is asked for, made definite or refused, before anything of it is recorded."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from cryomamba_core.companions import Companion, companion_artifacts
from cryomamba_core.errors import InvalidParameter, StorageFull, UnknownModel
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import Executor, ModelRunner, Resources
from cryomamba_core.jobs import JobConfig
from cryomamba_core.labels import label_dtype
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import RunPlan
from cryomamba_core.plugins import PluginHost
from cryomamba_core.previews import LEAST_VOXELS, MOST_VOXELS, PreviewPolicy
from cryomamba_core.sharding import shard_bounds, shard_places
from cryomamba_core.wire import from_plain, to_plain
from cryomamba_server.engine.fitting import Memory, plan_run
from cryomamba_server.engine.queue import helpful_slots

log = logging.getLogger(__name__)

#: The artifact that the worker makes itself, with or without being asked.
MANIFEST = "manifest.json"

#: Room for everything that does not grow with the volume.
SPARE_BYTES = 16 << 20


@frozen(kw_only=True)
class SourcePath:
    """Where a job's tomogram lies for this process, and its name as its owner knows it."""

    path: Path
    name: str


@frozen(kw_only=True)
class Accepted:
    """A request that can be run.

    Attributes
    ----------
    config
        The request with runner, model, all parameters and artifacts named.
    source_name
        The source's file name as its owner knows it.
    grid
        Grid of the source.
    plan
        What the run will cost.
    disk_bytes
        Room that it will roughly need in the data directory.
    """

    config: JobConfig
    source_name: str
    grid: VoxelGrid
    plan: RunPlan
    disk_bytes: int


@frozen(kw_only=True)
class Room:
    """Where jobs run.

    Attributes
    ----------
    executor
        What runs them.
    slots
        Its slots.
    threads
        CPU threads of a worker; 0 for as many as there are physical cores.
    """

    executor: Executor
    slots: Sequence[str]
    threads: int

    @property
    def device(self) -> str:
        """Where the next job would run."""
        return self.slots[0] if self.slots else "cpu"

    def shards_at_once(self, shards: int) -> int:
        """How many of a job's shards would run at the same time; raises as `shard_places`."""
        slots = (self.device, *helpful_slots(self.device, self.slots[1:], shards=shards))
        return len(shard_places(self.executor, Resources(device=self.device, threads=self.threads), slots, shards))


def accept(host: PluginHost, config: JobConfig, *, source: SourcePath, room: Room, memory: Memory) -> Accepted:
    """Make a request definite, or raise what is wrong with it. Blocks.

    Parameters
    ----------
    host
        Where readers, runners and exporters come from.
    config
        The request.
    source
        Where the tomogram is.
    room
        Where the job would run.
    memory
        How much there is.
    """
    _check_preview(config.preview)
    runner, model = find_model(host, runner=config.runner, model=config.model)
    params: Any = from_plain(config.params, runner.params_type)
    artifacts = _artifacts(host, config.artifacts)
    companions = tuple(runner.companions(model, params))
    beside = companion_artifacts(companions, [host.exporter_for(name) for name in artifacts])
    reader = host.reader_for(source.path)
    with reader.open(source.path, voxel_size=config.voxel_size) as volume:
        runner.check_volume(model, volume)
        grid = volume.grid
    shards = at_once = 1
    if config.shards > 1:
        shards = len(shard_bounds(runner, model, grid, params, room.device, config.shards)) - 1
        at_once = room.shards_at_once(shards)
    plan = plan_run(runner, model, grid, params, device=room.device, memory=memory, at_once=at_once)
    plan = evolve(plan, shards=shards)
    if shards < config.shards:
        told = f"{config.shards} shards were asked for, and the volume can be cut into {shards}"
        plan = evolve(plan, notes=(*plan.notes, told))
    return Accepted(
        config=evolve(
            config,
            runner=runner.name,
            model=model.name,
            params=to_plain(params),
            artifacts=artifacts,
            label=config.label or source.name,
            shards=shards,
        ),
        source_name=source.name,
        grid=grid,
        plan=plan,
        disk_bytes=_disk_bytes(host, grid, model, artifacts)
        + _disk_bytes_beside(grid, companions, [companion for companion, *_ in beside])
        + plan.disk_bytes * plan.shards,
    )


def _check_preview(policy: PreviewPolicy) -> None:
    """Refuse a preview that would take the memory of whoever makes, sends and draws it, or its worker's time."""
    if policy.max_voxels and not LEAST_VOXELS <= policy.max_voxels <= MOST_VOXELS:
        raise InvalidParameter(
            f"a preview of up to {policy.max_voxels:,} voxels is not made",
            hint=f"ask for {LEAST_VOXELS:,} to {MOST_VOXELS:,} voxels, or for 0 to have none",
        )


def find_model(host: PluginHost, *, runner: str | None, model: str | None) -> tuple[ModelRunner, ModelInfo]:
    """The runner and its model that a request means.

    Raises
    ------
    UnknownPlugin
        If there is no such runner.
    UnknownModel
        If no runner has the model, several have it, or none is named.
    """
    if runner is not None:
        chosen = host.runners.get(runner)
        return chosen, chosen.model(model)
    known = list_models(host)
    found = [info for info in known if info.name == model]
    if len(found) == 1:
        chosen = host.runners.get(found[0].runner)
        return chosen, found[0]
    if found:
        runners = ", ".join(info.runner for info in found)
        raise UnknownModel(f"several runners have a model called {model!r}", hint=f"name one of the runners {runners}")
    names = ", ".join(sorted(info.name for info in known)) or "none"
    asked = "no model was named" if model is None else f"no model is called {model!r}"
    raise UnknownModel(asked, hint=f"there are: {names}; add one with: cryomamba models install FOLDER --name NAME")


def list_models(host: PluginHost) -> list[ModelInfo]:
    """Models of all runners, by runner and name; a runner that cannot list its own is left out."""
    models: list[ModelInfo] = []
    for runner in host.runners:
        try:
            models += sorted(runner.models(), key=lambda info: info.name)
        except Exception:
            log.exception("runner %s cannot list its models", runner.name)
    return models


def require_space(folder: Path, needed: int) -> None:
    """Raise `StorageFull` if a file system has less room than `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageFull(
            f"the job needs about {needed / 1e9:.2f} GB in {folder}, and {free / 1e9:.2f} GB are free",
            hint="free some space, ask for fewer artifacts, or name another folder with CRYOMAMBA_DATA_DIR",
        )


def _artifacts(host: PluginHost, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Canonical names of wanted artifacts, without the manifest, which is made anyway."""
    if wanted is None:
        return tuple(exporter.artifact for exporter in host.exporters)
    named = [host.exporter_for(name).artifact for name in wanted if name != MANIFEST]
    return tuple(dict.fromkeys(named))


def _disk_bytes(host: PluginHost, grid: VoxelGrid, model: ModelInfo, artifacts: Sequence[str]) -> int:
    """Labels, and each artifact twice: in the job directory, and in the storage before that is cleared.

    Text is small, and what is compressed is taken for an eighth of the labels.
    """
    labels = grid.voxels * label_dtype(model.highest_label).itemsize
    needed = labels + SPARE_BYTES
    for name in artifacts:
        exporter = host.exporter_for(name)
        if exporter.media_type.startswith(("text/", "application/json")):
            continue
        compressed = exporter.suffix.endswith((".gz", ".nrrd"))
        needed += 2 * (labels // 8 if compressed else labels)
    return needed


def _disk_bytes_beside(grid: VoxelGrid, companions: Sequence[Companion], written: Sequence[Companion]) -> int:
    """Companions whole, a byte a voxel, and each file of one twice, at up to two bytes for each voxel of its own."""
    files = sum(grid.coarsen(companion.binning).voxels for companion in written)
    return grid.voxels * len(companions) + 2 * 2 * files
