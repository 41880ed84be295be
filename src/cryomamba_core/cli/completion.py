"""What the shell can complete, and the command that teaches it to."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from cryomamba_core.cli.options import named_behind
from cryomamba_core.cli.state import CliState
from cryomamba_core.wording import harmless, one_line

if TYPE_CHECKING:
    from cryomamba_core.interfaces import ModelRunner, Session
    from cryomamba_core.models import ModelInfo

T = TypeVar("T")
Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

#: Seconds that a server has to answer.
PATIENCE = 1.0
#: Jobs that are offered.
JOBS = 50

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


def quietly(complete: Callable[[click.Context, str], Iterable[tuple[str, str]]]) -> Completer:
    """A completer that offers nothing rather than an error in the middle of a line."""

    def completer(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            offers = list(complete(context, incomplete))
        except Exception:  # noqa: BLE001  # the command itself will say what is wrong
            return []
        return [
            CompletionItem(harmless(one_line(word)), help=harmless(one_line(about)))
            for word, about in offers
            if word.startswith(incomplete)
        ]

    return completer


@add_completion_class
class WholeWords(BashComplete):
    """Completion for bash, which tears words apart at colons and equals signs, and replaces the last piece only."""

    #: A name that waits for its value is not ended by a space.
    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)\n", "COMPREPLY+=($value)\n            [[ $value == *= ]] && compopt -o nospace\n"
    )
    _kept = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is to be completed, and that one as far as it is typed."""
        typed, cursor = split_arg_string(os.environ["COMP_WORDS"]), int(os.environ["COMP_CWORD"])
        words, piece = glue_words(typed, cursor)
        option, equals, value = words[-1].partition("=")
        if piece != words[-1] and equals and option.startswith("--"):
            words[-1:] = [option, value]
        self._kept = words[-1].removesuffix(piece)
        return words[1:-1], words[-1]

    def format_completion(self, item: CompletionItem) -> str:
        """What bash is to put in the place of the last piece."""
        if item.type == "plain":
            item.value = str(item.value).removeprefix(self._kept)
        return super().format_completion(item)


def glue_words(words: Sequence[str], cursor: int) -> tuple[list[str], str]:
    """Words as they were typed, where bash has torn them apart at their colons and equals signs.

    Parameters
    ----------
    words
        As bash has them: ``https``, ``:``, ``//gpu7``, ``:`` and ``8765`` for one address.
    cursor
        Number of the word that is to be completed; there is none of that number where nothing of it is typed.

    Returns
    -------
    glued
        The words up to the one that is to be completed.
    piece
        The end of that one that bash replaces.
    """
    glued: list[str] = []
    for number, word in enumerate(words[: cursor + 1]):
        if number and (_is_break(word) or _is_break(words[number - 1])):
            glued[-1] += word
        else:
            glued.append(word)
    if cursor >= len(words):
        return [*glued, ""], ""
    return glued, "" if _is_break(words[cursor]) else words[cursor]


def _is_break(word: str) -> bool:
    return bool(word) and not word.strip(":=")


def _state(context: click.Context) -> CliState:
    given: dict[str, Any] = context.find_root().params
    data_dir, config = given.get("data_dir"), given.get("config")
    state = CliState(data_dir=Path(data_dir) if data_dir else None, config=Path(config) if config else None)
    for source in (given.get, partial(named_behind, context)):
        state.use_server(source("server"), source("fingerprint"))
    return state


def _ask(state: CliState, question: Callable[[Session], Awaitable[Sequence[T]]]) -> Sequence[T]:
    """What a server answers, if it does so at once: nobody waits for the end of a word."""
    import trio

    async def ask() -> Sequence[T]:
        with trio.move_on_after(PATIENCE):
            async with state.session() as session:
                return await question(session)
        return ()

    return trio.run(ask)


def _known_models(state: CliState) -> Iterable[ModelInfo]:
    """Models of the server; of the engine here without starting it."""
    if state.remote:
        return _ask(state, lambda session: session.models())
    return (info for runner in state.host.runners for info in runner.models())


def _models(context: click.Context, _: str) -> Iterable[tuple[str, str]]:
    runner = context.params.get("runner")
    for info in _known_models(_state(context)):
        if runner in (None, info.runner):
            yield info.name, ", ".join(label.name for label in info.labels)


def _runners(context: click.Context, _: str) -> Iterable[tuple[str, str]]:
    state = _state(context)
    if state.remote:
        return ((name, "") for name in dict.fromkeys(info.runner for info in _known_models(state)))
    return ((name, "") for name in state.host.runners.names)


def _artifacts(context: click.Context, _: str) -> Iterable[tuple[str, str]]:
    for exporter in _state(context).host.exporters:
        yield exporter.artifact, exporter.media_type
    yield "manifest.json", "what was run on what"


def _jobs(context: click.Context, _: str) -> Iterable[tuple[str, str]]:
    """The newest jobs of the server; here ids from the data directory, since asking the engine would start it."""
    state = _state(context)
    if state.remote:
        for record in _ask(state, lambda session: session.jobs(limit=JOBS)):
            yield record.id, f"{record.state} {record.config.label}"
        return
    for entry in sorted(state.settings.jobs_dir.iterdir(), reverse=True):
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
            if parameter.labels:
                yield from _labels(context, incomplete)
        else:
            yield f"{parameter.name}=", parameter.help


def _labels(context: click.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Names of the labels of the model that a call names, each behind those that were typed before it."""
    name, _, typed = incomplete.partition("=")
    *before, _ = typed.split(",")
    model = context.params.get("model")
    labels = next((info.labels for info in _known_models(_state(context)) if info.name == model), ())
    for word in (*([] if before else ["all"]), *(label.name for label in labels if label.name not in before)):
        yield f"{name}={','.join([*before, word])}", ""


def _chosen_runner(context: click.Context) -> ModelRunner | None:
    """The runner that a call names itself or by its model, as far as it is installed here."""
    state = _state(context)
    runners = state.host.runners
    name, model = context.params.get("runner"), context.params.get("model")
    if name is None and model is not None:
        name = next((info.runner for info in _known_models(state) if info.name == model), None)
    return runners.get(str(name)) if name in runners else None


complete_models = quietly(_models)
complete_runners = quietly(_runners)
complete_artifacts = quietly(_artifacts)
complete_jobs = quietly(_jobs)
complete_parameters = quietly(_parameters)
