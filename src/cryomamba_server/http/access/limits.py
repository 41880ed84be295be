"""How often, by a bucket for each caller that fills up again over time; and how much at the same time."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from attrs import define, frozen

from cryomamba_core.errors import RateLimited

#: Callers that are remembered at a time; the one that was quiet for the longest is forgotten first.
MOST = 10_000


@frozen(kw_only=True)
class Allowance:
    """What a caller may still do.

    Attributes
    ----------
    remaining
        Requests that may follow at once.
    full_in
        Seconds until the bucket is full again.
    next_in
        Seconds until the next request may come; 0 if it may come now.
    """

    remaining: int
    full_in: float
    next_in: float


@define
class _Bucket:
    level: float
    at: float


class RateLimit:
    """Lets each caller do `quota` things in `window` seconds.

    Parameters
    ----------
    name
        Of the policy, in headers.
    quota, window
        A full bucket, and the seconds in which an empty one fills.
    most
        Callers that are remembered.
    clock
        Seconds that never go back.
    """

    def __init__(
        self, name: str, *, quota: int, window: float = 60.0, most: int = MOST, clock: Callable[[], float] | None = None
    ) -> None:
        self.name = name
        self.quota = quota
        self.window = window
        self._most = most
        self._clock = clock or time.monotonic
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, caller: str) -> Allowance:
        """Count one request.

        Raises
        ------
        RateLimited
            If it comes too early; it is not counted then.
        """
        bucket = self._bucket(caller)
        if bucket.level < 1:
            raise RateLimited(
                f"these are more than {self.quota} requests in {self.window:.0f} s",
                hint="wait as long as the header Retry-After says, then go on more slowly",
                retry_after=self._allowance(bucket).next_in,
            )
        bucket.level -= 1
        return self._allowance(bucket)

    def wait(self, caller: str) -> float:
        """Seconds until the caller's next request may come; counts and remembers nothing."""
        return self._allowance(self._bucket(caller)).next_in if caller in self._buckets else 0.0

    def headers(self, caller: str) -> dict[str, str]:
        """The policy, and what it leaves to a caller, as in the IETF's draft of RateLimit header fields."""
        allowance = self._allowance(self._bucket(caller))
        return {
            "RateLimit-Policy": f'"{self.name}";q={self.quota};w={self.window:.0f}',
            "RateLimit": f'"{self.name}";r={allowance.remaining};t={math.ceil(allowance.full_in)}',
        }

    def _bucket(self, caller: str) -> _Bucket:
        at = self._clock()
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = _Bucket(level=self.quota, at=at)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(caller)
        bucket.level = min(self.quota, bucket.level + (at - bucket.at) * self.quota / self.window)
        bucket.at = at
        return bucket

    def _allowance(self, bucket: _Bucket) -> Allowance:
        second = self.window / self.quota
        return Allowance(
            remaining=int(bucket.level),
            full_in=(self.quota - bucket.level) * second,
            next_in=max(0.0, (1 - bucket.level) * second),
        )


class UnderWay:
    """Lets each caller have so many requests under way at a time, and all callers together so many.

    Parameters
    ----------
    each, together
        The limits.
    """

    def __init__(self, *, each: int, together: int) -> None:
        self._each = each
        self._together = together
        self._entered: Counter[str] = Counter()

    @contextmanager
    def entered(self, caller: str) -> Iterator[None]:
        """Count a request for as long as the block lasts.

        Raises
        ------
        RateLimited
            If there are too many already.
        """
        if self._entered[caller] >= self._each or self._entered.total() >= self._together:
            whose = "yours" if self._entered[caller] >= self._each else "this server's clients"
            raise RateLimited(
                f"too many requests of {whose} are under way",
                hint=f"send or fetch at most {self._each} at the same time",
            )
        self._entered[caller] += 1
        try:
            yield
        finally:
            self._entered[caller] -= 1
            self._entered += Counter()  # forgets callers who have none
