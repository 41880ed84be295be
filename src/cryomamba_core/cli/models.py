"""``cryomamba models``: what can segment, and how to add to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from cryomamba_core.cli.completion import complete_models, complete_runners
from cryomamba_core.cli.options import json_option, server_options
from cryomamba_core.cli.state import CliState
from cryomamba_core.errors import InvalidParameter

if TYPE_CHECKING:
    from cryomamba_core.interfaces import ModelRunner
    from cryomamba_core.models import ModelInfo


@click.group()
def models() -> None:
    """List, show and install models."""


@models.command("list")
@server_options
@json_option
@click.pass_obj
def list_models(state: CliState, *, as_json: bool) -> None:
    """List the models that the engine has."""
    from rich.text import Text

    from cryomamba_core import wording
    from cryomamba_core.cli.choosing import install_words
    from cryomamba_core.cli.tables import new_table
    from cryomamba_core.wire import to_plain

    known = state.ask(lambda session: session.models())
    if as_json:
        state.print_json({"models": [to_plain(model) for model in known]})
        return
    if not known:
        state.err.print(f"no models yet; add one {install_words(remote=state.remote)}")
        return
    table = new_table("model", "runner", "voxel size", "labels")
    for model in known:
        size = wording.lengths(model.voxel_size, "Å") if model.voxel_size else "any"
        labels = Text(", ").join(Text.assemble(("■ ", label.color), label.name) for label in model.labels)
        table.add_row(Text(model.name, style="bold"), model.runner, size, labels)
    state.out.print(table)


@models.command("show")
@click.argument("name", shell_complete=complete_models)
@server_options
@json_option
@click.pass_obj
def show_model(state: CliState, name: str, *, as_json: bool) -> None:
    """Show a model, and the parameters that its runner takes."""
    from cryomamba_core.cli.choosing import find_model
    from cryomamba_core.parameters import describe_parameters, format_value
    from cryomamba_core.wire import to_plain

    model = find_model(state.ask(lambda session: session.models()), name, None, remote=state.remote)
    runners = state.host.runners
    parameters = describe_parameters(runners.get(model.runner).params_type) if model.runner in runners else ()
    if not as_json:
        _show(state, model)
        _show_parameters(state, model, parameters)
        return
    described = [
        {
            "name": parameter.name,
            "type": parameter.type_name,
            "default": to_plain(parameter.default),
            "default_text": format_value(parameter.default),
            "help": parameter.help,
            "choices": list(parameter.choices),
        }
        for parameter in parameters
    ]
    state.print_json({**to_plain(model), "parameters": described})


@models.command("install")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", help="Name to install it under; made from the folder's name if left out.")
@click.option("--runner", help="Runner that will run it; found by the folder's files.", shell_complete=complete_runners)
@click.option(
    "--spacing-unit",
    type=click.Choice(["angstrom-as-mm", "mm", "voxels"]),
    help="What the spacing in the model's plans means; guessed and said if left out.",
)
@click.option(
    "--option",
    "further",
    metavar="NAME=VALUE",
    multiple=True,
    help="Something else that the runner should know, e.g. licence=CC-BY-4.0; may be repeated.",
)
@server_options
@json_option
@click.pass_obj
def install_model(
    state: CliState,
    folder: Path,
    *,
    name: str | None,
    runner: str | None,
    spacing_unit: str | None,
    further: tuple[str, ...],
    as_json: bool,
) -> None:
    """Install a trained model from a folder. Nothing in it is executed."""
    from cryomamba_core.cli.choosing import require_local, runner_for_folder
    from cryomamba_core.wire import to_plain

    require_local(state, "models are installed on the machine of the engine")
    chosen: ModelRunner = runner_for_folder(state.host, folder, runner)
    options = _parse_options(further) | ({} if spacing_unit is None else {"spacing_unit": spacing_unit})
    model = chosen.install(folder.absolute(), name=name, options=options)
    if as_json:
        state.print_json(to_plain(model))
        return
    state.err.print(f"installed as {model.name}")
    _show(state, model)


def _parse_options(given: tuple[str, ...]) -> dict[str, str]:
    options = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise InvalidParameter(f"{item!r} is no option", hint="write it as NAME=VALUE")
        options[name] = value
    return options


def _show(state: CliState, model: ModelInfo) -> None:
    from rich.text import Text

    from cryomamba_core import wording
    from cryomamba_core.cli.tables import new_form

    state.out.print(Text(model.name, style="bold"))
    form = new_form()
    form.add_row("  runner", model.runner)
    for label in model.labels:
        form.add_row(f"  label {label.value}", Text.assemble(("■ ", label.color), label.name))
    form.add_row("  voxel size", wording.lengths(model.voxel_size, "Å") if model.voxel_size else "any")
    facts = {
        "description": model.description,
        "licence": model.licence,
        "citation": model.citation,
        "digest": model.digest,
        **model.details,
    }
    for key, value in facts.items():
        if value:
            form.add_row(f"  {key}", value)
    state.out.print(form)


def _show_parameters(state: CliState, model: ModelInfo, parameters: Any) -> None:
    from rich.text import Text

    from cryomamba_core.cli.tables import new_table
    from cryomamba_core.parameters import format_value

    if not parameters:
        return
    state.out.print()
    state.out.print(Text(f"parameters of runner {model.runner}  (segment --param NAME=VALUE)", style="dim"))
    table = new_table("  name", "default", "value", "meaning")
    for parameter in parameters:
        default = format_value(parameter.default)
        table.add_row(f"  {parameter.name}", default, parameter.type_name, parameter.help)
    state.out.print(table)
