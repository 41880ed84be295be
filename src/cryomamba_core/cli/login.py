"""``cryomamba login`` and ``logout``: who one is to a server, said once."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import rich_click as click

from cryomamba_core.cli.known_servers import complete_servers
from cryomamba_core.cli.options import server_options
from cryomamba_core.cli.state import LOCAL, CliState
from cryomamba_core.errors import InvalidParameter
from cryomamba_core.known_servers import forget_server, note_server

if TYPE_CHECKING:
    from cryomamba_core.interfaces import Credentials, ServerInfo


@click.command()
@click.argument("url", required=False, shell_complete=complete_servers)
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input, for scripts.")
@server_options
@click.pass_obj
def login(state: CliState, *, url: str | None, token_stdin: bool) -> None:
    """Keep the token for a server, and its fingerprint, for all commands to come.

    The token is asked for, and not shown. It is tried, then kept in the system's keyring or, where
    there is none, in a file that only you can read. A fingerprint that is known stays known.
    """
    from cryomamba_core.credentials import CredentialStore
    from cryomamba_core.interfaces import Credentials
    from cryomamba_core.protocol.addresses import parse_fingerprint

    state.use_server(url, None)
    _require_remote(state)
    state.host.transport_for(state.server)
    known = state.credentials().fingerprint
    fingerprint = parse_fingerprint(known) if known else None
    credentials = Credentials(token=_read_token(from_stdin=token_stdin), fingerprint=fingerprint)
    server = state.run(lambda _: _try(state, credentials))
    place = CredentialStore().keep(state.server, credentials)
    note_server(state.server)
    state.err.print(f"logged in to {state.server}: CryoMamba {server.version}, jobs run on {', '.join(server.devices)}")
    state.err.print(f"the token is kept in {place}", style="dim")
    if os.environ.get("CRYOMAMBA_TOKEN"):
        state.err.print("CRYOMAMBA_TOKEN is set, and is used instead as long as it is", style="yellow")


@click.command()
@click.argument("url", required=False, shell_complete=complete_servers)
@server_options
@click.pass_obj
def logout(state: CliState, *, url: str | None) -> None:
    """Forget the token and the fingerprint of a server.

    The token stays valid until it expires: whoever runs the server can revoke it.
    """
    from cryomamba_core.credentials import CredentialStore

    state.use_server(url, None)
    _require_remote(state)
    known = CredentialStore().forget(state.server)
    forget_server(state.server)
    state.err.print(f"logged out of {state.server}" if known else f"nothing was kept for {state.server}")


def _require_remote(state: CliState) -> None:
    if not state.remote:
        raise InvalidParameter(
            f"{LOCAL} needs no login",
            hint="name the server: cryomamba login https://HOST:PORT",
        )


def _read_token(*, from_stdin: bool) -> str:
    """The token, from a pipe or from somebody who types or pastes it unseen."""
    if from_stdin:
        token = sys.stdin.readline().strip()
    elif sys.stdin.isatty():
        token = str(click.prompt("Token", hide_input=True, err=True)).strip()
    else:
        raise click.UsageError("there is nobody to ask for the token; use --token-stdin")
    if not token:
        raise InvalidParameter("there is no token", hint="whoever runs the server makes one: cryomamba token create")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidParameter("this is no token: it has characters that none has", hint="copy it whole, in one line")
    return token


async def _try(state: CliState, credentials: Credentials) -> ServerInfo:
    """Ask the server what it is, as the one whom the token names."""
    async with state.host.transport_for(state.server).open(state.server, credentials) as session:
        return await session.server_info()
