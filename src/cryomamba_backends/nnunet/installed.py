"""Installed models: one folder each, of safetensors and JSON, described by a record."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from cryomamba_backends.nnunet.network import build_network, fill_network, over_sections
from cryomamba_backends.nnunet.plans import ModelRecipe, parse_recipe
from cryomamba_backends.nnunet.postprocessing import KeepLargest
from cryomamba_backends.nnunet.spacing import SpacingUnit
from cryomamba_backends.nnunet.trainers import with_network
from cryomamba_core.durable import sha256_of
from cryomamba_core.errors import CryoMambaError, UnusableModel
from cryomamba_core.geometry import Index3, Vector3
from cryomamba_core.labels import Label
from cryomamba_core.models import ModelInfo
from cryomamba_core.wire import load_json

if TYPE_CHECKING:
    import torch

RUNNER = "nnunet"
RECORD = "model.json"
PLANS = "plans.json"
DATASET = "dataset.json"

#: Folder, in that of a cascade, of the model that it begins with.
PREVIOUS = "previous"

#: Beginning of the names of folders, in that of an ensemble, of its further models; their numbers follow.
MEMBER = "member-"

#: Version of the layout of an installed model's folder.
FORMAT = 1

log = logging.getLogger(__name__)


@frozen(kw_only=True)
class FoldRecord:
    """The weights of one fold.

    Attributes
    ----------
    fold
        ``0``, ``1``, … or ``all``.
    file
        Its safetensors file.
    size
        In bytes.
    sha256
        Hex digest of the file.
    """

    fold: str
    file: str = field()
    size: int
    sha256: str

    @file.validator
    def _plain(self, _: object, file: str) -> None:
        if not re.fullmatch(r"fold_(\d+|all)\.safetensors", file, re.ASCII):
            raise UnusableModel(f"{file!r} is no name of a file with weights")


@frozen(kw_only=True)
class ModelRecord:
    """What ``model.json`` says.

    Attributes
    ----------
    format, runner
        Layout of the folder, and who reads it.
    name
        Under which it was installed; the folder's own name counts.
    digest
        SHA-256 (hex) over what decides the labels.
    configuration, trainer
        nnU-Net's names.
    spacing_unit
        What the plans' spacing is measured in.
    voxel_size
        That spacing, (z, y, x) in Å; None where it is no length.
    patch
        Extent of a tile, in model axes.
    mirroring_axes
        Model axes that may be mirrored.
    folds
        The weights.
    labels
        What it segments.
    previous
        Digest of the model that a cascade begins with; empty for all others.
    members
        Digests of further models whose probabilities are averaged with this one's; empty but for an ensemble.
    postprocessing
        What training has found to be worth doing with its masks.
    supplied
        Name under which a plugin builds the network; empty where none is needed.
    working_bytes
        What a network that the plans do not describe holds while it works on a tile; 0 for all others.
    channels
        What the channels of a volume are to be, in their order; empty where that was not noted, and there is one.
    description, licence, citation
        For people.
    created_from
        Name of the folder that it was made from.
    notes
        Choices that were made when it was installed.
    """

    format: int = FORMAT
    runner: str = RUNNER
    name: str
    digest: str
    configuration: str
    trainer: str
    spacing_unit: SpacingUnit
    voxel_size: Vector3 | None
    patch: Index3
    mirroring_axes: tuple[int, ...]
    folds: tuple[FoldRecord, ...]
    labels: tuple[Label, ...]
    previous: str = ""
    members: tuple[str, ...] = ()
    postprocessing: tuple[KeepLargest, ...] = ()
    supplied: str = ""
    working_bytes: int = 0
    channels: tuple[str, ...] = ()
    description: str = ""
    licence: str = ""
    citation: str = ""
    created_from: str = ""
    notes: tuple[str, ...] = ()


@frozen(kw_only=True)
class InstalledModel:
    """An installed model and where it lies."""

    folder: Path
    record: ModelRecord

    @property
    def info(self) -> ModelInfo:
        """The model as users see it."""
        record = self.record
        details = {
            "configuration": record.configuration,
            "folds": ", ".join(fold.fold for fold in record.folds),
            "mirroring": ", ".join(map(str, record.mirroring_axes)) or "none",
            "patch": " × ".join(map(str, record.patch)),
            "spacing unit": record.spacing_unit,
            "trainer": record.trainer,
        }
        if len(record.channels) > 1:
            details["channels"] = ", ".join(record.channels)
        if record.previous:
            details["first stage"] = record.previous[:12]
        if record.members:
            details["ensemble"] = ", ".join(digest[:12] for digest in record.members)
        if record.postprocessing:
            details["postprocessing"] = "; ".join(step.told for step in record.postprocessing)
        if record.notes:
            details["notes"] = "; ".join(record.notes)
        return ModelInfo(
            name=record.name,
            runner=RUNNER,
            labels=record.labels,
            voxel_size=record.voxel_size,
            digest=record.digest,
            description=record.description,
            licence=record.licence,
            citation=record.citation,
            details=details,
        )

    def recipe(self) -> ModelRecipe:
        """The plans, checked, with the network that the trainer made of them."""
        try:
            plans = json.loads((self.folder / PLANS).read_bytes())
            dataset = json.loads((self.folder / DATASET).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from error
        recipe = parse_recipe(plans, dataset, self.record.configuration)
        return with_network(recipe, trainer=self.record.trainer, supplied=self.record.supplied)

    def previous_stage(self) -> InstalledModel | None:
        """The model that a cascade begins with.

        Raises
        ------
        CryoMambaError
            If it cannot be read.
        """
        if not self.record.previous:
            return None
        return self._inner(PREVIOUS, self.record.previous)

    def members(self) -> tuple[InstalledModel, ...]:
        """Further models whose probabilities are averaged with this one's.

        Raises
        ------
        CryoMambaError
            If one cannot be read.
        """
        return tuple(self._inner(f"{MEMBER}{n}", digest) for n, digest in enumerate(self.record.members, 1))

    def decisive_recipe(self) -> ModelRecipe:
        """The plans that decide how a run goes: this model's, or those of the first of an ensemble that is planar."""
        own = self.recipe()
        recipes = [own, *(member.recipe() for member in self.members())]
        return next((recipe for recipe in recipes if recipe.planar), own)

    def _inner(self, name: str, digest: str) -> InstalledModel:
        """A model in a folder inside, which must have this digest."""
        model = read_installed(self.folder / name)
        if model.record.digest != digest:
            raise self._damaged(f"its folder {name} holds another model")
        return model

    def network(self, fold: FoldRecord, recipe: ModelRecipe) -> torch.nn.Module:
        """The network of tiles (1, channels, z, y, x) with the weights of a fold, on the CPU, ready to run.

        Raises
        ------
        UnusableModel
            If the weights are not those that were installed.
        PluginError
            If what builds the network is missing, or fails.
        """
        network = build_network(recipe.network, channels=recipe.channels, heads=recipe.labels.heads)
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / fold.file
        try:
            if sha256_of(path) != fold.sha256:
                raise self._damaged(f"{fold.file} has changed since it was installed")
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            raise self._damaged(" ".join(str(error).split())) from error
        fill_network(network, weights, source=fold.file)
        log.info("the weights %s of the model %r are loaded", fold.file, self.record.name)
        return over_sections(network) if recipe.planar else network

    def network_key(self, fold: FoldRecord, recipe: ModelRecipe) -> Hashable:
        """Equal for two networks that are the same, of files that nobody has touched in between.

        Raises
        ------
        UnusableModel
            If there is no such file.
        """
        try:
            file = (self.folder / fold.file).stat()
        except OSError as error:
            raise self._damaged(str(error)) from error
        state = file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns
        built = repr(recipe.network), recipe.patch, recipe.channels, recipe.labels.heads, recipe.planar
        return self.record.digest, fold.sha256, state, built

    def _damaged(self, reason: str) -> UnusableModel:
        return UnusableModel(
            f"the installed model {self.record.name!r} is damaged: {reason}",
            hint=f"remove the folder {self.folder} and install the model again",
        )


