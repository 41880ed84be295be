"""What a server tells those who want to use it: ``server.json``, a first token, and a command to paste."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from cryomamba_core.durable import write_privately
from cryomamba_server.http.access.tokens import SUBJECT
from cryomamba_server.http.sockets import elsewhere

if TYPE_CHECKING:
    from cryomamba_core.cli.state import CliState
    from cryomamba_server.http.serving import RunningServer
    from cryomamba_server.http.settings import ServeSettings

#: Where a server says that it is there, and where its first token is kept: both for its own user only.
NOTE_NAME, TOKEN_NAME = "server.json", "first-token"

#: Whose the first token is where the system does not know a user.
NOBODY = "first-user"


@contextmanager
def noted(server: RunningServer, data_dir: Path) -> Iterator[None]:
    """Keep ``server.json`` in the data directory for as long as the block lasts."""
    note = {"url": server.url, "pid": os.getpid(), "fingerprint": server.fingerprint}
    write_privately(data_dir / NOTE_NAME, json.dumps(note).encode())
    try:
        yield
    finally:
        (data_dir / NOTE_NAME).unlink(missing_ok=True)


def note_of(data_dir: Path) -> dict[str, Any] | None:
    """What the server of a data directory says of itself; None if there is none, or it cannot be read."""
    try:
        note = json.loads((data_dir / NOTE_NAME).read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and note.keys() >= {"url", "pid"} else None


async def first_token(server: RunningServer, data_dir: Path) -> str:
    """The token that the data directory keeps for whoever started the server; made if none is good."""
    path = data_dir / TOKEN_NAME
    gate = server.services.gate
    try:
        kept = (await trio.Path(path).read_text()).strip()
    except (OSError, UnicodeDecodeError):
        kept = ""
    if kept and await gate.knows(kept):
        return kept
    issued = await server.services.engine.ledger.call(gate.issuer.create, subject=_user())
    await trio.to_thread.run_sync(write_privately, path, f"{issued.token}\n".encode())
    return issued.token


def announce(state: CliState, server: RunningServer, serving: ServeSettings, token: str) -> None:
    """Print where the server is and how to use it; the token itself only to a terminal."""
    scheme = server.url.partition(":")[0]
    url = f"{scheme}://{elsewhere(serving.host)}:{server.port}"
    pinned = f" --fingerprint sha256:{server.fingerprint}" if server.fingerprint and serving.self_signed else ""
    shown = token if state.out.is_terminal else f"(it is in {state.settings.data_dir / TOKEN_NAME})"
    state.out.print(
        f"CryoMamba serves at {url}; its status page is at the same address\n"
        f"connect a client, and paste this token when it asks for one:\n\n"
        f"    cryomamba login {url}{pinned}\n\n    {shown}\n\n"
        "more tokens: cryomamba token create --help; stop with Ctrl-C or SIGTERM",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    state.out.file.flush()


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return NOBODY
    return name if SUBJECT.fullmatch(name) else NOBODY
