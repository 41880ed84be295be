"""Whether the server answers, and whether it wants fewer questions: said to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable

from cryomamba_core.errors import CryoMambaError, ErrorInfo, RateLimited


class Hearing:
    """What a connection knows of its server's silence.

    Parameters
    ----------
    tell
        Hears why the server is waited for, and None once there is nothing to wait for.
    """

    def __init__(self, tell: Callable[[ErrorInfo | None], None]) -> None:
        self._tell = tell
        self._silence: ErrorInfo | None = None
        self._restraint: ErrorInfo | None = None
        self._told: ErrorInfo | None = None

    def missed(self, problem: CryoMambaError) -> None:
        """Note that something has failed, and is about to be tried again."""
        if isinstance(problem, RateLimited):  # it answers, which is all that counts here
            self.heard()
            return
        self._silence = self._silence or ErrorInfo.of(problem)
        self._say()

    def heard(self) -> None:
        """Note that the server is there."""
        self._silence = None
        self._say()

    def restrained(self, problem: RateLimited | None) -> None:
        """Note that questions wait since the server wants fewer, or that none waits any more."""
        self._restraint = None if problem is None else ErrorInfo.of(problem)
        self._say()

    def _say(self) -> None:
        now = self._silence or self._restraint
        if now != self._told:
            self._told = now
            self._tell(now)
