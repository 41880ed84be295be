"""What a token must allow, known before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryomamba_core import wording
from cryomamba_core.errors import Forbidden

if TYPE_CHECKING:
    from cryomamba_core.interfaces import ServerInfo, Session

#: What planning takes, what queueing and following takes more, and what sending a file and saving results do.
PLAN = ("jobs:read", "jobs:write")
SEND, FETCH = "uploads:write", "artifacts:read"
EVERYTHING = (*PLAN, SEND, FETCH)


async def allowed_info(session: Session, *needed: str) -> ServerInfo:
    """What the engine is and can do, for a caller who may do what is needed.

    Raises
    ------
    Forbidden
        If the token lacks a scope; it names all of them.
    """
    try:
        return await session.server_info()
    except Forbidden as error:
        raise Forbidden(error.message, hint=_hint(needed)) from error


def require_scopes(server: ServerInfo, *needed: str) -> None:
    """Raise `Forbidden` if the caller's token lacks any of the scopes; it names all of those."""
    missing = missing_scopes(server, *needed)
    if missing:
        raise Forbidden(missing_words(missing), hint=_hint(needed))


def missing_scopes(server: ServerInfo, *needed: str) -> list[str]:
    """The scopes that the caller's token lacks; none for an engine that asks for no token."""
    return [scope for scope in needed if server.scopes is not None and scope not in server.scopes]


def missing_words(missing: Sequence[str]) -> str:
    """What is wrong with a token that lacks these scopes."""
    return f"the token does not have the {wording.noun_of(len(missing), 'scope')} {', '.join(missing)}"


def _hint(needed: Sequence[str]) -> str:
    return f'ask whoever runs the server for another: cryomamba token create --scope "{" ".join(needed)}"'
