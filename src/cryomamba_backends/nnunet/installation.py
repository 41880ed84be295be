"""Installing: a trained-model folder becomes a folder of safetensors and JSON, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, field, fields, frozen

from cryomamba_backends.nnunet.checkpoints import Checkpoint, read_checkpoint
from cryomamba_backends.nnunet.installed import (
    DATASET,
    MEMBER,
    PLANS,
    PREVIOUS,
    RECORD,
    FoldRecord,
    InstalledModel,
    ModelRecord,
)
from cryomamba_backends.nnunet.network import build_network, fill_network, unique_weights
from cryomamba_backends.nnunet.plans import (
    SCHEMES,
    BuiltNetworkRecipe,
    ModelRecipe,
    channel_names,
    parse_recipe,
    with_stock_classes,
)
from cryomamba_backends.nnunet.postprocessing import KeepLargest, read_postprocessing
from cryomamba_backends.nnunet.spacing import SpacingUnit, guess_unit, in_angstrom, spacing_unit
from cryomamba_backends.nnunet.supplied import NETWORKS, NORMALISATIONS, find_supplied
from cryomamba_backends.nnunet.trained_folder import (
    TrainedFolder,
    check_checkpoint,
    member_of,
    open_trained_folder,
    previous_stage_of,
)
from cryomamba_backends.nnunet.trainers import check_trainer, supplied_network, with_network
from cryomamba_backends.nnunet.working import working_bytes
from cryomamba_core.durable import PARTIAL, sha256_of, sync_file, sync_folder
from cryomamba_core.errors import InvalidParameter, ModelExists, UnusableModel
from cryomamba_core.wire import dump_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import torch

#: What of a dataset.json is kept; the rest may name patients, paths and files.
DATASET_KEYS = ("channel_names", "modality", "labels", "regions_class_order", "file_ending")

#: Models beyond these are taken for a mistake; stock nnU-Net itself looks for the best two.
MOST_MEMBERS = 16


@frozen(kw_only=True)
class InstallOptions:
    """What the user says about a model that its files do not.

    Attributes
    ----------
    spacing_unit
        What the plans' spacing is measured in; None to guess.
    accept_trainer
        Name of a trainer that is not known, but changes nothing but the training; of all models, as the next ones.
    accept_preprocessor, accept_label_manager
        Names of classes of the user's that do what nnU-Net's own do where volumes are segmented.
    checkpoint
        Name of the file to take of each fold of all models; None for the best one that there is.
    ensemble
        Further models whose probabilities are averaged with this one's: folders, or configurations trained beside.
    postprocessing
        The ``postprocessing.json`` that training has written, or its folder: what is done with whole masks.
    description, licence, citation
        For people; None to take what ``dataset.json`` has.
    """

    spacing_unit: SpacingUnit | None = None
    accept_trainer: str | None = None
    accept_preprocessor: str | None = None
    accept_label_manager: str | None = None
    checkpoint: str | None = None
    ensemble: tuple[str, ...] = ()
    postprocessing: str | None = None
    description: str | None = None
    licence: str | None = None
    citation: str | None = None


def parse_options(options: Mapping[str, str]) -> InstallOptions:
    """Options from their texts; raises `InvalidParameter` for one that is not known."""
    known = sorted(field.name for field in fields(InstallOptions))
    for key in options:
        if key not in known:
            raise InvalidParameter(f"option {key!r} is not known", hint=f"there are: {', '.join(known)}")
    texts: dict[str, Any] = dict(options)
    if "spacing_unit" in texts:
        texts["spacing_unit"] = spacing_unit(texts["spacing_unit"])
    if "checkpoint" in texts:
        check_checkpoint(texts["checkpoint"])
    if "ensemble" in texts:
        texts["ensemble"] = _names(texts["ensemble"])
    return InstallOptions(**texts)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(names) >= MOST_MEMBERS:
        raise InvalidParameter(
            f"ensemble {text!r} names no models, or more than {MOST_MEMBERS - 1}",
            hint="name those that are averaged with this one, with commas between, as in ensemble=2d,3d_lowres",
        )
    return names


def check_name(name: str) -> None:
    """Refuse a name that is no plain name of a folder."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
        raise InvalidParameter(
            f"{name!r} cannot be a model's name", hint="use up to 100 letters, digits, dots, dashes and underscores"
        )


