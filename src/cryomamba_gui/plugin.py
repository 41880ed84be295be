"""Registers ``cryomamba gui``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cryomamba_core.hookspecs import hookimpl

if TYPE_CHECKING:
    import click

cryomamba_api_version = 1


@hookimpl
def cryomamba_register_commands(register: Callable[[click.Command], None]) -> None:
    """Register the command."""
    from cryomamba_gui.command import gui

    register(gui)
