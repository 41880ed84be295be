"""Sessions of the status page: a cookie that stands for a token, so that the browser need not keep the token."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from attrs import frozen

from cryomamba_core.errors import Forbidden
from cryomamba_server.engine.records import now
from cryomamba_server.http.routing import Scope

if TYPE_CHECKING:
    from quart import Response

    from cryomamba_server.http.access.authentication import Authenticator, Caller

COOKIE = "cryomamba_session"

#: Hours after which one logs in again, if the token does not expire earlier.
MAX_HOURS = 12

#: Sessions that are remembered; the oldest is forgotten first.
MOST = 1000


@frozen(kw_only=True)
class _Session:
    caller: Caller
    ends_at: datetime


class Sessions:
    """Who is logged in, in memory only: a server that starts again knows nobody.

    Parameters
    ----------
    authenticator
        Knows tokens.
    secure
        Whether the cookie travels over TLS only.
    """

    def __init__(self, authenticator: Authenticator, *, secure: bool) -> None:
        self._authenticator = authenticator
        self._secure = secure
        self._sessions: dict[str, _Session] = {}

    async def open(self, token: str, *, peer: str | None = None) -> str:
        """Log in.

        Parameters
        ----------
        token
            Must allow `Scope.JOBS_READ`.
        peer
            Address of whoever asks; too many wrong tokens from one address are refused.

        Returns
        -------
        cookie
            The value of the cookie, which `give` puts into an answer.

        Raises
        ------
        Unauthenticated, Forbidden, RateLimited
            If the token does not count, does not suffice, or was guessed.
        """
        caller = await self._authenticator.caller(token, peer=peer)
        if Scope.JOBS_READ not in caller.scopes:
            raise Forbidden(
                f"the token does not have the scope {Scope.JOBS_READ}", hint="log in with another that has it"
            )
        at = now()
        self._sessions = {name: session for name, session in self._sessions.items() if session.ends_at > at}
        while len(self._sessions) >= MOST:
            del self._sessions[next(iter(self._sessions))]
        cookie = secrets.token_urlsafe(32)
        ends_at = min(caller.expires_at, at + timedelta(hours=MAX_HOURS))
        self._sessions[_name(cookie)] = _Session(caller=caller, ends_at=ends_at)
        return cookie

    def close(self, cookie: str | None) -> None:
        """Log out."""
        self._sessions.pop(_name(cookie or ""), None)

    async def caller(self, cookie: str | None) -> Caller | None:
        """Who is logged in; None if nobody is, or if the token was taken back since."""
        session = self._sessions.get(_name(cookie or ""))
        if session is None:
            return None
        if session.ends_at <= now() or not await self._authenticator.counts(session.caller):
            self.close(cookie)
            return None
        return session.caller

    def give(self, answer: Response, cookie: str) -> None:
        """Put the cookie into an answer."""
        answer.set_cookie(
            COOKIE, cookie, max_age=MAX_HOURS * 3600, path="/", secure=self._secure, httponly=True, samesite="Strict"
        )

    def take(self, answer: Response) -> None:
        """Have the browser forget the cookie."""
        answer.delete_cookie(COOKIE, path="/", secure=self._secure, httponly=True, samesite="Strict")


def _name(cookie: str) -> str:
    """What a session is remembered by: not the cookie itself, so that no comparison depends on its characters."""
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).hexdigest()
