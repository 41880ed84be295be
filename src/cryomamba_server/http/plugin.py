"""Registers ``cryomamba serve`` and the commands that look after a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cryomamba_core.hookspecs import hookimpl

if TYPE_CHECKING:
    import click

cryomamba_api_version = 1


@hookimpl
def cryomamba_register_commands(register: Callable[[click.Command], None]) -> None:
    """Register the commands."""
    from cryomamba_server.http.access.commands import token
    from cryomamba_server.http.command import serve
    from cryomamba_server.http.upkeep.commands import backup, restore

    register(serve)
    register(backup)
    register(restore)
    register(token)
