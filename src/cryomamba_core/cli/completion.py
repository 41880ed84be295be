"""What the shell can complete, and the command that teaches it to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.shell_completion import CompletionItem, get_completion_class

from cryomamba_core.cli.state import LOCAL, CliState

if TYPE_CHECKING:
    from cryomamba_core.interfaces import ModelRunner

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

#: How a shell is told to load the completion of this command.
PROGRAM = "cryomamba"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, models and jobs.

    bash: add  eval "$(cryomamba completion bash)"  to ~/.bashrc

    zsh: add  eval "$(cryomamba completion zsh)"  to ~/.zshrc

    fish: cryomamba completion fish > ~/.config/fish/completions/cryomamba.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, PROGRAM, complete_variable()).source())


def complete_variable() -> str:
    """The variable by which the shell asks for completions."""
    return f"_{PROGRAM.upper()}_COMPLETE"


def _quietly(complete: Callable[[click.Context, str], Iterable[tuple[str, str]]]) -> Completer:
    """A completer that offers nothing rather than an error in the middle of a line."""

    def completer(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            offers = list(complete(context, incomplete))
        except Exception:  # noqa: BLE001  # the command itself will say what is wrong
            return []
        return [CompletionItem(word, help=about) for word, about in offers if word.startswith(incomplete)]

    return completer


def _state(context: click.Context) -> CliState:
    given: dict[str, Any] = context.find_root().params
    data_dir, config = given.get("data_dir"), given.get("config")
    return CliState(data_dir=Path(data_dir) if data_dir else None, config=Path(config) if config else None)


def _models(context: click.Context, _: str) -> Iterable[tuple[str, str]]:
    runner = context.params.get("runner")
    for known in _state(context).host.runners:
        if runner in (None, known.name):
            for info in known.models():
                yield info.name, ", ".join(label.name for label in info.labels)


def _runners(context: click.Context, _: str) -> Iterable[tuple[str, str]]:
    return ((name, "") for name in _state(context).host.runners.names)


def _artifacts(context: click.Context, _: str) -> Iterable[tuple[str, str]]:
    for exporter in _state(context).host.exporters:
        yield exporter.artifact, exporter.media_type
    yield "manifest.json", "what was run on what"


def _jobs(context: click.Context, _: str) -> Iterable[tuple[str, str]]:
    """Ids from the data directory: asking the engine would start it."""
    if context.find_root().params.get("server", LOCAL) != LOCAL:
        return
    folder = _state(context).settings.jobs_dir
    for entry in sorted(folder.iterdir(), reverse=True):
        yield entry.name, ""


def _parameters(context: click.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    from cryomamba_core.parameters import describe_parameters

    runner = _chosen_runner(context)
    if runner is None:
        return
    for parameter in describe_parameters(runner.params_type):
        if incomplete.startswith(f"{parameter.name}="):
            for choice in parameter.choices:
                yield f"{parameter.name}={choice}", ""
        else:
            yield f"{parameter.name}=", parameter.help


def _chosen_runner(context: click.Context) -> ModelRunner | None:
    runners = _state(context).host.runners
    name, model = context.params.get("runner"), context.params.get("model")
    if name in runners:
        return runners.get(str(name))
    for runner in runners:
        if any(info.name == model for info in runner.models()):
            return runner
    return None


complete_models = _quietly(_models)
complete_runners = _quietly(_runners)
complete_artifacts = _quietly(_artifacts)
complete_jobs = _quietly(_jobs)
complete_parameters = _quietly(_parameters)
