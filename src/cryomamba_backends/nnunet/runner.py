"""The nnU-Net runner: lists, installs, plans and runs models."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from attrs import evolve

from cryomamba_backends.nnunet.beside import companions_asked
from cryomamba_backends.nnunet.blocks import Blocks
from cryomamba_backends.nnunet.costs import Costs
from cryomamba_backends.nnunet.course import choose_course, choose_precision
from cryomamba_backends.nnunet.fixed_point import bytes_convolve
from cryomamba_backends.nnunet.installation import (
    automatic_name,
    check_name,
    name_taken,
    parse_options,
    prepare,
    write_model,
)
from cryomamba_backends.nnunet.installed import RUNNER, FoldRecord, InstalledModel, installed_models
from cryomamba_backends.nnunet.kept_answers import kept_or_asked
from cryomamba_backends.nnunet.memory import ways_for
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.passes import Part, Passes
from cryomamba_backends.nnunet.postprocessing import KeepLargest
from cryomamba_backends.nnunet.room import host_room
from cryomamba_backends.nnunet.shortage import memory_errors_named, out_of_memory
from cryomamba_backends.nnunet.stage import Stage
from cryomamba_backends.nnunet.statistics import nonzero_box, numpy_adds_as_expected
from cryomamba_backends.nnunet.trained_folder import holds_trained_model
from cryomamba_core.companions import Companion
from cryomamba_core.errors import (
    InvalidParameter,
    ModelExists,
    UnknownModel,
    UnusableVolume,
)
from cryomamba_core.geometry import Index3, VoxelGrid
from cryomamba_core.interfaces import ModelRunner, RunContext
from cryomamba_core.labels import LabelBlock
from cryomamba_core.models import ModelInfo, model_replaced
from cryomamba_core.plans import RunPlan
from cryomamba_core.settings import Settings
from cryomamba_core.volumes import Volume

#: Models that come with the package.
BUNDLED = Path(__file__).parent / "bundled"


class NNUNetRunner(ModelRunner):
    """Runs nnU-Net v2 models.

    Parameters
    ----------
    settings
        Where models are kept, and how many threads to use.
    """

    name = RUNNER
    params_type = NNUNetParams

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def models(self) -> Sequence[ModelInfo]:
        """Models that come with the package, and those that were installed."""
        return [model.info for model in self._installed()]

    def recognises(self, folder: Path) -> bool:
        """Whether the folder's files are named like those of a trained nnU-Net model."""
        return holds_trained_model(folder)

    def install(self, folder: Path, *, name: str | None = None, options: dict[str, str] | None = None) -> ModelInfo:
        """Install a trained-model folder; see `ModelRunner.install`.

        Options are those of `InstallOptions`, as texts.
        """
        chosen = parse_options(options or {})
        if name is not None:
            check_name(name)
            if (BUNDLED / name).exists() or (self._settings.models_dir / name).exists():
                raise name_taken(name)
        prepared = prepare(folder, chosen)
        if name is not None:
            return write_model(prepared, self._settings.models_dir, name).info
        known = self._with_digest(prepared.record.digest)
        if known is not None:
            return known.info
        try:
            made = automatic_name(folder, prepared.record.digest)
            return write_model(prepared, self._settings.models_dir, made).info
        except ModelExists:
            known = self._with_digest(prepared.record.digest)  # somebody else was quicker
            if known is None:
                raise
            return known.info

    def plan(self, model: ModelInfo, grid: VoxelGrid, params: Any, device: str) -> RunPlan:
        """Count the tiles and the memory of a run, or refuse it."""
        installed = self._find(model)
        chains = self._chains(installed, grid, grid.shape, params, device)
        steps = _steps(installed, params)
        costs = Costs(chains=chains, params=params, steps=steps)
        total = host_room().total
        ways = ways_for(device)
        way = next((way for way in ways if costs.ram(way) <= total), None)
        if way is None:
            raise out_of_memory(costs.ram(ways[-1]), total, costs.hint)
        return RunPlan(
            tiles=sum(stage.images for stages in chains for stage in stages),
            ram_bytes=costs.ram(way),
            vram_bytes=costs.vram(way.place, costs.course.batch),
            disk_bytes=costs.disk(way),
            notes=_notes(chains, params, steps),
        )

    def sweep_axis(self, model: ModelInfo, grid: VoxelGrid, params: Any, device: str) -> int:
        """The axis along which a run holds least; in exact mode, the first one of the model."""
        return choose_course(self._find(model).decisive_recipe(), grid.shape, params, device).axes[0]

    def settle(self, model: ModelInfo, params: Any, device: str) -> Any:
        """The parameters with the precision that suits this machine, and the PyTorch on it."""
        if params.mode == "exact":
            return params
        precision = choose_precision(self._find(model).decisive_recipe(), params, device)
        if params.precision == "auto" and precision == "fixed":
            answer = self._settings.data_dir / "cpu.json"
            precision = "fixed" if kept_or_asked(answer, bytes_convolve) else "single"
        return evolve(params, precision=precision)

    def check_volume(self, model: ModelInfo, volume: Volume) -> None:
        """Refuse a volume that has not as many channels as the model takes."""
        installed = self._find(model)
        held, taken = len(volume.channels), len(installed.recipe().inputs)
        if held == taken:
            return
        names = f" ({', '.join(installed.record.channels)})" if taken > 1 else ""
        stack = "write them in this order into one file, as in: cryomamba join FIRST.mrc SECOND.mrc --out both.mrc"
        raise UnusableVolume(
            f"the model takes {taken} channel{'s' * (taken > 1)}{names}, the volume has {held}",
            hint=stack if taken > 1 else "write the channel that the model was trained on into a file of its own",
        )

    def companions(self, model: ModelInfo, params: Any) -> Sequence[Companion]:
        """How uncertain each label is, and how probable some are, if that is asked for."""
        return companions_asked(self._find(model).recipe().labels, params)

    def shard_bounds(self, model: ModelInfo, grid: VoxelGrid, params: Any, device: str, count: int) -> tuple[int, ...]:
        """Where rows of tiles begin, so that no more of them than must be are run by two shards.

        Where pieces of the mask are compared when it is whole, it is not cut.
        """
        installed = self._find(model)
        stage = self._chains(installed, grid, grid.shape, params, device)[0][-1]
        return stage.shard_bounds(1 if _steps(installed, params) else count)

    def segment(self, volume: Volume, params: Any, context: RunContext) -> Iterator[LabelBlock]:
        """Segment a volume; final blocks are whole on all axes but `sweep_axis`, along which they ascend."""
        with memory_errors_named():
            yield from self._segment(volume, self.settle(context.model, params, context.device), context)
        _return_device_memory(context.device)

    def _segment(self, volume: Volume, params: NNUNetParams, context: RunContext) -> Iterator[LabelBlock]:
        installed = self._find(context.model)
        grid = volume.grid
        self.check_volume(context.model, volume)
        steps = _steps(installed, params)
        for note in _notes(self._chains(installed, grid, grid.shape, params, context.device), params, steps):
            context.note(note)
        _set_threads(self._settings.threads)
        _choose_kernels_by_trial(context.device)
        box = nonzero_box(volume, on_slab=context.checkpoint)
        if box is None:
            raise UnusableVolume("all voxels are zero in single precision", hint="rescale the grey values")
        if box.size != volume.grid.voxels and not numpy_adds_as_expected():
            context.note(
                f"NumPy {np.__version__} adds up cropped volumes in an order that is not known: the last bit of the "
                "normalisation may differ from stock nnU-Net's"
            )
        chains = self._chains(installed, grid, box.shape, params, context.device)
        stage = chains[0][-1]
        axis = stage.course.axes[0]
        asked = context.rows(grid.shape[axis])
        resumed = max(asked.start, context.final_rows)
        labels = Blocks(
            grid.shape,
            stage.course.axes,
            box,
            stage.recipe.labels.dtype,
            companions=tuple(companion.name for companion in self.companions(context.model, params)),
        )
        yield from labels.background(resumed, min(asked.stop, box.start[axis]), on_block=context.checkpoint)
        rows = range(*(min(max(0, row - box.start[axis]), box.shape[axis]) for row in (asked.start, asked.stop)))
        first_row = max(0, resumed - box.start[axis])
        if first_row < rows.stop:
            left = rows[first_row - rows.start :]
            passes = Passes(
                chains=chains,
                volume=volume,
                box=box,
                params=params,
                part=Part(rows=rows, left=left, shown=left),
                steps=steps,
                labels=labels,
                context=context,
            )
            yield from passes.blocks()
        after = max(resumed, box.stop[axis])
        yield from labels.background(after, asked.stop, on_block=context.checkpoint)

    def _chains(
        self, installed: InstalledModel, grid: VoxelGrid, extent: Index3, params: NNUNetParams, device: str
    ) -> list[tuple[Stage, ...]]:
        """The models of a run over a box of `extent`, each after the one that it goes on from if it is a cascade."""
        course = choose_course(installed.decisive_recipe(), grid.shape, params, device)
        reference = installed.recipe().source_spacing

        def stage(model: InstalledModel, folds: tuple[FoldRecord, ...]) -> Stage:
            return Stage.over(extent, model, grid=grid, folds=folds, course=course, params=params, reference=reference)

        def chain(model: InstalledModel) -> Iterator[Stage]:
            previous = model.previous_stage()
            if previous is not None:
                yield stage(previous, previous.record.folds)
            yield stage(model, _chosen_folds(model, params))

        return [tuple(chain(model)) for model in (installed, *installed.members())]

    def _installed(self) -> Iterator[InstalledModel]:
        return installed_models(BUNDLED, self._settings.models_dir)

    def _with_digest(self, digest: str) -> InstalledModel | None:
        return next((model for model in self._installed() if model.record.digest == digest), None)

    def _find(self, wanted: ModelInfo) -> InstalledModel:
        for model in self._installed():
            if model.record.name == wanted.name:
                if wanted.digest and model.record.digest != wanted.digest:
                    raise model_replaced(wanted.name)
                return model
        raise UnknownModel(f"no model is called {wanted.name!r}", hint="see: cryomamba models list")