def read_installed(folder: Path) -> InstalledModel:
    """An installed model of this runner.

    Raises
    ------
    CryoMambaError
        If its record cannot be read.
    """
    try:
        text = (folder / RECORD).read_bytes()
    except OSError as error:
        raise UnusableModel(f"{folder / RECORD} cannot be read: {error.strerror}") from error
    record = load_json(text, ModelRecord)
    if record.format != FORMAT:
        raise UnusableModel(f"{folder / RECORD} is of format {record.format}, this version reads {FORMAT}")
    missing = [fold.file for fold in record.folds if not (folder / fold.file).is_file()]
    if missing or not record.folds:
        raise UnusableModel(f"{folder} lacks {', '.join(missing) or 'weights'}")
    return InstalledModel(folder=folder, record=evolve(record, name=folder.name))


def installed_models(*roots: Path) -> Iterator[InstalledModel]:
    """Installed models of this runner in each of the folders, by name; broken ones are logged and left out."""
    seen: set[str] = set()
    for root in roots:
        for record in sorted(root.glob(f"[!.]*/{RECORD}")):
            folder = record.parent
            if folder.name in seen or not _is_ours(record):
                continue
            try:
                model = read_installed(folder)
            except CryoMambaError as error:
                log.warning("the model in %s is left out: %s", folder, error)
                continue
            seen.add(folder.name)
            yield model


def _is_ours(record: Path) -> bool:
    """Whether a record belongs to this runner; one that cannot be read may."""
    try:
        content = json.loads(record.read_bytes())
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(content, dict) or content.get("runner", RUNNER) == RUNNER
