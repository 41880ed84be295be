"""Addresses of servers that a login was made to, to be completed by the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from cryomamba_core.known_servers import known_servers

if TYPE_CHECKING:
    import rich_click as click


def complete_servers(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the address of a server; offers nothing rather than an error in the middle of a line."""
    try:
        return [CompletionItem(url) for url in known_servers() if url.startswith(incomplete)]
    except Exception:  # noqa: BLE001  # the command itself will say what is wrong
        return []