@frozen(kw_only=True, eq=False)
class PreparedModel:
    """A trained model, read and checked, before it is written.

    Attributes
    ----------
    source, recipe
        Its files, and what the plans say.
    checkpoint
        The first fold's.
    weights
        Fold → its weights, each under one name.
    record
        What ``model.json`` will say; folds and name are still missing.
    previous
        The model that a cascade begins with; None for all others.
    members
        Further models of an ensemble.
    """

    source: TrainedFolder
    recipe: ModelRecipe
    checkpoint: Checkpoint
    weights: dict[str, dict[str, torch.Tensor]] = field(repr=False)
    record: ModelRecord
    previous: PreparedModel | None
    members: tuple[PreparedModel, ...]


def prepare(folder: Path, options: InstallOptions) -> PreparedModel:
    """Read a trained-model folder; nothing in it is executed and nothing is written.

    Raises
    ------
    ModelError
        UnusableModel, HostileModel or UnsupportedModel.
    PluginError
        If what builds its network is missing, or fails.
    """
    return _prepared(open_trained_folder(folder, checkpoint=options.checkpoint), options)


def _prepared(source: TrainedFolder, options: InstallOptions) -> PreparedModel:
    checkpoints = {fold: read_checkpoint(path) for fold, path in source.checkpoints.items()}
    first = next(iter(checkpoints.values()))
    source = _with_stock_classes(source, options)
    plans = parse_recipe(source.plans, source.dataset, first.configuration)
    supplied = supplied_network(plans.network, trainer=first.trainer, accepted=options.accept_trainer)
    recipe = with_network(plans, trainer=first.trainer, supplied=supplied)
    weights = {}
    for fold, checkpoint in checkpoints.items():
        check_trainer(checkpoint.trainer, options.accept_trainer)
        _check_same_model(first, checkpoint, fold)
        network = build_network(recipe.network, channels=recipe.channels, heads=recipe.labels.heads)
        fill_network(network, checkpoint.weights, source=f"fold_{fold}/{source.checkpoints[fold].name}")
        weights[fold] = unique_weights(network)
    steps = () if options.postprocessing is None else read_postprocessing(Path(options.postprocessing), recipe.labels)
    guess = None if options.spacing_unit else guess_unit(recipe.spacing)
    axes = _mirroring_axes(first, recipe)
    unit = options.spacing_unit or guess.unit  # type: ignore[union-attr]  # one of the two is there
    inner = evolve(options, spacing_unit=unit, ensemble=(), postprocessing=None)
    previous = _previous_stage(source, recipe, inner)
    members = _members(source, recipe, options.ensemble, inner)
    record = ModelRecord(
        name="",
        digest=_digest(recipe, axes, unit, weights, previous, members, steps),
        configuration=first.configuration,
        trainer=first.trainer,
        spacing_unit=unit,
        voxel_size=in_angstrom(recipe.source_spacing, unit),
        patch=recipe.patch,
        mirroring_axes=axes,
        folds=(),
        labels=recipe.labels.labels,
        previous=previous.record.digest if previous else "",
        members=tuple(member.record.digest for member in members),
        postprocessing=steps,
        supplied=supplied,
        working_bytes=_working_bytes(recipe),
        channels=channel_names(source.dataset),
        description=_text(options.description, source.dataset, "description"),
        licence=_text(options.licence, source.dataset, "licence", "license"),
        citation=_text(options.citation, source.dataset, "citation", "reference"),
        created_from=source.folder.name,
        notes=(
            *source.notes,
            *((guess.note,) if guess else ()),
            *_suppliers(recipe, supplied),
            *_of_others([previous, *members] if previous else members),
        ),
    )
    return PreparedModel(
        source=source,
        recipe=recipe,
        checkpoint=first,
        weights=weights,
        record=record,
        previous=previous,
        members=members,
    )


