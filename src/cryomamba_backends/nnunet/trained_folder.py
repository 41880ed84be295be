"""A trained-model folder as nnU-Net writes it and its users pass it on. Nothing in it is trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from cryomamba_core.errors import InvalidParameter, UnusableModel

#: Names of checkpoints, the preferred one first.
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")

#: The configuration that is taken where a folder holds several.
PREFERRED = "3d_fullres"

#: A larger JSON file is no plans and no dataset.
MAX_JSON_BYTES = 16 << 20


@frozen(kw_only=True)
class TrainedFolder:
    """The files of a trained model.

    Attributes
    ----------
    folder
        Where ``plans.json`` lies.
    plans, dataset
        Content of ``plans.json`` and ``dataset.json``.
    checkpoints
        Fold (``0``, ``1``, … or ``all``) → its checkpoint, in order.
    notes
        Choices that were made, one sentence each.
    """

    folder: Path
    plans: dict[str, Any]
    dataset: dict[str, Any]
    checkpoints: Mapping[str, Path]
    notes: tuple[str, ...]


def holds_trained_model(folder: Path) -> bool:
    """Whether the names of the files are those of a trained model."""
    return bool(_candidates(folder))


def open_trained_folder(folder: Path, *, checkpoint: str | None = None) -> TrainedFolder:
    """Find the files of a trained model; checkpoints are not read yet.

    Parameters
    ----------
    folder
        The model's, or one that holds it.
    checkpoint
        Name of the file to take of each fold; None for the best of `CHECKPOINTS` that there is.

    Raises
    ------
    UnusableModel
        If one is missing; it is named.
    """
    if not folder.is_dir():
        raise UnusableModel(f"{folder} is no folder", hint="give the folder that holds plans.json and dataset.json")
    found = _candidates(folder)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UnusableModel(
            f"{folder.name} is no trained model: it has no plans.json, and of models inside: {names}",
            hint="give the folder that holds plans.json, dataset.json and fold_0",
        )
    checkpoints, notes = _checkpoints(found[0], checkpoint)
    return TrainedFolder(
        folder=found[0],
        plans=read_json(found[0] / "plans.json"),
        dataset=read_json(found[0] / "dataset.json"),
        checkpoints=checkpoints,
        notes=notes,
    )


def previous_stage_of(source: TrainedFolder, configuration: str, *, checkpoint: str | None = None) -> TrainedFolder:
    """The model that a cascade begins with: nnU-Net leaves it beside the one that goes on from it.

    Parameters
    ----------
    source
        The one that goes on.
    configuration
        The first one's.
    checkpoint
        As `open_trained_folder` takes it.

    Raises
    ------
    UnusableModel
        If it is not there.
    """
    folder = _beside(source, configuration)
    if not (folder / "plans.json").is_file():
        raise UnusableModel(
            f"{source.folder.name} goes on from a {configuration} model, but there is no {folder.name} beside it",
            hint=f"copy the trained {configuration} model there",
        )
    return open_trained_folder(folder, checkpoint=checkpoint)


def member_of(source: TrainedFolder, named: str, *, checkpoint: str | None = None) -> TrainedFolder:
    """A model that is averaged with another one.

    Parameters
    ----------
    source
        The other one.
    named
        Its folder, or the name of a configuration whose folder lies beside the other one, as nnU-Net leaves it.
    checkpoint
        As `open_trained_folder` takes it.

    Raises
    ------
    UnusableModel
        If it is not there.
    """
    beside = _beside(source, named)
    plain = Path(named).name == named
    if plain and (beside / "plans.json").is_file():
        return open_trained_folder(beside, checkpoint=checkpoint)
    if not Path(named).is_dir():
        looked = f", and no folder {beside.name} beside {source.folder.name}" if plain else ""
        raise UnusableModel(
            f"there is no model {named!r} to average with: no such folder{looked}",
            hint="give the folder of a trained model, or the name of a configuration that was trained beside, as in 2d",
        )
    return open_trained_folder(Path(named), checkpoint=checkpoint)


def _beside(source: TrainedFolder, configuration: str) -> Path:
    """Where nnU-Net leaves the model of another configuration of the same trainer and plans."""
    folder = source.folder.absolute()
    return folder.parent / f"{folder.name.rpartition('__')[0]}__{configuration}"


def check_checkpoint(name: str) -> None:
    """Refuse a name of checkpoints that is no plain name of a file."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
        raise InvalidParameter(
            f"{name!r} cannot be a checkpoint's name", hint="give the name of the file alone, as in checkpoint_best.pth"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a trained model.

    Raises
    ------
    UnusableModel
        If there is none.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UnusableModel(f"{path.name} has more than {MAX_JSON_BYTES >> 20} MiB, which no {path.name} has")
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UnusableModel(f"{path.name} is missing", hint=f"copy it into {path.parent}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableModel(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UnusableModel(f"{path.name} holds no JSON object")
    return content


def _candidates(folder: Path) -> list[Path]:
    if (folder / "plans.json").is_file():
        return [folder]
    if not folder.is_dir():
        return []
    every = sorted(path.parent for path in folder.glob("*__*__*/plans.json"))
    preferred = [path for path in every if path.name.endswith(f"__{PREFERRED}")]
    return preferred or every


def _checkpoints(folder: Path, wanted: str | None) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The checkpoints of the numbered folds, or of ``fold_all`` if there are none, as stock nnU-Net picks them."""
    names = CHECKPOINTS if wanted is None else (wanted,)
    folds = [path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir()]
    numbered = sorted((fold for fold in folds if fold.isdecimal() and fold.isascii()), key=int)
    if not folds:
        raise UnusableModel(f"{folder.name} has no folds", hint="it should have folders fold_0, fold_1, … or fold_all")
    notes: list[str] = []
    for chosen in (numbered, ["all"] if "all" in folds else []):
        for name in names:
            found = {
                fold: folder / f"fold_{fold}" / name for fold in chosen if (folder / f"fold_{fold}" / name).is_file()
            }
            if not found:
                continue
            if wanted is not None:
                notes.append(f"{name} was taken, as asked for")
            elif name != CHECKPOINTS[0]:
                notes.append(f"no fold has a {CHECKPOINTS[0]}: {name} was taken")
            left_out = sorted(set(folds) - set(found))
            if left_out:
                notes.append(f"left out: {', '.join(f'fold_{fold}' for fold in left_out)}")
            return found, tuple(notes)
    there = sorted({path.name for fold in folds for path in (folder / f"fold_{fold}").glob("*.pth")})
    raise UnusableModel(
        f"no fold of {folder.name} has a {names[0]}",
        hint=f"there are: {', '.join(there)}; --option checkpoint takes one of them"
        if there
        else "train to the end, or copy the file",
    )
