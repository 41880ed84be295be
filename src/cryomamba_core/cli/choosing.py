"""What a request means: which model, which runner, which parameters, which results."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from attrs import frozen

from cryomamba_core.cli.state import CliState
from cryomamba_core.errors import InputError, InvalidParameter, MissingFile, UnknownModel, UnknownPlugin, UnusableModel

if TYPE_CHECKING:
    from cryomamba_core.interfaces import ModelRunner
    from cryomamba_core.models import ModelInfo
    from cryomamba_core.plugins import PluginHost

#: The artifact that every job makes, asked for or not.
MANIFEST = "manifest.json"


@frozen(kw_only=True)
class Choice:
    """What is to be run.

    Attributes
    ----------
    runner, model
        Names.
    params
        For the runner, as JSON types.
    """

    runner: str
    model: str
    params: dict[str, Any]


def choose(
    state: CliState, known: Sequence[ModelInfo], *, model: str | None, runner: str | None, assignments: Sequence[str]
) -> Choice:
    """Settle model, runner and parameters; a model that is a folder is installed.

    Parameters
    ----------
    state
        Of this call.
    known
        Models that the engine has.
    model, runner
        As the user named them.
    assignments
        ``name=value`` pairs.
    """
    if model is None and runner is None:
        raise click.UsageError(
            f"say what is to segment, with --model or --runner; there are: {_listed(known)}",
            click.get_current_context(silent=True),
        )
    if runner is not None and runner not in {info.runner for info in known}:
        state.host.runners.get(runner)
    found = _install(state, known, model, runner) if model is not None and _is_folder(model, known) else None
    found = found or find_model(known, model, runner, remote=state.remote)
    return Choice(runner=found.runner, model=found.name, params=parameters_for(state.host, found.runner, assignments))


def find_model(known: Sequence[ModelInfo], name: str | None, runner: str | None, *, remote: bool = False) -> ModelInfo:
    """The model that a name, a runner or both mean, on a `remote` engine or here; raises `UnknownModel`."""
    offered = [info for info in known if runner in (None, info.runner)]
    found = [info for info in offered if name in (None, info.name)]
    if len(found) == 1:
        return found[0]
    if found and name is not None:
        runners = ", ".join(info.runner for info in found)
        raise UnknownModel(f"several runners have a model called {name!r}", hint=f"add --runner, one of: {runners}")
    if name is None:
        hint = f"add --model, one of: {_listed(offered)}"
        raise UnknownModel(f"runner {runner} has {'several models' if found else 'no model'}", hint=hint)
    near = difflib.get_close_matches(name, [info.name for info in offered], n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {_listed(offered)};"
    raise UnknownModel(f"no model is called {name!r}", hint=f"{hint} add one {install_words(remote=remote)}")


def install_words(*, remote: bool) -> str:
    """How a model is added, and on which computer."""
    where = "on the server's machine, " if remote else ""
    return f"{where}with: cryomamba models install FOLDER --name NAME"


def parameters_for(host: PluginHost, runner: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Parse ``name=value`` pairs for a runner; for one that only the engine has, without its help."""
    from cryomamba_core.parameters import parse_assignments, parse_untyped

    if runner in host.runners:
        return parse_assignments(host.runners.get(runner).params_type, assignments)
    return parse_untyped(assignments)


def runner_for_folder(host: PluginHost, folder: Path, runner: str | None) -> ModelRunner:
    """The runner that takes a trained-model folder.

    Raises
    ------
    MissingFile
        If there is no such folder.
    UnusableModel
        If no runner recognises it.
    """
    if not folder.is_dir():
        raise MissingFile(f"there is no folder {folder}", hint="name the folder of a trained model")
    if runner is not None:
        return host.runners.get(runner)
    for candidate in host.runners:
        if candidate.recognises(folder):
            return candidate
    raise UnusableModel(
        f"no runner recognises {folder} as a trained model",
        hint=f"add --runner, one of: {', '.join(host.runners.names)}, to hear what that runner misses",
    )


def require_local(state: CliState, reason: str) -> None:
    """Refuse what only works with the engine on this machine."""
    if state.remote:
        raise InputError(reason, hint="do this there, without --server")


def artifacts_for(
    host: PluginHost, wanted: Sequence[str]
) -> tuple[tuple[str, ...] | None, frozenset[str], frozenset[str]]:
    """What to ask of the engine, and which files to keep.

    Parameters
    ----------
    host
        Knows the exporters.
    wanted
        Artifacts or exporters as the user named them; none for all.

    Returns
    -------
    asked
        For `JobConfig.artifacts`.
    kept
        Names of the files that the user wants.
    left_out
        Names of those that nobody wants. A file that is among neither is a companion of one that is wanted.
    """
    every = {exporter.artifact for exporter in host.exporters}
    if not wanted:
        return None, frozenset(every | {MANIFEST}), frozenset()
    names = []
    for name in dict.fromkeys(wanted):
        if name in (MANIFEST, MANIFEST.partition(".")[0]):
            names.append(MANIFEST)
            continue
        try:
            names.append(host.exporter_for(name).artifact)
        except UnknownPlugin as error:
            near = difflib.get_close_matches(name, [*every, MANIFEST], n=1)
            hint = f"did you mean {near[0]}?" if near else f"{error.hint}, {MANIFEST}"
            raise InvalidParameter(error.message, hint=hint) from error
    asked = tuple(name for name in dict.fromkeys(names) if name != MANIFEST)
    return asked, frozenset(names), frozenset(every | {MANIFEST}).difference(names)


def _is_folder(model: str, known: Sequence[ModelInfo]) -> bool:
    """Whether a model is named by its folder: an installed name comes first, unless it is written as a path."""
    written_as_path = os.sep in model or model.startswith(".")
    return written_as_path or (model not in {info.name for info in known} and Path(model).is_dir())


def _install(state: CliState, known: Sequence[ModelInfo], model: str, runner: str | None) -> ModelInfo:
    require_local(state, f"the folder {model} cannot be installed on another machine")
    folder = Path(model)
    info = runner_for_folder(state.host, folder, runner).install(folder.absolute())
    if info.name not in {known_info.name for known_info in known}:
        state.err.print(f"installed {model} as {info.name}")
    return info


def _listed(known: Sequence[ModelInfo]) -> str:
    return ", ".join(sorted({info.name for info in known})) or "none"
