"""``cryomamba``: the command, its global options, and the door through which every error leaves."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich_click as click
from click.exceptions import Exit
from click.shell_completion import shell_complete

from cryomamba_core.cli.completion import PROGRAM, complete_variable, completion
from cryomamba_core.cli.doctor import doctor
from cryomamba_core.cli.failures import BROKEN_PIPE, EXIT_CODES, report
from cryomamba_core.cli.foreign import glance
from cryomamba_core.cli.info import info
from cryomamba_core.cli.jobs import jobs
from cryomamba_core.cli.join import join
from cryomamba_core.cli.known_servers import complete_servers
from cryomamba_core.cli.login import login, logout
from cryomamba_core.cli.models import models
from cryomamba_core.cli.plugins import plugins
from cryomamba_core.cli.segment import segment
from cryomamba_core.cli.state import LOCAL, CliState, listen_to_logs
from cryomamba_core.cli.worker import worker

#: Panels of ``cryomamba --help``; a command of a plugin has its place here or comes last.
PANELS = {
    "Segment": ["demo", "gui", "info", "join", "segment", "jobs"],
    "Use a server": ["login", "logout"],
    "Run a server": ["serve", "token", "backup", "restore"],
    "Look after the installation": ["models", "plugins", "doctor", "completion"],
    "Internal": ["worker"],
}
#: The panel of what is not named there.
OTHERS = "More"
OWN = (completion, doctor, info, jobs, join, login, logout, models, plugins, segment, worker)


class Commands(click.RichGroup):
    """The built-in commands, and those of plugins, which are loaded only when one of them is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, ours and the plugins'."""
        if __name__ not in ctx.meta:
            ctx.meta[__name__] = {name: command for name, command in glance().items() if name not in self.commands}
        return [*super().list_commands(ctx), *sorted(ctx.meta[__name__])]

    def format_epilog(self, ctx: click.Context, formatter: Any) -> None:
        """The exit codes."""
        from rich.padding import Padding
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_row("Exit codes")
        for code, meaning in EXIT_CODES.items():
            table.add_row(f"{code:>5}", meaning)
        formatter.write(Padding(table, (1, 1, 0, 1)))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of ours, else a plugin's."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        listed: dict[str, click.Command] = ctx.meta.get(__name__, {})
        if cmd_name in listed:
            return listed[cmd_name]
        commands = _state(ctx).host.commands
        return commands.get(cmd_name) if cmd_name in commands else None


def _state(ctx: click.Context) -> CliState:
    """The state of this call, told what the global options say."""
    if not isinstance(ctx.obj, CliState):
        ctx.obj = CliState()
    given: dict[str, Any] = ctx.params
    ctx.obj.configure(
        data_dir=given.get("data_dir"),
        config=given.get("config"),
        server=given.get("server") or LOCAL,
        fingerprint=given.get("fingerprint"),
        verbose=bool(given.get("verbose")),
    )
    return ctx.obj


def _version() -> str:
    from importlib import metadata

    return metadata.version("cryomamba")


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001  # click calls it
    if wanted:
        click.echo(f"cryomamba {_version()}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where jobs and models are kept (CRYOMAMBA_DATA_DIR).",
)
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="TOML file with settings (CRYOMAMBA_CONFIG)."
)
@click.option(
    "--server",
    metavar="URL",
    envvar="CRYOMAMBA_SERVER",
    default=LOCAL,
    show_default=True,
    help="Engine that runs the jobs (CRYOMAMBA_SERVER).",
    shell_complete=complete_servers,
)
@click.option(
    "--fingerprint",
    metavar="SHA256",
    envvar="CRYOMAMBA_FINGERPRINT",
    help="The only certificate that the server may show, as it printed it (CRYOMAMBA_FINGERPRINT).",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more, and show the traceback of an unexpected error.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Version.")
@click.pass_context
def cli(ctx: click.Context, /, *, verbose: bool, **_: Any) -> None:
    """Segment cryo-electron tomograms, and watch the answer appear.

    Start with `cryomamba demo`, or look at a file of your own with `cryomamba info FILE`.
    """
    _state(ctx)
    listen_to_logs(verbose=verbose)


for _command in OWN:
    cli.add_command(_command)
for _panel, _names in PANELS.items():
    click.command_panel(_panel, commands=_names)(cli)
click.rich_config({"commands_panel_title": OTHERS})(cli)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    args
        Words after ``cryomamba``; None for those of this process.

    Returns
    -------
    exit_code
        See `cryomamba_core.cli.failures.EXIT_CODES`.
    """
    words = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    listen_to_logs(verbose=False, silent=complete_variable() in os.environ)
    if complete_variable() in os.environ:
        return shell_complete(cli, {}, PROGRAM, complete_variable(), os.environ[complete_variable()])
    state = CliState()
    try:
        with cli.make_context(PROGRAM, words, obj=state) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except Exit as error:
        return error.exit_code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except BaseException as error:  # noqa: BLE001  # the one place where errors become words
        return report(error, as_json="--json" in words, verbose=state.verbose, log_folder=state.log_folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
