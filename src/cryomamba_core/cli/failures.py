"""The one place where errors become words on the screen and an exit status."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import NoArgsIsHelpError

from cryomamba_core.cli.interruption import Interrupted
from cryomamba_core.errors import (
    AccessError,
    CryoMambaError,
    ErrorInfo,
    InputError,
    JobError,
    ModelError,
    PluginError,
    ServerError,
    StorageError,
    UploadError,
)
from cryomamba_core.wording import harmless, harmless_json

if TYPE_CHECKING:
    from rich.console import Console

USAGE = 2
COHORT_FAILED = 8
BROKEN_PIPE = 141

#: What each exit status means; shown by ``cryomamba --help`` and in the documentation.
EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "an unexpected error; doctor: the main job cannot run here",
    USAGE: "the command was not understood",
    InputError.exit_code: "a file or value that was given cannot be used",
    ModelError.exit_code: "the model cannot be used",
    PluginError.exit_code: "a plugin is missing or broke its contract",
    StorageError.exit_code: "files could not be written or found, or a result exists",
    JobError.exit_code: "a job failed or was canceled",
    COHORT_FAILED: "at least one of several files failed",
    UploadError.exit_code: "a file could not be sent to the server",
    AccessError.exit_code: "the server does not know the caller, or does not allow this",
    ServerError.exit_code: "the server cannot be reached, trusted or understood",
    130: "stopped by Ctrl-C (143 by SIGTERM, 129 by a hang-up)",
}

_FAMILIES = {
    "access": AccessError.exit_code,
    "input": InputError.exit_code,
    "job": JobError.exit_code,
    "model": ModelError.exit_code,
    "plugin": PluginError.exit_code,
    "request": ServerError.exit_code,
    "server": ServerError.exit_code,
    "storage": StorageError.exit_code,
    "upload": UploadError.exit_code,
    "usage": USAGE,
}


def exit_code_of(info: ErrorInfo) -> int:
    """The exit status for an error, by the family that its code names."""
    return _FAMILIES.get(info.code.partition("/")[0], 1)


def report(error: BaseException, *, as_json: bool, verbose: bool = False, log_folder: Path | None = None) -> int:
    """Say what went wrong.

    Parameters
    ----------
    error
        Whatever ended the command.
    as_json
        Write an error object to standard output, and nothing else.
    verbose
        Show the traceback of an unexpected error.
    log_folder
        Where the traceback is kept otherwise; None where there is no such folder yet.

    Returns
    -------
    exit_code
        For the process.
    """
    cause = innermost(error)
    if isinstance(cause, Interrupted):
        return _say_interrupted(cause, as_json=as_json)
    if isinstance(cause, KeyboardInterrupt | click.Abort):
        return _say_interrupted(Interrupted(signal.SIGINT), as_json=as_json)
    if isinstance(cause, NoArgsIsHelpError) and not as_json:
        click.echo(cause.format_message(), err=True)
        return USAGE
    if isinstance(cause, click.ClickException):
        info = _usage(cause)
    else:
        info = ErrorInfo.of(cause)
        if info.code.startswith("internal/") and not isinstance(cause, CryoMambaError):
            info = _unexpected(error, info, verbose=verbose, log_folder=log_folder)
    emit(info, as_json=as_json)
    return exit_code_of(info)


def emit(info: ErrorInfo, *, as_json: bool) -> None:
    """Write an error where the reader of this command looks for it."""
    if as_json:
        from cryomamba_core.wire import to_plain

        print_json({"error": to_plain(info)})
        return
    from cryomamba_core.cli.state import make_console

    show_error(make_console(stderr=True), info)


def show_error(console: Console, info: ErrorInfo, *, subject: str = "") -> None:
    """Print an error and its hint; `subject` is what it is about, e.g. a file's name."""
    from rich.table import Table
    from rich.text import Text

    said = Text(f"{subject}: " if subject else "").append(info.message).append(f"  [{info.code}]", style="dim")
    lines = [(Text("error:", style="bold red"), said)]
    if info.hint:
        lines.append((Text("hint: ", style="cyan"), Text(info.hint)))
    for heading, text in lines:
        if console.is_terminal:
            grid = Table.grid(padding=(0, 1))
            grid.add_column(no_wrap=True)
            grid.add_column(overflow="fold")
            grid.add_row(heading, text)
            console.print(grid)
        else:
            console.print(Text.assemble(heading, " ", text))


def print_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(harmless_json(json.dumps(value, ensure_ascii=False, indent=1)) + "\n")
    sys.stdout.flush()


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group of groups, or the one that is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def innermost(error: BaseException) -> BaseException:
    """Of several errors the one to tell: an interruption, else one with a hint, else the first."""
    found = list(leaves(error))
    for kind in (Interrupted, KeyboardInterrupt, CryoMambaError):
        for leaf in found:
            if isinstance(leaf, kind):
                return leaf
    return found[0]


def _say_interrupted(error: Interrupted, *, as_json: bool) -> int:
    info = ErrorInfo(code="interrupted", message=f"interrupted by {error.signal.name}")
    if as_json:
        emit(info, as_json=True)
    else:
        from cryomamba_core.cli.state import make_console

        make_console(stderr=True).print(info.message, style="yellow")
    return error.exit_code


def _usage(error: click.ClickException) -> ErrorInfo:
    message = error.format_message().strip().rstrip(".")
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    hint = f"see: {context.command_path} --help" if context is not None else "see: cryomamba --help"
    return ErrorInfo(code="usage", message=" ".join(message.split()), hint=hint)


def _unexpected(error: BaseException, info: ErrorInfo, *, verbose: bool, log_folder: Path | None) -> ErrorInfo:
    text = "".join(traceback.format_exception(error))
    if verbose:
        sys.stderr.write(harmless(text))
        return info
    written = _keep(text, log_folder)
    return ErrorInfo(code=info.code, message=info.message, hint=f"{info.hint}; the details are in {written}")


def _keep(text: str, folder: Path | None) -> Path:
    entry = f"{datetime.now(UTC).isoformat()} {' '.join(sys.argv)}\n{text}\n"
    for place in (folder, Path(tempfile.gettempdir())):
        if place is not None and place.is_dir():
            log_file = place / "cryomamba.log"
            try:
                with log_file.open("a", encoding="utf-8") as stream:
                    stream.write(entry)
            except OSError:
                continue
            return log_file
    return Path("nowhere")