def write_model(prepared: PreparedModel, root: Path, name: str) -> InstalledModel:
    """Write a model's folder into `root`, whole and durable or not at all.

    Raises
    ------
    ModelExists
        If the name is taken.
    """
    root.mkdir(parents=True, exist_ok=True)
    target = root / name
    partial = root / f".{name}.{os.getpid()}{PARTIAL}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        record = _write_files(prepared, partial, name)
        _move(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(root)
    return InstalledModel(folder=target, record=record)


def _write_files(prepared: PreparedModel, folder: Path, name: str) -> ModelRecord:
    """Write a model's files durably into a folder, and those of models that belong to it into ones inside."""
    from safetensors.torch import save_file

    folds = []
    for fold, weights in prepared.weights.items():
        path = folder / f"fold_{fold}.safetensors"
        save_file(weights, path)
        folds.append(FoldRecord(fold=fold, file=path.name, size=path.stat().st_size, sha256=sha256_of(path)))
    dataset = {key: prepared.source.dataset[key] for key in DATASET_KEYS if key in prepared.source.dataset}
    record = evolve(prepared.record, name=name, folds=tuple(folds))
    (folder / PLANS).write_text(json.dumps(prepared.source.plans, indent=1) + "\n", encoding="utf-8")
    (folder / DATASET).write_text(json.dumps(dataset, indent=1) + "\n", encoding="utf-8")
    (folder / RECORD).write_text(dump_json(record, indent=1) + "\n", encoding="utf-8")
    for path in list(folder.iterdir()):
        path.chmod(0o644)
        sync_file(path)
    inner = {f"{MEMBER}{number}": member for number, member in enumerate(prepared.members, 1)}
    if prepared.previous is not None:
        inner[PREVIOUS] = prepared.previous
    for part, model in inner.items():
        (folder / part).mkdir()
        _write_files(model, folder / part, part)
    sync_folder(folder)
    return record


def automatic_name(folder: Path, digest: str) -> str:
    """A name made from the folder's and the digest."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.absolute().name).strip(".-")
    return f"{stem[:80] or 'model'}-{digest[:12]}"


def name_taken(name: str) -> ModelExists:
    """The error for a name that is taken."""
    return ModelExists(
        f"another model is already installed as {name!r}", hint="choose another --name, or remove that model's folder"
    )


def _move(partial: Path, target: Path) -> None:
    if target.exists():
        raise name_taken(target.name)
    try:
        partial.rename(target)
    except OSError as error:
        if target.exists():
            raise name_taken(target.name) from error
        raise


def _check_same_model(first: Checkpoint, other: Checkpoint, fold: str) -> None:
    for name in ("configuration", "mirroring_axes"):
        if getattr(first, name) != getattr(other, name):
            raise UnusableModel(
                f"fold {fold} has the {name.replace('_', ' ')} {getattr(other, name)!r}, "
                f"the first fold {getattr(first, name)!r}",
                hint="all folds must be of one training",
            )


def _mirroring_axes(checkpoint: Checkpoint, recipe: ModelRecipe) -> tuple[int, ...]:
    """Model axes; a checkpoint of a planar network counts those of its sections."""
    axes = tuple(axis + recipe.planar for axis in checkpoint.mirroring_axes)
    if max(axes, default=0) > 2:
        raise UnusableModel(f"the checkpoint allows mirroring on the axes {checkpoint.mirroring_axes} of a section")
    return axes


def _with_stock_classes(source: TrainedFolder, options: InstallOptions) -> TrainedFolder:
    """A trained model in which the classes that the user vouches for are nnU-Net's own."""
    plans, notes = source.plans, list(source.notes)
    vouched = {"preprocessor": options.accept_preprocessor, "label_manager": options.accept_label_manager}
    for kind, name in vouched.items():
        changed = with_stock_classes(plans, **{"preprocessor": None, "label_manager": None, kind: name})
        if changed != plans:
            notes.append(f"{name} was taken for nnU-Net's own, as asked for")
        plans = changed
    return evolve(source, plans=plans, notes=tuple(notes))


def _of_others(models: Iterable[PreparedModel]) -> Iterator[str]:
    """What was chosen for models that belong to another one."""
    for model in models:
        yield from (f"{model.record.configuration}: {note}" for note in model.record.notes)


def _suppliers(recipe: ModelRecipe, network: str) -> Iterator[str]:
    """Which packages supply what the model needs, one sentence each."""
    if network:
        yield f"its network is built by {find_supplied(NETWORKS, network).package}"
    for scheme in dict.fromkeys(channel.scheme for channel in recipe.inputs):
        if scheme not in SCHEMES:
            yield f"{scheme} is of {find_supplied(NORMALISATIONS, scheme).package}"


def _previous_stage(source: TrainedFolder, recipe: ModelRecipe, options: InstallOptions) -> PreparedModel | None:
    if recipe.previous_stage is None:
        return None
    folder = previous_stage_of(source, recipe.previous_stage, checkpoint=options.checkpoint)
    previous = _prepared(folder, options)
    same = (previous.recipe.transpose, previous.recipe.labels) == (recipe.transpose, recipe.labels)
    if not same or previous.recipe.planar or previous.recipe.previous_stage:
        raise UnusableModel(
            f"{previous.source.folder.name} is no stage before {source.folder.name}: its axes or labels are others",
            hint="both must be of one training",
        )
    return previous


def _members(
    source: TrainedFolder, recipe: ModelRecipe, names: Sequence[str], options: InstallOptions
) -> tuple[PreparedModel, ...]:
    """The further models of an ensemble."""
    folders = [member_of(source, named, checkpoint=options.checkpoint) for named in names]
    places = [folder.folder.resolve() for folder in (source, *folders)]
    if len(set(places)) < len(places):
        raise InvalidParameter(
            f"ensemble {','.join(names)!r} names a model twice, or the one that is installed",
            hint="name only those that are averaged with it, each once",
        )
    return tuple(_member(source, recipe, folder, options) for folder in folders)


def _member(
    source: TrainedFolder, recipe: ModelRecipe, folder: TrainedFolder, options: InstallOptions
) -> PreparedModel:
    """A further model of an ensemble."""
    member = _prepared(folder, options)
    for what in ("labels", "transpose"):
        if getattr(member.recipe, what) != getattr(recipe, what):
            raise UnusableModel(
                f"{folder.folder.name} cannot be averaged with {source.folder.name}: its {what} is another",
                hint="models of an ensemble have the same labels in the same order, and the same transpose_forward",
            )
    if len(member.recipe.inputs) != len(recipe.inputs):
        raise UnusableModel(
            f"{folder.folder.name} takes {len(member.recipe.inputs)} channels, "
            f"{source.folder.name} takes {len(recipe.inputs)}",
            hint="models of an ensemble look at the same channels",
        )
    return member


def _working_bytes(recipe: ModelRecipe) -> int:
    if not isinstance(recipe.network, BuiltNetworkRecipe):
        return 0
    network = build_network(recipe.network, channels=recipe.channels, heads=recipe.labels.heads)
    return working_bytes(network, (1, recipe.channels, *recipe.network.patch))


def _text(given: str | None, dataset: dict[str, Any], *keys: str) -> str:
    if given is not None:
        return given
    for key in keys:
        if isinstance(dataset.get(key), str):
            return str(dataset[key])[:2000]
    return ""


def _digest(
    recipe: ModelRecipe,
    mirroring_axes: Iterable[int],
    unit: SpacingUnit,
    weights: dict[str, dict[str, torch.Tensor]],
    previous: PreparedModel | None,
    members: Sequence[PreparedModel],
    steps: Sequence[KeepLargest],
) -> str:
    """SHA-256 over what decides the labels, in one canonical form."""
    decisive: dict[str, Any] = {
        "recipe": asdict(recipe, recurse=True),
        "mirroring_axes": list(mirroring_axes),
        "spacing_unit": unit,
        "previous": previous.record.digest if previous else None,
    }
    if members:
        decisive["members"] = [member.record.digest for member in members]
    if steps:
        decisive["postprocessing"] = [asdict(step) for step in steps]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True, separators=(",", ":")).encode())
    for fold in sorted(weights):
        digest.update(f"\nfold {fold}\n".encode())
        for key in sorted(weights[fold]):
            tensor = weights[fold][key]
            digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
