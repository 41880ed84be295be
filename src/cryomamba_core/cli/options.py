"""Options and values that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click

from cryomamba_core.cli.known_servers import complete_servers
from cryomamba_core.cli.state import CliState

F = TypeVar("F", bound=Callable[..., Any])


class VoxelSize(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A voxel size in Å: one number, or three as z,y,x."""

    name = "Å | Z,Y,X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Three lengths (z, y, x) in Å."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = [float(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3 or not all(math.isfinite(number) and number > 0 for number in numbers):
            self.fail(f"{value!r} is no voxel size: give one length in Å, or three as z,y,x", param, ctx)
        return tuple(numbers)


def json_option(function: F) -> F:
    """``--json``: one JSON document on standard output, and nothing else there."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for scripts.")(function)


def server_options(function: F) -> F:
    """``--server`` and ``--fingerprint`` behind the name of a command, as well as before it."""
    for name, metavar, about, complete in (
        ("fingerprint", "SHA256", "The only certificate that the server may show.", None),
        ("server", "URL", "Engine that runs the jobs; also before the name of the command.", complete_servers),
    ):
        function = click.option(
            f"--{name}",
            metavar=metavar,
            expose_value=False,
            callback=_take_server,
            help=about,
            shell_complete=complete,
        )(function)
    return function


def _take_server(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Tell the state of this call, and whoever completes words."""
    if value is None:
        return
    context.meta[f"{__name__}.{parameter.name}"] = value
    state = context.find_object(CliState)
    if state is not None:
        state.use_server(**{"server": None, "fingerprint": None, str(parameter.name): value})


def named_behind(context: click.Context, name: str) -> str | None:
    """What ``--server`` or ``--fingerprint`` behind the command's name says, if it is there."""
    named: str | None = context.meta.get(f"{__name__}.{name}")
    return named


def voxel_size_option(function: F) -> F:
    """``--voxel-size``: what the header should have said."""
    return click.option(
        "--voxel-size", type=VoxelSize(), help="Voxel size to use instead of the header's, in Å: one number, or z,y,x."
    )(function)
