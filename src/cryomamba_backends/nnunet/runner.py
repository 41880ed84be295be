"""The nnU-Net runner: lists, installs, plans and runs models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from attrs import evolve

from cryomamba_backends.nnunet.installation import (
    automatic_name,
    check_name,
    name_taken,
    parse_options,
    prepare,
    write_model,
)
from cryomamba_backends.nnunet.installed import RUNNER, FoldRecord, InstalledModel, installed_models
from cryomamba_backends.nnunet.memory import HINT, estimate_ram, memory_errors_named
from cryomamba_backends.nnunet.normalisation import measure_normalisation
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.plans import ModelRecipe
from cryomamba_backends.nnunet.spacing import judge_spacing
from cryomamba_backends.nnunet.statistics import nonzero_box, numpy_adds_as_expected
from cryomamba_backends.nnunet.sweep import BLOCK_VOXELS, Sweep, mirrorings
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_backends.nnunet.trained_folder import holds_trained_model
from cryomamba_core.errors import (
    InvalidParameter,
    ModelExists,
    OutOfMemory,
    PluginUnavailable,
    UnknownModel,
    UnusableModel,
    UnusableVolume,
)
from cryomamba_core.geometry import Index3, Region, VoxelGrid, slab_depth, to_index
from cryomamba_core.interfaces import ModelRunner, RunContext
from cryomamba_core.labels import LabelBlock, label_dtype
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import RunPlan
from cryomamba_core.settings import Settings
from cryomamba_core.volumes import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Models that come with the package.
BUNDLED = Path(__file__).parent / "bundled"


class NNUNetRunner(ModelRunner):
    """Runs nnU-Net v2 models of the configuration 3d_fullres on the CPU.

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

        Options are ``spacing_unit`` (``angstrom-as-mm``, ``mm`` or ``voxels``; guessed where the
        plans leave no doubt), ``accept_trainer``, ``description``, ``licence`` and ``citation``.
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
        recipe = installed.recipe()
        folds = _chosen_folds(installed, params)
        notes = _refuse_or_note(installed, recipe, grid, params, device)
        tiles = TileGrid.over(_to_model(grid.shape, recipe.transpose), recipe.patch, params.step)
        ram = estimate_ram(
            recipe,
            tiles,
            folds=len(folds),
            weight_bytes=sum(fold.size for fold in folds),
            dtype=np.dtype(np.float32),
        )
        if ram > psutil.virtual_memory().total:
            raise OutOfMemory(
                f"the run needs about {ram / 2**30:.1f} GiB, this machine has "
                f"{psutil.virtual_memory().total / 2**30:.1f} GiB of memory",
                hint=HINT,
            )
        return RunPlan(tiles=tiles.tiles, ram_bytes=ram, notes=notes)

    def segment(self, volume: Volume, params: Any, context: RunContext) -> Iterator[LabelBlock]:
        """Segment a volume; blocks are whole sections in ascending order unless the model turns its axes."""
        with memory_errors_named():
            yield from self._segment(volume, params, context)

    def _segment(self, volume: Volume, params: NNUNetParams, context: RunContext) -> Iterator[LabelBlock]:
        installed = self._find(context.model)
        recipe = installed.recipe()
        folds = _chosen_folds(installed, params)
        for note in _refuse_or_note(installed, recipe, volume.grid, params, context.device):
            context.note(note)
        _set_threads(self._settings.threads)
        box = nonzero_box(volume, on_slab=context.checkpoint)
        if box is None:
            raise UnusableVolume("all voxels are zero in single precision", hint="rescale the grey values")
        if box.size != volume.grid.voxels and not numpy_adds_as_expected():
            context.note(
                f"NumPy {np.__version__} adds up cropped volumes in an order that is not known: the last bit of the "
                "normalisation may differ from stock nnU-Net's"
            )
        normalise = measure_normalisation(recipe, volume, box, on_slab=context.checkpoint)
        axis = recipe.transpose[0]
        resumed = context.final_rows if axis == 0 else 0
        labels = _Blocks(volume.grid.shape, axis, box, label_dtype(max(recipe.labels.names)))
        yield from labels.background(resumed, box.start[axis], on_block=context.checkpoint)
        first_row = max(0, resumed - box.start[axis])
        grid = TileGrid.over(_to_model(box.shape, recipe.transpose), recipe.patch, params.step)
        if first_row < grid.extent[0]:
            sweep = Sweep(
                volume=volume,
                box=box,
                recipe=recipe,
                normalise=normalise,
                grid=grid,
                networks=[installed.network(fold, recipe) for fold in folds],
                mirror_axes=mirrorings(installed.record.mirroring_axes) if params.mirroring else (),
                context=context,
            )
            for row, piece in sweep.labels(first_row):
                context.checkpoint()
                yield labels.block(row, np.transpose(piece, np.argsort(recipe.transpose)))
        after = max(resumed, box.stop[axis])
        yield from labels.background(after, volume.grid.shape[axis], on_block=context.checkpoint)

    def _installed(self) -> Iterator[InstalledModel]:
        return installed_models(BUNDLED, self._settings.models_dir)

    def _with_digest(self, digest: str) -> InstalledModel | None:
        return next((model for model in self._installed() if model.record.digest == digest), None)

    def _find(self, wanted: ModelInfo) -> InstalledModel:
        for model in self._installed():
            if model.record.name == wanted.name:
                if wanted.digest and model.record.digest != wanted.digest:
                    raise UnusableModel(
                        f"the model {wanted.name!r} was replaced by another one of the same name",
                        hint="submit the job again, or install the model that it was made for",
                    )
                return model
        raise UnknownModel(f"no model is called {wanted.name!r}", hint="see: cryomamba models list")


