"""How fast bytes go, of late."""

from __future__ import annotations

import time
from collections import deque

#: Seconds over which the rate is taken: long enough to be calm, short enough to tell that the line has changed.
WINDOW = 10.0
#: Seconds that have to pass between two reports before they tell a rate.
SHORTEST = 0.1


class RateMeter:
    """Bytes a second of late; what was there at the first report does not count.

    Parameters
    ----------
    shortest
        Seconds that have to pass before a rate is known.
    """

    def __init__(self, *, shortest: float = SHORTEST) -> None:
        self._shortest = shortest
        self._reports: deque[tuple[float, int]] = deque()

    def add(self, done: int) -> None:
        """Take in how many bytes are done by now."""
        now = time.monotonic()
        self._reports.append((now, done))
        while len(self._reports) > 2 and self._reports[0][0] < now - WINDOW:
            self._reports.popleft()

    @property
    def rate(self) -> float | None:
        """Bytes a second; None while it is not known."""
        if not self._reports:
            return None
        (first, begun), (last, done) = self._reports[0], self._reports[-1]
        return (done - begun) / (last - first) if last - first > self._shortest else None
