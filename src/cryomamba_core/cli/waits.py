"""An engine that does not answer, or wants fewer questions, as the progress display shows it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cryomamba_core import wording
from cryomamba_core.errors import RateLimited, ServerUnreachable

if TYPE_CHECKING:
    from cryomamba_core.errors import ErrorInfo

#: Seconds before anything is said: a line that is cut is mostly there again at once.
GRACE = 1.5


class Wait:
    """What the engine is waited for, and since when."""

    def __init__(self) -> None:
        self._why: ErrorInfo | None = None
        self._since = 0.0

    def take(self, why: ErrorInfo | None) -> None:
        """Take over what a session says (`cryomamba_core.interfaces.Session.on_waiting`)."""
        if why is not None and (self._why is None or self._why.code != why.code):
            self._since = time.monotonic()
        self._why = why

    @property
    def noticed(self) -> bool:
        """Whether it has lasted long enough to be shown."""
        return self._why is not None and time.monotonic() - self._since >= GRACE

    @property
    def silent(self) -> bool:
        """Whether the engine does not answer: whatever was expected of it no longer holds."""
        return self.noticed and self._why is not None and self._why.code != RateLimited.code

    @property
    def words(self) -> str:
        """What is the matter."""
        if self._why is None:
            return ""
        if self._why.code == RateLimited.code:
            return "the server wants fewer requests a minute, waiting"
        reason = "the server does not answer" if self._why.code == ServerUnreachable.code else self._why.message
        return f"{reason}, trying again"

    @property
    def timed_words(self) -> str:
        """The same, and for how long it has been so."""
        return f"{self.words} ({wording.clock(time.monotonic() - self._since)})"