class _Blocks:
    """Puts labels of the box into blocks that are whole on all axes but that of the sweep."""

    def __init__(self, shape: Index3, axis: int, box: Region, dtype: np.dtype[Any]) -> None:
        self._shape, self._axis, self._box, self._dtype = shape, axis, box, dtype

    def background(self, first: int, last: int, *, on_block: Callable[[], None]) -> Iterator[LabelBlock]:
        """Blocks of background from `first` to `last` along the axis of the sweep."""
        turned = to_index((self._shape[self._axis], *(n for i, n in enumerate(self._shape) if i != self._axis)))
        depth = slab_depth(turned, voxels=BLOCK_VOXELS)
        for start in range(first, last, depth):
            on_block()
            region = self._region(start, min(start + depth, last))
            yield LabelBlock(region=region, labels=np.zeros(region.shape, self._dtype))

    def block(self, row: int, labels: NDArray[Any]) -> LabelBlock:
        """A block of labels (z, y, x) that start at `row` of the box."""
        start = self._box.start[self._axis] + row
        region = self._region(start, start + labels.shape[self._axis])
        if region.shape == labels.shape:
            return LabelBlock(region=region, labels=np.ascontiguousarray(labels))
        whole = np.zeros(region.shape, self._dtype)
        inner = list(self._box.slices)
        inner[self._axis] = slice(None)
        whole[tuple(inner)] = labels
        return LabelBlock(region=region, labels=whole)

    def _region(self, first: int, last: int) -> Region:
        start, stop = [0, 0, 0], list(self._shape)
        start[self._axis], stop[self._axis] = first, last
        return evolve(Region.of_shape(self._shape), start=start, stop=stop)


def _to_model(shape: Index3, transpose: Index3) -> Index3:
    return to_index(shape[axis] for axis in transpose)


def _chosen_folds(installed: InstalledModel, params: NNUNetParams) -> tuple[FoldRecord, ...]:
    known = {fold.fold: fold for fold in installed.record.folds}
    if params.folds is None:
        return tuple(known.values())
    missing = [str(fold) for fold in params.folds if str(fold) not in known]
    if missing:
        raise InvalidParameter(
            f"the model {installed.record.name!r} has no fold {', '.join(missing)}",
            hint=f"it has: {', '.join(known)}; leave folds out to use them all",
        )
    return tuple(known[str(fold)] for fold in params.folds)


def _refuse_or_note(
    installed: InstalledModel, recipe: ModelRecipe, grid: VoxelGrid, params: NNUNetParams, device: str
) -> tuple[str, ...]:
    if params.mode != "exact":
        raise InvalidParameter(f"mode {params.mode!r} is not available yet", hint="run with mode=exact")
    if device != "cpu":
        raise PluginUnavailable(f"nnU-Net models cannot run on {device!r} yet", hint="run on the device cpu")
    notes = list(judge_spacing(grid, installed.record.voxel_size, params.spacing))
    if params.mirroring and not installed.record.mirroring_axes:
        notes.append("the model was trained without mirroring, so tiles are not mirrored")
    if recipe.transpose[0] != 0:
        notes.append("the model turns the axes of the volume: a job that is interrupted starts from the beginning")
    return tuple(notes)


def _set_threads(threads: int) -> None:
    import torch

    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    torch.set_num_threads(threads or min(usable, psutil.cpu_count(logical=False) or usable))
