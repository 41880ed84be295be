"""When to try again, and when to give up."""

from __future__ import annotations

import random

import trio
from attrs import frozen

from cryomamba_core.errors import CryoMambaError, RateLimited

#: Seconds: the first pause is at most `BASE`, each further one at most twice as long, none longer than `CAP`.
BASE = 0.25
CAP = 15.0


@frozen(kw_only=True)
class Patience:
    """For how many seconds without an answer to go on trying.

    Attributes
    ----------
    first
        Before the server has ever answered: the address may be wrong.
    control
        For a question that somebody waits for.
    long
        For uploads, downloads and events, which should survive that a server is restarted, and for
        a server that says itself when to come again.
    silence
        A line on which nothing comes for so long is taken for dead.
    connect
        For one attempt to connect.
    """

    first: float = 5.0
    control: float = 60.0
    long: float = 900.0
    silence: float = 60.0
    connect: float = 10.0


class Attempts:
    """One request, or one line, that is tried until it works.

    Parameters
    ----------
    patience
        Seconds without success after which to give up.
    rate_limited
        Seconds after which to give up while the server answers that there were too many requests.
    """

    def __init__(self, patience: float, *, rate_limited: float) -> None:
        self._patience = patience
        self._rate_limited = rate_limited
        self._failures = 0
        self._since: float | None = None

    def succeeded(self) -> None:
        """Count from nought again."""
        self._failures, self._since = 0, None

    async def pause(self, error: CryoMambaError, *, at_least: float = 0.0) -> None:
        """Wait before another attempt.

        The pause is drawn evenly from nought to twice the last bound, so that the clients of a
        server that was away do not come back all at once.

        Parameters
        ----------
        error
            Why the last attempt failed; raised if there is no patience left.
        at_least
            Seconds that the server asked for.
        """
        now = trio.current_time()
        self._since = now if self._since is None else self._since
        wait = at_least + random.uniform(0, min(CAP, BASE * 2**self._failures))  # noqa: S311  # no secret
        self._failures = min(self._failures + 1, 16)
        limit = max(self._patience, self._rate_limited) if isinstance(error, RateLimited) else self._patience
        if now + wait > self._since + limit:
            raise error
        await trio.sleep(wait)