def _chosen_folds(installed: InstalledModel, params: NNUNetParams) -> tuple[FoldRecord, ...]:
    known = {fold.fold: fold for fold in installed.record.folds}
    if params.folds is None:
        return tuple(known.values())
    missing = [str(fold) for fold in params.folds if str(fold) not in known]
    if missing:
        raise InvalidParameter(
            f"the model {installed.record.name!r} ({installed.record.configuration}) has no fold {', '.join(missing)}",
            hint=f"it has: {', '.join(known)}; leave folds out to use them all",
        )
    return tuple(known[str(fold)] for fold in params.folds)


def _steps(installed: InstalledModel, params: NNUNetParams) -> tuple[KeepLargest, ...]:
    """What is done with the mask when it is whole."""
    return installed.record.postprocessing if params.postprocessing else ()


def _notes(chains: Sequence[Sequence[Stage]], params: NNUNetParams, steps: Sequence[KeepLargest]) -> tuple[str, ...]:
    last = [stages[-1] for stages in chains]
    told = [last[0].course.told, *(note for stages in chains for stage in stages for note in stage.notes)]
    if len(chains) > 1:
        named = ", ".join(stage.installed.record.configuration for stage in last)
        told.insert(1, f"probabilities are averaged over {len(chains)} models: {named}")
    asked = {
        "coarse=on": params.coarse == "on" and not last[0].follows_all,
        f"coarse_first={params.coarse_first}": params.coarse_first is not None,
    }
    if len(chains[0]) > 1 and any(asked.values()):
        named = " and ".join(name for name, given in asked.items() if given)
        told.append(f"{named} was not heeded: a cascade has no coarse answer before its own")
    elif params.coarse == "off" and params.coarse_first is not None:
        told.append(f"coarse_first={params.coarse_first} was not heeded: coarse=off")
    told += [f"when the mask is whole, {step.told}" for step in steps]
    if steps:
        told.append("the volume is not cut into shards, as pieces of the whole mask are compared")
    return tuple(dict.fromkeys(told))


def _set_threads(threads: int) -> None:
    import torch

    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    torch.set_num_threads(threads or min(usable, psutil.cpu_count(logical=False) or usable))


def _choose_kernels_by_trial(device: str) -> None:
    """Have cuDNN try which of its kernels is the fastest: tiles are all of one shape. Stock does the same."""
    if device != "cpu":
        import torch

        torch.backends.cudnn.benchmark = True


def _return_device_memory(device: str) -> None:
    """Give a GPU's memory back that only PyTorch keeps, for whoever works there while this process waits for a job."""
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()
